//! Why a request was not done: whose fault it is, when to try again, and what a stranger may read.

use std::time::Duration;

use inboxgrove_model::{PolicyTime, budget::BudgetFull};
use inboxgrove_store::{CommitError, LogError, ReadError};

/// Why a request was not done. Nothing of it happened, unless it is [`Refusal::Unknown`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing, or it belongs to somebody else.
    #[error("no such {what}")]
    NotFound {
        /// `domain`, `inbox`, ….
        what: &'static str,
    },
    /// The name is taken, or the state does not allow it.
    #[error("{why}")]
    Conflict {
        /// A stable code, as in `domain_exists`.
        code: &'static str,
        /// A sentence.
        why: String,
    },
    /// A field is wrong.
    #[error("{field}: {why}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What was expected and what was found.
        why: String,
    },
    /// The plan does not allow more.
    #[error("the plan {plan:?} allows {limit} {what}; there are {used}")]
    PlanLimit {
        /// Its key.
        plan: String,
        /// `domains`, `inboxes`, ….
        what: &'static str,
        /// How many.
        limit: u32,
        /// How many there are.
        used: u32,
    },
    /// A gate is closed: the tenant, domain, inbox or its band does not let this through.
    #[error("{why}")]
    Gated {
        /// The gate's name, as `why` lists it.
        gate: &'static str,
        /// A sentence.
        why: String,
        /// When it may open by itself.
        lifts_at: Option<PolicyTime>,
    },
    /// A budget is full.
    #[error(transparent)]
    Budget(#[from] BudgetFull),
    /// The log-in, token or session is not good.
    #[error("{why}")]
    Unauthenticated {
        /// A sentence that does not say whether an account exists.
        why: &'static str,
    },
    /// The same idempotency key came with another body.
    #[error("this idempotency key was used with another body")]
    KeyReused,
    /// Too much at once; nothing happened.
    #[error("{what} is busy")]
    Busy {
        /// Who.
        what: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// The disk is nearly full: reads go on, writes are refused.
    #[error("the disk has {free} bytes free, below the floor of {floor}")]
    DiskLow {
        /// What is free.
        free: u64,
        /// What must be.
        floor: u64,
    },
    /// The actor was taken out of service after failing too often. An operator sees it in `admin tree`.
    #[error("{who} is parked: {why}")]
    Parked {
        /// Its address in the tree.
        who: String,
        /// Its last failure.
        why: String,
    },
    /// The daemon is draining or its store has failed.
    #[error("not serving: {why}")]
    Unavailable {
        /// What happened.
        why: String,
    },
    /// The answer was lost: it may or may not have happened.
    #[error("the answer of {who} was lost; the request may or may not have been done")]
    Unknown {
        /// Who.
        who: String,
    },
    /// A stored row is damaged; nothing else is affected.
    #[error("{why}")]
    Damaged {
        /// Table, key and cause, for operators.
        why: String,
    },
}

// === impl Refusal ===

impl Refusal {
    /// When it is worth trying again, for `Retry-After` and 4xx replies; `None` when it is not.
    pub fn retry_after(&self, now: PolicyTime) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => Some(*retry_after),
            Self::Budget(full) => Some(full.lifts_at.since(now)),
            Self::Gated { lifts_at, .. } => lifts_at.map(|at| at.since(now)),
            Self::DiskLow { .. }
            | Self::Unavailable { .. }
            | Self::Unknown { .. }
            | Self::Parked { .. } => Some(RETRY_UNAVAILABLE),
            _ => None,
        }
    }
}

/// What a client is told to wait when it is our fault.
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(30);
/// What a client is told to wait when a bounded queue is full: it empties in milliseconds.
pub(crate) const RETRY_BUSY: Duration = Duration::from_secs(1);
/// What a client is told to wait when memory is short: a few readings long.
pub(crate) const RETRY_MEMORY: Duration = Duration::from_secs(10);

impl From<CommitError> for Refusal {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::BudgetFull(full) => Self::Budget(full),
            // The hour has turned since the take was made out: the next try names the new one.
            CommitError::WindowPast { .. } => Self::Busy {
                what: "the budget",
                retry_after: RETRY_BUSY,
            },
            CommitError::NoTenantKey { .. } => Self::NotFound { what: "tenant" },
            CommitError::Unreadable { .. } | CommitError::NoSuchBody { .. } => Self::Damaged {
                why: error.to_string(),
            },
            CommitError::Busy => Self::Busy {
                what: "the store",
                retry_after: RETRY_BUSY,
            },
            CommitError::DiskLow { free, floor } => Self::DiskLow { free, floor },
            CommitError::Failed { .. } => Self::Unavailable {
                why: error.to_string(),
            },
            CommitError::Taken { .. } | CommitError::Changed { .. } => Self::Conflict {
                code: "conflict",
                why: error.to_string(),
            },
            CommitError::TooBig { .. } => Self::Invalid {
                field: "body",
                why: error.to_string(),
            },
            CommitError::Stale { .. } => Self::Unknown {
                who: error.to_string(),
            },
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        let why = error.to_string();
        match error {
            // A disk that fails ends the process soon; the row itself is as it was.
            ReadError::Engine(_) | ReadError::Log(LogError::Io { .. }) => Self::Unavailable { why },
            ReadError::Missing { .. }
            | ReadError::Damaged { .. }
            | ReadError::NoBody { .. }
            | ReadError::Event { .. }
            | ReadError::Log(_) => Self::Damaged { why },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_disk_that_fails_is_no_damage() {
        let failed = LogError::Io {
            segment: "1.log".to_owned(),
            what: "read",
            source: io::ErrorKind::ReadOnlyFilesystem.into(),
        };
        let refusal = Refusal::from(ReadError::from(failed));
        assert!(matches!(refusal, Refusal::Unavailable { .. }), "{refusal}");
        let rotten = LogError::Damaged {
            segment: "1.log".to_owned(),
            offset: 512,
            why: "the checksum of a frame does not match",
        };
        let refusal = Refusal::from(ReadError::from(rotten));
        assert!(matches!(refusal, Refusal::Damaged { .. }), "{refusal}");
    }
}
