//! Access tokens whose signature was checked: to check an Ed25519 signature takes longer than all the rest of a read.
//!
//! A token is known by its SHA-256, and only what never changes is kept: whom it names and from when to when. Whether
//! it is in time is asked at each use; whether its session still holds, of committed rows, as for any other token.

use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use inboxgrove_model::generations::Generations;

use super::tokens::Bearer;

/// Tokens of a generation, of which there are two: some 200 bytes each, for 10,000 callers and more.
const GENERATION_TOKENS: usize = 16_384;

/// Tokens whose signature is good.
pub(crate) struct Verified {
    tokens: RwLock<Generations<Hash, Signed>>,
}

/// What a token is known by.
pub(crate) type Hash = [u8; 32];

/// What a good signature stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signed {
    /// Whom the token names.
    pub(crate) bearer: Bearer,
    /// Seconds since 1970 before which it is not good.
    pub(crate) begins: i64,
    /// Seconds since 1970 from which it is not good.
    pub(crate) ends: i64,
}

// === impl Verified ===

impl Verified {
    pub(crate) fn new() -> Self {
        Self {
            tokens: RwLock::new(Generations::new(GENERATION_TOKENS)),
        }
    }

    /// What was found behind this token's signature, when it was checked.
    pub(crate) fn get(&self, hash: &Hash) -> Option<Signed> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let (signed, old) = tokens.get(hash)?.parts();
        let signed = *signed;
        drop(tokens);
        if old {
            let gone = self.write().renew(hash);
            drop(gone);
        }
        Some(signed)
    }

    /// Keeps a token whose signature is good.
    pub(crate) fn keep(&self, hash: Hash, signed: Signed) {
        let gone = self.write().insert(hash, signed);
        drop(gone);
    }

    fn write(&self) -> RwLockWriteGuard<'_, Generations<Hash, Signed>> {
        self.tokens.write().unwrap_or_else(PoisonError::into_inner)
    }
}
