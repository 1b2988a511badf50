//! Leases: who may write what, now. A restarted owner takes a new one; the old one's commits fail.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use inboxgrove_model::{DomainId, InboxId, TenantId, ports::BoxFuture};

use crate::{
    CommitError, Store,
    committer::{Request, awaited, queue},
};

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

/// The newest lease of every owner, in this process.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    granted: Mutex<Granted>,
}

#[derive(Debug, Default)]
struct Granted {
    newest: BTreeMap<Owner, u64>,
    count: u64,
}

// === impl Store ===

impl Store {
    /// Takes a new lease for an owner. When it resolves, every commit before it has been applied, and
    /// commits by older leases of this owner fail.
    pub fn own(&self, owner: Owner) -> BoxFuture<'static, Result<Lease, CommitError>> {
        let (queue, shared) = (&self.inner.queue, &self.inner.shared);
        // Most owners come while the committer rests. To wake its thread and to be woken by it would take longer
        // than all the rest of an actor's start.
        let rests = || queue.rests() && shared.failure().is_none();
        let owner = match shared.leases.grant_if(owner, rests) {
            Ok(lease) => return Box::pin(std::future::ready(Ok(lease))),
            Err(owner) => owner,
        };
        let (answer, answered) = queue::answer();
        queue.send(Request::Own(owner, answer));
        awaited(answered)
    }

    /// Gives a lease back when its owner has ended; commits by it fail from then on. A newer lease of the
    /// same owner is not touched.
    pub fn release(&self, lease: Lease) {
        self.inner.queue.send(Request::Release(lease));
    }
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
    pub(crate) fn grant(&self, owner: Owner) -> Lease {
        self.lock().grant(owner)
    }

    /// A new lease, if the committer `rests`; otherwise the owner back. A commit by an older lease is checked either
    /// before this, and then the committer does not rest until it is applied, or after it, and then it fails.
    pub(crate) fn grant_if(
        &self,
        owner: Owner,
        rests: impl FnOnce() -> bool,
    ) -> Result<Lease, Owner> {
        let mut granted = self.lock();
        if rests() {
            Ok(granted.grant(owner))
        } else {
            Err(owner)
        }
    }

    /// Its owner has ended: nobody commits by it any more. A newer lease stays.
    pub(crate) fn release(&self, lease: &Lease) {
        let mut granted = self.lock();
        if granted.is_newest(lease) {
            granted.newest.remove(&lease.owner);
        }
    }

    /// Whether no newer one was granted, and it was not given back.
    pub(crate) fn is_current(&self, lease: &Lease) -> bool {
        self.lock().is_newest(lease)
    }

    fn lock(&self) -> MutexGuard<'_, Granted> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Granted ===

impl Granted {
    fn grant(&mut self, owner: Owner) -> Lease {
        self.count += 1;
        self.newest.insert(owner.clone(), self.count);
        Lease {
            owner,
            epoch: self.count,
        }
    }

    fn is_newest(&self, lease: &Lease) -> bool {
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
        let leases = Leases::default();
        let lease = leases.grant(Owner::Outbound);
        leases.release(&lease);
        assert!(!leases.is_current(&lease));
        assert!(leases.lock().newest.is_empty());
    }

    #[test]
    fn a_late_release_does_not_take_the_successors_lease() {
        let leases = Leases::default();
        let old = leases.grant(Owner::Outbound);
        let new = leases.grant(Owner::Outbound);
        leases.release(&old);
        assert!(leases.is_current(&new));
    }

    #[test]
    fn nothing_is_granted_at_once_while_the_committer_works() {
        let leases = Leases::default();
        let old = leases.grant(Owner::Outbound);
        assert_eq!(
            leases.grant_if(Owner::Outbound, || false),
            Err(Owner::Outbound)
        );
        assert!(leases.is_current(&old));
        let new = leases.grant_if(Owner::Outbound, || true);
        assert!(new.is_ok_and(|new| leases.is_current(&new)));
        assert!(!leases.is_current(&old));
    }
}
