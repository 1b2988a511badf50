//! Inbound: the listener of port 25 and its sessions.
//!
//! Owns no rows. Each connection is a task that speaks SMTP and asks the inboxes; what an inbox keeps is
//! committed before the session says 250. Never an open relay: a recipient is taken only if it is an inbox of
//! ours, and it is refused at RCPT otherwise, so nothing bounces later. The accept loop ends when the
//! daemon drains; sessions get 421 between transactions.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use inboxgrove_mail::{
    authentication::{self, AuthenticationResults, Outcome},
    message::{self, SpamVerdict},
    smtp::{
        EnhancedStatus, Reply as SmtpReply,
        server::{self, EnvelopeIn, Handler, Limits},
    },
};
use inboxgrove_model::{
    DomainName, EmailAddress, InboxId, TenantId, WallTime,
    inbox::{Inbox, InboxStatus},
    ports::{BoxStream, Busy, Listener},
};
use inboxgrove_store::StoreHealth;
use tokio::sync::watch;

use crate::{
    context::{Context, Cx},
    directory::{self, Address, Letter},
    inbox::{InboxMsg, Incoming, holder_of},
    refusal::Refusal,
};

/// How long SPF, DKIM and DMARC may take; after that the message is taken without their verdict.
const AUTHENTICATE_TIMEOUT: Duration = Duration::from_secs(20);
/// After an error of `accept` (no descriptors left) the loop waits, so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Memory for messages that are being received, over all sessions, in KiB: ten of the largest, or a message
/// of ordinary size for each of many connections.
const RECEIVING_KIB_MAX: u64 = 256 * 1024;
/// What of it one address may have, so that no one alone keeps everybody else out. Gateways bring the mail of
/// many and may have it all.
const RECEIVING_KIB_OF_ONE_MAX: u64 = RECEIVING_KIB_MAX / 4;
/// What a message is taken to need, in KiB, when its sender does not say.
const UNANNOUNCED_KIB: u64 = 1024;

/// What inbound runs with.
pub(crate) struct Inbound {
    pub(crate) cx: Cx,
    pub(crate) listener: Box<dyn Listener>,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

/// One session's decisions.
struct Session {
    cx: Cx,
    name: DomainName,
    peer: SocketAddr,
    recipients: Vec<(EmailAddress, TenantId, InboxId)>,
    has_place: bool,
    /// Memory for messages, of all sessions.
    memory: Arc<Memory>,
    /// What of it this session's transaction has.
    reserved: Option<Reserved>,
    /// From its beginning, and from each MAIL, until every reply is out: for so long a fast clock stands still.
    busy: Option<Busy>,
}

/// Memory for messages that are being received: what of it is in use, in KiB.
#[derive(Default)]
struct Memory {
    in_use: Mutex<InUse>,
}

#[derive(Default)]
struct InUse {
    by_address: BTreeMap<IpAddr, u64>,
    all: u64,
}

/// What one transaction has of it; given back when dropped.
struct Reserved {
    memory: Arc<Memory>,
    address: IpAddr,
    kib: u64,
}

/// Who is connected: all, and by address (IPv6 by /64).
#[derive(Default)]
struct Connected {
    by_address: BTreeMap<IpAddr, u32>,
    all: u32,
}

/// A place among the connected.
struct Place {
    connected: Arc<Mutex<Connected>>,
    address: IpAddr,
}

// === impl Inbound ===

impl Inbound {
    /// Accepts until the daemon drains.
    pub(crate) async fn run(&self) {
        let mut shutdown = self.shutdown.clone();
        let connected = Arc::new(Mutex::new(Connected::default()));
        let limits = Arc::new(limits_of(&self.cx));
        let memory = Arc::new(Memory::default());
        loop {
            let accepted = tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.start(stream, peer, &connected, &limits, &memory),
                Err(why) => {
                    tracing::warn!(%why, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn start(
        &self,
        stream: BoxStream,
        peer: SocketAddr,
        connected: &Arc<Mutex<Connected>>,
        limits: &Arc<Limits>,
        memory: &Arc<Memory>,
    ) {
        let place = Place::take(connected, peer.ip(), &self.cx);
        let session = Session {
            cx: Arc::clone(&self.cx),
            name: self.cx.rules.own_name.clone(),
            peer,
            recipients: Vec::new(),
            has_place: place.is_some(),
            memory: Arc::clone(memory),
            reserved: None,
            busy: Some(self.cx.ports.activity.begin()),
        };
        let (limits, tls, shutdown) = (Arc::clone(limits), self.tls.clone(), self.shutdown.clone());
        self.cx.sessions.spawn(async move {
            let summary = server::serve(stream, peer, session, &limits, tls, shutdown).await;
            tracing::debug!(%peer, ?summary, "an inbound session ended");
            drop(place);
        });
    }
}

// === impl Place ===

impl Place {
    fn take(connected: &Arc<Mutex<Connected>>, address: IpAddr, cx: &Context) -> Option<Self> {
        let limits = &cx.config.inbound.limits;
        let address = group_of(address);
        let mut now = connected.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = now.by_address.get(&address).copied().unwrap_or(0);
        if now.all >= limits.connections || of_address >= limits.connections_per_address {
            return None;
        }
        now.all += 1;
        now.by_address.insert(address, of_address + 1);
        Some(Self {
            connected: Arc::clone(connected),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut now = self
            .connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        now.all -= 1;
        if let Some(count) = now.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                now.by_address.remove(&self.address);
            }
        }
    }
}

// === impl Memory, Reserved ===

impl Memory {
    /// Takes so much for an address, if it leaves enough for the others.
    fn take(&self, address: IpAddr, kib: u64, share: u64) -> bool {
        let mut now = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = now.by_address.get(&address).copied().unwrap_or(0);
        if now.all + kib > RECEIVING_KIB_MAX || of_address + kib > share {
            return false;
        }
        now.all += kib;
        now.by_address.insert(address, of_address + kib);
        true
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut now = self
            .memory
            .in_use
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        now.all -= self.kib;
        if let Some(of_address) = now.by_address.get_mut(&self.address) {
            *of_address -= self.kib;
            if *of_address == 0 {
                now.by_address.remove(&self.address);
            }
        }
    }
}

/// IPv6 hosts have a /64 each.
fn group_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

// === impl Handler for Session ===

impl Handler for Session {
    fn banner_host(&self) -> &DomainName {
        &self.name
    }

    async fn greet(&mut self) -> Option<SmtpReply> {
        let full = || {
            SmtpReply::new(
                421,
                EnhancedStatus::new(4, 7, 0),
                "too many connections, come again",
            )
        };
        (!self.has_place).then(full)
    }

    async fn mail(&mut self, _from: Option<&EmailAddress>, size: Option<u64>) -> SmtpReply {
        self.recipients.clear();
        self.reserved = None;
        self.busy = Some(self.cx.ports.activity.begin());
        if self.cx.draining() {
            return SmtpReply::new(
                421,
                EnhancedStatus::new(4, 3, 2),
                "shutting down, come again",
            );
        }
        if self.cx.memory.is_short() {
            self.cx.metrics.refused_for_memory.inc();
            return no_memory();
        }
        match self.cx.store.health() {
            StoreHealth::Ok if self.reserve(size.map_or(UNANNOUNCED_KIB, kib)) => {
                SmtpReply::new(250, EnhancedStatus::new(2, 1, 0), "sender ok")
            }
            StoreHealth::Ok => no_memory(),
            StoreHealth::DiskLow { .. } => disk_low(),
            StoreHealth::Failed { .. } => {
                SmtpReply::new(421, EnhancedStatus::new(4, 3, 0), "cannot store mail now")
            }
        }
    }

    async fn rcpt(&mut self, to: &EmailAddress) -> SmtpReply {
        match find(&self.cx, to) {
            Ok(Some((tenant, inbox))) if has_received_enough(&self.cx, tenant, inbox) => {
                mailbox_full()
            }
            Ok(Some((tenant, inbox))) => {
                self.recipients.push((to.clone(), tenant, inbox));
                SmtpReply::new(250, EnhancedStatus::new(2, 1, 5), "recipient ok")
            }
            Ok(None) => SmtpReply::new(
                550,
                EnhancedStatus::new(5, 1, 1),
                "no such mailbox here, and no relaying",
            ),
            Err(refusal) => reply_to(&refusal),
        }
    }

    /// Whoever announced less than comes is held to the same bounds as all: they are asked for as it comes.
    fn hold(&mut self, bytes: u64) -> bool {
        let may = self.reserve(kib(bytes));
        if !may {
            self.reserved = None;
        }
        may
    }

    async fn data(&mut self, envelope: &EnvelopeIn, content: Bytes) -> SmtpReply {
        let recipients = std::mem::take(&mut self.recipients);
        let reply = self.keep(recipients, envelope, content).await;
        self.reserved = None;
        reply
    }

    fn reset(&mut self) {
        self.recipients.clear();
        self.reserved = None;
    }

    fn rest(&mut self) {
        self.busy = None;
    }
}

// === impl Session ===

impl Session {
    /// Hands a message to its inboxes, and answers when all have it on disk.
    async fn keep(
        &self,
        recipients: Vec<(EmailAddress, TenantId, InboxId)>,
        envelope: &EnvelopeIn,
        content: Bytes,
    ) -> SmtpReply {
        let results = self.authenticate(envelope, &content).await;
        let inspection = match message::inspect(&content) {
            Ok(inspection) => inspection,
            Err(why) => return SmtpReply::new(550, EnhancedStatus::new(5, 6, 0), &why.to_string()),
        };
        let author = inspection.from.as_ref().map(EmailAddress::domain);
        let authenticated = self.is_trusted_gateway()
            || matches!((&results, &author), (Some(results), Some(author)) if stands_behind(author, results));
        let spam = self.is_trusted_gateway() && inspection.spam_verdict == Some(SpamVerdict::Spam);
        for (address, tenant, inbox) in recipients {
            let head = self.trace_header(envelope, &address, results.as_ref());
            let incoming = Box::new(Incoming {
                mail_from: envelope.mail_from.clone(),
                inspection: inspection.clone(),
                head,
                content: content.clone(),
                authenticated,
                spam,
            });
            let to = Address::Inbox(tenant, inbox);
            let kept = directory::ask(&self.cx, to, |reply| {
                Letter::Inbox(InboxMsg::Receive(incoming, reply))
            })
            .await;
            if let Err(refusal) = kept {
                // Those that were kept keep a copy when the sender tries again: better twice than never.
                tracing::warn!(%inbox, %refusal, "a message was not kept");
                return reply_to(&refusal);
            }
        }
        SmtpReply::new(250, EnhancedStatus::new(2, 0, 0), "kept")
    }

    /// Sees to it that the transaction has so much memory; false when there is not enough.
    fn reserve(&mut self, kib: u64) -> bool {
        let share = if self.is_trusted_gateway() {
            RECEIVING_KIB_MAX
        } else {
            RECEIVING_KIB_OF_ONE_MAX
        };
        let has = self.reserved.as_ref().map_or(0, |reserved| reserved.kib);
        let address = group_of(self.peer.ip());
        let more = kib.saturating_sub(has);
        if !self.memory.take(address, more, share) {
            return false;
        }
        match &mut self.reserved {
            Some(reserved) => reserved.kib += more,
            None => {
                self.reserved = Some(Reserved {
                    memory: Arc::clone(&self.memory),
                    address,
                    kib: more,
                });
            }
        }
        true
    }

    /// SPF, DKIM and DMARC of what comes from strangers. What a trusted gateway hands on came from somebody
    /// else, and the gateway has checked it.
    async fn authenticate(
        &self,
        envelope: &EnvelopeIn,
        content: &Bytes,
    ) -> Option<AuthenticationResults> {
        if self.is_trusted_gateway() {
            return None;
        }
        let said = authentication::Envelope {
            ip: self.peer.ip(),
            helo: envelope.helo.clone(),
            mail_from: envelope.mail_from.clone(),
        };
        let evaluating =
            authentication::evaluate(&said, content, &*self.cx.ports.dns, self.name.as_str());
        tokio::time::timeout(AUTHENTICATE_TIMEOUT, evaluating)
            .await
            .ok()
    }

    fn is_trusted_gateway(&self) -> bool {
        self.cx
            .rules
            .gateways
            .iter()
            .any(|range| range.contains(self.peer.ip()))
    }

    /// `Received` (RFC 5321 §4.4) and `Authentication-Results` (RFC 8601), newest first.
    fn trace_header(
        &self,
        envelope: &EnvelopeIn,
        to: &EmailAddress,
        authenticated: Option<&AuthenticationResults>,
    ) -> String {
        let protocol = match (envelope.extended, envelope.secure) {
            (true, true) => "ESMTPS",
            (true, false) => "ESMTP",
            (false, _) => "SMTP",
        };
        let helo: String = envelope
            .helo
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || ".-_[]:".contains(*c))
            .collect();
        let date = date_of(self.cx.ports.clock.wall());
        // The whole field, with its name and its end of line.
        let results = authenticated.map(|results| results.header_text.as_str());
        let from = envelope.mail_from.as_ref().map_or("", EmailAddress::as_str);
        format!(
            "Return-Path: <{from}>\r\n{}Received: from {helo} ([{}])\r\n\tby {} with {protocol}\r\n\tfor <{to}>; {date}\r\n",
            results.unwrap_or_default(),
            self.peer.ip(),
            self.name,
        )
    }
}

/// Whether the author's domain stands behind a message: by DMARC, or by a signature of its own or of a domain
/// above it (RFC 9989 §4.4: relaxed alignment; no domain can sign for a public suffix).
fn stands_behind(author: &DomainName, results: &AuthenticationResults) -> bool {
    let is_author = |domain: &str| domain.eq_ignore_ascii_case(author.as_str());
    let dmarc = &results.dmarc;
    (dmarc.outcome == Outcome::Pass && is_author(&dmarc.domain))
        || results.dkim.iter().any(|signature| {
            let above = |name: DomainName| signature.domain.eq_ignore_ascii_case(name.as_str());
            signature.outcome == Outcome::Pass
                && (is_author(&signature.domain) || author.parents().any(above))
        })
}

pub(crate) fn kib(bytes: u64) -> u64 {
    bytes.div_ceil(1024).max(1)
}

/// Whether an inbox has received what it may today. Asked at RCPT, so that a message in vain is not even sent;
/// the commit that keeps one decides.
fn has_received_enough(cx: &Context, tenant: TenantId, inbox: InboxId) -> bool {
    let take = cx.rules.received_take(tenant, inbox, 1, cx.now());
    // A row that cannot be read is reported by that commit.
    cx.store
        .budget(&take.budget)
        .is_ok_and(|used| used.day_index == take.day.index && used.day_used >= take.day.cap)
}

/// The inbox that takes mail for this address.
fn find(cx: &Context, to: &EmailAddress) -> Result<Option<(TenantId, InboxId)>, Refusal> {
    let Some((tenant, inbox)) = holder_of(cx, to)? else {
        return Ok(None);
    };
    let row = cx.store.get::<Inbox>(&(tenant, inbox))?;
    Ok(row
        .filter(|row| row.status != InboxStatus::Deleted)
        .map(|_| (tenant, inbox)))
}

/// RFC 5322 §3.3 date-time in UTC.
fn date_of(now: WallTime) -> String {
    jiff::Timestamp::from_millisecond(now.as_millis())
        .ok()
        .and_then(|at| {
            jiff::fmt::rfc2822::DateTimePrinter::new()
                .timestamp_to_string(&at)
                .ok()
        })
        .unwrap_or_else(|| "Thu, 1 Jan 1970 00:00:00 +0000".to_owned())
}

fn no_memory() -> SmtpReply {
    SmtpReply::new(
        452,
        EnhancedStatus::new(4, 3, 1),
        "too much mail at once, come again",
    )
}

fn mailbox_full() -> SmtpReply {
    SmtpReply::new(
        452,
        EnhancedStatus::new(4, 2, 2),
        "this mailbox has received enough for today, come again",
    )
}

fn disk_low() -> SmtpReply {
    SmtpReply::new(
        452,
        EnhancedStatus::new(4, 3, 1),
        "insufficient storage, come again",
    )
}

/// What a stranger may know of why.
fn reply_to(refusal: &Refusal) -> SmtpReply {
    match refusal {
        Refusal::DiskLow { .. } => disk_low(),
        Refusal::Budget(_) => mailbox_full(),
        Refusal::Busy { .. } => no_memory(),
        Refusal::NotFound { .. } => {
            SmtpReply::new(550, EnhancedStatus::new(5, 1, 1), "no such mailbox here")
        }
        Refusal::Invalid { .. } => SmtpReply::new(
            550,
            EnhancedStatus::new(5, 6, 0),
            "the message cannot be kept",
        ),
        _ => SmtpReply::new(451, EnhancedStatus::new(4, 3, 0), "not now, come again"),
    }
}

fn limits_of(cx: &Context) -> Limits {
    let set = &cx.config.inbound.limits;
    Limits {
        recipients: usize::try_from(set.recipients).unwrap_or(usize::MAX),
        message_bytes: set.message_bytes.into(),
        messages: set.messages_per_connection,
        errors: set.errors,
        data_timeout: Duration::from_secs(set.data_timeout_seconds.into()),
        command_timeout: Duration::from_secs(set.command_timeout_seconds.into()),
        session_timeout: Duration::from_secs(set.session_seconds.into()),
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests;
