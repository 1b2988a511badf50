//! The keys of the HTTP edge, all derived from one secret of 32 bytes: the signing key of access tokens
//! and the sealing key of cursors. The secret is derived from the installation's key, so it is stored nowhere.

use aws_lc_rs::{
    hkdf::{HKDF_SHA256, Salt},
    signature::{Ed25519KeyPair, KeyPair},
};
use jsonwebtoken::{DecodingKey, EncodingKey};
use zeroize::Zeroizing;

/// Bytes of the secret and of each key derived from it.
const KEY_LEN: usize = 32;

/// The keys of the HTTP edge.
pub struct EdgeKeys {
    pub(crate) sign: EncodingKey,
    pub(crate) verify: DecodingKey,
    /// Names the signing key in a token's header: the start of its public half.
    pub(crate) key_id: String,
    pub(crate) cursors: Zeroizing<[u8; KEY_LEN]>,
}

// === impl EdgeKeys ===

impl EdgeKeys {
    /// Derives the keys.
    pub fn from_bytes(secret: &[u8; KEY_LEN]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&*derive(secret, b"access tokens"))
            .expect("any 32 bytes are a seed");
        let document = pair.to_pkcs8v1().expect("a key pair has a document");
        let public = pair.public_key().as_ref();
        Self {
            sign: EncodingKey::from_ed_der(document.as_ref()),
            verify: DecodingKey::from_ed_der(public),
            key_id: data_encoding::HEXLOWER.encode(&public[..8]),
            cursors: derive(secret, b"cursors"),
        }
    }
}

// === free functions ===

/// HKDF-SHA-256 (RFC 5869) with the purpose as info.
fn derive(secret: &[u8; KEY_LEN], purpose: &[u8]) -> Zeroizing<[u8; KEY_LEN]> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    Salt::new(HKDF_SHA256, b"inboxgrove http")
        .extract(secret)
        .expand(&[purpose], HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *key))
        .expect("32 bytes are one block of SHA-256");
    key
}
