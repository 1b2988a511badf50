//! DKIM (RFC 6376, RFC 8463): keys, signing with several at once, verifying.
//!
//! Keys are parsed once and kept. All keys sign one list of headers, so the body is hashed once and the
//! headers are put in canonical form once, however many keys there are. Canonicalisation and the text of the
//! header are mail-auth's; the crypto is aws-lc-rs.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use data_encoding::BASE64;
use inboxgrove_model::{DomainName, domain::DkimAlgorithm};
use mail_auth::{
    AuthenticatedMessage,
    common::crypto::{Algorithm, HashAlgorithm},
    dkim::{Canonicalization, Signature},
};
use zeroize::Zeroizing;

pub use crate::authentication::verify_dkim as verify;

/// Smallest RSA modulus taken, in bytes (RFC 8301 §3.2: signers should use 2048 bits).
const RSA_MODULUS_BYTES_MIN: usize = 256;
/// Signed once for each time it stands in the message, and once more, so that nobody can add another: a
/// reader would show the added one (RFC 6376 §8.15).
const OVERSIGNED: [&str; 10] = [
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];
/// Signed when it stands in the message. RFC 8058 §4 wants the last two covered.
const SIGNED: [&str; 5] = [
    "Sender",
    "In-Reply-To",
    "References",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
];

/// Why a key is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The random source or the library failed.
    #[error("cannot make a {0:?} key")]
    NotMade(DkimAlgorithm),
    /// The bytes are no PKCS #8 key of this algorithm, or too short a one.
    #[error("not a PKCS #8 {0:?} key, or one of fewer than 2048 bits")]
    NotRead(DkimAlgorithm),
    /// A selector that would not fit a domain name.
    #[error(
        "{0:?} is not a selector: expected letters, digits and hyphens in labels joined by dots"
    )]
    Selector(String),
    /// There is nothing to sign with.
    #[error("no DKIM key")]
    NoKey,
}

/// Why a message was not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// RFC 6376 §5.4: From must be signed.
    #[error("the message has no From header")]
    NoFrom,
    /// The library refused.
    #[error("the key at {selector}._domainkey.{domain} did not sign")]
    Refused {
        /// Its selector.
        selector: String,
        /// Its domain.
        domain: DomainName,
    },
}

/// A private key. Never printed; cheap to clone.
#[derive(Clone)]
pub struct PrivateKey {
    pair: Pair,
}

#[derive(Clone)]
enum Pair {
    Rsa(Arc<RsaKeyPair>),
    Ed25519(Arc<Ed25519KeyPair>),
}

/// Who makes the keys of new domains: chance in the daemon, a fixed stock in the virtual world, where making
/// an RSA key costs as much as an hour of its time.
pub trait KeyMaker: Send + Sync {
    /// A key for a new domain. RSA may take some hundred milliseconds: call it where blocking is allowed.
    fn make(&self, algorithm: DkimAlgorithm) -> Result<PrivateKey, KeyError>;
}

/// Fresh keys of chance.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomKeys;

/// Signs messages with every key it holds.
#[derive(Debug, Clone)]
pub struct Signer {
    keys: Vec<SigningKey>,
}

#[derive(Debug, Clone)]
struct SigningKey {
    selector: String,
    domain: DomainName,
    key: PrivateKey,
}

// === impl RandomKeys ===

impl KeyMaker for RandomKeys {
    fn make(&self, algorithm: DkimAlgorithm) -> Result<PrivateKey, KeyError> {
        PrivateKey::generate(algorithm)
    }
}

// === impl PrivateKey ===

impl PrivateKey {
    /// A fresh key. RSA takes some hundred milliseconds: call it where blocking is allowed.
    pub fn generate(algorithm: DkimAlgorithm) -> Result<Self, KeyError> {
        let failed = |_| KeyError::NotMade(algorithm);
        let pair = match algorithm {
            DkimAlgorithm::Rsa2048 => Pair::Rsa(Arc::new(
                RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?,
            )),
            DkimAlgorithm::Ed25519 => {
                Pair::Ed25519(Arc::new(Ed25519KeyPair::generate().map_err(failed)?))
            }
        };
        Ok(Self { pair })
    }

    /// The key with these PKCS #8 bytes.
    pub fn from_pkcs8(algorithm: DkimAlgorithm, der: &[u8]) -> Result<Self, KeyError> {
        let failed = || KeyError::NotRead(algorithm);
        let pair = match algorithm {
            DkimAlgorithm::Rsa2048 => {
                let pair = RsaKeyPair::from_pkcs8(der).map_err(|_| failed())?;
                if pair.public_modulus_len() < RSA_MODULUS_BYTES_MIN {
                    return Err(failed());
                }
                Pair::Rsa(Arc::new(pair))
            }
            DkimAlgorithm::Ed25519 => Pair::Ed25519(Arc::new(
                Ed25519KeyPair::from_pkcs8(der).map_err(|_| failed())?,
            )),
        };
        Ok(Self { pair })
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> DkimAlgorithm {
        match self.pair {
            Pair::Rsa(_) => DkimAlgorithm::Rsa2048,
            Pair::Ed25519(_) => DkimAlgorithm::Ed25519,
        }
    }

    /// The `p=` value of its record: base64 of the SubjectPublicKeyInfo for RSA (RFC 6376 §3.6.1), of the
    /// bare key for Ed25519 (RFC 8463 §4).
    pub fn public_key(&self) -> String {
        match &self.pair {
            Pair::Rsa(pair) => {
                let der: PublicKeyX509Der<'_> = pair
                    .public_key()
                    .as_der()
                    .expect("a public key that the library made has a DER form");
                BASE64.encode(der.as_ref())
            }
            Pair::Ed25519(pair) => BASE64.encode(pair.public_key().as_ref()),
        }
    }

    /// Its PKCS #8 bytes, for the vault.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        let proof = "a key pair that the library made has a PKCS #8 form";
        let der: Pkcs8V1Der<'_> = match &self.pair {
            Pair::Rsa(pair) => pair.as_der().expect(proof),
            Pair::Ed25519(pair) => pair.as_der().expect(proof),
        };
        Zeroizing::new(der.as_ref().to_vec())
    }

    /// The signature over data in canonical form. `None` when the library refuses.
    fn sign(&self, data: &[u8]) -> Option<Vec<u8>> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    data,
                    &mut signature,
                )
                .ok()?;
                Some(signature)
            }
            // RFC 8463 §3: what is signed is the SHA-256 hash.
            Pair::Ed25519(pair) => {
                let hash = HashAlgorithm::Sha256.hash(data);
                Some(pair.sign(hash.as_ref()).as_ref().to_vec())
            }
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({:?}, …)", self.algorithm())
    }
}

// === impl Signer ===

impl Signer {
    /// A signer with these keys: selector, domain, key. The signature of the first stands on top.
    pub fn new(keys: Vec<(String, DomainName, PrivateKey)>) -> Result<Self, KeyError> {
        if keys.is_empty() {
            return Err(KeyError::NoKey);
        }
        let mut held = Vec::with_capacity(keys.len());
        for (selector, domain, key) in keys {
            if !is_selector(&selector) {
                return Err(KeyError::Selector(selector.chars().take(80).collect()));
            }
            held.push(SigningKey {
                selector,
                domain,
                key,
            });
        }
        Ok(Self { keys: held })
    }

    /// The DKIM-Signature headers to put before `message`, one for each key, CRLF included.
    ///
    /// `now_secs` is wall time: it becomes `t=`. The lines of `message` must end with CRLF, as
    /// [`Draft::compose`](crate::message::Draft::compose) writes them. CPU work, about a millisecond for an RSA key.
    pub fn sign(&self, message: &[u8], now_secs: i64) -> Result<Vec<u8>, SignError> {
        let parsed = AuthenticatedMessage::parse(message).ok_or(SignError::NoFrom)?;
        let headers = parsed.raw_parsed_headers();
        if !headers.iter().any(|(name, _)| is_named(name, "From")) {
            return Err(SignError::NoFrom);
        }
        let body = Canonicalization::Relaxed.canonical_body(parsed.raw_body(), u64::MAX);
        let (names, canonical) = canonical_headers(headers);
        let mut signature = Signature {
            v: 1,
            h: names,
            bh: HashAlgorithm::Sha256.hash(body).as_ref().to_vec(),
            t: u64::try_from(now_secs).unwrap_or(0),
            ch: Canonicalization::Relaxed,
            cb: Canonicalization::Relaxed,
            ..Signature::default()
        };
        let mut signed = Vec::with_capacity(self.keys.len() * 1024);
        for SigningKey {
            selector,
            domain,
            key,
        } in &self.keys
        {
            signature.a = match key.algorithm() {
                DkimAlgorithm::Rsa2048 => Algorithm::RsaSha256,
                DkimAlgorithm::Ed25519 => Algorithm::Ed25519Sha256,
            };
            signature.s.clone_from(selector);
            signature.d = domain.to_string();
            signature.b.clear();
            let mut data = canonical.clone();
            signature.write(&mut data, false);
            signature.b = key.sign(&data).ok_or_else(|| SignError::Refused {
                selector: selector.clone(),
                domain: domain.clone(),
            })?;
            signature.write(&mut signed, true);
        }
        Ok(signed)
    }
}

/// The `h=` list and the headers it means, in canonical form. Headers of one name are taken from the
/// bottom up (RFC 6376 §5.4.2); a name without a header left stands for its absence.
fn canonical_headers(headers: &[(&[u8], &[u8])]) -> (Vec<String>, Vec<u8>) {
    let mut names = Vec::with_capacity(2 * OVERSIGNED.len());
    let mut picked = Vec::with_capacity(headers.len());
    let wanted = OVERSIGNED
        .iter()
        .map(|name| (name, 1))
        .chain(SIGNED.iter().map(|name| (name, 0)));
    for (name, extra) in wanted {
        let before = picked.len();
        picked.extend(
            headers
                .iter()
                .rev()
                .filter(|(found, _)| is_named(found, name)),
        );
        let times = picked.len() - before + extra;
        names.extend(std::iter::repeat_n((*name).to_owned(), times));
    }
    let mut canonical = Vec::with_capacity(1024);
    Canonicalization::Relaxed.canonicalize_headers(picked.into_iter(), &mut canonical);
    (names, canonical)
}

/// The parser keeps whitespace before the colon (obsolete syntax): it is no part of the name.
fn is_named(found: &[u8], name: &str) -> bool {
    found.trim_ascii().eq_ignore_ascii_case(name.as_bytes())
}

/// RFC 6376 §3.1: labels joined by dots.
fn is_selector(text: &str) -> bool {
    text.len() <= 63
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

#[cfg(test)]
mod tests;
