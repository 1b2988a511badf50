//! Due rows: work for a time. They live in the store and survive every restart; the clock wakes their actor.

use crate::{DomainId, InboxId, JobId, MessageId, PolicyTime, TenantId};

/// Work for a time. The actor that does it deletes or moves the row in the commit that does the work.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DueRow {
    /// When.
    pub at: PolicyTime,
    /// For whom, and what. With `at` it is the whole key: the same work twice at one time is one row.
    pub work: DueWork,
}

/// Whom to wake for what. The lateness rule stands with each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DueWork {
    /// Plan an inbox's day and send its next warmup message. Late: re-planned, missed sends are not caught up.
    Warmup(TenantId, InboxId),
    /// Answer a received warmup message. Late: sent when the inbox next wakes.
    Reply(TenantId, InboxId, MessageId),
    /// Check a domain's records. Late: runs once.
    CheckDomain(TenantId, DomainId),
    /// Go on with a job. Late: runs.
    Job(TenantId, DomainId, JobId),
    /// End a trial or remind of its end. Late: runs.
    Tenant(TenantId),
    /// Tell the operator something (an outbox entry). Late: runs.
    Notice(u64),
}
