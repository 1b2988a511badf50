//! Idempotency keys: committed with the effect they guard.

use crate::{TenantId, WallTime};

/// The answer that a request with this key got. Kept for 24 hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotentAnswer {
    /// Whose key.
    pub tenant: TenantId,
    /// SHA-256 of route and key.
    pub key: [u8; 32],
    /// SHA-256 of the request's body: another body with the same key is refused.
    pub body: [u8; 32],
    /// HTTP status of the answer.
    pub status: u16,
    /// What the effect made, as text: an id from which the answer is rendered anew.
    pub made: String,
    /// When it may be forgotten.
    pub expires_at: WallTime,
}
