//! One attempt to deliver to one recipient: sign, find a host that takes our greeting, commit that the attempt begins,
//! send, and judge the answer.

use std::{
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
    net::is_public, ports::BoxStream, suppression::Suppression, tenant::Tenant,
};
use inboxgrove_policy::{Outcome, ReplyText, reply, retry::Cause};
use inboxgrove_store::{Batch, CommitError};
use tokio::time::{Instant, timeout};

use super::{Connection, FreedGuard};
use crate::{
    context::Cx,
    outbound::{InFlight, Tried},
    refusal::Refusal,
    vault::VaultMsg,
};

/// What a fault of our own tells a delivery to wait.
const FAULT_AGAIN: Duration = Duration::from_mins(1);
/// Finding a host that takes our greeting may take this long in all, whatever its hosts do.
const CONNECT_ALL_TIMEOUT: Duration = Duration::from_mins(5);
/// Addresses of a site that are tried for one message (RFC 5321 §5.1 asks for at least two).
const ADDRESSES_MAX: usize = 5;

/// One attempt for one recipient.
pub(super) struct Attempt {
    pub(super) cx: Cx,
    pub(super) source: IpAddr,
    pub(super) site: String,
    pub(super) provider: String,
}

// === impl Attempt ===

impl Attempt {
    /// How it ended; nothing when the recipient's row has moved on meanwhile. What it learned of the pace, and the
    /// connection when it can be used again, are in `freed`.
    pub(super) async fn run(
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
