//! Accounts, the people in them, their log-ins.

use secrecy::SecretString;

use crate::{EmailAddress, PolicyTime, SessionId, TenantId, UserId, WallTime};

/// An account. Its row belongs to `tenant/<id>`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    /// Which.
    pub id: TenantId,
    /// The company's name, as given (1 to 200 characters).
    pub company: String,
    /// The plan's key in the configuration (`[[plan]]`).
    pub plan: String,
    /// What it may do.
    pub status: TenantStatus,
    /// Why it may not, when suspended.
    pub suspension: Option<Suspension>,
    /// IANA name of the zone in which its days are counted.
    pub time_zone: String,
    /// When it was registered.
    pub created_at: PolicyTime,
    /// When its trial ends.
    pub trial_ends_at: Option<PolicyTime>,
    /// How many domains it has.
    pub domains_count: u32,
    /// How many inboxes it has, deleted ones left out.
    pub inboxes_count: u32,
}

/// What a tenant may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TenantStatus {
    /// Trying it out, within the trial plan.
    Trial,
    /// Paying, or put there by an operator.
    Active,
    /// A payment failed; still working.
    PastDue,
    /// Reads only; mail is held, never dropped.
    Suspended,
    /// Gone, but for what the law keeps.
    Closed,
}

impl TenantStatus {
    /// Whether mail may leave and state may change.
    pub fn may_act(self) -> bool {
        matches!(self, Self::Trial | Self::Active | Self::PastDue)
    }
}

/// Why a tenant is suspended.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspension {
    /// The cause.
    pub reason: SuspensionReason,
    /// What the operator or the trigger wrote.
    pub note: String,
    /// Since when.
    pub since: PolicyTime,
    /// What the tenant was before and becomes again.
    pub former: TenantStatus,
}

/// The causes of a suspension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SuspensionReason {
    /// Recipients complained.
    SpamComplaints,
    /// Too many unknown recipients.
    HardBounces,
    /// A domain or address is on a list.
    Blacklisted,
    /// Money did not come.
    PaymentFailed,
    /// The terms were broken.
    TermsViolation,
    /// An operator decided.
    Manual,
    /// The trial ended.
    TrialExpired,
}

/// A person in an account. Their row belongs to the tenant's actor.
#[derive(Debug, Clone)]
pub struct User {
    /// Which.
    pub id: UserId,
    /// Whose.
    pub tenant: TenantId,
    /// How they log in; unique in the installation.
    pub email: EmailAddress,
    /// PHC string of argon2id, or an imported bcrypt hash until the next log-in.
    pub password_hash: SecretString,
    /// What they may do.
    pub role: Role,
    /// Since when.
    pub created_at: WallTime,
    /// Their last log-in.
    pub last_login_at: Option<WallTime>,
}

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything, the account's end included.
    Owner,
    /// Everything but the account's end.
    Admin,
    /// Domains, inboxes, warmup, messages.
    Member,
    /// Money only.
    Billing,
    /// Reads only.
    Viewer,
}

/// One log-in: a family of refresh tokens. Its row belongs to the tenant's actor.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Which.
    pub id: SessionId,
    /// Whose account.
    pub tenant: TenantId,
    /// Who logged in.
    pub user: UserId,
    /// SHA-256 of the one refresh token that is good now.
    pub refresh_hash: [u8; 32],
    /// SHA-256 of the one before it, which was exchanged for it.
    pub previous_hash: Option<[u8; 32]>,
    /// When they were last exchanged.
    pub rotated_at: Option<WallTime>,
    /// When that token ends.
    pub expires_at: WallTime,
    /// When the log-in happened.
    pub created_at: WallTime,
    /// When it was ended: by logging out, or by the reuse of a spent token.
    pub revoked_at: Option<WallTime>,
}
