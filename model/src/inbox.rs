//! Inboxes: credentials, warmup, evidence.

use crate::{DomainId, EmailAddress, InboxId, PolicyTime, SecretId, TenantId};

/// A mailbox on a domain. Its row belongs to `inbox/<id>`.
#[derive(Debug, Clone, PartialEq)]
pub struct Inbox {
    /// Which.
    pub id: InboxId,
    /// Whose.
    pub tenant: TenantId,
    /// On which domain.
    pub domain: DomainId,
    /// Its address; also the name it logs in with.
    pub address: EmailAddress,
    /// The name in front of the address, as `From` shows it.
    pub display_name: String,
    /// What it does.
    pub status: InboxStatus,
    /// Why, in a sentence for its owner.
    pub reason: String,
    /// Most recipients a day, warmup included.
    pub daily_limit: u32,
    /// Most recipients an hour, warmup included.
    pub hourly_limit: u32,
    /// IANA name of the zone it lives in.
    pub time_zone: String,
    /// Its password.
    pub credential: Credential,
    /// Its warmup.
    pub warmup: Warmup,
    /// The time of its one warmup due row. A due row of another time is left over and does nothing.
    pub wake_at: Option<PolicyTime>,
    /// With whom it began threads lately, at most [`PARTNERS_MAX`](crate::limits::PARTNERS_MAX), oldest first.
    pub partners: Vec<Partner>,
    /// When it was made.
    pub created_at: PolicyTime,
}

/// Somebody that an inbox began a thread with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partner {
    /// Whom.
    pub inbox: InboxId,
    /// When.
    pub met_at: PolicyTime,
}

/// What an inbox does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InboxStatus {
    /// Made; its domain is not proven yet or its warmup not started.
    Pending,
    /// Warming up.
    Warming,
    /// Warm, or never to be warmed: sends its owner's mail.
    Active,
    /// Its owner paused it.
    Paused,
    /// Stopped by evidence or an operator.
    Suspended,
    /// Gone; its address stays taken.
    Deleted,
}

/// An inbox's password: sealed in the vault until it has been shown once, then only its hash is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Where the vault keeps the password (until shown) and its hash.
    pub secret: SecretId,
    /// Whether the password has been shown. After that it can only be rotated.
    pub shown: bool,
    /// When it was last made.
    pub rotated_at: PolicyTime,
}

/// The state of an inbox's warmup.
#[derive(Debug, Clone, PartialEq)]
pub struct Warmup {
    /// Whether it runs.
    pub state: WarmupState,
    /// When it was first started.
    pub started_at: Option<PolicyTime>,
    /// Days on which it sent something: what the ramp counts.
    pub active_days: u32,
    /// First day's target.
    pub base: u32,
    /// What each active day adds.
    pub increment: u32,
    /// Where the ramp ends.
    pub cap: u32,
    /// Seed of its daily factors, its gaps and its habits.
    pub seed: u64,
    /// Today's plan.
    pub today: Option<DayPlan>,
    /// How much we let it do.
    pub band: Band,
    /// Since when it is in this band.
    pub band_since: PolicyTime,
}

/// Whether warmup runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WarmupState {
    /// Never started.
    Off,
    /// Running.
    Running,
    /// Its owner paused it.
    Paused,
    /// The ramp is at its end; a little goes on.
    Graduated,
}

/// What an inbox will do today.
#[derive(Debug, Clone, PartialEq)]
pub struct DayPlan {
    /// The day in the inbox's zone, as days since the Unix epoch.
    pub local_day: i64,
    /// How many warmup messages it should send, replies included.
    pub target: u32,
    /// How many it has sent (accepted by the queue).
    pub sent: u32,
    /// When the next one is due.
    pub next_at: Option<PolicyTime>,
}

/// What we do at what we believe. In order: each allows less than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Band {
    /// Nothing speaks against it.
    Healthy,
    /// One bad sign on weak evidence: three quarters of the volume, ramp frozen.
    SoftHold,
    /// Probably bad: half the volume.
    Throttled,
    /// Almost surely bad: no warmup, no people's mail but repair.
    Quarantined,
}

/// What happened to an inbox's mail on one day at one provider: the sums that beliefs are made of.
///
/// The committer adds to these rows with the events themselves, so they equal the sum of the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DayCounts {
    /// Recipients whose server took the message.
    pub delivered: u32,
    /// Answers that put the message off (one for each attempt).
    pub deferred: u32,
    /// Recipients refused for good because of the recipient.
    pub bounced_recipient: u32,
    /// Recipients refused for good because of us: reputation, authentication, content.
    pub bounced_policy: u32,
    /// Warmup messages that were found in the inbox.
    pub placed_inbox: u32,
    /// Warmup messages that were found in the spam folder.
    pub placed_spam: u32,
    /// Complaints by feedback reports.
    pub complaints: u32,
    /// Replies received.
    pub replies: u32,
}

/// [`DayCounts`] with its day and provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceDay {
    /// UTC day of policy time.
    pub utc_day: i64,
    /// The site's family: `google`, `microsoft`, … or the site's name.
    pub provider: String,
    /// The sums.
    pub counts: DayCounts,
}

/// What an inbox in the warmup pool lets others know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolMember {
    /// Which.
    pub inbox: InboxId,
    /// Whose.
    pub tenant: TenantId,
    /// On which domain.
    pub domain: DomainId,
    /// Where to write to.
    pub address: EmailAddress,
    /// Its name.
    pub display_name: String,
}
