//! Backups: the position, a scan of the rows while commits go on, the log to the scan's end, the data keys.
//!
//! The scan is fuzzy: a row may be newer than the position. Replaying the log from the position on makes
//! it right, since every write is absolute. A directory is a backup when it has a manifest, which is
//! written last. `rows`: `magic 8 | (key length u16, value length u16, key, value)* | u16::MAX | count u64 | crc32c u32`.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write as _},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use serde::{Deserialize, Serialize};

use crate::{
    EngineError, OpenError, Store, checked, data_keys,
    engine::{Engine, RawRow, Write},
    log::{Log, LogError},
    media::{DirMedia, Media, copy_out, private, sync_parent},
    shared::Shared,
};

/// The file that makes a directory a backup.
const MANIFEST: &str = "manifest.json";
const ROWS: &str = "rows";
const ROWS_MAGIC: [u8; 8] = *b"IGROWS1\n";
const ROWS_END: u16 = u16::MAX;
const SCAN_ROWS: usize = 1000;
/// Where a store remembers its backups.
const LIST: &str = "backups.json";
/// How many it remembers.
const LIST_LEN: usize = 16;

/// What a backup has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupReport {
    /// Where it is.
    pub path: PathBuf,
    /// The position of the rows when their scan began.
    pub start: u64,
    /// The last frame of its log.
    pub end: u64,
    /// How many rows it has.
    pub rows: u64,
    /// How many bytes of log it has.
    pub log_bytes: u64,
}

/// Why there is no backup, or why a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The directory cannot be written or read.
    #[error("backup {}: {source}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// It is not whole.
    #[error("backup {} cannot be used: {why}", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Its log is not whole.
    #[error("backup {}: {source}", .path.display())]
    Log {
        /// Which.
        path: PathBuf,
        /// How.
        source: LogError,
    },
    /// The rows cannot be read or written.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store has failed.
    #[error("the committer has ended")]
    Ended,
    /// The restored store does not open.
    #[error("the restored store does not open: {0}")]
    Open(#[from] Box<OpenError>),
}

/// What a backup says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u8,
    pub(crate) format: u8,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) rows: u64,
    /// Bytes of their keys and values. Backups of the first daemons do not say.
    #[serde(default)]
    bytes: u64,
    segments: Vec<(String, u64)>,
}

/// The backups that a store remembers, all verified when they were made; the oldest first. A rebuild looks
/// for its source here, and compaction drops what the second-newest one has.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct BackupList {
    entries: Vec<BackupEntry>,
}

/// A backup that a store remembers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BackupEntry {
    pub(crate) path: PathBuf,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Bytes of its rows; 0 where a backup does not say.
    #[serde(default)]
    pub(crate) bytes: u64,
    /// A later verification found it damaged: nothing relies on it any more.
    #[serde(default)]
    pub(crate) damaged: bool,
}

/// Where a backup is being made or read.
struct Place<'a>(&'a Path);

// === impl Store ===

impl Store {
    /// Takes a backup into a directory, which must not be there yet or be empty, and verifies it. Commits
    /// go on meanwhile. Blocks for as long as it takes.
    pub fn backup(&self, to: &Path) -> Result<BackupReport, BackupError> {
        let shared = &self.inner.shared;
        let _alone = shared.maintain();
        let place = Place(to);
        place.make()?;
        let start = shared.engine.position()?.unwrap_or(0);
        let (rows, bytes) = place.write_rows(shared)?;
        shared.live_bytes.store(bytes, Ordering::Relaxed);
        // Everything that the scan can have seen is in the log by now.
        let at_end = self.inner.queue.alone(|committer| {
            let log = &committer.shared.log;
            (log.next_seq() - 1, log.segments())
        });
        let (end, segments) = at_end.ok_or(BackupError::Ended)?;
        let mut copied = Vec::new();
        for segment in segments {
            let out = to.join(&segment.name);
            let exported = if segment.sealed {
                shared.media.export(&segment.name, &out)
            } else {
                let (bytes, padded) = (segment.bytes, segment.file_bytes);
                copy_out(shared.media.as_ref(), &segment.name, bytes, padded, &out)
            };
            exported.map_err(place.failed())?;
            copied.push((segment.name, segment.file_bytes));
        }
        place.copy_keys(shared.media.as_ref())?;
        let manifest = Manifest {
            version: 1,
            format: shared.format(),
            start,
            end,
            rows,
            bytes,
            segments: copied,
        };
        place.finish(&manifest)?;
        verify(to)?;
        BackupList::add(shared, to, &manifest).map_err(place.failed())?;
        Ok(BackupReport {
            path: to.to_owned(),
            start,
            end,
            rows,
            log_bytes: manifest.segments.iter().map(|(_, bytes)| bytes).sum(),
        })
    }
}

// === impl BackupList ===

impl BackupList {
    /// The list of a store. One that cannot be read is empty: it is only a hint where to look.
    pub(crate) fn read(media: &dyn Media) -> Self {
        Self::look(media).unwrap_or_else(|why| {
            tracing::warn!(%why, "the list of backups cannot be read");
            Self::default()
        })
    }

    /// As [`read`](Self::read); says what is wrong with it.
    pub(crate) fn look(media: &dyn Media) -> Result<Self, String> {
        match media.read(LIST) {
            Ok(bytes) => checked::decode(&bytes).map_err(|why| format!("{LIST}: {why}")),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(why) => Err(format!("{LIST}: {why}")),
        }
    }

    /// Those that are still there and not known to be damaged, the newest first.
    pub(crate) fn newest_first(&self) -> Vec<BackupEntry> {
        let there = self.entries.iter().rev();
        there
            .filter(|entry| !entry.damaged && entry.path.join(MANIFEST).is_file())
            .cloned()
            .collect()
    }

    /// Bytes of the rows, as the newest one says; 0 when none does.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.entries.last().map_or(0, |newest| newest.bytes)
    }

    /// From now on nothing relies on a backup.
    pub(crate) fn mark_damaged(media: &dyn Media, path: &Path) -> io::Result<()> {
        let mut list = Self::read(media);
        for entry in &mut list.entries {
            entry.damaged |= entry.path == path;
        }
        list.write(media)
    }

    fn write(&self, media: &dyn Media) -> io::Result<()> {
        media.replace(LIST, &checked::encode(self)?)
    }

    fn add(shared: &Shared, path: &Path, manifest: &Manifest) -> io::Result<()> {
        let mut list = Self::read(shared.media.as_ref());
        list.entries.retain(|entry| entry.path != path);
        list.entries.push(BackupEntry {
            path: fs::canonicalize(path)?,
            start: manifest.start,
            end: manifest.end,
            bytes: manifest.bytes,
            damaged: false,
        });
        let surplus = list.entries.len().saturating_sub(LIST_LEN);
        list.entries.drain(..surplus);
        list.write(shared.media.as_ref())
    }
}

// === impl Place ===

impl Place<'_> {
    fn failed(&self) -> impl Fn(io::Error) -> BackupError + use<> {
        let path = self.0.to_owned();
        move |source| BackupError::Io {
            path: path.clone(),
            source,
        }
    }

    fn damaged(&self, why: impl Into<String>) -> BackupError {
        BackupError::Damaged {
            path: self.0.to_owned(),
            why: why.into(),
        }
    }

    fn make(&self) -> Result<(), BackupError> {
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(self.0);
        made.map_err(self.failed())?;
        let mut entries = fs::read_dir(self.0).map_err(self.failed())?;
        if entries.next().is_some() {
            return Err(self.failed()(io::ErrorKind::DirectoryNotEmpty.into()));
        }
        Ok(())
    }

    /// Scans all rows into the file; how many there were, and their bytes.
    fn write_rows(&self, shared: &Shared) -> Result<(u64, u64), BackupError> {
        let file = private().create_new(true).open(self.0.join(ROWS));
        let mut out = RowsWriter::new(file.map_err(self.failed())?);
        out.put(&ROWS_MAGIC).map_err(self.failed())?;
        let (mut next, mut bytes) = (Vec::new(), 0);
        let mut pace = shared.pace();
        loop {
            let rows = shared.engine.scan(&next, None, SCAN_ROWS)?;
            let Some((last, _)) = rows.last() else { break };
            next = [last.as_slice(), &[0]].concat();
            for (key, value) in rows.iter().filter(|(key, _)| is_row(key)) {
                out.row(key, value).map_err(self.failed())?;
                bytes += (key.len() + value.len()) as u64;
            }
            pace.rest();
        }
        let rows = out.finish().map_err(self.failed())?;
        Ok((rows, bytes))
    }

    fn copy_keys(&self, media: &dyn Media) -> Result<(), BackupError> {
        let bytes = media.read(data_keys::FILE_NAME).map_err(self.failed())?;
        self.write_file(data_keys::FILE_NAME, &bytes)
    }

    fn finish(&self, manifest: &Manifest) -> Result<(), BackupError> {
        let sync = || File::open(self.0)?.sync_all();
        sync().map_err(self.failed())?;
        let text = checked::encode(manifest).map_err(self.failed())?;
        self.write_file(MANIFEST, &text)?;
        sync()
            .and_then(|()| sync_parent(self.0))
            .map_err(self.failed())
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), BackupError> {
        let write = || {
            let mut file = private().create_new(true).open(self.0.join(name))?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(self.failed())
    }

    fn manifest(&self) -> Result<Manifest, BackupError> {
        let text = fs::read(self.0.join(MANIFEST)).map_err(self.failed())?;
        let manifest: Manifest =
            checked::decode(&text).map_err(|why| self.damaged(format!("its manifest: {why}")))?;
        // Its format is no matter here: the log since may have been taken back to an older one.
        if manifest.version != 1 {
            return Err(self.damaged("a newer daemon made it"));
        }
        Ok(manifest)
    }

    /// Reads all rows, in pieces; how many there were. Fails at the end when the checksum does not match.
    fn read_rows(
        &self,
        mut visit: impl FnMut(Vec<RawRow>) -> Result<(), BackupError>,
    ) -> Result<u64, BackupError> {
        let file = File::open(self.0.join(ROWS)).map_err(self.failed())?;
        let mut rows = RowsReader::new(file);
        let magic: [u8; 8] = rows.array().map_err(self.failed())?;
        if magic != ROWS_MAGIC {
            return Err(self.damaged("its rows are of an unknown version"));
        }
        let mut piece = Vec::new();
        while let Some(row) = rows.row().map_err(self.failed())? {
            piece.push(row);
            if piece.len() >= SCAN_ROWS {
                visit(std::mem::take(&mut piece))?;
            }
        }
        let crc = rows.crc;
        let expected: [u8; 4] = rows.array().map_err(self.failed())?;
        if crc != u32::from_le_bytes(expected) {
            return Err(self.damaged("the checksum of its rows does not match"));
        }
        visit(piece)?;
        Ok(rows.count)
    }

    /// Its log, to be read only.
    fn log(&self) -> Result<Log, BackupError> {
        let media: Arc<dyn Media> = Arc::new(DirMedia::look_at(self.0));
        let failed = |source| BackupError::Log {
            path: self.0.to_owned(),
            source,
        };
        // No frame of a backup is torn: all of them were acknowledged.
        let (log, _) = Log::open(media, u64::MAX, u64::MAX).map_err(failed)?;
        Ok(log)
    }
}

/// Reads a whole backup and checks it.
pub(crate) fn verify(path: &Path) -> Result<Manifest, BackupError> {
    verify_unless(path, |_segment| false)
}

/// As [`verify`], but believes those segments of its log that `is_known` says were checked already.
pub(crate) fn verify_unless(
    path: &Path,
    is_known: impl Fn(&str) -> bool,
) -> Result<Manifest, BackupError> {
    let place = Place(path);
    let manifest = place.manifest()?;
    if place.read_rows(|_| Ok(()))? != manifest.rows {
        return Err(place.damaged("it has not as many rows as it says"));
    }
    for (name, bytes) in &manifest.segments {
        let found = fs::metadata(path.join(name)).map_err(place.failed())?.len();
        if found != *bytes {
            return Err(place.damaged(format!("{name} has {found} bytes, expected {bytes}")));
        }
    }
    let keys = fs::read(path.join(data_keys::FILE_NAME)).map_err(place.failed())?;
    data_keys::check(&keys).map_err(|why| place.damaged(why.to_string()))?;
    let failed = |source| BackupError::Log {
        path: path.to_owned(),
        source,
    };
    let log = place.log()?;
    for segment in log.segments() {
        if !is_known(&segment.name) {
            log.check(segment.first).map_err(failed)?;
        }
    }
    if log.next_seq() != manifest.end + 1 || log.rows_from() > manifest.start + 1 {
        return Err(place.damaged("its log does not go on from its rows to its end"));
    }
    Ok(manifest)
}

/// The rows of a backup that was verified, one after the other, in the order of their keys.
pub(crate) struct RowsOf {
    path: PathBuf,
    rows: RowsReader,
}

impl RowsOf {
    pub(crate) fn open(path: &Path) -> Result<Self, BackupError> {
        let failed = Place(path).failed();
        let mut rows = RowsReader::new(File::open(path.join(ROWS)).map_err(&failed)?);
        let _magic: [u8; 8] = rows.array().map_err(&failed)?;
        Ok(Self {
            path: path.to_owned(),
            rows,
        })
    }

    /// The next row; `None` at the end, and again after it.
    pub(crate) fn next(&mut self) -> Result<Option<RawRow>, BackupError> {
        if self.rows.ended {
            return Ok(None);
        }
        self.rows.row().map_err(Place(&self.path).failed())
    }
}

/// Fills an engine with the rows of a backup that was verified, and sets its position. The position is set
/// last: without one the engine is known to be incomplete. `rest` is called between pieces.
pub(crate) fn load_rows_of(
    path: &Path,
    manifest: &Manifest,
    engine: &dyn Engine,
    mut rest: impl FnMut(),
) -> Result<(), BackupError> {
    Place(path).read_rows(|rows| {
        let writes = rows.into_iter().map(|(key, value)| (key, Some(value)));
        engine.apply(&writes.collect::<Vec<Write>>(), 0)?;
        rest();
        Ok(())
    })?;
    engine.apply(&[], manifest.start)?;
    engine.flush()?;
    Ok(())
}

/// The files of a backup that a restored store starts with.
pub(crate) fn files_of(path: &Path) -> Result<Vec<String>, BackupError> {
    let manifest = Place(path).manifest()?;
    let mut names: Vec<String> = manifest
        .segments
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    names.push(data_keys::FILE_NAME.to_owned());
    Ok(names)
}

/// Whether a key is a row's, and not the engine's own.
pub(crate) fn is_row(key: &[u8]) -> bool {
    key != crate::engine::POSITION_KEY && key != crate::engine::sled::PROBE_KEY
}

struct RowsWriter {
    out: BufWriter<File>,
    crc: u32,
    count: u64,
}

impl RowsWriter {
    fn new(file: File) -> Self {
        Self {
            out: BufWriter::with_capacity(1 << 18, file),
            crc: 0,
            count: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.out.write_all(bytes)
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        for part in [key, value] {
            let len = u16::try_from(part.len()).map_err(io::Error::other)?;
            self.put(&len.to_le_bytes())?;
        }
        self.count += 1;
        self.put(key)?;
        self.put(value)
    }

    fn finish(mut self) -> io::Result<u64> {
        self.put(&ROWS_END.to_le_bytes())?;
        self.put(&self.count.to_le_bytes())?;
        let crc = self.crc;
        self.put(&crc.to_le_bytes())?;
        let file = self
            .out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(self.count)
    }
}

struct RowsReader {
    from: BufReader<File>,
    crc: u32,
    count: u64,
    ended: bool,
}

impl RowsReader {
    fn new(file: File) -> Self {
        Self {
            from: BufReader::with_capacity(1 << 18, file),
            crc: 0,
            count: 0,
            ended: false,
        }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes)
    }

    fn bytes(&mut self, len: u16) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::from(len)];
        self.from.read_exact(&mut bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes)
    }

    /// The next row; `None` at the end, whose count must be right.
    fn row(&mut self) -> io::Result<Option<RawRow>> {
        let key_len = u16::from_le_bytes(self.array()?);
        if key_len == ROWS_END {
            self.ended = true;
            let count = u64::from_le_bytes(self.array()?);
            return if count == self.count {
                Ok(None)
            } else {
                Err(io::ErrorKind::InvalidData.into())
            };
        }
        let value_len = u16::from_le_bytes(self.array()?);
        let row = (self.bytes(key_len)?, self.bytes(value_len)?);
        self.count += 1;
        Ok(Some(row))
    }
}
