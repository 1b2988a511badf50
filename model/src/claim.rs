//! Claims: names that must be unique, taken by a commit precondition, never by check-then-write.

use crate::{DomainId, InboxId, TenantId, UserId};

/// Something that is unique. Texts are folded already: domains as A-labels, addresses by
/// [`EmailAddress::key`](crate::EmailAddress::key).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimName {
    /// A user's e-mail address, in the installation.
    UserEmail(String),
    /// A domain within one tenant: held from its addition on.
    DomainOfTenant(TenantId, String),
    /// A proven domain, in the installation.
    Domain(String),
    /// An inbox's address, in the installation.
    Address(String),
}

/// Whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClaimHolder {
    /// A user.
    User(TenantId, UserId),
    /// A domain.
    Domain(TenantId, DomainId),
    /// An inbox.
    Inbox(TenantId, DomainId, InboxId),
}

/// A name and its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What.
    pub name: ClaimName,
    /// Whose.
    pub holder: ClaimHolder,
}

impl ClaimHolder {
    /// Whose account it is in.
    pub fn tenant(&self) -> TenantId {
        match self {
            Self::User(tenant, _) | Self::Domain(tenant, _) | Self::Inbox(tenant, _, _) => *tenant,
        }
    }
}
