//! One actor per destination as seen from one source address: owns its pace and its connections.
//!
//! Mailbox: [`Deliver`] from outbound, [`Freed`] from the tasks of its attempts, [`Go`] from its own timer
//! and, when a drain begins, from outbound.
//! Never waits for the network: each attempt is a task with deadlines that ends its delivery exactly once.
//! The pace is a row, changed by pure rules (`policy::pace`), committed before it is obeyed. Restarts within
//! [`Budget::ENTITY`]; deliveries that waited here go back to the queue by being dropped.
//!
//! [`Deliver`]: SiteMsg::Deliver
//! [`Freed`]: SiteMsg::Freed
//! [`Go`]: SiteMsg::Go
//! [`Budget::ENTITY`]: crate::supervision::Budget::ENTITY

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use inboxgrove_mail::{
    dns::MxHost,
    smtp::{
        Reply as SmtpReply,
        client::{ClientError, Delivery as Delivered, EnvelopeOut, Options, Session, Stage},
    },
};
use inboxgrove_model::{
    PolicyTime, domain::Domain, inbox::Inbox, limits::REPLY_CHARS_MAX, message::QueueEntry,
    net::is_public, ports::BoxStream, site::SitePace, suppression::Suppression, tenant::Tenant,
};
use inboxgrove_policy::{Outcome, PaceAction, ReplyText, pace, reply, retry::Cause};
use inboxgrove_store::{Batch, CommitError, Lease, Owner};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};

use crate::{
    context::Cx,
    outbound::{InFlight, Tried},
    refusal::Refusal,
    vault::VaultMsg,
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
/// What a fault of our own tells a delivery to wait.
const FAULT_AGAIN: Duration = Duration::from_mins(1);
/// Finding a host that takes our greeting may take this long in all, whatever its hosts do.
const CONNECT_ALL_TIMEOUT: Duration = Duration::from_mins(5);
/// Addresses of a site that are tried for one message (RFC 5321 §5.1 asks for at least two).
const ADDRESSES_MAX: usize = 5;

/// What a site is told.
pub(crate) enum SiteMsg {
    /// Try this one. From outbound.
    Deliver {
        flight: InFlight,
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
            } => state.deliver(flight, hosts, provider),
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
        flight.end(waiting_until(provider, reply, until));
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

/// One attempt for one recipient.
struct Attempt {
    cx: Cx,
    source: IpAddr,
    site: String,
    provider: String,
}

// === impl Attempt ===

impl Attempt {
    async fn run(
        &self,
        flight: &mut InFlight,
        hosts: &[MxHost],
        connection: Option<Connection>,
        freed: &mut FreedGuard,
    ) -> Option<Tried> {
        let signed = match self.signed(flight).await {
            Ok(bytes) => bytes,
            Err(refusal) => return Some(self.our_fault(refusal.to_string())),
        };
        let connecting = timeout(CONNECT_ALL_TIMEOUT, self.connection(hosts, connection));
        let mut connection = match connecting.await {
            Ok(Ok(connection)) => connection,
            Ok(Err(failed)) => return Some(self.no_connection(failed, freed)),
            Err(_) => {
                return Some(self.unreachable("no mail host was ready in 5 minutes".to_owned()));
            }
        };
        if let Err(outcome) = self.begin(flight).await {
            freed.connection = Some(connection);
            return outcome;
        }
        let envelope = EnvelopeOut {
            mail_from: flight.message.mail_from.clone(),
            recipients: vec![flight.recipient().clone()],
        };
        let sent = connection.session.send(&envelope, &signed).await;
        connection.carried += 1;
        if !sent.surely_unsent() {
            flight.give_back.clear();
        }
        let reusable = sent.reusable;
        let outcome = sent.recipients.into_iter().next().map_or_else(
            || self.our_fault("the SMTP client returned no outcome".to_owned()),
            |recipient| self.outcome(recipient.delivery, recipient.stage, freed),
        );
        if reusable {
            freed.connection = Some(connection);
        }
        Some(outcome)
    }

    /// The message as it goes out: its bytes, signed with the keys that its domain has now.
    async fn signed(&self, flight: &InFlight) -> Result<Vec<u8>, Refusal> {
        let message = &flight.message;
        let store = &self.cx.store;
        let body = store.body(message.tenant, &message.body)?;
        let inbox = store.existing::<Inbox>(&(message.tenant, message.inbox))?;
        let domain = store.existing::<Domain>(&(message.tenant, inbox.domain))?;
        let (tenant, name, selectors) = (domain.tenant, domain.name, domain.selectors);
        let signer = self
            .cx
            .vault
            .ask(|reply| VaultMsg::Signer(tenant, name, selectors, reply))
            .await?;
        let (text, now) = (message.body, self.cx.ports.clock.wall().as_secs());
        if let Some(headers) = signer.lately(text, now) {
            return Ok([headers, body].concat());
        }
        let signing = move || {
            signer
                .sign(text, &body, now)
                .map(|headers| [headers, body].concat())
        };
        match self.cx.ports.blocking.call(signing).await {
            Some(Ok(signed)) => Ok(signed),
            Some(Err(why)) => Err(Refusal::Damaged {
                why: format!("the message cannot be signed: {why}"),
            }),
            None => Err(Refusal::Unavailable {
                why: "signing was cut off".to_owned(),
            }),
        }
    }

    async fn connection(
        &self,
        hosts: &[MxHost],
        open: Option<Connection>,
    ) -> Result<Connection, ConnectFailed> {
        if let Some(mut connection) = open
            && connection.session.is_usable()
            && connection.session.reset().await.is_ok()
        {
            return Ok(connection);
        }
        let mut last = ConnectFailed::none();
        let mut tries = 0;
        for host in hosts {
            for address in &host.addresses {
                if address.is_ipv4() != self.source.is_ipv4() || tries == ADDRESSES_MAX {
                    continue;
                }
                tries += 1;
                match self.connect(&host.host, *address).await {
                    Ok(connection) => return Ok(connection),
                    Err(failed) => last = failed,
                }
            }
        }
        Err(last)
    }

    async fn connect(&self, host: &str, address: IpAddr) -> Result<Connection, ConnectFailed> {
        let rules = &self.cx.rules.outbound;
        if !rules.allow_private && !is_public(address) {
            return Err(ConnectFailed::io(
                host,
                &format!("{address} is a private address (network.allow_private)"),
            ));
        }
        match self.open(host, address, rules.tls.clone()).await {
            // Opportunistic: a server whose TLS is broken is better served in clear than not at all (RFC 7435).
            Err(ConnectFailed { tls: true, .. }) if !rules.tls_required => {
                self.open(host, address, inboxgrove_mail::smtp::client::Tls::Never)
                    .await
            }
            result => result,
        }
    }

    async fn open(
        &self,
        host: &str,
        address: IpAddr,
        tls: inboxgrove_mail::smtp::client::Tls,
    ) -> Result<Connection, ConnectFailed> {
        // A semaphore that is never closed. Idle connections give their room back within [`IDLE_MAX`].
        let room = Arc::clone(&self.cx.connections).acquire_owned().await;
        let room = room.map_err(|why| ConnectFailed::io(host, &why.to_string()))?;
        let rules = &self.cx.rules.outbound;
        let to = SocketAddr::new(address, rules.mx_port);
        let connecting = self.cx.ports.net.connect(Some(self.source), to);
        let stream: BoxStream = match timeout(rules.connect_timeout, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(why)) => return Err(ConnectFailed::io(host, &format!("{to}: {why}"))),
            Err(_) => {
                return Err(ConnectFailed::io(
                    host,
                    &format!("{to} did not answer in time"),
                ));
            }
        };
        let mut options = Options::new(self.cx.rules.ehlo_name(self.source), host);
        options.tls = tls;
        match Session::open(stream, options).await {
            Ok(session) => Ok(Connection {
                _room: room,
                session,
                host: host.to_owned(),
                carried: 0,
                idle_since: Instant::now(),
            }),
            Err(why) => Err(ConnectFailed::smtp(host, &why)),
        }
    }

    /// Commits that the attempt begins, with its takes. Nothing may be sent before this has resolved. An error
    /// without an outcome says that the row is no longer what it was.
    async fn begin(&self, flight: &mut InFlight) -> Result<(), Option<Tried>> {
        if let Some(outcome) = self.forbidden(flight) {
            return Err(Some(outcome));
        }
        let entry = QueueEntry {
            attempting: true,
            source: Some(self.source),
            ..flight.entry.clone()
        };
        // The hour may turn between the making of a take and its commit: then it is made again, once.
        for _ in 0..2 {
            let takes = self
                .cx
                .rules
                .attempt_takes(self.source, &self.site, self.cx.now());
            let mut batch = Batch::new();
            batch.by(&flight.lease);
            batch.expect(&flight.entry);
            batch.put(&entry);
            for take in takes.clone() {
                batch.take(take);
            }
            match self.cx.store.commit(batch).await {
                Ok(_) => {
                    flight.entry = entry;
                    flight.give_back = takes.into();
                    return Ok(());
                }
                Err(CommitError::WindowPast { .. }) => {}
                Err(CommitError::BudgetFull(full)) => {
                    let provider = self.provider.clone();
                    return Err(Some(waiting_until(
                        provider,
                        full.to_string(),
                        full.lifts_at,
                    )));
                }
                Err(CommitError::Changed { .. } | CommitError::Stale { .. }) => return Err(None),
                Err(why) => return Err(Some(self.our_fault(why.to_string()))),
            }
        }
        Err(Some(self.our_fault(
            "the window of a budget kept turning".to_owned(),
        )))
    }

    /// What has come up since acceptance: the account may not send any more, or the address is spared.
    fn forbidden(&self, flight: &InFlight) -> Option<Tried> {
        let store = &self.cx.store;
        let tenant = store.get::<Tenant>(&flight.entry.tenant).ok().flatten();
        if !tenant.is_some_and(|tenant| tenant.status.may_act()) {
            return Some(Tried::Held {
                until: self.cx.now().after(FAULT_AGAIN),
            });
        }
        let key = (flight.entry.tenant, flight.recipient().key());
        let suppressed = store.get::<Suppression>(&key).ok().flatten();
        suppressed.map(|_| Tried::Suppressed)
    }

    /// What a server's answer, or its silence, means.
    fn outcome(&self, delivery: Delivered, stage: Stage, freed: &mut FreedGuard) -> Tried {
        let provider = self.provider.clone();
        match delivery {
            Delivered::Accepted(reply) => Tried::Delivered {
                provider,
                reply: text_of(&reply),
            },
            Delivered::Uncertain(why) => Tried::Uncertain {
                provider,
                reply: why,
            },
            Delivered::Lost(why) => self.unreachable(why),
            Delivered::Refused(reply) => self.judge(&reply, stage, freed),
        }
    }

    fn judge(&self, reply: &SmtpReply, stage: Stage, freed: &mut FreedGuard) -> Tried {
        let text = reply.text();
        let answer = ReplyText {
            code: reply.code(),
            enhanced: reply
                .enhanced()
                .map(|status| (status.class, status.subject, status.detail)),
            text: &text,
        };
        let verdict = self
            .cx
            .rules
            .pack
            .classify(&self.provider, &answer, policy_stage(stage));
        let provider = self.provider.clone();
        let reply = text_of(reply);
        if verdict.pace.is_some() {
            freed.action = verdict.pace;
            freed.why.clone_from(&reply);
        }
        match verdict.outcome {
            Outcome::Delivered => Tried::Delivered { provider, reply },
            Outcome::Bounced(class) => Tried::Bounced {
                provider,
                reply,
                class,
            },
            Outcome::Deferred => Tried::Deferred {
                provider,
                reply,
                cause: if verdict.greylisted {
                    Cause::Greylisted
                } else {
                    Cause::Deferred
                },
                counted: true,
            },
        }
    }

    fn no_connection(&self, failed: ConnectFailed, freed: &mut FreedGuard) -> Tried {
        match failed.reply {
            Some((reply, stage)) => self.judge(&reply, stage, freed),
            None => self.unreachable(failed.why),
        }
    }

    fn unreachable(&self, reply: String) -> Tried {
        Tried::Deferred {
            provider: self.provider.clone(),
            reply,
            cause: Cause::Deferred,
            counted: false,
        }
    }

    /// A fault of ours costs the message no attempt.
    fn our_fault(&self, why: String) -> Tried {
        waiting_until(self.provider.clone(), why, self.cx.now().after(FAULT_AGAIN))
    }
}

/// Why there is no connection.
struct ConnectFailed {
    why: String,
    reply: Option<(SmtpReply, Stage)>,
    tls: bool,
}

impl ConnectFailed {
    fn none() -> Self {
        let why = "no mail host has an address of the family of our source address".to_owned();
        Self {
            why,
            reply: None,
            tls: false,
        }
    }

    fn io(host: &str, why: &str) -> Self {
        Self {
            why: format!("{host}: {why}"),
            reply: None,
            tls: false,
        }
    }

    fn smtp(host: &str, error: &ClientError) -> Self {
        let reply = match error {
            ClientError::Refused { reply, stage, .. } => Some((reply.clone(), *stage)),
            _ => None,
        };
        Self {
            why: format!("{host}: {error}"),
            reply,
            tls: error.is_tls(),
        }
    }
}

fn waiting_until(provider: String, why: String, until: PolicyTime) -> Tried {
    Tried::Waiting {
        provider,
        why,
        until,
    }
}

fn text_of(reply: &SmtpReply) -> String {
    let enhanced = reply
        .enhanced()
        .map(|status| format!("{status} "))
        .unwrap_or_default();
    format!("{} {enhanced}{}", reply.code(), reply.text())
        .chars()
        .take(REPLY_CHARS_MAX)
        .collect()
}

fn policy_stage(stage: Stage) -> reply::Stage {
    match stage {
        Stage::Greeting => reply::Stage::Greeting,
        Stage::Hello => reply::Stage::Hello,
        Stage::Tls => reply::Stage::Tls,
        Stage::Rcpt => reply::Stage::RcptTo,
        Stage::Data => reply::Stage::Data,
        Stage::Content | Stage::End => reply::Stage::End,
        Stage::Mail | Stage::Check | Stage::Reset | Stage::Quit => reply::Stage::MailFrom,
    }
}
