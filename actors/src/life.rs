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
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, timeout},
};

use crate::{
    context::{Context, Cx, LETTERS_MAX, Reply, answer_of},
    directory::DirectoryMsg,
    inbound::Inbound,
    outbound::{IN_FLIGHT_MAX, OutboundMsg},
    platform::{Component, Parts, Platform, Tree, TreeNode, TreePart, TreeQuery},
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
    running: Option<AbortHandle>,
    /// Why an operator has ended it, until it has.
    killed: Option<String>,
    freed: Arc<Notify>,
}

/// What the accept loop is called in the tree.
const INBOUND: &str = "inbound";

impl Platform {
    /// Starts the tree. Resolves when every service runs and outbound has recovered its queue.
    ///
    /// # Errors
    /// When the configuration cannot be acted on, or a service does not start.
    pub async fn start(parts: Parts) -> Result<Self, StartError> {
        let rules = Rules::from_config(&parts.config, &parts.ports.clock)?;
        let cx = Context::new(
            parts.ports,
            parts.store,
            parts.config,
            parts.key_maker,
            rules,
        );
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

    /// Stops taking work: mail is not received, letters are not taken up, due rows wait. What is asked is
    /// still answered.
    pub fn start_draining(&self) {
        if self.cx.draining() {
            return;
        }
        self.cx.start_draining();
        self.life.stop.send_replace(true);
        if let Err(why) = self.cx.outbound.tell(OutboundMsg::Drain) {
            // An outbound that is gone has nothing waiting; one that is too busy to hear puts nothing back.
            tracing::warn!(%why, "what waits for a site was not put back");
        }
    }

    /// Stops taking work, waits until what is under way has ended or `within` has passed, and writes a
    /// checkpoint. What is still being tried then is found *uncertain* at the next start. Not cancel safe.
    pub async fn drain(&self, within: Duration) {
        self.start_draining();
        let ended = async {
            // Also those that rest: each says goodbye first.
            self.cx.sessions.close();
            self.cx.sessions.wait().await;
            self.cx.ports.activity.idle().await;
        };
        if timeout(within, ended).await.is_err() {
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
        let mut parts = vec![
            Component {
                name: "store",
                ok: store.0,
                detail: store.1,
            },
            runs("vault", self.cx.vault.is_open()),
            runs("directory", self.cx.directory.is_open()),
            runs("outbound", self.cx.outbound.is_open()),
            runs("notifier", self.cx.notifier.is_open()),
        ];
        parts.extend(self.life.inbound_component());
        parts.extend(self.cx.memory.component());
        parts
    }

    /// The tree: services, sites, and the actors that are awake, parked or of bad record; bounded.
    pub async fn tree(&self, query: &TreeQuery) -> Tree {
        let mut parts = vec![self.services(query).await];
        let sites = |reply| OutboundMsg::Sites(query.clone(), reply);
        parts.extend(self.cx.outbound.ask(sites).await);
        let actors = |reply| DirectoryMsg::Tree(query.clone(), reply);
        parts.extend(self.cx.directory.ask(actors).await);
        let matching: usize = parts.iter().map(|part| part.matching).sum();
        let nodes: Vec<_> = parts.into_iter().flat_map(|part| part.nodes).collect();
        Tree {
            left_out: matching - nodes.len(),
            nodes,
            letters: (
                LETTERS_MAX - self.cx.letters.available_permits(),
                LETTERS_MAX,
            ),
            in_flight: (self.cx.metrics.in_flight(), IN_FLIGHT_MAX),
            tasks: self.cx.tasks.len() + self.cx.sessions.len(),
        }
    }

    /// Whether the services that everything depends on answer, within the wait for any answer.
    pub async fn answers(&self) -> bool {
        let query = TreeQuery {
            limit: 0,
            ..TreeQuery::default()
        };
        let root = self.root_tree().await.is_ok();
        let asked = self
            .cx
            .directory
            .ask(|reply| DirectoryMsg::Tree(query, reply));
        root && asked.await.is_ok()
    }

    async fn root_tree(&self) -> Result<Vec<TreeNode>, Refusal> {
        self.ask_root(RootMsg::Tree).await
    }

    async fn ask_root<T>(&self, question: impl FnOnce(Reply<T>) -> RootMsg) -> Result<T, Refusal> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        if self.life.root.send_message(question(reply)).is_err() {
            return Err(Refusal::Unavailable {
                why: "the tree has ended".to_owned(),
            });
        }
        answer_of("the root", answer).await
    }

    /// The services, by name: there are few.
    async fn services(&self, query: &TreeQuery) -> TreePart {
        let mut nodes = self.root_tree().await.unwrap_or_default();
        nodes.extend(self.life.inbound_node());
        let of = query.of.as_str();
        nodes.retain(|node| {
            of.is_empty()
                || of == "service"
                || of == node.state
                || of == node.address
                || (of == TreeQuery::FAILED && node.restarts > 0)
        });
        TreePart {
            matching: nodes.len(),
            nodes,
        }
    }

    /// Ends an actor, named as in the tree, in the middle of whatever it does, a handler that hangs included. It
    /// counts as a failure: the actor is back at once within its budget, and parked beyond it. What lay in its
    /// mailbox gets no answer, as after any failure.
    ///
    /// Errors: [`Refusal::Conflict`] `fatal_service` for one whose death would end the process.
    pub async fn kill(&self, address: &str, why: &str) -> Result<(), Refusal> {
        let (address, why) = (address.to_owned(), why.to_owned());
        if address == INBOUND {
            return self.life.kill_inbound(why);
        }
        if let Some(service) = Service::named(&address) {
            return self
                .ask_root(|reply| RootMsg::Kill(service, why, reply))
                .await;
        }
        if address.starts_with("site/") {
            let kill = |reply| OutboundMsg::Kill(address, why, reply);
            return self.cx.outbound.ask(kill).await;
        }
        let kill = |reply| DirectoryMsg::Kill(address, why, reply);
        self.cx.directory.ask(kill).await
    }

    /// Frees a parked actor, named as in the tree.
    pub async fn unpark(&self, address: &str) -> Result<(), Refusal> {
        let address = address.to_owned();
        if address == INBOUND {
            return self.life.unpark_inbound();
        }
        if let Some(service) = Service::named(&address) {
            return self.ask_root(|reply| RootMsg::Unpark(service, reply)).await;
        }
        if address.starts_with("site/") {
            let unpark = |reply| OutboundMsg::Unpark(address, reply);
            return self.cx.outbound.ask(unpark).await;
        }
        let unpark = |reply| DirectoryMsg::Unpark(address, reply);
        self.cx.directory.ask(unpark).await
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

    fn runs(&self, running: AbortHandle) {
        let mut inbound = self.inbound();
        inbound.state = Some("running");
        inbound.running = Some(running);
    }

    /// The accept loop has failed.
    fn failed(&self, why: &str) -> Sentence {
        let mut inbound = self.inbound();
        let why = inbound.killed.take().unwrap_or_else(|| why.to_owned());
        tracing::error!(%why, "inbound failed");
        inbound.running = None;
        let sentence = inbound.record.fail(why, Instant::now(), &Budget::SERVICE);
        inbound.state = Some(match sentence {
            Sentence::Restart(_) => "restarting",
            Sentence::Park => {
                tracing::error!("inbound failed too often and is parked");
                "parked"
            }
        });
        sentence
    }

    fn kill_inbound(&self, why: String) -> Result<(), Refusal> {
        let mut inbound = self.inbound();
        let running = inbound.running.take().ok_or(Refusal::NotFound {
            what: "running actor",
        })?;
        inbound.killed = Some(why);
        running.abort();
        Ok(())
    }

    fn unpark_inbound(&self) -> Result<(), Refusal> {
        let mut inbound = self.inbound();
        if inbound.state != Some("parked") {
            return Err(Refusal::NotFound {
                what: "parked actor",
            });
        }
        inbound.record.forgive();
        inbound.state = Some("restarting");
        inbound.freed.notify_one();
        Ok(())
    }

    /// Inbound's part of readiness. While it restarts connections wait in the kernel's queue.
    fn inbound_component(&self) -> Option<Component> {
        let state = self.inbound().state?;
        Some(Component {
            name: INBOUND,
            ok: matches!(state, "running" | "restarting"),
            detail: state.to_owned(),
        })
    }

    /// Inbound's node; none when this process receives no mail.
    fn inbound_node(&self) -> Option<TreeNode> {
        let inbound = self.inbound();
        Some(TreeNode {
            address: INBOUND.to_owned(),
            state: inbound.state?,
            depth: 0,
            recent: 0,
            restarts: inbound.record.total(),
            last_failure: inbound.record.last().map(str::to_owned),
        })
    }
}

/// Runs the accept loop, again when it fails, within [`Budget::SERVICE`]; when it is parked, again when somebody
/// frees it. Sessions are tasks of their own and notice nothing.
async fn supervise(inbound: Arc<Inbound>, life: Arc<Life>) {
    let freed = Arc::clone(&life.inbound().freed);
    loop {
        let accepting = Arc::clone(&inbound);
        let running = tokio::spawn(async move { accepting.run().await });
        life.runs(running.abort_handle());
        let Err(why) = running.await else {
            life.inbound().state = Some("stopped");
            return;
        };
        match life.failed(&why.to_string()) {
            Sentence::Restart(wait) => tokio::time::sleep(wait).await,
            Sentence::Park => freed.notified().await,
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
