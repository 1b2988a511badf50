//! Version 1 of an event's row. Never edited once released, but for new kinds, which take new
//! numbers; any other change is a version 2.

use std::net::IpAddr;

use inboxgrove_model::{
    DomainId, EmailAddress, InboxId, JobId, MessageId, TenantId, UserId,
    domain::DomainStatus,
    event::{Event, EventKind},
    inbox::{Band, WarmupState},
    job::JobState,
    message::{BounceClass, MessageClass},
    tenant::{SuspensionReason, TenantStatus},
};
use rkyv::{Archive, Deserialize, Serialize};

use crate::{
    records::{codec, codes::Code},
    table::RowError,
};

pub(super) const VERSION: u8 = 1;

const TENANT_REGISTERED: u16 = 1;
const USER_LOGGED_IN: u16 = 2;
const REFRESH_REUSED: u16 = 3;
const TENANT_STATUS_CHANGED: u16 = 4;
const DOMAIN_ADDED: u16 = 10;
const DOMAIN_STATUS_CHANGED: u16 = 11;
const DOMAIN_REMOVED: u16 = 12;
const INBOX_CREATED: u16 = 20;
const INBOX_CHANGED: u16 = 21;
const INBOX_DELETED: u16 = 22;
const CREDENTIAL_ROTATED: u16 = 23;
const WARMUP_CHANGED: u16 = 24;
const BAND_CHANGED: u16 = 25;
const MESSAGE_ACCEPTED: u16 = 30;
const MESSAGE_DELIVERED: u16 = 31;
const MESSAGE_DEFERRED: u16 = 32;
const MESSAGE_BOUNCED: u16 = 33;
const MESSAGE_UNCERTAIN: u16 = 34;
const MESSAGE_EXPIRED: u16 = 35;
const MESSAGE_RECEIVED: u16 = 36;
const MESSAGE_PLACED: u16 = 37;
const MESSAGE_REPLIED: u16 = 38;
const JOB_CHANGED: u16 = 50;
const OPERATOR_ACTED: u16 = 60;

#[derive(Archive, Serialize, Deserialize, Default)]
pub(super) struct Row {
    at: i64,
    tenant: Option<[u8; 16]>,
    kind: u16,
    /// The user, domain, job or message it is about.
    subject: [u8; 16],
    inbox: [u8; 16],
    /// The status, state, band or class; 1 for true.
    code: u8,
    /// The reason, 0 for none.
    reason: u8,
    /// Recipients, units done, a uid.
    number: u32,
    /// Units in all.
    total: u32,
    next_at: i64,
    /// An e-mail or IP address, or whom an operator acted on.
    whom: String,
    provider: String,
    /// A reply, a note, a reason in words, an operator's verb.
    text: String,
}

// === impl Row ===

impl From<&Event> for Row {
    fn from(event: &Event) -> Self {
        Self {
            at: event.at.as_millis(),
            tenant: event.tenant.map(|tenant| *tenant.as_bytes()),
            ..Self::of_kind(&event.kind)
        }
    }
}

impl Row {
    #[expect(
        clippy::too_many_lines,
        reason = "one flat table, a line or three for each kind"
    )]
    fn of_kind(kind: &EventKind) -> Self {
        match kind {
            EventKind::TenantRegistered { user } => Self::about(TENANT_REGISTERED, user.as_bytes()),
            EventKind::UserLoggedIn { user, from } => Self {
                whom: from.map(|ip| ip.to_string()).unwrap_or_default(),
                ..Self::about(USER_LOGGED_IN, user.as_bytes())
            },
            EventKind::RefreshReused { user } => Self::about(REFRESH_REUSED, user.as_bytes()),
            EventKind::TenantStatusChanged {
                status,
                reason,
                note,
            } => Self {
                code: status.code(),
                reason: reason.map_or(0, Code::code),
                text: note.clone(),
                ..Self::about(TENANT_STATUS_CHANGED, &[0; 16])
            },
            EventKind::DomainAdded { domain } => Self::about(DOMAIN_ADDED, domain.as_bytes()),
            EventKind::DomainStatusChanged {
                domain,
                status,
                reason,
            } => Self {
                code: status.code(),
                text: reason.clone(),
                ..Self::about(DOMAIN_STATUS_CHANGED, domain.as_bytes())
            },
            EventKind::DomainRemoved { domain } => Self::about(DOMAIN_REMOVED, domain.as_bytes()),
            EventKind::InboxCreated { inbox } => Self::about_inbox(INBOX_CREATED, *inbox),
            EventKind::InboxChanged { inbox, what } => Self {
                text: what.clone(),
                ..Self::about_inbox(INBOX_CHANGED, *inbox)
            },
            EventKind::InboxDeleted { inbox } => Self::about_inbox(INBOX_DELETED, *inbox),
            EventKind::CredentialRotated { inbox } => Self::about_inbox(CREDENTIAL_ROTATED, *inbox),
            EventKind::WarmupChanged { inbox, state } => Self {
                code: state.code(),
                ..Self::about_inbox(WARMUP_CHANGED, *inbox)
            },
            EventKind::BandChanged { inbox, band, why } => Self {
                code: band.code(),
                text: why.clone(),
                ..Self::about_inbox(BAND_CHANGED, *inbox)
            },
            EventKind::MessageAccepted {
                message,
                inbox,
                class,
                recipients,
            } => Self {
                code: class.code(),
                number: u32::from(*recipients),
                ..Self::of_message(MESSAGE_ACCEPTED, *message, *inbox)
            },
            EventKind::MessageDelivered {
                message,
                inbox,
                recipient,
                provider,
                reply,
            } => Self {
                text: reply.clone(),
                ..Self::of_message(MESSAGE_DELIVERED, *message, *inbox).at(recipient, provider)
            },
            EventKind::MessageDeferred {
                message,
                inbox,
                recipient,
                provider,
                reply,
                next_at,
            } => Self {
                text: reply.clone(),
                next_at: next_at.as_millis(),
                ..Self::of_message(MESSAGE_DEFERRED, *message, *inbox).at(recipient, provider)
            },
            EventKind::MessageBounced {
                message,
                inbox,
                recipient,
                provider,
                reply,
                class,
            } => Self {
                text: reply.clone(),
                code: class.code(),
                ..Self::of_message(MESSAGE_BOUNCED, *message, *inbox).at(recipient, provider)
            },
            EventKind::MessageUncertain {
                message,
                inbox,
                recipient,
                provider,
            } => Self::of_message(MESSAGE_UNCERTAIN, *message, *inbox).at(recipient, provider),
            EventKind::MessageExpired {
                message,
                inbox,
                recipient,
            } => Self::of_message(MESSAGE_EXPIRED, *message, *inbox).at(recipient, ""),
            EventKind::MessageReceived {
                message,
                inbox,
                class,
                from,
            } => Self {
                code: class.code(),
                whom: from.as_ref().map(codec::address_text).unwrap_or_default(),
                ..Self::of_message(MESSAGE_RECEIVED, *message, *inbox)
            },
            EventKind::MessagePlaced {
                message,
                inbox,
                provider,
                spam,
            } => Self {
                code: u8::from(*spam),
                provider: provider.clone(),
                ..Self::of_message(MESSAGE_PLACED, *message, *inbox)
            },
            EventKind::MessageReplied { message, inbox } => {
                Self::of_message(MESSAGE_REPLIED, *message, *inbox)
            }
            EventKind::JobChanged {
                job,
                done,
                total,
                state,
            } => Self {
                code: state.code(),
                number: *done,
                total: *total,
                ..Self::about(JOB_CHANGED, job.as_bytes())
            },
            EventKind::OperatorActed { verb, subject, uid } => Self {
                number: *uid,
                whom: subject.clone(),
                text: verb.clone(),
                ..Self::about(OPERATOR_ACTED, &[0; 16])
            },
            EventKind::Unknown { kind } => Self::about(*kind, &[0; 16]),
        }
    }

    fn about(kind: u16, subject: &[u8; 16]) -> Self {
        Self {
            kind,
            subject: *subject,
            ..Self::default()
        }
    }

    fn about_inbox(kind: u16, inbox: InboxId) -> Self {
        Self {
            kind,
            inbox: *inbox.as_bytes(),
            ..Self::default()
        }
    }

    fn of_message(kind: u16, message: MessageId, inbox: InboxId) -> Self {
        Self {
            subject: *message.as_bytes(),
            ..Self::about_inbox(kind, inbox)
        }
    }

    fn at(self, recipient: &EmailAddress, provider: &str) -> Self {
        Self {
            whom: codec::address_text(recipient),
            provider: provider.to_owned(),
            ..self
        }
    }

    fn user(&self) -> UserId {
        UserId::from_bytes(self.subject)
    }

    fn domain(&self) -> DomainId {
        DomainId::from_bytes(self.subject)
    }

    fn message(&self) -> MessageId {
        MessageId::from_bytes(self.subject)
    }

    fn inbox(&self) -> InboxId {
        InboxId::from_bytes(self.inbox)
    }

    fn recipient(&self) -> Result<EmailAddress, RowError> {
        codec::address(&self.whom)
    }

    /// The IP address, when there is one.
    fn peer(&self) -> Result<Option<IpAddr>, RowError> {
        if self.whom.is_empty() {
            return Ok(None);
        }
        self.whom.parse().map(Some).map_err(RowError::damaged)
    }

    fn kind(self) -> Result<EventKind, RowError> {
        match self.kind {
            TENANT_REGISTERED..=TENANT_STATUS_CHANGED => self.kind_of_tenant(),
            DOMAIN_ADDED..=DOMAIN_REMOVED => self.kind_of_domain(),
            INBOX_CREATED..=BAND_CHANGED => self.kind_of_inbox(),
            MESSAGE_ACCEPTED..=MESSAGE_REPLIED => self.kind_of_message(),
            JOB_CHANGED => Ok(EventKind::JobChanged {
                job: JobId::from_bytes(self.subject),
                done: self.number,
                total: self.total,
                state: JobState::from_code(self.code)?,
            }),
            OPERATOR_ACTED => Ok(EventKind::OperatorActed {
                verb: self.text,
                subject: self.whom,
                uid: self.number,
            }),
            kind => Ok(EventKind::Unknown { kind }),
        }
    }

    fn kind_of_tenant(self) -> Result<EventKind, RowError> {
        let user = self.user();
        Ok(match self.kind {
            TENANT_REGISTERED => EventKind::TenantRegistered { user },
            USER_LOGGED_IN => EventKind::UserLoggedIn {
                user,
                from: self.peer()?,
            },
            REFRESH_REUSED => EventKind::RefreshReused { user },
            TENANT_STATUS_CHANGED => EventKind::TenantStatusChanged {
                status: TenantStatus::from_code(self.code)?,
                reason: (self.reason != 0)
                    .then(|| SuspensionReason::from_code(self.reason))
                    .transpose()?,
                note: self.text,
            },
            kind => EventKind::Unknown { kind },
        })
    }

    fn kind_of_domain(self) -> Result<EventKind, RowError> {
        let domain = self.domain();
        Ok(match self.kind {
            DOMAIN_ADDED => EventKind::DomainAdded { domain },
            DOMAIN_STATUS_CHANGED => EventKind::DomainStatusChanged {
                domain,
                status: DomainStatus::from_code(self.code)?,
                reason: self.text,
            },
            DOMAIN_REMOVED => EventKind::DomainRemoved { domain },
            kind => EventKind::Unknown { kind },
        })
    }

    fn kind_of_inbox(self) -> Result<EventKind, RowError> {
        let inbox = self.inbox();
        Ok(match self.kind {
            INBOX_CREATED => EventKind::InboxCreated { inbox },
            INBOX_CHANGED => EventKind::InboxChanged {
                inbox,
                what: self.text,
            },
            INBOX_DELETED => EventKind::InboxDeleted { inbox },
            CREDENTIAL_ROTATED => EventKind::CredentialRotated { inbox },
            WARMUP_CHANGED => EventKind::WarmupChanged {
                inbox,
                state: WarmupState::from_code(self.code)?,
            },
            BAND_CHANGED => EventKind::BandChanged {
                inbox,
                band: Band::from_code(self.code)?,
                why: self.text,
            },
            kind => EventKind::Unknown { kind },
        })
    }

    fn kind_of_message(self) -> Result<EventKind, RowError> {
        let (message, inbox) = (self.message(), self.inbox());
        Ok(match self.kind {
            MESSAGE_ACCEPTED => EventKind::MessageAccepted {
                message,
                inbox,
                class: MessageClass::from_code(self.code)?,
                recipients: u16::try_from(self.number).map_err(RowError::damaged)?,
            },
            MESSAGE_DELIVERED => EventKind::MessageDelivered {
                message,
                inbox,
                recipient: self.recipient()?,
                provider: self.provider,
                reply: self.text,
            },
            MESSAGE_DEFERRED => EventKind::MessageDeferred {
                message,
                inbox,
                recipient: self.recipient()?,
                provider: self.provider,
                reply: self.text,
                next_at: codec::policy(self.next_at),
            },
            MESSAGE_BOUNCED => EventKind::MessageBounced {
                message,
                inbox,
                recipient: self.recipient()?,
                provider: self.provider,
                reply: self.text,
                class: BounceClass::from_code(self.code)?,
            },
            MESSAGE_UNCERTAIN => EventKind::MessageUncertain {
                message,
                inbox,
                recipient: self.recipient()?,
                provider: self.provider,
            },
            MESSAGE_EXPIRED => EventKind::MessageExpired {
                message,
                inbox,
                recipient: self.recipient()?,
            },
            MESSAGE_RECEIVED => EventKind::MessageReceived {
                message,
                inbox,
                class: MessageClass::from_code(self.code)?,
                from: (!self.whom.is_empty())
                    .then(|| self.recipient())
                    .transpose()?,
            },
            MESSAGE_PLACED => EventKind::MessagePlaced {
                message,
                inbox,
                provider: self.provider,
                spam: self.code == 1,
            },
            MESSAGE_REPLIED => EventKind::MessageReplied { message, inbox },
            kind => EventKind::Unknown { kind },
        })
    }
}

impl TryFrom<Row> for Event {
    type Error = RowError;

    fn try_from(row: Row) -> Result<Self, RowError> {
        Ok(Self {
            at: codec::policy(row.at),
            tenant: row.tenant.map(TenantId::from_bytes),
            kind: row.kind()?,
        })
    }
}
