//! Suppressions: addresses that are not written to again.

use crate::{EmailAddress, PolicyTime, TenantId};

/// An address a tenant must not write to. Whoever sees the evidence (outbound, or the inbox that a report comes
/// to) puts the row there, which may be done twice without harm; nobody but the tenant takes it away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppression {
    /// Whose list.
    pub tenant: TenantId,
    /// The address.
    pub address: EmailAddress,
    /// Why.
    pub reason: SuppressionReason,
    /// Since when.
    pub since: PolicyTime,
}

/// Why an address is suppressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SuppressionReason {
    /// It does not exist.
    HardBounce,
    /// Its owner complained.
    Complaint,
    /// Its owner unsubscribed.
    Unsubscribe,
    /// The tenant or an operator put it there.
    Manual,
}
