//! DKIM keys from a fixed stock. Making an RSA key costs as much as hours of a simulated day, and would draw on
//! chance that no seed rules. The keys protect nothing: they are public by being here.

use std::sync::atomic::{AtomicUsize, Ordering};

use inboxgrove_mail::dkim::{KeyError, KeyMaker, PrivateKey};
use inboxgrove_model::domain::DkimAlgorithm;

const RSA: [&[u8]; 3] = [
    include_bytes!("keys/rsa-1.bin"),
    include_bytes!("keys/rsa-2.bin"),
    include_bytes!("keys/rsa-3.bin"),
];
const ED25519: &[u8] = include_bytes!("keys/ed25519.bin");

/// Gives out the keys of the stock, going round.
#[derive(Debug, Default)]
pub(super) struct KeyStock {
    given: AtomicUsize,
}

// === impl KeyStock ===

impl KeyMaker for KeyStock {
    fn make(&self, algorithm: DkimAlgorithm) -> Result<PrivateKey, KeyError> {
        let der = match algorithm {
            DkimAlgorithm::Rsa2048 => RSA[self.given.fetch_add(1, Ordering::Relaxed) % RSA.len()],
            DkimAlgorithm::Ed25519 => ED25519,
        };
        PrivateKey::from_pkcs8(algorithm, der)
    }
}
