//! Leases: who may write what, now. A restarted owner takes a new one; the old one's commits fail.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use inboxgrove_model::{DomainId, InboxId, TenantId};

/// An actor that owns rows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A tenant's actor.
    Tenant(TenantId),
    /// A domain's.
    Domain(TenantId, DomainId),
    /// An inbox's.
    Inbox(TenantId, InboxId),
    /// The queue of outgoing mail.
    Outbound,
    /// The pace of a site as seen from a source address.
    Site(IpAddr, String),
    /// The outbox of notices.
    Notifier,
    /// The due table.
    Clock,
    /// The secrets.
    Vault,
}

/// The right to commit as an owner, until somebody takes a newer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub(crate) owner: Owner,
    pub(crate) epoch: u64,
}

/// The newest lease of every owner, in this process. The committer's.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    newest: BTreeMap<Owner, u64>,
    granted: u64,
}

// === impl Lease ===

impl Lease {
    /// Whose it is.
    pub const fn owner(&self) -> &Owner {
        &self.owner
    }
}

// === impl Leases ===

impl Leases {
    /// A new lease; older ones of this owner are stale.
    pub(crate) fn grant(&mut self, owner: Owner) -> Lease {
        self.granted += 1;
        self.newest.insert(owner.clone(), self.granted);
        Lease {
            owner,
            epoch: self.granted,
        }
    }

    /// Its owner has ended: nobody commits by it any more. A newer lease stays.
    pub(crate) fn release(&mut self, lease: &Lease) {
        if self.is_current(lease) {
            self.newest.remove(&lease.owner);
        }
    }

    /// Whether no newer one was granted, and it was not given back.
    pub(crate) fn is_current(&self, lease: &Lease) -> bool {
        self.newest.get(&lease.owner) == Some(&lease.epoch)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(tenant) => write!(f, "tenant/{tenant}"),
            Self::Domain(_, domain) => write!(f, "domain/{domain}"),
            Self::Inbox(_, inbox) => write!(f, "inbox/{inbox}"),
            Self::Outbound => f.write_str("outbound"),
            Self::Site(ip, site) => write!(f, "site/{site} from {ip}"),
            Self::Notifier => f.write_str("notifier"),
            Self::Clock => f.write_str("clock"),
            Self::Vault => f.write_str("vault"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_lease_is_stale_and_leaves_nothing_behind() {
        let mut leases = Leases::default();
        let lease = leases.grant(Owner::Outbound);
        leases.release(&lease);
        assert!(!leases.is_current(&lease));
        assert!(leases.newest.is_empty());
    }

    #[test]
    fn a_late_release_does_not_take_the_successors_lease() {
        let mut leases = Leases::default();
        let old = leases.grant(Owner::Outbound);
        let new = leases.grant(Owner::Outbound);
        leases.release(&old);
        assert!(leases.is_current(&new));
    }
}
