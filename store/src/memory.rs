//! A disk in memory that can lose power, run full, fail and rot: for the virtual world and for laws.
//!
//! It keeps apart what has been synced and what has not, for bytes, for names and for rows; a crash takes
//! back what has not. Every opening and every crash makes the handles of earlier ones useless.

mod engine;
mod file;
mod media;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use self::{engine::MemShelf, file::MemFile, media::MemMedia};
use crate::{
    backup::is_row,
    committer::{Committer, Request},
    engine::Shelf,
    generations::number_of,
    media::Media,
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
struct MemRows {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What applying has replaced since the last flush, oldest first.
    undo: Vec<(Vec<u8>, Option<Vec<u8>>)>,
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

#[cfg(test)]
mod tests;
