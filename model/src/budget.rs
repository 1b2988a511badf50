//! Budgets: caps over windows, of what leaves at six levels and of what an inbox receives. A batch takes from them; the committer checks.

use std::{fmt, net::IpAddr};

use crate::{DomainId, InboxId, PolicyTime, TenantId};

/// Whose budget.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BudgetKey {
    /// All that leaves.
    Global,
    /// A source address.
    Source(IpAddr),
    /// A source address towards one site.
    SourceSite(IpAddr, String),
    /// A tenant.
    Tenant(TenantId),
    /// A domain of a tenant.
    Domain(TenantId, DomainId),
    /// An inbox of a tenant.
    Inbox(TenantId, InboxId),
    /// What an inbox receives, in KiB.
    Received(TenantId, InboxId),
}

impl fmt::Display for BudgetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("global"),
            Self::Source(ip) => write!(f, "source {ip}"),
            Self::SourceSite(ip, site) => write!(f, "source {ip} at {site}"),
            Self::Tenant(id) => write!(f, "tenant {id}"),
            Self::Domain(_, id) => write!(f, "domain {id}"),
            Self::Inbox(_, id) => write!(f, "inbox {id}"),
            Self::Received(_, id) => write!(f, "what inbox {id} receives"),
        }
    }
}

/// A piece of a budget, to be spent by the commit that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Take {
    /// Whose budget.
    pub budget: BudgetKey,
    /// How much.
    pub n: u32,
    /// Which hour, and its cap. Windows are named by the caller: UTC hours since the epoch.
    pub hour: Window,
    /// Which day, and its cap: days since the epoch in the tenant's zone (UTC for addresses and global).
    pub day: Window,
}

/// A window and its cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its number. A number below one already seen is refused: windows never go back.
    pub index: i64,
    /// Most that may be taken in it; `u32::MAX` for no cap.
    pub cap: u32,
    /// When it ends, for messages.
    pub ends_at: PolicyTime,
}

/// What has been taken from a budget in its current windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BudgetUse {
    /// The hour.
    pub hour_index: i64,
    /// Taken in it.
    pub hour_used: u32,
    /// The day.
    pub day_index: i64,
    /// Taken in it.
    pub day_used: u32,
}

/// A budget was full: nothing of the batch happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {window} budget of {budget} is full: {used} of {cap} used, {n} asked for; it lifts at {lifts_at}"
)]
pub struct BudgetFull {
    /// Whose.
    pub budget: BudgetKey,
    /// `hour` or `day`.
    pub window: &'static str,
    /// Its cap.
    pub cap: u32,
    /// What had been taken.
    pub used: u32,
    /// What was asked for.
    pub n: u32,
    /// When the window ends.
    pub lifts_at: PolicyTime,
}
