//! Faults that are preloaded into the daemon: a disk that fails at a call of one's choice (`peers/faulty_io.c`), and a
//! clock that somebody sets (`peers/shifted_clock.c`). Both are compiled by `cc` when a test needs them.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::programs;

/// What the failing call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It fails with EIO, once.
    Io,
    /// It and every call after it fails with EIO.
    IoForEver,
    /// It fails with ENOSPC, once.
    NoSpace,
    /// Half of a write is written, then it fails with EIO.
    Torn,
    /// Half of a write is written, and said so: the caller has to write the rest.
    Short,
}

/// A disk that fails.
#[derive(Debug)]
pub struct FaultyIo {
    library: PathBuf,
    /// Nothing outside of this folder is counted.
    below: PathBuf,
    book: PathBuf,
}

/// Clocks that can be set.
#[derive(Debug)]
pub struct ShiftedClock {
    library: PathBuf,
    offsets: PathBuf,
    wall_ms: i64,
    monotonic_ms: i64,
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strike {
    /// Its number.
    pub number: u32,
    /// `write`, `fsync`, ….
    pub call: String,
    /// What it was to work on.
    pub path: PathBuf,
}

/// What a disk has noted of one run.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    /// The calls that failed.
    pub strikes: Vec<Strike>,
    /// Files that were synced once more after their sync had failed.
    pub resynced: Vec<Strike>,
    /// How many calls there were, when the process ended by itself.
    pub calls: Option<u32>,
}

// === impl Way ===

impl Way {
    /// All of them, the plainest first.
    pub const ALL: [Self; 5] = [
        Self::Io,
        Self::NoSpace,
        Self::Torn,
        Self::IoForEver,
        Self::Short,
    ];

    /// Whether the caller is told: a short write is an answer, and no error.
    pub fn is_told(self, call: &str) -> bool {
        self != Self::Short || !is_write(call)
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Io => ("eio", "once"),
            Self::IoForEver => ("eio", "always"),
            Self::NoSpace => ("enospc", "once"),
            Self::Torn => ("torn", "once"),
            Self::Short => ("short", "once"),
        }
    }
}

fn is_write(call: &str) -> bool {
    ["write", "writev", "pwrite64"].contains(&call)
}

// === impl FaultyIo ===

impl FaultyIo {
    /// A disk whose calls below this folder are counted; its book lies in the other one.
    pub fn new(below: &Path, scratch: &Path) -> Result<Self> {
        Ok(Self {
            library: compile("faulty_io.c", scratch)?,
            below: below.to_owned(),
            book: scratch.join("faulty_io.book"),
        })
    }

    /// The environment of a daemon whose call of this number fails; 0: none does.
    pub fn env(&self, at: u32, way: Way) -> Vec<(&'static str, OsString)> {
        let (way, lasts) = way.words();
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAULTY_IO_BELOW", self.below.clone().into()),
            ("FAULTY_IO_AT", at.to_string().into()),
            ("FAULTY_IO_WAY", way.into()),
            ("FAULTY_IO_LASTS", lasts.into()),
            ("FAULTY_IO_BOOK", self.book.clone().into()),
        ]
    }

    /// What was noted since the last call.
    pub fn notes(&self) -> Result<Notes> {
        let text = fs::read_to_string(&self.book).unwrap_or_default();
        File::create(&self.book).with_context(|| format!("{}", self.book.display()))?;
        let mut notes = Notes::default();
        for line in text.lines() {
            let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
            match what {
                "struck" => notes.strikes.push(Strike::parse(rest)?),
                "resynced" => notes.resynced.push(Strike::parse(rest)?),
                "calls" => notes.calls = Some(rest.parse().context("a number of calls")?),
                _ => bail!("what does {line:?} mean?"),
            }
        }
        Ok(notes)
    }
}

impl Strike {
    fn parse(text: &str) -> Result<Self> {
        let mut words = text.splitn(3, ' ');
        let mut next = || words.next().with_context(|| format!("{text:?} is cut off"));
        Ok(Self {
            number: next()?.parse().context("a call has a number")?,
            call: next()?.to_owned(),
            path: next()?.into(),
        })
    }

    /// What kind of file it was, as the store names them.
    pub fn kind(&self) -> &'static str {
        let path = self.path.to_string_lossy();
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let is_log = name.ends_with(".log") || name.contains(".log.");
        if path.contains("/backup") {
            "backup"
        } else if path.contains("/sled") {
            "rows"
        } else if is_log {
            "log"
        } else if name.starts_with("data.keys") {
            "data keys"
        } else if name.starts_with("addresses") {
            "addresses"
        } else if self.path.is_dir() {
            "directory"
        } else {
            "other"
        }
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, call, path } = self;
        write!(f, "call {number}, {call} of {}", path.display())
    }
}

// === impl ShiftedClock ===

impl ShiftedClock {
    /// A clock that goes right until it is set.
    pub fn new(scratch: &Path) -> Result<Self> {
        let clock = Self {
            library: compile("shifted_clock.c", scratch)?,
            offsets: scratch.join("shifted_clock.offsets"),
            wall_ms: 0,
            monotonic_ms: 0,
        };
        clock.set()?;
        Ok(clock)
    }

    /// Sets the wall clocks of all daemons that have it, running ones at once, to so many seconds off. Monotonic time goes
    /// on as it did.
    pub fn step(&mut self, wall_seconds: i64) -> Result<()> {
        self.wall_ms += wall_seconds * 1000;
        self.set()
    }

    /// Lets time pass, for the wall and for monotonic time.
    pub fn pass(&mut self, time: Duration) -> Result<()> {
        let ms = i64::try_from(time.as_millis()).context("a time that a test waits for")?;
        self.wall_ms += ms;
        self.monotonic_ms += ms;
        self.set()
    }

    fn set(&self) -> Result<()> {
        // In place and in one piece: it is mapped into the memory of those who read it.
        let bytes = [self.wall_ms, self.monotonic_ms]
            .map(i64::to_ne_bytes)
            .concat();
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.offsets);
        file.and_then(|file| file.write_all_at(&bytes, 0))
            .with_context(|| format!("{}", self.offsets.display()))
    }

    /// The environment of a daemon with this clock.
    pub fn env(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("SHIFTED_CLOCK", self.offsets.clone().into()),
        ]
    }
}

/// Compiles a peer into a library that can be preloaded.
fn compile(source: &str, into: &Path) -> Result<PathBuf> {
    let library = into.join(source).with_extension("so");
    let output = Command::new(programs::system("cc")?)
        .args([
            "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o",
        ])
        .arg(&library)
        .arg(programs::peer_script(source)?)
        .output()
        .context("cc does not start")?;
    ensure!(
        output.status.success(),
        "{source} does not compile: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(library)
}
