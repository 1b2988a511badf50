//! Sealing: AES-256-GCM with a data key for each tenant, wrapped by the key of the installation.
//!
//! A blob is `version u8 | key id u64 | nonce 12 | ciphertext | tag 16`; what it belongs to (table and
//! key, or the kind of a log item) is its additional data, so that a blob moved elsewhere does not open.
//! Erasing a tenant is erasing its data key. Data keys live in one small file beside the log, replaced
//! whole, mode 0600 (`data_keys.rs`).

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest, hmac,
};
use inboxgrove_model::ports::Rng;
use zeroize::Zeroizing;

/// Length of every key.
pub const KEY_LEN: usize = 32;
/// The version of a blob.
const BLOB_VERSION: u8 = 1;
/// Bytes before the ciphertext: version, key id, nonce.
const BLOB_HEAD_LEN: usize = 1 + 8 + NONCE_LEN;
/// What sealing adds to the length of a text: the head and the tag.
pub const SEAL_OVERHEAD: usize = BLOB_HEAD_LEN + 16;

/// The keys of the installation: the one in use, and one that may still open what it wrapped.
#[derive(Clone)]
pub struct Keys {
    pub(crate) current: SealingKey,
    pub(crate) former: Option<SealingKey>,
}

/// Hashes personal names for keys: HMAC-SHA-256 under a key that never leaves the installation.
#[derive(Clone)]
pub struct NameKey(hmac::Key);

/// A key that seals and opens, cheap to clone.
#[derive(Clone)]
pub(crate) struct SealingKey(Arc<Expanded>);

/// A key with what the cipher makes of it: to expand it anew for each row would cost more than to open the row.
struct Expanded {
    bytes: Zeroizing<[u8; KEY_LEN]>,
    id: u64,
    cipher: LessSafeKey,
}

/// Why a blob could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It is too short or of an unknown version.
    #[error("it is no sealed blob")]
    Malformed,
    /// Its key is not there: erased with its tenant, or never known to this installation.
    #[error("key {0:016x} is not here; it was erased or belongs to another installation")]
    NoKey(u64),
    /// The bytes, or what they belong to, are not what was sealed.
    #[error("its tag does not match")]
    Forged,
}

/// Why the key file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read or made.
    #[error("key file {}: {source}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// It does not hold a key.
    #[error("key file {}: expected {KEY_LEN} bytes, found {found}", .path.display())]
    Length {
        /// Which file.
        path: PathBuf,
        /// How many bytes it holds.
        found: usize,
    },
}

// === impl Keys ===

impl Keys {
    /// The key of the installation.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self {
            current: SealingKey::new(Zeroizing::new(bytes)),
            former: None,
        }
    }

    /// Also accepts a former key, for data keys that it wrapped; they are wrapped anew at the next write.
    #[must_use]
    pub fn with_former(mut self, bytes: [u8; KEY_LEN]) -> Self {
        self.former = Some(SealingKey::new(Zeroizing::new(bytes)));
        self
    }

    /// Reads the key file; makes it, mode 0600, when it is not there.
    pub fn load_or_create(path: &Path, rng: &dyn Rng) -> Result<Self, KeyFileError> {
        let failed = |source| KeyFileError::Io {
            path: path.to_owned(),
            source,
        };
        match fs::read(path) {
            Ok(bytes) => Self::parse(path, &Zeroizing::new(bytes)),
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                let mut bytes = Zeroizing::new([0; KEY_LEN]);
                rng.fill(bytes.as_mut_slice());
                create_private(path, bytes.as_slice()).map_err(failed)?;
                Ok(Self::from_bytes(*bytes))
            }
            Err(why) => Err(failed(why)),
        }
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, KeyFileError> {
        let key = <[u8; KEY_LEN]>::try_from(bytes).map_err(|_| KeyFileError::Length {
            path: path.to_owned(),
            found: bytes.len(),
        })?;
        Ok(Self::from_bytes(key))
    }

    /// A secret for another part of the installation, always the same for one purpose: what needs a key and
    /// no row of its own (the tokens of the HTTP edge) asks for it here, so that one file holds all secrets.
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; KEY_LEN]> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.current.bytes().as_slice());
        let tag = hmac::sign(&key, format!("inboxgrove derived {purpose}").as_bytes());
        Zeroizing::new(tag.as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes"))
    }

    /// The key with this id.
    pub(crate) fn by_id(&self, id: u64) -> Option<&SealingKey> {
        [Some(&self.current), self.former.as_ref()]
            .into_iter()
            .flatten()
            .find(|key| key.id() == id)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({:016x})", self.current.id())
    }
}

// === impl NameKey ===

impl NameKey {
    /// The key with these bytes.
    pub fn new(bytes: &[u8; KEY_LEN]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The hash of a name, of constant length. Fold the name first.
    pub fn hash(&self, name: &str) -> [u8; 32] {
        hmac::sign(&self.0, name.as_bytes())
            .as_ref()
            .try_into()
            .expect("HMAC-SHA-256 has 32 bytes")
    }
}

impl fmt::Debug for NameKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NameKey(…)")
    }
}

// === impl SealingKey ===

impl SealingKey {
    pub(crate) fn new(bytes: Zeroizing<[u8; KEY_LEN]>) -> Self {
        // The id must tell nothing of the key: a hash of it under a label, cut to 8 bytes.
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"inboxgrove key id");
        context.update(bytes.as_slice());
        let id = context.finish();
        let id = id
            .as_ref()
            .first_chunk::<8>()
            .expect("SHA-256 has 32 bytes");
        let cipher = UnboundKey::new(&AES_256_GCM, bytes.as_slice());
        Self(Arc::new(Expanded {
            id: u64::from_be_bytes(*id),
            cipher: LessSafeKey::new(cipher.expect("the key has the cipher's length")),
            bytes,
        }))
    }

    pub(crate) fn random(rng: &dyn Rng) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        rng.fill(bytes.as_mut_slice());
        Self::new(bytes)
    }

    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0.bytes
    }

    /// Seals `plain`; `belongs` must be given again to open it.
    pub(crate) fn seal(&self, belongs: &[u8], plain: &[u8], rng: &dyn Rng) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        rng.fill(&mut nonce);
        let mut blob = Vec::with_capacity(plain.len() + SEAL_OVERHEAD);
        blob.push(BLOB_VERSION);
        blob.extend_from_slice(&self.id().to_be_bytes());
        blob.extend_from_slice(&nonce);
        blob.extend_from_slice(plain);
        let tag = self
            .0
            .cipher
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(belongs),
                &mut blob[BLOB_HEAD_LEN..],
            )
            .expect("a row or a body is far below the cipher's limit");
        blob.extend_from_slice(tag.as_ref());
        blob
    }

    /// Opens what [`SealingKey::seal`] made.
    pub(crate) fn open(
        &self,
        belongs: &[u8],
        blob: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if key_id(blob)? != self.id() {
            return Err(SealError::Forged);
        }
        let nonce = blob[BLOB_HEAD_LEN - NONCE_LEN..]
            .first_chunk::<NONCE_LEN>()
            .ok_or(SealError::Malformed)?;
        let mut text = Zeroizing::new(blob[BLOB_HEAD_LEN..].to_vec());
        let plain_len = self
            .0
            .cipher
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(belongs),
                &mut text,
            )
            .map_err(|_| SealError::Forged)?
            .len();
        text.truncate(plain_len);
        Ok(text)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({:016x})", self.id())
    }
}

/// Which key sealed a blob.
pub(crate) fn key_id(blob: &[u8]) -> Result<u64, SealError> {
    match blob.split_first() {
        Some((&BLOB_VERSION, rest)) if blob.len() >= SEAL_OVERHEAD => rest
            .first_chunk::<8>()
            .map(|id| u64::from_be_bytes(*id))
            .ok_or(SealError::Malformed),
        _ => Err(SealError::Malformed),
    }
}

/// Makes a file that only its owner reads, on the disk before this returns. Fails if it exists.
fn create_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => fs::File::open(dir)?.sync_all(),
        _ => fs::File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Counting;
    impl Rng for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            for (n, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::try_from(n).expect("short");
            }
        }
    }

    fn key(byte: u8) -> SealingKey {
        SealingKey::new(Zeroizing::new([byte; KEY_LEN]))
    }

    #[test]
    fn what_is_sealed_opens_for_its_key_and_its_place_only() {
        let blob = key(1).seal(b"inboxes/7", b"secret", &Counting);
        assert_eq!(blob.len(), b"secret".len() + SEAL_OVERHEAD);
        assert_eq!(
            key(1).open(b"inboxes/7", &blob).expect("opens").as_slice(),
            b"secret"
        );
        assert_eq!(key(1).open(b"inboxes/8", &blob), Err(SealError::Forged));
        assert_eq!(key(2).open(b"inboxes/7", &blob), Err(SealError::Forged));
        assert_eq!(key(1).open(b"", b"short"), Err(SealError::Malformed));
    }

    #[test]
    fn derived_secrets_depend_on_the_key_and_the_purpose() {
        let (one, two) = (
            Keys::from_bytes([1; KEY_LEN]),
            Keys::from_bytes([2; KEY_LEN]),
        );
        assert_eq!(one.derive("tokens"), one.derive("tokens"));
        assert_ne!(one.derive("tokens"), one.derive("cursors"));
        assert_ne!(one.derive("tokens"), two.derive("tokens"));
        assert_ne!(*one.derive("tokens"), [1; KEY_LEN]);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_seen() {
        let blob = key(1).seal(b"x", b"text", &Counting);
        for at in 0..blob.len() {
            let mut bad = blob.clone();
            bad[at] ^= 1;
            assert!(key(1).open(b"x", &bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_key_file_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        let made = Keys::load_or_create(&path, &Counting).expect("made");
        let read = Keys::load_or_create(&path, &Counting).expect("read");
        assert_eq!(made.current.id(), read.current.id());
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(&path, b"short").expect("written");
        let why = Keys::load_or_create(&path, &Counting).expect_err("refused");
        assert!(why.to_string().contains("found 5"), "{why}");
    }

    #[test]
    fn nothing_secret_is_printed() {
        let keys = Keys::from_bytes([0xAB; 32]);
        assert!(!format!("{keys:?}{:?}", NameKey::new(&[0xAB; 32])).contains("abab"));
    }
}
