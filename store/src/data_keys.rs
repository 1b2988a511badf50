//! The file of data keys: one for each tenant, one for the hashes of names; each wrapped by the key of
//! the installation.
//!
//! `data.keys` is small, replaced whole, mode 0600. Erasing a tenant takes its key out and leaves its id,
//! so that no late write gives it a new one. Bytes: `magic 8 | entries u32 | entries | crc32c u32`, an
//! entry being `purpose u8 | tenant 16 | length u16 | wrapped key`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, io,
    sync::{Arc, PoisonError, RwLock},
};

use inboxgrove_model::{TenantId, ports::Rng};
use zeroize::Zeroizing;

use crate::{
    media::Media,
    seal::{KEY_LEN, Keys, NameKey, SealError, SealingKey, key_id},
};

/// The name of the file.
pub(crate) const FILE_NAME: &str = "data.keys";

const MAGIC: [u8; 8] = *b"IGKEYS1\n";
const PURPOSE_NAMES: u8 = 0;
const PURPOSE_TENANT: u8 = 1;
const PURPOSE_ERASED: u8 = 2;

/// Why the data keys could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DataKeysError {
    /// The file could not be read or written.
    #[error("file of data keys {FILE_NAME}: {0}")]
    Io(#[from] io::Error),
    /// It is not as it was written.
    #[error("file of data keys {FILE_NAME}: {0}")]
    Damaged(&'static str),
    /// The installation's key is another than the one that wrapped them.
    #[error(
        "the installation's key does not open {FILE_NAME}: it was wrapped by key {wrapped_by:016x}, the key given is {given:016x}"
    )]
    WrongKey {
        /// The id of the key that is needed.
        wrapped_by: u64,
        /// The id of the key that was given.
        given: u64,
    },
    /// A tenant's key was erased; it gets no other.
    #[error("the data key of {0} was erased")]
    Erased(TenantId),
}

/// All data keys, unwrapped.
pub(crate) struct DataKeys {
    media: Arc<dyn Media>,
    keys: Keys,
    names: NameKey,
    ring: RwLock<Ring>,
}

#[derive(Clone)]
struct Ring {
    names: SealingKey,
    by_tenant: BTreeMap<TenantId, TenantKey>,
    /// What every read of a row asks for: hashed, and with the key at hand.
    by_id: HashMap<u64, (TenantId, SealingKey)>,
    erased: BTreeSet<TenantId>,
}

/// A tenant's key, and how it stands in the file: a new tenant must not cost the sealing of all others' keys.
#[derive(Clone)]
struct TenantKey {
    key: SealingKey,
    wrapped: Arc<[u8]>,
}

// === impl DataKeys ===

impl DataKeys {
    /// Reads the file; makes it in a store that is new.
    pub(crate) fn open(
        media: Arc<dyn Media>,
        keys: Keys,
        rng: &dyn Rng,
        new: bool,
    ) -> Result<Self, DataKeysError> {
        let ring = match media.read(FILE_NAME) {
            Ok(bytes) => Ring::parse(&bytes, &keys)?,
            Err(why) if why.kind() == io::ErrorKind::NotFound && new => {
                let ring = Ring::new(SealingKey::random(rng));
                media.replace(FILE_NAME, &ring.to_bytes(&keys, rng))?;
                ring
            }
            Err(why) => return Err(why.into()),
        };
        Ok(Self {
            media,
            keys,
            names: NameKey::new(ring.names.bytes()),
            ring: RwLock::new(ring),
        })
    }

    /// Hashes personal names.
    pub(crate) const fn names(&self) -> &NameKey {
        &self.names
    }

    /// The key of a tenant, to seal with.
    pub(crate) fn of(&self, tenant: TenantId) -> Option<SealingKey> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        ring.by_tenant.get(&tenant).map(|held| held.key.clone())
    }

    /// Opens a blob with the key that it names; also whose key that was.
    pub(crate) fn open_blob(
        &self,
        belongs: &[u8],
        blob: &[u8],
    ) -> Result<(TenantId, Zeroizing<Vec<u8>>), SealError> {
        let id = key_id(blob)?;
        let key = {
            let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
            ring.by_id.get(&id).cloned()
        };
        let (tenant, key) = key.ok_or(SealError::NoKey(id))?;
        Ok((tenant, key.open(belongs, blob)?))
    }

    /// Makes keys for those of `tenants` that have none; they are on the disk when this returns.
    /// The committer's thread only.
    pub(crate) fn ensure(&self, tenants: &[TenantId], rng: &dyn Rng) -> Result<(), DataKeysError> {
        if self.has_all(tenants) {
            return Ok(());
        }
        let mut ring = self.snapshot();
        for tenant in tenants {
            if ring.erased.contains(tenant) {
                return Err(DataKeysError::Erased(*tenant));
            }
            if !ring.by_tenant.contains_key(tenant) {
                let key = SealingKey::random(rng);
                let wrapped = wrap(&self.keys, PURPOSE_TENANT, tenant.as_bytes(), &key, rng);
                ring.add(*tenant, key, wrapped);
            }
        }
        self.keep(ring, rng)
    }

    fn has_all(&self, tenants: &[TenantId]) -> bool {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        tenants
            .iter()
            .all(|tenant| ring.by_tenant.contains_key(tenant))
    }

    /// Erases a tenant's key for good. False when it had none. The committer's thread only.
    pub(crate) fn erase(&self, tenant: TenantId, rng: &dyn Rng) -> Result<bool, DataKeysError> {
        let mut ring = self.snapshot();
        let Some(held) = ring.by_tenant.remove(&tenant) else {
            return Ok(false);
        };
        ring.by_id.remove(&held.key.id());
        ring.erased.insert(tenant);
        self.keep(ring, rng)?;
        Ok(true)
    }

    /// Says what is wrong with the file. The committer's thread only.
    pub(crate) fn check(&self) -> Result<(), DataKeysError> {
        let found = Ring::parse(&self.media.read(FILE_NAME)?, &self.keys)?;
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        if found.is_same(&ring) {
            Ok(())
        } else {
            Err(DataKeysError::Damaged("it is not as it was written"))
        }
    }

    /// Writes the file again, as it should be. The committer's thread only.
    pub(crate) fn mend(&self, rng: &dyn Rng) -> Result<(), DataKeysError> {
        self.keep(self.snapshot(), rng)
    }

    fn snapshot(&self) -> Ring {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        ring.clone()
    }

    fn keep(&self, ring: Ring, rng: &dyn Rng) -> Result<(), DataKeysError> {
        self.media
            .replace(FILE_NAME, &ring.to_bytes(&self.keys, rng))?;
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = ring;
        Ok(())
    }
}

impl fmt::Debug for DataKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKeys(…)")
    }
}

// === impl Ring ===

impl Ring {
    fn new(names: SealingKey) -> Self {
        Self {
            names,
            by_tenant: BTreeMap::new(),
            by_id: HashMap::new(),
            erased: BTreeSet::new(),
        }
    }

    fn add(&mut self, tenant: TenantId, key: SealingKey, wrapped: Vec<u8>) {
        self.by_id.insert(key.id(), (tenant, key.clone()));
        let wrapped = wrapped.into();
        self.by_tenant.insert(tenant, TenantKey { key, wrapped });
    }

    fn is_same(&self, other: &Self) -> bool {
        // A key's id is a hash of it.
        let ids = |ring: &Self| {
            let tenants = ring.by_tenant.iter();
            tenants
                .map(|(tenant, held)| (*tenant, held.key.id()))
                .collect::<Vec<_>>()
        };
        self.names.id() == other.names.id()
            && ids(self) == ids(other)
            && self.erased == other.erased
    }

    fn to_bytes(&self, keys: &Keys, rng: &dyn Rng) -> Vec<u8> {
        const NOBODY: [u8; 16] = [0; 16];
        let mut bytes = MAGIC.to_vec();
        let count = 1 + self.by_tenant.len() + self.erased.len();
        let count = u32::try_from(count).expect("tenants are far below 2^32");
        bytes.extend_from_slice(&count.to_le_bytes());
        let blob = wrap(keys, PURPOSE_NAMES, &NOBODY, &self.names, rng);
        push_entry(&mut bytes, PURPOSE_NAMES, &NOBODY, &blob);
        for (tenant, held) in &self.by_tenant {
            let owner = tenant.as_bytes();
            if key_id(&held.wrapped) == Ok(keys.current.id()) {
                push_entry(&mut bytes, PURPOSE_TENANT, owner, &held.wrapped);
            } else {
                let blob = wrap(keys, PURPOSE_TENANT, owner, &held.key, rng);
                push_entry(&mut bytes, PURPOSE_TENANT, owner, &blob);
            }
        }
        for tenant in &self.erased {
            push_entry(&mut bytes, PURPOSE_ERASED, tenant.as_bytes(), &[]);
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8], keys: &Keys) -> Result<Self, DataKeysError> {
        let damaged = |why| move || DataKeysError::Damaged(why);
        let body = check(bytes)?;
        let mut rest = body
            .strip_prefix(&MAGIC)
            .and_then(|rest| rest.split_first_chunk::<4>())
            .map(|(_count, rest)| rest)
            .ok_or_else(damaged("it is of an unknown version"))?;
        let mut names = None;
        let mut ring = Self::new(SealingKey::new(Zeroizing::new([0; KEY_LEN])));
        while !rest.is_empty() {
            let (purpose, owner, blob, after) =
                split_entry(rest).ok_or_else(damaged("an entry is cut off"))?;
            match purpose {
                PURPOSE_NAMES => names = Some(unwrap_key(keys, purpose, owner, blob)?),
                PURPOSE_TENANT => {
                    let key = unwrap_key(keys, purpose, owner, blob)?;
                    ring.add(TenantId::from_bytes(*owner), key, blob.to_vec());
                }
                PURPOSE_ERASED => {
                    ring.erased.insert(TenantId::from_bytes(*owner));
                }
                _ => return Err(DataKeysError::Damaged("an entry's purpose is not known")),
            }
            rest = after;
        }
        ring.names = names.ok_or_else(damaged("the key for names is missing"))?;
        Ok(ring)
    }
}

/// Checks the checksum of a file's bytes, which needs no key; what it is about.
pub(crate) fn check(bytes: &[u8]) -> Result<&[u8], DataKeysError> {
    let (body, crc) = bytes
        .split_last_chunk::<4>()
        .ok_or(DataKeysError::Damaged("it is cut off"))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(DataKeysError::Damaged("its checksum does not match"));
    }
    Ok(body)
}

fn wrap(keys: &Keys, purpose: u8, owner: &[u8; 16], key: &SealingKey, rng: &dyn Rng) -> Vec<u8> {
    let belongs = belongs(purpose, owner);
    keys.current.seal(&belongs, key.bytes(), rng)
}

fn unwrap_key(
    keys: &Keys,
    purpose: u8,
    owner: &[u8; 16],
    blob: &[u8],
) -> Result<SealingKey, DataKeysError> {
    const DAMAGED: DataKeysError = DataKeysError::Damaged("a key does not unwrap");
    let wrapped_by = key_id(blob).map_err(|_| DAMAGED)?;
    let given = keys.current.id();
    let wrapping = keys
        .by_id(wrapped_by)
        .ok_or(DataKeysError::WrongKey { wrapped_by, given })?;
    let bytes = wrapping
        .open(&belongs(purpose, owner), blob)
        .map_err(|_| DAMAGED)?;
    let bytes = <[u8; KEY_LEN]>::try_from(bytes.as_slice()).map_err(|_| DAMAGED)?;
    Ok(SealingKey::new(Zeroizing::new(bytes)))
}

fn belongs(purpose: u8, owner: &[u8; 16]) -> Vec<u8> {
    [b"data key".as_slice(), &[purpose], owner].concat()
}

fn push_entry(bytes: &mut Vec<u8>, purpose: u8, owner: &[u8; 16], blob: &[u8]) {
    let len = u16::try_from(blob.len()).expect("a wrapped key is short");
    bytes.push(purpose);
    bytes.extend_from_slice(owner);
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(blob);
}

/// Purpose, owner and blob of the first entry, and what follows it.
type Entry<'a> = (u8, &'a [u8; 16], &'a [u8], &'a [u8]);

fn split_entry(bytes: &[u8]) -> Option<Entry<'_>> {
    let (purpose, rest) = bytes.split_first()?;
    let (owner, rest) = rest.split_first_chunk::<16>()?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let (blob, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    Some((*purpose, owner, blob, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory::MemDisk, test_rng::CountingRng};

    const TENANT: TenantId = TenantId::from_bytes([1; 16]);

    fn open(disk: &MemDisk, byte: u8, new: bool) -> Result<DataKeys, DataKeysError> {
        let keys = Keys::from_bytes([byte; KEY_LEN]);
        DataKeys::open(
            disk.attach().0,
            keys,
            &CountingRng::new(u64::from(byte)),
            new,
        )
    }

    #[test]
    fn keys_last_and_open_what_they_sealed() {
        let disk = MemDisk::new();
        let rng = CountingRng::new(5);
        let keys = open(&disk, 1, true).expect("made");
        keys.ensure(&[TENANT], &rng).expect("made");
        let blob = keys.of(TENANT).expect("there").seal(b"x", b"text", &rng);
        let hash = keys.names().hash("ada@example.com");
        disk.crash();
        let keys = open(&disk, 1, false).expect("read");
        let (whose, text) = keys.open_blob(b"x", &blob).expect("opens");
        assert_eq!((whose, text.as_slice()), (TENANT, &b"text"[..]));
        assert_eq!(keys.names().hash("ada@example.com"), hash);
    }

    #[test]
    fn another_installations_key_is_refused_by_name() {
        let disk = MemDisk::new();
        open(&disk, 1, true).expect("made");
        let why = open(&disk, 2, false).expect_err("refused");
        assert!(matches!(why, DataKeysError::WrongKey { .. }), "{why}");
    }

    #[test]
    fn a_former_key_still_opens_them() {
        let disk = MemDisk::new();
        open(&disk, 1, true).expect("made");
        let both = Keys::from_bytes([2; KEY_LEN]).with_former([1; KEY_LEN]);
        let rng = CountingRng::new(3);
        let keys = DataKeys::open(disk.attach().0, both, &rng, false).expect("read");
        keys.ensure(&[TENANT], &rng).expect("wrapped anew");
        open(&disk, 2, false).expect("the new key alone is enough now");
    }

    #[test]
    fn an_erased_key_stays_erased() {
        let disk = MemDisk::new();
        let rng = CountingRng::new(5);
        let keys = open(&disk, 1, true).expect("made");
        keys.ensure(&[TENANT], &rng).expect("made");
        let blob = keys.of(TENANT).expect("there").seal(b"x", b"text", &rng);
        assert!(keys.erase(TENANT, &rng).expect("erased"));
        let keys = open(&disk, 1, false).expect("read");
        assert!(matches!(
            keys.open_blob(b"x", &blob),
            Err(SealError::NoKey(_))
        ));
        assert!(matches!(
            keys.ensure(&[TENANT], &rng),
            Err(DataKeysError::Erased(_))
        ));
    }

    #[test]
    fn a_missing_or_damaged_file_is_no_reason_to_make_new_keys() {
        let disk = MemDisk::new();
        assert!(open(&disk, 1, false).is_err());
        open(&disk, 1, true).expect("made");
        assert!(disk.flip(FILE_NAME, 40));
        assert!(matches!(
            open(&disk, 1, true),
            Err(DataKeysError::Damaged(_))
        ));
    }
}
