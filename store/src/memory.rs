//! A disk in memory that can lose power, run full, fail and rot: for the virtual world and for laws.
//!
//! It keeps apart what has been synced and what has not, for bytes, for names and for rows; a crash takes
//! back what has not. Every opening and every crash makes the handles of earlier ones useless.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::{
    backup::is_row,
    committer::{Committer, Request},
    engine::{
        Engine, EngineError, EngineOpenError, POSITION_KEY, RawRow, Shelf, Write, position_from,
    },
    generations::number_of,
    media::{Media, copy_out},
    witness::{Witnessed, serve_witnessed},
};

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemDisk {
    shared: Arc<Mutex<Disk>>,
}

/// What is to go wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The next append writes half of its bytes, then says that the disk is full.
    NoSpace,
    /// The next append writes all of its bytes but the last, then fails.
    ShortWrite,
    /// The next append fails.
    Write,
    /// The next sync fails; what it should have synced stays unsynced.
    Sync,
    /// The next application of rows fails.
    Apply,
    /// The next flush of rows fails.
    Flush,
}

/// How a run of a process ends when nobody asks it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The power fails: of each file at most so many unsynced bytes had reached the disk, of its unsynced
    /// names and of its unflushed rows nothing had.
    Power {
        /// How many.
        kept: usize,
    },
    /// The process dies: what it had written to files stays; rows that it had not flushed may be lost.
    Kill {
        /// Whether they stay, too.
        rows: bool,
    },
}

struct Disk {
    /// Rises with every opening and every crash; handles of earlier generations fail.
    generation: u64,
    /// Names as a process sees them, and as they are after a crash.
    live: BTreeMap<String, u64>,
    synced: BTreeMap<String, u64>,
    files: BTreeMap<u64, MemFile>,
    files_made: u64,
    /// Engines by their names. Making, removing and renaming one lasts at once, as the engine on files
    /// syncs its directory.
    engines: BTreeMap<String, MemRows>,
    faults: VecDeque<Fault>,
    /// How often each has struck.
    struck: BTreeMap<Fault, u64>,
    /// The run ends at the operation that finds 0 here.
    cut: Option<(u64, Stop)>,
    /// What was committed, while somebody watches.
    witnessed: Option<Vec<Witnessed>>,
    free_bytes: u64,
    /// Writes and syncs as they are tried, while somebody watches.
    watched: Option<Vec<String>>,
    /// Requests whose sync does not come back, while it is withheld.
    held: Option<Vec<(Weak<Mutex<Committer>>, Request)>>,
}

#[derive(Default)]
struct MemFile {
    bytes: Vec<u8>,
    /// What writes have replaced since the last sync, oldest first.
    unsynced: Vec<Replaced>,
}

#[derive(Default)]
struct MemRows {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What applying has replaced since the last flush, oldest first.
    undo: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// What a write has replaced: the bytes that were there, and how long the file was.
struct Replaced {
    offset: usize,
    len: usize,
    old: Vec<u8>,
    old_len: usize,
}

/// What a disk writes at once: of what was not synced it keeps whole sectors.
const SECTOR: usize = 512;

/// The files of a [`MemDisk`], as one opening sees them.
pub(crate) struct MemMedia {
    disk: MemDisk,
    generation: u64,
}

/// The engines of a [`MemDisk`], as one opening sees them.
#[derive(Debug)]
pub(crate) struct MemShelf {
    disk: MemDisk,
    generation: u64,
}

/// The rows of one engine of a [`MemDisk`], as one opening sees them.
pub(crate) struct MemEngine {
    disk: MemDisk,
    generation: u64,
    name: String,
}

// === impl MemDisk ===

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Power fails: what was not synced is gone. Stores that are open on the disk fail from now on.
    pub fn crash(&self) {
        self.stop(Stop::Power { kept: 0 });
    }

    /// As [`MemDisk::crash`], but of each file up to `kept` unsynced bytes had reached the disk.
    pub fn crash_torn(&self, kept: usize) {
        self.stop(Stop::Power { kept });
    }

    /// The run ends now. Stores that are open on the disk fail from now on.
    pub fn stop(&self, stop: Stop) {
        self.lock().stop(stop);
    }

    /// Power fails at the `operations`-th write or sync from now (0 is the next one), which fails; up to
    /// `kept` unsynced bytes of each file survive.
    pub fn cut_power_in(&self, operations: u64, kept: usize) {
        self.stop_in(operations, Stop::Power { kept });
    }

    /// The run ends at the `operations`-th write or sync from now (0 is the next one), which fails.
    pub fn stop_in(&self, operations: u64, stop: Stop) {
        self.lock().cut = Some((operations, stop));
    }

    /// Whether a stop or a fault that was asked for has not come yet.
    pub fn awaits_trouble(&self) -> bool {
        let disk = self.lock();
        disk.cut.is_some() || !disk.faults.is_empty()
    }

    /// How often a fault has struck so far.
    pub fn struck(&self, fault: Fault) -> u64 {
        self.lock().struck.get(&fault).copied().unwrap_or(0)
    }

    /// From now on every commit is remembered, until it is fetched.
    pub fn watch_commits(&self) {
        self.lock().witnessed.get_or_insert_default();
    }

    /// What was committed since the last fetch, in its order.
    pub fn fetch_witnessed(&self) -> Vec<Witnessed> {
        let mut disk = self.lock();
        disk.witnessed
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.lock().witnessed.is_some()
    }

    pub(crate) fn witness(&self, seen: Witnessed) {
        if let Some(witnessed) = &mut self.lock().witnessed {
            witnessed.push(seen);
        }
    }

    pub(crate) fn has_row(&self, key: &[u8]) -> bool {
        let disk = self.lock();
        disk.newest_rows()
            .is_some_and(|rows| rows.contains_key(key))
    }

    /// The next operation that `fault` is about fails. Several faults wait in order.
    pub fn fail_next(&self, fault: Fault) {
        self.lock().faults.push_back(fault);
    }

    /// From now on writes and syncs are noted.
    pub fn watch(&self) {
        self.lock().watched = Some(Vec::new());
    }

    /// What has been noted so far, in its order: `write`, `sync`, `sync names`, each with the file's name; `apply` and
    /// `flush` for rows. What fails is noted too.
    pub fn watched(&self) -> Vec<String> {
        self.lock().watched.clone().unwrap_or_default()
    }

    /// From now on no sync comes back: commits and leases wait, in their order, and nothing of them is on
    /// disk. Stores on other threads than the one that commits are not held up.
    pub fn hold_syncs(&self) {
        self.lock().held.get_or_insert_default();
    }

    /// How many commits and leases wait for their sync.
    pub fn held_syncs(&self) -> usize {
        self.lock().held.as_ref().map_or(0, Vec::len)
    }

    /// Lets syncs come back: what waits is done now, in its order.
    pub fn release_syncs(&self) {
        let held = self.lock().held.take();
        for (committer, request) in held.into_iter().flatten() {
            // A store that was dropped meanwhile has nobody who waits.
            if let Some(committer) = committer.upgrade() {
                serve_witnessed(self, &committer, request);
            }
        }
    }

    /// Keeps a request while syncs are withheld; else it is given back.
    pub(crate) fn hold(
        &self,
        committer: &Arc<Mutex<Committer>>,
        request: Request,
    ) -> Option<Request> {
        match &mut self.lock().held {
            Some(held) => {
                held.push((Arc::downgrade(committer), request));
                None
            }
            None => Some(request),
        }
    }

    /// How much room the disk says it has.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.lock().free_bytes = bytes;
    }

    /// The names of its files.
    pub fn names(&self) -> Vec<String> {
        self.lock().live.keys().cloned().collect()
    }

    /// The bytes of a file.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.lock();
        let file = disk.live.get(name)?;
        disk.files.get(file).map(|file| file.bytes.clone())
    }

    /// Bits rot: flips one bit of a file's byte. False when there is no such byte.
    pub fn flip(&self, name: &str, offset: usize) -> bool {
        let mut disk = self.lock();
        let file = disk.live.get(name).copied();
        let file = file.and_then(|file| disk.files.get_mut(&file));
        match file.and_then(|file| file.bytes.get_mut(offset)) {
            Some(byte) => {
                *byte ^= 0x10;
                true
            }
            None => false,
        }
    }

    /// Bits rot in a row: flips one bit of its value. `key` is the whole key, table byte first.
    pub fn flip_row(&self, key: &[u8], offset: usize) -> bool {
        let mut disk = self.lock();
        let rows = disk.engines.values_mut();
        let row = rows.filter_map(|of| of.rows.get_mut(key)).next_back();
        match row.and_then(|row| row.get_mut(offset)) {
            Some(byte) => {
                *byte ^= 0x10;
                true
            }
            None => false,
        }
    }

    /// The whole keys of all records' rows, table byte first; the engine's own rows are not among them.
    pub fn row_keys(&self) -> Vec<Vec<u8>> {
        let disk = self.lock();
        let rows = disk.newest_rows().into_iter().flat_map(BTreeMap::keys);
        rows.filter(|key| is_row(key)).cloned().collect()
    }

    /// How long a row's value is. `key` is the whole key.
    pub fn row_len(&self, key: &[u8]) -> Option<usize> {
        self.lock().newest_rows()?.get(key).map(Vec::len)
    }

    /// The rows are lost, as if sled's directory had been moved aside.
    pub fn lose_rows(&self) {
        self.lock().engines.clear();
    }

    /// New handles; those of earlier openings fail from now on.
    pub(crate) fn attach(&self) -> (Arc<dyn Media>, Arc<dyn Shelf>) {
        let generation = {
            let mut disk = self.lock();
            disk.generation += 1;
            disk.generation
        };
        let disk = self.clone();
        let media = MemMedia { disk, generation };
        let disk = self.clone();
        let shelf = MemShelf { disk, generation };
        (Arc::new(media), Arc::new(shelf))
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self, generation: u64) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.lock();
        if disk.generation == generation {
            Ok(disk)
        } else {
            Err(io::Error::other(
                "the disk has lost power since it was opened",
            ))
        }
    }

    /// The disk, for a write or a sync, unless power fails at it.
    fn writing(&self, generation: u64) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.current(generation)?;
        match disk.cut {
            Some((0, stop)) => {
                disk.stop(stop);
                Err(io::Error::other("the disk has lost power"))
            }
            Some((left, stop)) => {
                disk.cut = Some((left - 1, stop));
                Ok(disk)
            }
            None => Ok(disk),
        }
    }
}

impl fmt::Debug for MemDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.lock();
        let rows: usize = disk.engines.values().map(|of| of.rows.len()).sum();
        write!(f, "MemDisk({} files, {rows} rows)", disk.live.len())
    }
}

// === impl Disk ===

impl Default for Disk {
    fn default() -> Self {
        Self {
            generation: 0,
            live: BTreeMap::new(),
            synced: BTreeMap::new(),
            files: BTreeMap::new(),
            files_made: 0,
            engines: BTreeMap::new(),
            faults: VecDeque::new(),
            struck: BTreeMap::new(),
            witnessed: None,
            cut: None,
            free_bytes: u64::MAX,
            watched: None,
            held: None,
        }
    }
}

impl Disk {
    fn stop(&mut self, stop: Stop) {
        self.generation += 1;
        self.cut = None;
        self.faults.clear();
        // What waited was never done; whoever waits learns that the committer is gone.
        self.held = None;
        let rows_stay = match stop {
            Stop::Power { kept } => {
                self.lose_unsynced(kept);
                false
            }
            Stop::Kill { rows } => rows,
        };
        if !rows_stay {
            self.lose_unflushed();
        }
    }

    /// The rows in use: those of the youngest generation.
    fn newest_rows(&self) -> Option<&BTreeMap<Vec<u8>, Vec<u8>>> {
        let numbered = self.engines.iter();
        let numbered = numbered.filter_map(|(name, of)| Some((number_of(name)?, &of.rows)));
        let newest = numbered.max_by_key(|(number, _)| *number);
        newest.map(|(_, rows)| rows)
    }

    fn lose_unsynced(&mut self, kept: usize) {
        self.live = self.synced.clone();
        for file in self.files.values_mut() {
            file.crash(kept);
        }
    }

    fn note(&mut self, what: &str, name: &str) {
        if let Some(watched) = &mut self.watched {
            watched.push(format!("{what} {name}").trim_end().to_owned());
        }
    }

    fn lose_unflushed(&mut self) {
        for of in self.engines.values_mut() {
            while let Some((key, old)) = of.undo.pop() {
                match old {
                    Some(value) => of.rows.insert(key, value),
                    None => of.rows.remove(&key),
                };
            }
        }
    }

    fn fails(&mut self, fault: Fault) -> bool {
        let waits = self.faults.iter().position(|waiting| *waiting == fault);
        let Some(at) = waits else { return false };
        *self.struck.entry(fault).or_default() += 1;
        self.faults.remove(at).is_some()
    }

    fn file(&mut self, name: &str) -> io::Result<&mut MemFile> {
        let file = self.live.get(name).ok_or(io::ErrorKind::NotFound)?;
        self.files
            .get_mut(file)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

// === impl MemFile ===

impl MemFile {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let old_len = self.bytes.len();
        self.grow(offset);
        let (over, behind) = bytes.split_at(bytes.len().min(self.bytes.len() - offset));
        let place = &mut self.bytes[offset..offset + over.len()];
        self.unsynced.push(Replaced {
            offset,
            len: bytes.len(),
            old: place.to_vec(),
            old_len,
        });
        place.copy_from_slice(over);
        self.bytes.extend_from_slice(behind);
    }

    /// Takes back what was not synced, but for the first `kept` bytes of it, in whole sectors.
    fn crash(&mut self, kept: usize) {
        let mut left = kept;
        let mut survive = Vec::new();
        for write in &self.unsynced {
            let end = write.offset + write.len;
            let reached = write.offset.saturating_add(left).min(end);
            let whole = if reached == end {
                end
            } else {
                reached / SECTOR * SECTOR
            };
            let whole = whole.max(write.offset);
            survive.push((
                write.offset,
                self.bytes
                    .get(write.offset..whole)
                    .unwrap_or_default()
                    .to_vec(),
            ));
            left = left.saturating_sub(write.len);
        }
        for write in self.unsynced.drain(..).rev() {
            self.bytes.truncate(write.old_len);
            // A later cut may have left less than there was.
            let at = write.offset.min(self.bytes.len());
            let len = write.old.len().min(self.bytes.len() - at);
            self.bytes[at..at + len].copy_from_slice(&write.old[..len]);
        }
        for (offset, bytes) in survive.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
            let end = offset + bytes.len();
            self.grow(end);
            self.bytes[offset..end].copy_from_slice(&bytes);
        }
    }

    fn grow(&mut self, len: usize) {
        self.bytes.resize(len.max(self.bytes.len()), 0);
    }

    fn truncate(&mut self, len: usize) {
        // Kept by every crash: nobody may rely on a cut to be lost.
        self.bytes.truncate(len);
        self.unsynced.clear();
    }
}

// === impl MemMedia ===

impl MemMedia {
    fn write(&self, name: &str, offset: Option<u64>, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.writing(self.generation)?;
        disk.note("write", name);
        if disk.fails(Fault::Write) {
            return Err(nix::errno::Errno::EIO.into());
        }
        let (full, short) = (disk.fails(Fault::NoSpace), disk.fails(Fault::ShortWrite));
        let file = disk.file(name)?;
        let offset = offset.map_or(Ok(file.bytes.len()), usize::try_from);
        let offset = offset.map_err(io::Error::other)?;
        if full {
            file.write(offset, &bytes[..bytes.len() / 2]);
            return Err(nix::errno::Errno::ENOSPC.into());
        }
        if short {
            file.write(offset, &bytes[..bytes.len().saturating_sub(1)]);
            return Err(nix::errno::Errno::EIO.into());
        }
        file.write(offset, bytes);
        Ok(())
    }
}

impl Media for MemMedia {
    fn list(&self) -> io::Result<Vec<String>> {
        let disk = self.disk.current(self.generation)?;
        Ok(disk.live.keys().cloned().collect())
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        let mut disk = self.disk.current(self.generation)?;
        Ok(disk.file(name)?.bytes.len() as u64)
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut disk = self.disk.current(self.generation)?;
        let bytes = &disk.file(name)?.bytes;
        let from = usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
        let len = buffer.len().min(bytes.len() - from);
        buffer[..len].copy_from_slice(&bytes[from..from + len]);
        Ok(len)
    }

    fn create(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.writing(self.generation)?;
        disk.files_made += 1;
        let file = disk.files_made;
        disk.files.insert(file, MemFile::default());
        disk.live.insert(name.to_owned(), file);
        Ok(())
    }

    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.write(name, None, bytes)
    }

    fn write_at(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write(name, Some(offset), bytes)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.writing(self.generation)?;
        disk.note("sync", name);
        if disk.fails(Fault::Sync) {
            return Err(nix::errno::Errno::EIO.into());
        }
        disk.file(name)?.unsynced.clear();
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut disk = self.disk.writing(self.generation)?;
        disk.note("sync names", "");
        disk.synced = disk.live.clone();
        let named: BTreeSet<u64> = disk.live.values().copied().collect();
        disk.files.retain(|file, _| named.contains(file));
        Ok(())
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        let mut disk = self.disk.writing(self.generation)?;
        let file = disk.file(name)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        file.truncate(len);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.writing(self.generation)?;
        let file = disk.live.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.live.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.writing(self.generation)?;
        let removed = disk.live.remove(name);
        removed
            .map(|_file| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.disk.current(self.generation)?.free_bytes)
    }

    fn export(&self, name: &str, to: &Path) -> io::Result<()> {
        let len = self.size(name)?;
        copy_out(self, name, len, len, to)
    }

    fn is_linked(&self, _name: &str, _path: &Path) -> bool {
        false
    }
}

impl fmt::Debug for MemMedia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.disk, f)
    }
}

// === impl MemShelf ===

impl Shelf for MemShelf {
    fn names(&self) -> io::Result<Vec<String>> {
        let disk = self.disk.current(self.generation)?;
        let names = disk.engines.keys();
        Ok(names
            .filter(|name| number_of(name).is_some())
            .cloned()
            .collect())
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Engine>, EngineOpenError> {
        let unusable = |why| EngineOpenError::Unusable(EngineError::new("open", why));
        let there = self.disk.current(self.generation).map_err(unusable)?;
        if !there.engines.contains_key(name) {
            drop(there);
            let mut disk = self.disk.writing(self.generation).map_err(unusable)?;
            disk.engines.insert(name.to_owned(), MemRows::default());
        }
        Ok(Arc::new(MemEngine {
            disk: self.disk.clone(),
            generation: self.generation,
            name: name.to_owned(),
        }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.writing(self.generation)?;
        disk.engines.remove(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn put_aside(&self, name: &str) -> io::Result<PathBuf> {
        let mut disk = self.disk.writing(self.generation)?;
        let rows = disk.engines.remove(name).ok_or(io::ErrorKind::NotFound)?;
        let aside = format!("{name}.broken");
        disk.engines.insert(aside.clone(), rows);
        Ok(aside.into())
    }
}

// === impl MemEngine ===

impl MemEngine {
    fn current(&self, what: &'static str) -> Result<MutexGuard<'_, Disk>, EngineError> {
        let disk = self.disk.current(self.generation);
        disk.map_err(|why| EngineError::new(what, why))
    }

    fn writing(
        &self,
        what: &'static str,
        fault: Fault,
    ) -> Result<MutexGuard<'_, Disk>, EngineError> {
        let disk = self.disk.writing(self.generation);
        let mut disk = disk.map_err(|why| EngineError::new(what, why))?;
        disk.note(
            if fault == Fault::Flush {
                "flush"
            } else {
                "apply"
            },
            "",
        );
        if disk.fails(fault) {
            return Err(EngineError::new(what, nix::errno::Errno::EIO));
        }
        Ok(disk)
    }

    fn of<'d>(&self, disk: &'d mut Disk) -> Result<&'d mut MemRows, EngineError> {
        let rows = disk.engines.get_mut(&self.name);
        rows.ok_or_else(|| EngineError::new("find its rows", "they were removed"))
    }
}

impl Engine for MemEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let mut disk = self.current("read a row")?;
        Ok(self.of(&mut disk)?.rows.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<RawRow>, EngineError> {
        let mut disk = self.current("scan rows")?;
        let rows = self
            .of(&mut disk)?
            .rows
            .range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Unbounded));
        Ok(rows
            .take_while(|(key, _)| to.is_none_or(|to| key.as_slice() < to))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn apply(&self, writes: &[Write], position: u64) -> Result<(), EngineError> {
        let mut disk = self.writing("apply writes", Fault::Apply)?;
        let of = self.of(&mut disk)?;
        let mark = (POSITION_KEY.to_vec(), Some(position.to_be_bytes().to_vec()));
        for (key, value) in writes.iter().chain([&mark]) {
            let old = match value {
                Some(value) => of.rows.insert(key.clone(), value.clone()),
                None => of.rows.remove(key),
            };
            of.undo.push((key.clone(), old));
        }
        Ok(())
    }

    fn position(&self) -> Result<Option<u64>, EngineError> {
        let value = self.get(POSITION_KEY)?;
        value.map(|value| position_from(&value)).transpose()
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut disk = self.writing("flush", Fault::Flush)?;
        self.of(&mut disk)?.undo.clear();
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        let Ok(mut disk) = self.current("measure itself") else {
            return 0;
        };
        let Ok(of) = self.of(&mut disk) else {
            return 0;
        };
        of.rows
            .iter()
            .map(|(key, value)| (key.len() + value.len()) as u64)
            .sum()
    }

    fn check(&self) -> Result<(), EngineError> {
        self.current("check itself").map(|_disk| ())
    }
}

impl fmt::Debug for MemEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.disk, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_takes_back_bytes_names_and_rows() {
        let disk = MemDisk::new();
        let (media, shelf) = disk.attach();
        let engine = shelf.open("sled").expect("opens");
        media.create("a").expect("made");
        media.append("a", b"kept").expect("written");
        media.sync("a").expect("synced");
        media.sync_names().expect("synced");
        media.append("a", &[b'l'; 600]).expect("written");
        media.write_at("a", 0, b"K").expect("written");
        media.create("b").expect("made");
        engine
            .apply(&[(vec![1], Some(vec![1]))], 1)
            .expect("applied");
        engine.flush().expect("flushed");
        engine.apply(&[(vec![1], None)], 2).expect("applied");
        disk.crash_torn(599);
        assert!(media.read("a").is_err(), "old handles fail");
        let (media, shelf) = disk.attach();
        let engine = shelf.open("sled").expect("opens");
        let sector = [b"kept".as_slice(), &[b'l'; 508]].concat();
        assert_eq!(media.read("a").expect("read"), sector, "whole sectors last");
        assert_eq!(media.list().expect("listed"), ["a"]);
        assert_eq!(engine.get(&[1]), Ok(Some(vec![1])));
        assert_eq!(engine.position(), Ok(Some(1)));
    }

    #[test]
    fn a_rename_without_a_sync_of_names_is_taken_back_whole() {
        let disk = MemDisk::new();
        let (media, _) = disk.attach();
        media.replace("a", b"old").expect("written");
        media.create("n").expect("made");
        media.append("n", b"new").expect("written");
        media.sync("n").expect("synced");
        media.rename("n", "a").expect("renamed");
        disk.crash();
        let (media, _) = disk.attach();
        assert_eq!(media.read("a").expect("read"), b"old");
    }

    #[test]
    fn a_kill_takes_back_unflushed_rows_only() {
        let disk = MemDisk::new();
        let (media, shelf) = disk.attach();
        let engine = shelf.open("sled").expect("opens");
        media.create("a").expect("made");
        media.append("a", b"written").expect("written");
        engine
            .apply(&[(vec![1], Some(vec![1]))], 1)
            .expect("applied");
        disk.stop(Stop::Kill { rows: true });
        let (_, shelf) = disk.attach();
        let engine = shelf.open("sled").expect("opens");
        assert_eq!(engine.get(&[1]), Ok(Some(vec![1])));
        disk.stop(Stop::Kill { rows: false });
        let (media, shelf) = disk.attach();
        let engine = shelf.open("sled").expect("opens");
        assert_eq!(media.read("a").expect("read"), b"written");
        assert_eq!(engine.get(&[1]), Ok(None));
        // The system's cache dies with the power.
        disk.crash();
        assert_eq!(disk.names(), Vec::<String>::new());
    }

    #[test]
    fn a_short_write_leaves_all_but_the_last_byte() {
        let disk = MemDisk::new();
        let (media, _) = disk.attach();
        media.create("a").expect("made");
        disk.fail_next(Fault::ShortWrite);
        assert!(media.append("a", b"four").is_err());
        assert_eq!(disk.read("a").expect("there"), b"fou");
        assert_eq!(disk.struck(Fault::ShortWrite), 1);
    }

    #[test]
    fn power_fails_at_the_operation_that_was_named() {
        let disk = MemDisk::new();
        let (media, _) = disk.attach();
        disk.cut_power_in(1, 0);
        media.create("a").expect("the first goes through");
        assert!(media.append("a", b"x").is_err());
        assert_eq!(disk.names(), Vec::<String>::new());
    }

    #[test]
    fn a_withheld_sync_holds_up_commits_and_a_crash_takes_them_back() {
        let disk = MemDisk::new();
        let rng = crate::test_rng::CountingRng::new(1);
        let (store, _) = crate::Store::in_memory(
            disk.clone(),
            crate::Keys::from_bytes([1; 32]),
            Arc::new(rng),
        )
        .expect("opened");
        let mark = |at| {
            let mut batch = crate::Batch::new();
            batch.put(&crate::PolicyMark {
                at: inboxgrove_model::PolicyTime::from_millis(at),
            });
            store.commit(batch)
        };
        let stored = || {
            store
                .get::<crate::PolicyMark>(&())
                .expect("read")
                .map(|mark| mark.at.as_millis())
        };
        disk.hold_syncs();
        let (mut first, mut second) = (poller(mark(1)), poller(mark(2)));
        assert!(
            first().is_none() && second().is_none(),
            "neither is answered"
        );
        assert_eq!((disk.held_syncs(), stored()), (2, None));
        disk.release_syncs();
        assert!(
            first().is_some_and(|done| done.is_ok()) && second().is_some_and(|done| done.is_ok())
        );
        assert_eq!((disk.held_syncs(), stored()), (0, Some(2)));
        disk.hold_syncs();
        let mut third = poller(mark(3));
        disk.crash();
        assert!(
            third().is_some_and(|done| done.is_err()),
            "it was never done"
        );
    }

    /// Polls a commit once at every call.
    fn poller<T>(
        mut future: inboxgrove_model::ports::BoxFuture<'static, T>,
    ) -> impl FnMut() -> Option<T> {
        move || {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            match future.as_mut().poll(&mut context) {
                std::task::Poll::Ready(done) => Some(done),
                std::task::Poll::Pending => None,
            }
        }
    }
}
