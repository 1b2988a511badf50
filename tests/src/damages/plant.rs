//! Plants one damage in one file of a copied specimen: a flipped bit, a zeroed sector, a cut.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use inboxgrove_model::ports::Rng;

/// What a disk loses at once.
const SECTOR: u64 = 512;

/// Which files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// The file of sled that holds the rows.
    Rows,
    /// sled's snapshot.
    RowsSnapshot,
    /// sled's settings.
    RowsSettings,
    /// A segment of the log that is no longer written to.
    LogSealed,
    /// The segment that is written to.
    LogLast,
    /// The data keys.
    DataKeys,
    /// The list of backups.
    BackupList,
    /// A backup's rows.
    BackupRows,
    /// A backup's log.
    BackupLog,
    /// A backup's manifest.
    BackupManifest,
    /// A backup's data keys.
    BackupKeys,
}

/// One damage.
#[derive(Debug, Clone)]
pub struct Damage {
    /// In which kind of file.
    pub kind: FileKind,
    /// In which file.
    pub path: PathBuf,
    /// What.
    pub what: What,
    /// Its length before.
    pub len: u64,
}

/// What a damage does to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Flips a bit of the byte at an offset.
    Flip {
        /// Where.
        offset: u64,
        /// Which bit.
        bit: u8,
    },
    /// Zeroes the sector from an offset on.
    Zero {
        /// Where it starts.
        offset: u64,
    },
    /// Cuts the file to a length.
    Cut {
        /// What is left.
        len: u64,
    },
}

// === impl FileKind ===

impl FileKind {
    /// The files that most of a store is in come more often.
    const TURNS: [Self; 16] = [
        Self::Rows,
        Self::LogSealed,
        Self::LogLast,
        Self::RowsSnapshot,
        Self::BackupRows,
        Self::Rows,
        Self::LogLast,
        Self::DataKeys,
        Self::BackupLog,
        Self::LogSealed,
        Self::BackupList,
        Self::Rows,
        Self::LogLast,
        Self::BackupManifest,
        Self::RowsSettings,
        Self::BackupKeys,
    ];

    /// The kind whose turn it is.
    pub fn of_turn(turn: u64) -> Self {
        let at = turn % Self::TURNS.len() as u64;
        Self::TURNS[usize::try_from(at).expect("a turn is small")]
    }

    /// As tables show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rows => "sled: db",
            Self::RowsSnapshot => "sled: snapshot",
            Self::RowsSettings => "sled: conf",
            Self::LogSealed => "log, sealed",
            Self::LogLast => "log, last",
            Self::DataKeys => "data.keys",
            Self::BackupList => "backups.json",
            Self::BackupRows => "backup: rows",
            Self::BackupLog => "backup: log",
            Self::BackupManifest => "backup: manifest",
            Self::BackupKeys => "backup: data.keys",
        }
    }

    /// Whether it belongs to a backup.
    pub const fn is_backup(self) -> bool {
        matches!(
            self,
            Self::BackupRows | Self::BackupLog | Self::BackupManifest | Self::BackupKeys
        )
    }

    /// The files of this kind in a specimen, sorted.
    pub fn files(self, place: &Path) -> io::Result<Vec<PathBuf>> {
        let data = place.join("data");
        let named = |name: &str| Ok(vec![data.join(name)]);
        let mut found = match self {
            Self::Rows => named("sled/db"),
            Self::RowsSettings => named("sled/conf"),
            Self::DataKeys => named("data.keys"),
            Self::BackupList => named("backups.json"),
            Self::RowsSnapshot => files_in(&data.join("sled"), |name| name.starts_with("snap.")),
            Self::LogSealed => segments(&data).map(|mut all| {
                all.pop();
                all
            }),
            Self::LogLast => {
                segments(&data).map(|mut all| all.split_off(all.len().saturating_sub(1)))
            }
            Self::BackupRows => in_backups(place, |name| name == "rows"),
            Self::BackupLog => in_backups(place, is_segment),
            Self::BackupManifest => in_backups(place, |name| name == "manifest.json"),
            Self::BackupKeys => in_backups(place, |name| name == "data.keys"),
        }?;
        found.retain(|path| fs::metadata(path).is_ok_and(|file| file.len() > 0));
        Ok(found)
    }
}

// === impl Damage ===

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} in {} of {} bytes",
            self.what,
            self.path.display(),
            self.len
        )
    }
}

/// Plants one damage in a file of this kind. It always changes something.
pub fn plant(place: &Path, kind: FileKind, rng: &dyn Rng) -> Result<Damage> {
    let files = kind.files(place)?;
    let at = usize::try_from(rng.below(files.len() as u64))?;
    let path = files.get(at).context("there is such a file")?.clone();
    let file = File::options().read(true).write(true).open(&path)?;
    let len = file.metadata()?.len();
    let bytes = fs::read(&path)?;
    // What is written, and a little of the zeros behind it.
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64;
    let reach = len.min(written + 2 * SECTOR);
    let frames = frames_in(&bytes);
    let what = loop {
        let what = match rng.below(4) {
            0 => What::Flip {
                offset: rng.below(reach),
                bit: u8::try_from(rng.below(8))?,
            },
            1 => What::Zero {
                offset: rng.below(reach) / SECTOR * SECTOR,
            },
            // Where it is the hardest to see.
            2 if !frames.is_empty() => What::Cut {
                len: frames[usize::try_from(rng.below(frames.len() as u64))?],
            },
            _ => What::Cut {
                len: rng.below(reach),
            },
        };
        if strike(&file, what, len)? {
            break what;
        }
    };
    Ok(Damage {
        kind,
        path,
        what,
        len,
    })
}

/// Where frames of a log start.
fn frames_in(bytes: &[u8]) -> Vec<u64> {
    const MAGIC: &[u8] = b"IGF1";
    let starts = bytes.windows(MAGIC.len()).zip(0_u64..);
    starts
        .filter(|(start, _)| *start == MAGIC)
        .map(|(_, at)| at)
        .collect()
}

/// Whether the file is another now.
fn strike(file: &File, what: What, len: u64) -> io::Result<bool> {
    match what {
        What::Flip { offset, bit } => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset)?;
            byte[0] ^= 1 << bit;
            file.write_all_at(&byte, offset)?;
            Ok(true)
        }
        What::Zero { offset } => {
            let wide = usize::try_from(SECTOR.min(len - offset)).map_err(io::Error::other)?;
            let mut sector = vec![0; wide];
            file.read_exact_at(&mut sector, offset)?;
            let changes = sector.iter().any(|byte| *byte != 0);
            file.write_all_at(&vec![0; wide], offset)?;
            Ok(changes)
        }
        What::Cut { len } => file.set_len(len).map(|()| true),
    }
}

fn segments(folder: &Path) -> io::Result<Vec<PathBuf>> {
    files_in(folder, is_segment)
}

fn is_segment(name: &str) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|extension| extension == "log")
}

fn in_backups(place: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = Vec::new();
    for entry in fs::read_dir(place.join("backups"))? {
        folders.push(entry?.path());
    }
    folders.sort();
    for folder in folders {
        found.extend(files_in(&folder, &wanted)?);
    }
    Ok(found)
}

fn files_in(folder: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.file_name().to_str().is_some_and(&wanted) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
