//! Events: what happened. They live in the log; their sequence number is their id.

use std::net::IpAddr;

use crate::{
    DomainId, EmailAddress, InboxId, JobId, MessageId, PolicyTime, TenantId, UserId,
    domain::DomainStatus,
    inbox::{Band, WarmupState},
    message::{BounceClass, MessageClass},
    tenant::{SuspensionReason, TenantStatus},
};

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When, by policy time.
    pub at: PolicyTime,
    /// To whose account; `None` is the installation itself.
    pub tenant: Option<TenantId>,
    /// What.
    pub kind: EventKind,
}

/// An event with its id, as it is read back from the log.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedEvent {
    /// Its id: log sequence × 1,024 + place in its frame. Rises for ever.
    pub id: u64,
    /// The event.
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "the fields are named after the records they come from"
)]
pub enum EventKind {
    /// An account was made.
    TenantRegistered { user: UserId },
    /// Somebody logged in.
    UserLoggedIn { user: UserId, from: Option<IpAddr> },
    /// A spent refresh token came back: its family was revoked.
    RefreshReused { user: UserId },
    /// A tenant's status changed.
    TenantStatusChanged {
        status: TenantStatus,
        reason: Option<SuspensionReason>,
        note: String,
    },
    /// A domain was added.
    DomainAdded { domain: DomainId },
    /// A domain's status changed.
    DomainStatusChanged {
        domain: DomainId,
        status: DomainStatus,
        reason: String,
    },
    /// A domain was removed.
    DomainRemoved { domain: DomainId },
    /// An inbox was made.
    InboxCreated { inbox: InboxId },
    /// An inbox was changed by its owner or an operator.
    InboxChanged { inbox: InboxId, what: String },
    /// An inbox was deleted.
    InboxDeleted { inbox: InboxId },
    /// A password was made anew.
    CredentialRotated { inbox: InboxId },
    /// Warmup was started, paused, or ended.
    WarmupChanged { inbox: InboxId, state: WarmupState },
    /// The evidence moved an inbox to another band.
    BandChanged {
        inbox: InboxId,
        band: Band,
        why: String,
    },
    /// A message was accepted for sending.
    MessageAccepted {
        message: MessageId,
        inbox: InboxId,
        class: MessageClass,
        recipients: u16,
    },
    /// A server took it.
    MessageDelivered {
        message: MessageId,
        inbox: InboxId,
        recipient: EmailAddress,
        provider: String,
        reply: String,
    },
    /// A server, or our own pace, put it off.
    MessageDeferred {
        message: MessageId,
        inbox: InboxId,
        recipient: EmailAddress,
        provider: String,
        reply: String,
        next_at: PolicyTime,
    },
    /// A server refused it for good.
    MessageBounced {
        message: MessageId,
        inbox: InboxId,
        recipient: EmailAddress,
        provider: String,
        reply: String,
        class: BounceClass,
    },
    /// Nobody knows whether the server took it: it is tried again and may arrive twice.
    MessageUncertain {
        message: MessageId,
        inbox: InboxId,
        recipient: EmailAddress,
        provider: String,
    },
    /// It was too old.
    MessageExpired {
        message: MessageId,
        inbox: InboxId,
        recipient: EmailAddress,
    },
    /// A message came in.
    MessageReceived {
        message: MessageId,
        inbox: InboxId,
        class: MessageClass,
        from: Option<EmailAddress>,
    },
    /// A warmup message was found in its partner's mailbox.
    MessagePlaced {
        message: MessageId,
        inbox: InboxId,
        provider: String,
        spam: bool,
    },
    /// Somebody answered.
    MessageReplied { message: MessageId, inbox: InboxId },
    /// A job moved.
    JobChanged {
        job: JobId,
        done: u32,
        total: u32,
        state: crate::job::JobState,
    },
    /// An operator did something.
    OperatorActed {
        verb: String,
        subject: String,
        uid: u32,
    },
    /// A kind this version does not know, kept as it is.
    Unknown { kind: u16 },
}
