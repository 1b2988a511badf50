//! The engine: where rows live. Everything that knows sled is behind this one trait.

use std::{fmt, io, path::PathBuf, sync::Arc};

pub(crate) mod current;
mod flusher;
pub(crate) mod sled;

/// A write: a whole key and its value; no value removes the key.
pub(crate) type Write = (Vec<u8>, Option<Vec<u8>>);

/// A row as it lies in the engine: a whole key and its framed value.
pub(crate) type RawRow = (Vec<u8>, Vec<u8>);

/// An ordered map of bytes that knows up to which log position it has come.
///
/// Only the committer writes; anybody reads. Nobody sees a row that is ahead of the position or behind it. After a crash
/// a position has all that was written before it; rows may be ahead of it, and the replay writes them again. What was
/// applied since the last flush may be gone.
pub(crate) trait Engine: Send + Sync + fmt::Debug {
    /// The value at a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// At most `limit` rows with `from <= key`, and `key < to` if there is an end, in the order of keys.
    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<RawRow>, EngineError>;

    /// Applies writes together with the position that they bring the rows to.
    fn apply(&self, writes: &[Write], position: u64) -> Result<(), EngineError>;

    /// The position of the last applied write; `None` in a new engine.
    fn position(&self) -> Result<Option<u64>, EngineError>;

    /// What has been applied is on the disk when this returns. Blocks; the committer's thread only.
    fn flush(&self) -> Result<(), EngineError>;

    /// From now on tells of a write or sync that fails while nobody waits for it, and of one that has. An engine that
    /// does nothing between calls has nothing to tell.
    fn watch(&self, _alarm: &Alarm) {}

    /// What it takes on the disk.
    fn disk_bytes(&self) -> u64;

    /// Checks what the engine must hold of itself, beyond its rows.
    fn check(&self) -> Result<(), EngineError>;
}

/// Where engines are kept, by their names: the one in use, and one that is being made.
pub(crate) trait Shelf: Send + Sync + fmt::Debug {
    /// The names of those that are there, sorted; not of those that were put aside.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens one, making it when it is not there.
    fn open(&self, name: &str) -> Result<Arc<dyn Engine>, EngineOpenError>;

    /// Removes one that nobody uses any more.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Puts one that nobody uses any more out of the way, as it is; where it is now.
    fn put_aside(&self, name: &str) -> io::Result<PathBuf>;
}

/// Why an engine does not open.
#[derive(Debug)]
pub(crate) enum EngineOpenError {
    /// The disk or the program is at fault: full, read-only, not ours. Another engine would fare no better.
    Unusable(EngineError),
    /// What is there is at fault: it can be put aside and made anew.
    Broken(EngineError),
}

/// Who is told that an engine has failed between two calls.
#[derive(Clone)]
pub(crate) struct Alarm(Arc<dyn Fn(&EngineError) + Send + Sync>);

/// The engine failed. After a failed write it must not be used again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the rows' engine could not {what}: {why}")]
pub struct EngineError {
    what: &'static str,
    why: String,
}

// === impl Alarm ===

impl Alarm {
    pub(crate) fn new(tell: impl Fn(&EngineError) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    fn tell(&self, why: &EngineError) {
        (self.0)(why);
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Alarm")
    }
}

// === impl EngineError ===

impl EngineError {
    pub(crate) fn new(what: &'static str, why: impl fmt::Display) -> Self {
        Self {
            what,
            why: why.to_string(),
        }
    }
}

// === impl EngineOpenError ===

impl EngineOpenError {
    /// What happened, whosever fault it is.
    pub(crate) fn why(self) -> EngineError {
        match self {
            Self::Unusable(why) | Self::Broken(why) => why,
        }
    }
}

/// Where the position is kept, beside the rows.
pub(crate) const POSITION_KEY: &[u8] = b"\0position";

/// The position as it is kept.
pub(crate) fn position_from(value: &[u8]) -> Result<u64, EngineError> {
    <[u8; 8]>::try_from(value)
        .map(u64::from_be_bytes)
        .map_err(|_| EngineError::new("read the log position", "it has not 8 bytes"))
}
