//! The life of the tree: its start, its health, its drain.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use inboxgrove_config::Config;
use inboxgrove_model::ports::Ports;
use inboxgrove_store::{Store, StoreHealth};
use ractor::{ActorRef, ActorRuntime};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    context::{Context, Cx},
    directory::DirectoryMsg,
    inbound::Inbound,
    outbound::OutboundMsg,
    platform::{Component, Parts, Platform, TreeNode},
    refusal::Refusal,
    root::{Root, RootMsg, Service},
    rules::{Rules, RulesError},
    supervision::{Budget, Record, Sentence},
};

/// Why the tree did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be acted on.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A service actor did not start.
    #[error("the tree did not start: {0}")]
    Spawn(#[from] ractor::SpawnErr),
}

/// What the platform holds on to.
pub(crate) struct Life {
    root: ActorRef<RootMsg>,
    stop: watch::Sender<bool>,
    inbound: Mutex<InboundLife>,
}

/// How the accept loop fares. It owns no rows, so it is a task and not an actor; its budget is the same.
#[derive(Default)]
struct InboundLife {
    state: Option<&'static str>,
    record: Record,
}

impl Platform {
    /// Starts the tree. Resolves when every service runs and outbound has recovered its queue.
    ///
    /// # Errors
    /// When the configuration cannot be acted on, or a service does not start.
    pub async fn start(parts: Parts) -> Result<Self, StartError> {
        let rules = Rules::from_config(&parts.config, &parts.ports.clock)?;
        let cx = Context::new(parts.ports, parts.store, parts.config, rules);
        watch_store(&cx);
        let (root, ended) = ActorRuntime::spawn(None, Root, Arc::clone(&cx)).await?;
        let watcher = Arc::clone(&cx);
        cx.spawn_waiting(async move {
            // Nobody supervises the root: without it the tree is gone.
            if ended.await.is_err() || !watcher.draining() {
                watcher.die("the root of the tree ended".to_owned());
            }
        });
        let (stop, stopped) = watch::channel(false);
        let life = Arc::new(Life {
            root,
            stop,
            inbound: Mutex::default(),
        });
        if let Some(listener) = parts.smtp {
            let inbound = Inbound {
                cx: Arc::clone(&cx),
                listener,
                tls: parts.smtp_tls,
                shutdown: stopped,
            };
            cx.spawn_waiting(supervise(Arc::new(inbound), Arc::clone(&life)));
        }
        Ok(Self { cx, life })
    }

    /// The store, to read committed rows from.
    pub fn store(&self) -> &Store {
        &self.cx.store
    }

    /// The ports.
    pub fn ports(&self) -> &Ports {
        &self.cx.ports
    }

    /// What the operator set.
    pub fn config(&self) -> &Config {
        &self.cx.config
    }

    /// Resolves, with the reason, when a fatal child has died: the process has to end.
    pub async fn failed(&self) -> String {
        self.cx.died().await
    }

    /// Whether no new work is taken.
    pub fn draining(&self) -> bool {
        self.cx.draining()
    }

    /// Stops taking work, waits until what is under way has ended or `within` has passed, and writes a
    /// checkpoint. What is still being tried then is found *uncertain* at the next start. Not cancel safe.
    pub async fn drain(&self, within: Duration) {
        self.cx.start_draining();
        self.life.stop.send_replace(true);
        if let Some(outbound) = self.cx.outbound.actor() {
            // An outbound that is gone has nothing waiting.
            drop(outbound.send_message(OutboundMsg::Drain));
        }
        if timeout(within, self.cx.ports.activity.idle())
            .await
            .is_err()
        {
            tracing::warn!(
                busy = self.cx.ports.activity.busy(),
                "the drain ended with work under way"
            );
        }
        self.life.root.stop(None);
        self.cx.store.checkpoint();
    }

    /// Whether each part works, for readiness.
    pub fn components(&self) -> Vec<Component> {
        let store = match self.cx.store.health() {
            StoreHealth::Ok => (true, "ok".to_owned()),
            StoreHealth::DiskLow { free, floor } => (
                false,
                format!("{free} bytes free, below the floor of {floor}"),
            ),
            StoreHealth::Failed { why } => (false, why),
        };
        let runs = |name, runs: bool| Component {
            name,
            ok: runs,
            detail: if runs { "running" } else { "not running" }.to_owned(),
        };
        vec![
            Component {
                name: "store",
                ok: store.0,
                detail: store.1,
            },
            runs("vault", self.cx.vault.is_open()),
            runs("directory", self.cx.directory.is_open()),
            runs("outbound", self.cx.outbound.is_open()),
            runs("notifier", self.cx.notifier.is_open()),
        ]
    }

    /// Every actor that is awake, parked, or of bad record: services, sites, then the others.
    pub async fn tree(&self) -> Vec<TreeNode> {
        let mut nodes = Vec::new();
        let (reply, answer) = tokio::sync::oneshot::channel();
        if self.life.root.send_message(RootMsg::Tree(reply)).is_ok()
            && let Ok(Ok(services)) = answer.await
        {
            nodes.extend(services);
        }
        nodes.extend(self.life.inbound_node());
        if let Ok(sites) = self.cx.outbound.ask("outbound", OutboundMsg::Sites).await {
            nodes.extend(sites);
        }
        if let Ok(actors) = self
            .cx
            .directory
            .ask("the directory", DirectoryMsg::Tree)
            .await
        {
            nodes.extend(actors);
        }
        nodes
    }

    /// Frees a parked actor, named as in the tree.
    pub async fn unpark(&self, address: &str) -> Result<(), Refusal> {
        if let Some(service) = Service::ALL
            .into_iter()
            .find(|service| service.name() == address)
        {
            let (reply, answer) = tokio::sync::oneshot::channel();
            let unpark = RootMsg::Unpark(service, reply);
            if self.life.root.send_message(unpark).is_err() {
                return Err(Refusal::Unavailable {
                    why: "the tree has ended".to_owned(),
                });
            }
            return crate::context::answer_of("the root", answer).await;
        }
        if address.starts_with("site/") {
            let site = address.to_owned();
            return self
                .cx
                .outbound
                .ask("outbound", |reply| OutboundMsg::Unpark(site, reply))
                .await;
        }
        let parked = self.cx.directory.ask("the directory", |reply| {
            DirectoryMsg::Unpark(address.to_owned(), reply)
        });
        parked.await
    }

    /// What the tree counts, as OpenMetrics text.
    pub fn metrics(&self) -> String {
        self.cx.metrics.text()
    }
}

// === impl Life ===

impl Life {
    fn inbound(&self) -> MutexGuard<'_, InboundLife> {
        self.inbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Inbound's node; none when this process receives no mail.
    fn inbound_node(&self) -> Option<TreeNode> {
        let inbound = self.inbound();
        Some(TreeNode {
            address: "inbound".to_owned(),
            state: inbound.state?,
            depth: 0,
            restarts: inbound.record.total(),
            last_failure: inbound.record.last().map(str::to_owned),
        })
    }
}

/// Runs the accept loop, again when it panics, within [`Budget::SERVICE`].
async fn supervise(inbound: Arc<Inbound>, life: Arc<Life>) {
    loop {
        life.inbound().state = Some("running");
        let running = Arc::clone(&inbound);
        let Err(why) = tokio::spawn(async move { running.run().await }).await else {
            life.inbound().state = Some("stopped");
            return;
        };
        tracing::error!(%why, "inbound failed");
        let sentence =
            life.inbound()
                .record
                .fail(why.to_string(), Instant::now(), &Budget::SERVICE);
        match sentence {
            Sentence::Restart(wait) => tokio::time::sleep(wait).await,
            Sentence::Park => {
                tracing::error!("inbound failed too often and is parked");
                life.inbound().state = Some("parked");
                return;
            }
        }
    }
}

/// The death of the store's committer is fatal.
fn watch_store(cx: &Cx) {
    let failed = cx.store.failed();
    let watcher = Arc::clone(cx);
    cx.spawn_waiting(async move {
        let why = failed.await;
        watcher.die(format!("the store failed: {why}"));
    });
}
