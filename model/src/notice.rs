//! Notices: the system's own messages to operators and owners, and the outbox they wait in.

use crate::{PolicyTime, TenantId};

/// Something to tell. Its row belongs to the notifier; it is the outbox entry of the call that tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Rises for ever; also the idempotency key of the call.
    pub id: u64,
    /// About whose account.
    pub tenant: Option<TenantId>,
    /// A stable code, as in `domain_degraded`.
    pub code: String,
    /// A sentence for people.
    pub text: String,
    /// Same code and subject within a day are told once.
    pub subject: String,
    /// When it came up.
    pub at: PolicyTime,
    /// Calls that have failed.
    pub attempts: u32,
    /// Where it stands.
    pub state: NoticeState,
    /// Why the last call failed.
    pub last_error: String,
}

/// Where a notice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoticeState {
    /// Waits to be told.
    Waiting,
    /// Told.
    Told,
    /// Given up: a dead letter that an operator can see and try again.
    Dead,
}
