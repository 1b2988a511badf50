//! The root of the tree: starts the service actors, watches them, and ends the process when a fatal one dies.
//!
//! Owns nothing else. Mailbox: [`Start`] for the first start and for restarts after a backoff. Fatal: vault,
//! clock, directory (and the store, watched beside it). Budgeted by [`Budget::SERVICE`]: outbound, notifier.
//!
//! [`Start`]: RootMsg::Start

use std::{collections::BTreeMap, sync::Arc};

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, ActorRuntime, SupervisionEvent,
};
use tokio::time::Instant;

use crate::{
    clock::Clock,
    context::{Cx, Reply, answer},
    directory::Directory,
    mailbox::Mailbox,
    notifier::Notifier,
    outbound::Outbound,
    platform::TreeNode,
    refusal::Refusal,
    supervision::{Budget, Record, Sentence},
    vault::Vault,
};

/// What the root is told.
pub(crate) enum RootMsg {
    /// Start a service, again.
    Start(Service),
    /// Who runs? From operators.
    Tree(Reply<Vec<TreeNode>>),
    /// End a service in the middle of whatever it does. From operators.
    Kill(Service, String, Reply<()>),
    /// Free a parked service. From operators.
    Unpark(Service, Reply<()>),
}

/// The service actors, in the order in which they start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    Vault,
    Directory,
    Notifier,
    Outbound,
    Clock,
}

/// The root's actor.
pub(crate) struct Root;

/// What it keeps in memory.
pub(crate) struct RootState {
    cx: Cx,
    me: ActorRef<RootMsg>,
    services: BTreeMap<Service, Running>,
}

#[derive(Default)]
struct Running {
    actor: Option<ActorCell>,
    record: Record,
    parked: bool,
    /// Why an operator has ended it, until it has.
    killed: Option<String>,
}

// === impl Service ===

impl Service {
    pub(crate) const ALL: [Self; 5] = [
        Self::Vault,
        Self::Directory,
        Self::Notifier,
        Self::Outbound,
        Self::Clock,
    ];

    /// The service of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.name() == name)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Vault => "vault",
            Self::Directory => "directory",
            Self::Notifier => "notifier",
            Self::Outbound => "outbound",
            Self::Clock => "clock",
        }
    }

    const fn is_fatal(self) -> bool {
        matches!(self, Self::Vault | Self::Directory | Self::Clock)
    }
}

// === impl Actor for Root ===

impl Actor for Root {
    type Msg = RootMsg;
    type State = RootState;
    type Arguments = Cx;

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        cx: Cx,
    ) -> Result<Self::State, ActorProcessingErr> {
        let mut state = RootState {
            cx,
            me,
            services: BTreeMap::new(),
        };
        for service in Service::ALL {
            match state.start(service).await {
                Err(why) if service.is_fatal() => return Err(why),
                Err(why) => state.failed(service, why.to_string()),
                Ok(()) => {}
            }
        }
        Ok(state)
    }

    async fn handle(
        &self,
        _me: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RootMsg::Start(service) => {
                if let Err(why) = state.start(service).await {
                    state.failed(service, why.to_string());
                }
            }
            RootMsg::Tree(reply) => answer(reply, Ok(state.tree())),
            RootMsg::Kill(service, why, reply) => answer(reply, state.kill(service, why)),
            RootMsg::Unpark(service, reply) => {
                let running = state.services.entry(service).or_default();
                running.record.forgive();
                if std::mem::take(&mut running.parked)
                    && let Err(why) = state.start(service).await
                {
                    let why = why.to_string();
                    state.failed(service, why.clone());
                    answer(reply, Err(Refusal::Unavailable { why }));
                    return Ok(());
                }
                answer(reply, Ok(()));
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _me: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, why) => state.ended(who.get_id(), why.to_string()),
            SupervisionEvent::ActorTerminated(who, _, why) if !state.cx.draining() => {
                state.ended(who.get_id(), why.unwrap_or_else(|| "it stopped".to_owned()));
            }
            _ => {}
        }
        Ok(())
    }
}

// === impl RootState ===

impl RootState {
    async fn start(&mut self, service: Service) -> Result<(), ActorProcessingErr> {
        let (cx, root) = (Arc::clone(&self.cx), self.me.get_cell());
        let cell = match service {
            Service::Vault => {
                let (actor, _) =
                    ActorRuntime::spawn_linked(None, Vault, Arc::clone(&cx), root).await?;
                cx.vault.put(Some(actor.clone()));
                actor.get_cell()
            }
            Service::Directory => {
                let (actor, _) =
                    ActorRuntime::spawn_linked(None, Directory, Arc::clone(&cx), root).await?;
                cx.directory.put(Some(actor.clone()));
                actor.get_cell()
            }
            Service::Notifier => {
                let (actor, _) =
                    ActorRuntime::spawn_linked(None, Notifier, Arc::clone(&cx), root).await?;
                cx.notifier.put(Some(actor.clone()));
                actor.get_cell()
            }
            Service::Outbound => {
                let (actor, _) =
                    ActorRuntime::spawn_linked(None, Outbound, Arc::clone(&cx), root).await?;
                cx.outbound.put(Some(actor.clone()));
                actor.get_cell()
            }
            Service::Clock => {
                let (actor, _) =
                    ActorRuntime::spawn_linked(None, Clock, Arc::clone(&cx), root).await?;
                cx.clock.put(Some(actor.clone()));
                actor.get_cell()
            }
        };
        self.services.entry(service).or_default().actor = Some(cell);
        Ok(())
    }

    /// Ends a budgeted service. A fatal one would take the process along: that is what a drain is for.
    fn kill(&mut self, service: Service, why: String) -> Result<(), Refusal> {
        if service.is_fatal() {
            return Err(Refusal::Conflict {
                code: "fatal_service",
                why: format!(
                    "the death of the {} ends the daemon; restart the daemon instead",
                    service.name()
                ),
            });
        }
        let running = self.services.get_mut(&service);
        let awake = running.and_then(|running| Some((running.actor.clone()?, running)));
        let (actor, running) = awake.ok_or(Refusal::NotFound {
            what: "running actor",
        })?;
        running.killed = Some(why);
        actor.kill();
        Ok(())
    }

    fn ended(&mut self, actor: ActorId, why: String) {
        let found = self
            .services
            .iter_mut()
            .find(|(_, running)| running.is(actor))
            .map(|(service, running)| (*service, running.killed.take()));
        let Some((service, killed)) = found else {
            return;
        };
        match service {
            Service::Notifier => self.cx.notifier.put(None),
            Service::Outbound => self.cx.outbound.put(None),
            _ => {}
        }
        self.failed(service, killed.unwrap_or(why));
    }

    fn failed(&mut self, service: Service, why: String) {
        if service.is_fatal() {
            self.cx.die(format!("the {} died: {why}", service.name()));
            return;
        }
        self.cx.metrics.failures.inc();
        tracing::error!(service = service.name(), %why, "a service failed");
        let running = self.services.entry(service).or_default();
        running.actor = None;
        match running.record.fail(why, Instant::now(), &Budget::SERVICE) {
            Sentence::Restart(wait) => {
                let me = self.me.clone();
                self.cx.spawn_waiting(async move {
                    tokio::time::sleep(wait).await;
                    // A root that is gone has ended the process already.
                    drop(me.send_message(RootMsg::Start(service)));
                });
            }
            Sentence::Park => {
                tracing::error!(
                    service = service.name(),
                    "the service failed too often and is parked"
                );
                running.parked = true;
            }
        }
    }

    fn tree(&self) -> Vec<TreeNode> {
        let node = |(service, running): (&Service, &Running)| TreeNode {
            address: service.name().to_owned(),
            state: match (running.parked, &running.actor) {
                (true, _) => "parked",
                (false, Some(_)) => "running",
                (false, None) => "restarting",
            },
            depth: self.mailbox(*service).depth(),
            recent: self.mailbox(*service).recent(),
            restarts: running.record.total(),
            last_failure: running.record.last().map(str::to_owned),
        };
        self.services.iter().map(node).collect()
    }

    fn mailbox(&self, service: Service) -> &Mailbox {
        match service {
            Service::Vault => self.cx.vault.mailbox(),
            Service::Directory => self.cx.directory.mailbox(),
            Service::Notifier => self.cx.notifier.mailbox(),
            Service::Outbound => self.cx.outbound.mailbox(),
            Service::Clock => self.cx.clock.mailbox(),
        }
    }
}

// === impl Running ===

impl Running {
    fn is(&self, actor: ActorId) -> bool {
        self.actor
            .as_ref()
            .is_some_and(|running| running.get_id() == actor)
    }
}
