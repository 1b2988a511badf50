//! The engine on sled 0.34.7, with the discipline that it needs to survive a power cut (DESIGN §4.1).

use std::{
    any::Any,
    fs::{self, File},
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    Alarm, Engine, EngineError, EngineOpenError, POSITION_KEY, RawRow, Shelf, Write,
    flusher::{FLUSH_FROM_BYTES, Flusher},
    position_from,
};
use crate::{generations::number_of, media::sync_parent, shim, table::show_key};

/// Largest row, key and value together. sled moves bigger pages to files that it never syncs.
pub(crate) const ROW_BYTES_MAX: usize = 4096;

/// What a removal is taken for: sled writes the page anew that the row was in.
const REMOVAL_BYTES: usize = 512;
/// What sled writes around a row, at least.
const AROUND_BYTES: usize = 32;

/// Pinned: sled's own file of settings is lost in every power cut.
const SEGMENT_BYTES: usize = 512 * 1024;

/// Where the probe of the sync shim is written.
pub(crate) const PROBE_KEY: &[u8] = b"\0probe";

/// Rows in a sled directory.
#[derive(Debug)]
pub(crate) struct SledEngine {
    // Ends before the rows are closed.
    flusher: Flusher,
    rows: Arc<Rows>,
    dir: PathBuf,
}

/// sled, and whether it may still be written to.
#[derive(Debug)]
struct Rows {
    /// Taken by the drop only.
    db: Option<sled::Db>,
    /// A write or a sync has failed.
    spoilt: AtomicBool,
    /// Held by the writer while it applies a piece of a group, and by readers for each row: nobody sees a row ahead of the
    /// position, and nobody half of a group that is no larger than a piece.
    ///
    /// sled's own batches would do that, and end two buffers each, which become two syncs: 16 writers were slowed down by
    /// the queue of them, and it was long enough for the deadlock that the flusher's bound keeps away.
    whole: RwLock<()>,
}

/// sled directories beside the log.
#[derive(Debug)]
pub(crate) struct SledShelf {
    dir: PathBuf,
    cache_bytes: u64,
}

// === impl SledEngine ===

impl SledEngine {
    /// Opens or makes the directory. Errors and panics of sled come back as errors; the directory is then
    /// as sled left it, to be moved aside.
    pub(crate) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, EngineOpenError> {
        Self::open_proving(dir, cache_bytes, shim::calls)
    }

    /// As [`SledEngine::open`]; `calls` tells how often our own `sync_file_range` was called.
    fn open_proving(
        dir: &Path,
        cache_bytes: u64,
        calls: impl Fn() -> u64,
    ) -> Result<Self, EngineOpenError> {
        let failed = |why: io::Error| {
            EngineOpenError::Unusable(EngineError::new("prepare its directory", why))
        };
        remove_unfinished_snapshots(dir).map_err(failed)?;
        let db = open_on_own_thread(dir, cache_bytes)?;
        let rows = Arc::new(Rows {
            db: Some(db),
            spoilt: AtomicBool::new(false),
            whole: RwLock::default(),
        });
        let flusher = Flusher::start({
            let rows = Arc::clone(&rows);
            move || rows.writes("flush", |db| db.flush().map(drop))
        });
        let engine = Self {
            flusher: flusher.map_err(failed)?,
            rows,
            dir: dir.to_owned(),
        };
        let proven = engine.prove_sync(calls);
        proven.map_err(EngineOpenError::Unusable)?;
        sync_directories(dir).map_err(|why| {
            engine.rows.spoilt.store(true, Ordering::Release);
            failed(why)
        })?;
        engine.check().map_err(EngineOpenError::Broken)?;
        Ok(engine)
    }

    fn db(&self) -> &sled::Db {
        self.rows.db()
    }

    /// Fails unless a flush goes through our own `sync_file_range`, which counts its `calls`.
    fn prove_sync(&self, calls: impl Fn() -> u64) -> Result<(), EngineError> {
        const WHAT: &str = "write its probe";
        // Other bytes than last time: sled takes the same ones for no write at all, and has nothing to flush.
        let last = guarded(WHAT, || self.db().get(PROBE_KEY))?;
        let last = last.and_then(|bytes| bytes.as_ref().try_into().ok());
        let fresh = last.map_or(0, u64::from_be_bytes).wrapping_add(1);
        let before = calls();
        self.rows
            .writes(WHAT, |db| db.insert(PROBE_KEY, &fresh.to_be_bytes()))?;
        self.flush()?;
        if calls() == before {
            return Err(EngineError::new(
                "prove that its flush reaches the disk",
                "sync_file_range is not the store's own in this program",
            ));
        }
        Ok(())
    }
}

// === impl Rows ===

impl Rows {
    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("only the drop takes it")
    }

    fn get(&self, key: &[u8]) -> sled::Result<Option<sled::IVec>> {
        self.undisturbed(|| self.db().get(key))
    }

    /// Reads something while no group is being applied.
    fn undisturbed<T>(&self, read: impl FnOnce() -> T) -> T {
        let _whole = self.whole.read().unwrap_or_else(PoisonError::into_inner);
        read()
    }

    /// Writes rows, and the position after them, while nobody reads.
    fn put(&self, writes: &[Write], position: Option<u64>) -> sled::Result<()> {
        let _whole = self.whole.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in writes {
            match value {
                Some(value) => self.db().insert(key, value.as_slice())?,
                None => self.db().remove(key)?,
            };
        }
        if let Some(position) = position {
            self.db().insert(POSITION_KEY, &position.to_be_bytes())?;
        }
        Ok(())
    }

    /// A write or a sync: after one that failed there is no other.
    fn writes<T>(
        &self,
        what: &'static str,
        work: impl FnOnce(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, EngineError> {
        if self.spoilt.load(Ordering::Acquire) {
            return Err(EngineError::new(
                what,
                "a write or a sync before has failed",
            ));
        }
        let done = guarded(what, || work(self.db()));
        if done.is_err() {
            self.spoilt.store(true, Ordering::Release);
        }
        done
    }
}

impl Drop for Rows {
    /// sled syncs once more when it is dropped, and panics when that fails. After a failed sync another one would
    /// lie (the kernel may have dropped the pages), so then sled is left as it is until the process ends.
    fn drop(&mut self) {
        let db = self.db.take();
        if *self.spoilt.get_mut() {
            std::mem::forget(db);
        } else if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::error!("the rows could not be closed; the next start takes them from the log");
        }
    }
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let value = guarded("read a row", || self.rows.get(key))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<RawRow>, EngineError> {
        if to.is_some_and(|to| from >= to) {
            return Ok(Vec::new());
        }
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        guarded("scan rows", || {
            let mut rows = self.db().range::<&[u8], _>((Bound::Included(from), end));
            let next = || {
                let row = self.rows.undisturbed(|| rows.next())?;
                Some(row.map(|(key, value)| (key.to_vec(), value.to_vec())))
            };
            std::iter::from_fn(next).take(limit).collect()
        })
    }

    /// A group with more than [`FLUSH_FROM_BYTES`] goes in pieces. The position is written last: sled's log is read from
    /// its beginning to the first thing that is not whole, so that a crash leaves the position with all of its group or
    /// none of it, and what it leaves of the group is written again by the replay.
    fn apply(&self, writes: &[Write], position: u64) -> Result<(), EngineError> {
        if let Some((key, _)) = writes.iter().find(|write| len_of(write) > ROW_BYTES_MAX) {
            let why = format!("row {} has over {ROW_BYTES_MAX} bytes", show_key(key));
            return Err(EngineError::new("apply a write", why));
        }
        let mut pieces = pieces(writes).peekable();
        while let Some(piece) = pieces.next() {
            let bytes = piece.iter().map(weight_of).sum();
            self.flusher.make_room(bytes)?;
            let position = pieces.peek().is_none().then_some(position);
            self.rows
                .writes("apply writes", |_| self.rows.put(piece, position))?;
            self.flusher.wrote(bytes);
        }
        Ok(())
    }

    fn position(&self) -> Result<Option<u64>, EngineError> {
        let value = guarded("read the log position", || self.rows.get(POSITION_KEY))?;
        value.map(|value| position_from(&value)).transpose()
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.flusher.flush()
    }

    fn watch(&self, alarm: &Alarm) {
        self.flusher.watch(alarm);
    }

    fn disk_bytes(&self) -> u64 {
        self.db().size_on_disk().unwrap_or(0)
    }

    fn check(&self) -> Result<(), EngineError> {
        let blobs = self.dir.join("blobs");
        match fs::read_dir(&blobs).map(|mut entries| entries.next().is_none()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(EngineError::new(
                "keep its rows small",
                format!("{} is not empty", blobs.display()),
            )),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(why) => Err(EngineError::new("look for blobs", why)),
        }
    }
}

// === impl SledShelf ===

impl SledShelf {
    pub(crate) fn new(dir: &Path, cache_bytes: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            cache_bytes,
        }
    }
}

impl Shelf for SledShelf {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
                && number_of(&name).is_some()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Engine>, EngineOpenError> {
        let engine = SledEngine::open(&self.dir.join(name), self.cache_bytes)?;
        Ok(Arc::new(engine))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let dir = self.dir.join(name);
        fs::remove_dir_all(&dir)?;
        sync_parent(&dir)
    }

    fn put_aside(&self, name: &str) -> io::Result<PathBuf> {
        let dir = self.dir.join(name);
        for n in 1_u32.. {
            let aside = dir.with_extension(format!("broken-{n}"));
            if !aside.exists() {
                fs::rename(&dir, &aside)?;
                sync_parent(&dir)?;
                return Ok(aside);
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// sled panics where it meets what it wrote badly; its panics are errors to us.
fn guarded<T>(
    what: &'static str,
    work: impl FnOnce() -> sled::Result<T>,
) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(why)) => Err(EngineError::new(what, why)),
        Err(panic) => Err(EngineError::new(what, panic_text(panic.as_ref()))),
    }
}

fn len_of((key, value): &Write) -> usize {
    key.len() + value.as_ref().map_or(0, Vec::len)
}

/// Bytes of a write as the flusher counts them.
fn weight_of((key, value): &Write) -> u64 {
    let value = value.as_ref().map_or(REMOVAL_BYTES, Vec::len);
    (key.len() + value + AROUND_BYTES) as u64
}

/// Writes in pieces of [`FLUSH_FROM_BYTES`]; at least one, which may be empty.
fn pieces(writes: &[Write]) -> impl Iterator<Item = &[Write]> {
    let mut left = Some(writes);
    std::iter::from_fn(move || {
        let writes = left.take()?;
        let mut bytes = 0;
        let fits = writes.iter().take_while(|write| {
            bytes += weight_of(write);
            bytes <= FLUSH_FROM_BYTES
        });
        // A row is far below the limit: there is progress.
        let (piece, rest) = writes.split_at(fits.count());
        left = (!rest.is_empty()).then_some(rest);
        Some(piece)
    })
}

fn open_on_own_thread(dir: &Path, cache_bytes: u64) -> Result<sled::Db, EngineOpenError> {
    const WHAT: &str = "open";
    let unusable = |why: io::Error| EngineOpenError::Unusable(EngineError::new(WHAT, why));
    let broken = |panic: Box<dyn Any + Send>| {
        EngineOpenError::Broken(EngineError::new(WHAT, panic_text(panic.as_ref())))
    };
    let config = sled::Config::new()
        .path(dir)
        .mode(sled::Mode::LowSpace)
        .cache_capacity(cache_bytes)
        .segment_size(SEGMENT_BYTES)
        .use_compression(false)
        // Its flusher would only log a failed sync and go on. The committer flushes at checkpoints.
        .flush_every_ms(None);
    let thread = thread::Builder::new()
        .name("store-open".to_owned())
        .spawn(move || open_when_unlocked(&config))
        .map_err(unusable)?;
    match thread.join() {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(why))) if why.raw_os_error().is_some() || is_locked(&why) => {
            Err(unusable(why))
        }
        Ok(Err(why)) => Err(EngineOpenError::Broken(EngineError::new(WHAT, why))),
        Err(panic) => Err(broken(panic)),
    }
}

/// Opens, waiting a little for the lock: the store's own lock keeps other processes out, so whoever holds
/// sled's is a thread of an earlier opening in this process that is about to end.
fn open_when_unlocked(config: &sled::Config) -> sled::Result<sled::Db> {
    const TRIES: u32 = 100;
    const WAIT: Duration = Duration::from_millis(20);
    for _ in 1..TRIES {
        match config.open() {
            Err(sled::Error::Io(why)) if is_locked(&why) => thread::park_timeout(WAIT),
            opened => return opened,
        }
    }
    config.open()
}

/// sled says so in words only. Not to be taken for damage, or rows in use would be moved aside.
fn is_locked(why: &io::Error) -> bool {
    why.to_string().contains("could not acquire lock")
}

/// A snapshot that a crash left half-written would be loaded by sled as if it were whole.
fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(why),
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating")) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// sled never syncs its directories.
fn sync_directories(dir: &Path) -> io::Result<()> {
    let blobs = dir.join("blobs");
    if blobs.is_dir() {
        File::open(blobs)?.sync_all()?;
    }
    File::open(dir)?.sync_all()?;
    sync_parent(dir)
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.map_or_else(
        || "it panicked".to_owned(),
        |text| format!("it panicked: {text}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::after_prefix;

    const CACHE: u64 = 16 << 20;

    #[test]
    fn writes_and_their_position_are_there_after_reopening() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sled");
        let engine = SledEngine::open(&path, CACHE).expect("opens");
        assert_eq!(engine.position(), Ok(None));
        let writes = [(vec![1, 1], Some(vec![7])), (vec![1, 2], Some(vec![8]))];
        engine.apply(&writes, 5).expect("applied");
        engine.apply(&[(vec![1, 1], None)], 6).expect("applied");
        engine.flush().expect("flushed");
        drop(engine);
        let engine = SledEngine::open(&path, CACHE).expect("opens again");
        assert_eq!(engine.position(), Ok(Some(6)));
        let rows = engine.scan(&[1], after_prefix(&[1]).as_deref(), 10);
        assert_eq!(rows, Ok(vec![(vec![1, 2], vec![8])]));
    }

    #[test]
    fn a_row_above_four_kibibytes_is_a_hard_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = SledEngine::open(&dir.path().join("sled"), CACHE).expect("opens");
        let why = engine.apply(&[(vec![1], Some(vec![0; 4096]))], 1);
        assert!(why.expect_err("too big").to_string().contains("4096"));
        assert_eq!(engine.position(), Ok(None));
    }

    #[test]
    fn rows_in_use_are_not_taken_for_damaged_ones() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = SledEngine::open(dir.path(), CACHE).expect("opens");
        let why = SledEngine::open(dir.path(), CACHE);
        assert!(matches!(why, Err(EngineOpenError::Unusable(_))), "{why:?}");
        drop(engine);
    }

    #[test]
    fn a_torn_snapshot_is_removed_before_opening() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sled");
        drop(SledEngine::open(&path, CACHE).expect("opens"));
        let torn = path.join("snap.00000000000000FF.generating");
        fs::write(&torn, b"torn").expect("written");
        SledEngine::open(&path, CACHE).expect("opens again");
        assert!(!torn.exists());
    }

    #[test]
    fn a_directory_that_sled_cannot_read_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sled");
        fs::create_dir(&path).expect("made");
        fs::write(path.join("db"), vec![0xA5; 3 << 20]).expect("written");
        fs::write(path.join("conf"), b"no settings").expect("written");
        assert!(SledEngine::open(&path, CACHE).is_err());
    }

    #[test]
    fn flushes_go_through_our_own_sync() {
        let dir = tempfile::tempdir().expect("a directory");
        let before = shim::calls();
        SledEngine::open(&dir.path().join("sled"), CACHE).expect("opens");
        assert!(shim::calls() > before);
    }

    #[test]
    fn a_group_is_no_sync_of_its_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = SledEngine::open(dir.path(), CACHE).expect("opens");
        let before = shim::calls();
        for n in 0..100_u64 {
            let write = (n.to_be_bytes().to_vec(), Some(vec![7; 300]));
            engine.apply(&[write], n).expect("applied");
        }
        assert_eq!(shim::calls(), before, "of less than a flush");
        engine.flush().expect("flushed");
        let syncs = shim::calls() - before;
        assert!((1..10).contains(&syncs), "{syncs}");
    }

    #[test]
    fn a_large_group_goes_in_pieces_and_its_position_with_the_last() {
        let row = |n: u16, len| (n.to_be_bytes().to_vec(), Some(vec![1; len]));
        assert_eq!(pieces(&[]).count(), 1, "a position alone");
        let small: Vec<Write> = (0..10).map(|n| row(n, 300)).collect();
        assert_eq!(pieces(&small).count(), 1);
        let large: Vec<Write> = (0..1000).map(|n| row(n, 3000)).collect();
        let lens: Vec<u64> = pieces(&large)
            .map(|piece| piece.iter().map(weight_of).sum())
            .collect();
        assert!(lens.iter().all(|bytes| *bytes <= FLUSH_FROM_BYTES));
        assert_eq!(pieces(&large).map(<[Write]>::len).sum::<usize>(), 1000);
        let removals: Vec<Write> = (0..2000_u16)
            .map(|n| (n.to_be_bytes().to_vec(), None))
            .collect();
        assert!(pieces(&removals).count() > 8, "they are work, too");

        let dir = tempfile::tempdir().expect("a directory");
        let engine = SledEngine::open(dir.path(), CACHE).expect("opens");
        let before = shim::calls();
        engine.apply(&large, 7).expect("applied");
        // Two pieces fit between two flushes.
        let least = (lens.len() as u64 - 2) / 2;
        let syncs = shim::calls() - before;
        assert!(syncs >= least, "{syncs} of {least}");
        assert_eq!(engine.position().expect("read"), Some(7));
        assert_eq!(engine.scan(&[], None, 2000).expect("read").len(), 1002);
    }

    #[test]
    fn rows_are_refused_where_their_sync_is_not_our_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("sled");
        for _ in 0..2 {
            let why = match SledEngine::open_proving(&dir, CACHE, || 7) {
                Err(EngineOpenError::Unusable(why)) => why.to_string(),
                other => panic!("nobody counts: {other:?}"),
            };
            assert!(why.contains("sync_file_range"), "{why}");
            SledEngine::open(&dir, CACHE).expect("opens");
        }
    }
}
