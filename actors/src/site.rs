//! One actor per destination as seen from one source address: owns its pace and its connections.
//!
//! Mailbox: [`Deliver`] from outbound, [`Freed`] from the tasks of its attempts, [`Go`] from its own timer
//! and, when a drain begins, from outbound.
//! Never waits for the network: each attempt is a task with deadlines that ends its delivery exactly once
//! (`site/attempt.rs`).
//! The pace is a row, changed by pure rules (`policy::pace`), committed before it is obeyed. Restarts within
//! [`Budget::ENTITY`]; deliveries that waited here go back to the queue by being dropped.
//!
//! [`Deliver`]: SiteMsg::Deliver
//! [`Freed`]: SiteMsg::Freed
//! [`Go`]: SiteMsg::Go
//! [`Budget::ENTITY`]: crate::supervision::Budget::ENTITY

mod attempt;

use std::{collections::VecDeque, net::IpAddr, sync::Arc, time::Duration};

use inboxgrove_mail::{dns::MxHost, smtp::client::Session};
use inboxgrove_model::{PolicyTime, site::SitePace};
use inboxgrove_policy::{PaceAction, pace};
use inboxgrove_store::{Batch, Lease, Owner};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use self::attempt::Attempt;
use crate::{
    context::Cx,
    outbound::{InFlight, Tried},
};

/// Deliveries that may wait here; more go back to the queue, until about when it is their turn.
const WAITING_MAX: u32 = 32;
/// A connection without work for this long is closed (KumoMTA's default is 60 s).
const IDLE_MAX: Duration = Duration::from_secs(30);
/// One in so many connections is there for those at work: with less room than that left none is kept idle, or many sites
/// with a message each would make the next one wait until theirs have idled long enough.
const NEVER_IDLE_OF: usize = 4;
/// The shortest that an overfull site tells a delivery to wait.
const FULL_AGAIN: Duration = Duration::from_mins(1);

/// What a site is told.
pub(crate) enum SiteMsg {
    /// Try this one. From outbound.
    Deliver {
        flight: Box<InFlight>,
        hosts: Vec<MxHost>,
        provider: String,
    },
    /// An attempt ended: its connection, if it is still good, and what the answer says of our pace.
    Freed {
        connection: Option<Box<Connection>>,
        action: Option<PaceAction>,
        why: String,
    },
    /// The gap between two messages is over, a connection may have idled long enough, or a drain has begun.
    Go,
    /// Nothing has come for long: stop, unless something is at work. From outbound.
    Rest,
}

/// An open connection that may carry another message.
pub(crate) struct Connection {
    /// Its place among all that are open.
    _room: OwnedSemaphorePermit,
    session: Session,
    host: String,
    carried: u32,
    idle_since: Instant,
}

/// The site's actor.
pub(crate) struct SiteActor;

/// What it keeps in memory.
pub(crate) struct SiteState {
    cx: Cx,
    me: ActorRef<SiteMsg>,
    lease: Lease,
    pace: SitePace,
    provider: String,
    waiting: VecDeque<(InFlight, Vec<MxHost>)>,
    idle: Vec<Connection>,
    under_way: u32,
    next_at: PolicyTime,
    timer: Option<tokio::task::AbortHandle>,
}

// === impl Actor for SiteActor ===

impl Actor for SiteActor {
    type Msg = SiteMsg;
    type State = SiteState;
    type Arguments = (Cx, IpAddr, String, String);

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        (cx, source, site, provider): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let lease = cx.store.own(Owner::Site(source, site.clone())).await?;
        let stored = cx.store.get::<SitePace>(&(source, site.clone()))?;
        let pace = stored.unwrap_or_else(|| pace::fresh(source, &site, cx.now()));
        let next_at = cx.now();
        Ok(SiteState {
            cx,
            me,
            lease,
            pace,
            provider,
            waiting: VecDeque::new(),
            idle: Vec::new(),
            under_way: 0,
            next_at,
            timer: None,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SiteMsg::Deliver {
                flight,
                hosts,
                provider,
            } => state.deliver(*flight, hosts, provider),
            SiteMsg::Freed {
                connection,
                action,
                why,
            } => {
                state
                    .freed(connection.map(|connection| *connection), action, &why)
                    .await;
            }
            SiteMsg::Rest if state.waiting.is_empty() && state.under_way == 0 => {
                me.stop(None);
                return Ok(());
            }
            SiteMsg::Go | SiteMsg::Rest => {}
        }
        state.recover().await;
        state.pump();
        Ok(())
    }

    async fn post_stop(
        &self,
        _me: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.cx.store.release(state.lease.clone());
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _me: ActorRef<Self::Msg>,
        _event: SupervisionEvent,
        _state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(()) // It has no children.
    }
}

// === impl SiteState ===

impl SiteState {
    fn deliver(&mut self, flight: InFlight, hosts: Vec<MxHost>, provider: String) {
        self.provider = provider;
        let now = self.cx.now();
        if let Some(until) = pace::suspended_until(&self.pace, now) {
            let why = format!(
                "the site {} is suspended until {until}: {}",
                self.pace.site, self.pace.why
            );
            self.put_off(flight, why, until);
        } else if self.waiting.len() >= WAITING_MAX as usize {
            let why = format!(
                "{WAITING_MAX} messages wait for the site {}",
                self.pace.site
            );
            let turn = self.allowance().gap.saturating_mul(WAITING_MAX);
            self.put_off(flight, why, now.after(turn.max(FULL_AGAIN)));
        } else {
            let mut flight = flight;
            // While it waits for its turn nobody is at work on it: neither a drain nor a fast clock waits for it.
            flight.busy = None;
            self.waiting.push_back((flight, hosts));
        }
    }

    fn allowance(&self) -> pace::Allowance {
        let allowed = pace::allowance(&self.pace, &self.cx.rules.pack.limits(&self.provider));
        let most = self.cx.config.outbound.concurrency.connections_per_site;
        pace::Allowance {
            connections: allowed.connections.min(most),
            ..allowed
        }
    }

    fn put_off(&self, flight: InFlight, reply: String, until: PolicyTime) {
        let provider = self.provider.clone();
        flight.end(Tried::Waiting {
            provider,
            why: reply,
            until,
        });
    }

    async fn freed(
        &mut self,
        connection: Option<Connection>,
        action: Option<PaceAction>,
        why: &str,
    ) {
        self.under_way = self.under_way.saturating_sub(1);
        if let Some(mut connection) = connection {
            if may_idle(&self.cx) {
                connection.idle_since = Instant::now();
                self.idle.push(connection);
            } else {
                self.cx.spawn_waiting(connection.session.quit());
            }
        }
        let Some(action) = action else { return };
        let lowered = pace::lowered(&self.pace, action, self.cx.now(), why, &self.cx.rules.pace);
        self.change_pace(lowered).await;
        if let Some(until) = pace::suspended_until(&self.pace, self.cx.now()) {
            let why = format!(
                "the site {} is suspended until {until}: {}",
                self.pace.site, self.pace.why
            );
            for (flight, _) in std::mem::take(&mut self.waiting) {
                self.put_off(flight, why.clone(), until);
            }
        }
    }

    /// Gives back a step of the pace for each quiet interval.
    async fn recover(&mut self) {
        if let Some(recovered) = pace::recovered(&self.pace, self.cx.now(), &self.cx.rules.pace) {
            self.change_pace(recovered).await;
        }
    }

    /// A refusal slows us down whether or not the disk can keep it: what is lost by a crash is learned again.
    async fn change_pace(&mut self, pace: SitePace) {
        let mut batch = Batch::new();
        batch.by(&self.lease).essential();
        batch.put(&pace);
        if let Err(why) = self.cx.store.commit(batch).await {
            tracing::warn!(%why, site = %pace.site, "a change of pace was not kept");
        }
        self.pace = pace;
    }

    /// Starts as many attempts as the pace allows, then sets the timer to when the next may start.
    fn pump(&mut self) {
        if self.cx.draining() {
            // What has not begun goes back to the queue as it is; a drain waits for what has.
            self.waiting.clear();
        }
        let allowed = self.allowance();
        let mut now = self.cx.now();
        while self.under_way < allowed.connections && now >= self.next_at {
            let Some((flight, hosts)) = self.waiting.pop_front() else {
                break;
            };
            self.under_way += 1;
            self.next_at = self.next_at.max(now.before(allowed.gap)).after(allowed.gap);
            let connection = self.usable_connection(&hosts, allowed.messages_per_connection);
            self.attempt(flight, hosts, connection);
            now = self.cx.now();
        }
        self.close_idle(allowed.messages_per_connection);
        self.set_timer(self.under_way < allowed.connections);
    }

    fn usable_connection(&mut self, hosts: &[MxHost], messages_max: u32) -> Option<Connection> {
        let good = |connection: &Connection| {
            connection.carried < messages_max
                && hosts.iter().any(|host| host.host == connection.host)
        };
        let at = self.idle.iter().position(good)?;
        Some(self.idle.swap_remove(at))
    }

    fn close_idle(&mut self, messages_max: u32) {
        let (keep, close): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.idle)
                .into_iter()
                .partition(|connection| {
                    connection.carried < messages_max && connection.idle_since.elapsed() < IDLE_MAX
                });
        self.idle = keep;
        for connection in close {
            self.cx.spawn_waiting(connection.session.quit());
        }
    }

    fn set_timer(&mut self, room: bool) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        let gap = (room && !self.waiting.is_empty()).then_some(self.next_at);
        if gap.is_none() && self.idle.is_empty() {
            return;
        }
        let sleep = gap.map(|at| self.cx.ports.clock.sleep_until(at));
        let me = self.me.clone();
        let timer = self.cx.tasks.spawn(async move {
            match sleep {
                Some(sleep) => sleep.await,
                None => tokio::time::sleep(IDLE_MAX).await,
            }
            // A site that is gone has no connections.
            drop(me.send_message(SiteMsg::Go));
        });
        self.timer = Some(timer.abort_handle());
    }

    fn attempt(&self, mut flight: InFlight, hosts: Vec<MxHost>, connection: Option<Connection>) {
        let attempt = Attempt {
            cx: Arc::clone(&self.cx),
            source: self.pace.source,
            site: self.pace.site.clone(),
            provider: self.provider.clone(),
        };
        let mut freed = FreedGuard {
            site: self.me.clone(),
            connection: None,
            action: None,
            why: String::new(),
        };
        flight.busy = Some(self.cx.ports.activity.begin());
        self.cx.spawn(async move {
            let begun = Instant::now();
            let outcome = attempt
                .run(&mut flight, &hosts, connection, &mut freed)
                .await;
            attempt
                .cx
                .metrics
                .attempt_seconds
                .observe(begun.elapsed().as_secs_f64());
            match outcome {
                Some(outcome) => flight.end(outcome),
                // Its row has moved on under us: whoever moved it decides.
                None => drop(flight),
            }
            drop(freed);
        });
    }
}

/// Whether there is room for connections that nobody uses.
fn may_idle(cx: &Cx) -> bool {
    let all = usize::try_from(cx.config.outbound.concurrency.connections).unwrap_or(usize::MAX);
    cx.connections.available_permits() >= all.div_ceil(NEVER_IDLE_OF)
}

/// Tells the site that an attempt has ended, exactly once, also on a panic.
struct FreedGuard {
    site: ActorRef<SiteMsg>,
    connection: Option<Connection>,
    action: Option<PaceAction>,
    why: String,
}

impl Drop for FreedGuard {
    fn drop(&mut self) {
        let freed = SiteMsg::Freed {
            connection: self.connection.take().map(Box::new),
            action: self.action.take(),
            why: std::mem::take(&mut self.why),
        };
        // A site that is gone has no connections.
        drop(self.site.send_message(freed));
    }
}
