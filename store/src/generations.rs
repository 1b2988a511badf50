//! Generations of the rows: which engine is in use, and how another one takes its place.
//!
//! A store's first engine is called `sled`, later ones `rows-0002` and so on; a small file names the one in
//! use, and is replaced whole. So a crash at any moment leaves the old rows or the new ones. What the file
//! does not name was being made or had just been replaced, and goes at the next start; only what was found
//! damaged is put aside instead.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    checked,
    engine::{Engine, EngineOpenError, Shelf, current::CurrentEngine},
    media::Media,
};

/// The file that names the engine in use. A store that has none uses the first.
pub(crate) const POINTER: &str = "rows.json";
/// The first engine of a store.
pub(crate) const FIRST: &str = "sled";
const LATER: &str = "rows-";
/// Readers are in an engine for the time of one scan. Who takes longer than this keeps its files until the
/// next start.
const READERS_WAIT: Duration = Duration::from_mins(1);

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pointer {
    /// The engine in use.
    pub(crate) rows: String,
    /// Why it is not to be trusted any more: it is rebuilt at the next start, if not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) distrusted: Option<String>,
    /// One that it has replaced and that is still to be put aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) aside: Option<String>,
}

/// The engines of a store that is open.
#[derive(Debug)]
pub(crate) struct Generations {
    media: Arc<dyn Media>,
    shelf: Arc<dyn Shelf>,
    current: Arc<CurrentEngine>,
    pointer: Mutex<Pointer>,
}

/// What becomes of an engine that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Old {
    /// It was as good as the new one.
    Goes,
    /// It was damaged.
    IsPutAside,
}

/// An engine that is being filled; nothing refers to it yet.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) name: String,
    pub(crate) engine: Arc<dyn Engine>,
}

/// An engine that is not in use any more, but for readers that are still in it.
#[derive(Debug)]
pub(crate) struct Replaced {
    name: String,
    engine: Arc<dyn Engine>,
    old: Old,
}

// === impl Pointer ===

impl Pointer {
    /// To an engine that there is nothing to say about.
    pub(crate) fn to(rows: impl Into<String>) -> Self {
        Self {
            rows: rows.into(),
            distrusted: None,
            aside: None,
        }
    }

    /// Reads the file; says what is wrong with it. A store that has none uses the first engine.
    pub(crate) fn read(media: &dyn Media) -> io::Result<Result<Self, String>> {
        match media.read(POINTER) {
            Ok(bytes) => Ok(checked::decode(&bytes)),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(Ok(Self::to(FIRST))),
            Err(why) => Err(why),
        }
    }

    pub(crate) fn write(&self, media: &dyn Media) -> io::Result<()> {
        media.replace(POINTER, &checked::encode(self)?)
    }
}

// === impl Generations ===

impl Generations {
    pub(crate) fn new(
        media: Arc<dyn Media>,
        shelf: Arc<dyn Shelf>,
        pointer: Pointer,
        engine: Arc<dyn Engine>,
    ) -> Self {
        Self {
            media,
            shelf,
            current: Arc::new(CurrentEngine::new(engine)),
            pointer: Mutex::new(pointer),
        }
    }

    /// The engine in use, whichever that is.
    pub(crate) fn current(&self) -> Arc<dyn Engine> {
        Arc::<CurrentEngine>::clone(&self.current)
    }

    /// Why the rows are not trusted, if they are not.
    pub(crate) fn distrusted(&self) -> Option<String> {
        self.pointer().distrusted.clone()
    }

    /// Writes down that the rows are not to be trusted: from now on a start rebuilds them.
    pub(crate) fn distrust(&self, why: &str) -> io::Result<()> {
        let mut pointer = self.pointer();
        let distrusted = Pointer {
            distrusted: Some(why.to_owned()),
            ..pointer.clone()
        };
        distrusted.write(self.media.as_ref())?;
        *pointer = distrusted;
        Ok(())
    }

    /// Says what is wrong with the file that names the engine in use.
    pub(crate) fn check(&self) -> Result<(), String> {
        let pointer = self.pointer();
        let found = Pointer::read(self.media.as_ref()).map_err(|why| why.to_string())??;
        if found == *pointer {
            Ok(())
        } else {
            Err("it is not as it was written".to_owned())
        }
    }

    /// Writes the file again, as it should be.
    pub(crate) fn mend(&self) -> io::Result<()> {
        self.pointer().write(self.media.as_ref())
    }

    /// An empty engine under a name of its own.
    pub(crate) fn fresh(&self) -> Result<Fresh, EngineOpenError> {
        let used = self.pointer().rows.clone();
        fresh(self.shelf.as_ref(), &used)
    }

    /// Removes an engine that was not put into use.
    pub(crate) fn discard(&self, fresh: Fresh) {
        let Fresh { name, engine } = fresh;
        drop(engine);
        if let Err(why) = self.shelf.remove(&name) {
            tracing::warn!(name, %why, "rows that were not finished could not be removed; they go at the next start");
        }
    }

    /// Puts an engine into use. It must have everything that the log has and be flushed; nobody may
    /// commit meanwhile. After an error nobody knows which one a restart finds: both are good.
    pub(crate) fn switch(&self, fresh: Fresh, old: Old) -> io::Result<Replaced> {
        let mut pointer = self.pointer();
        let name = pointer.rows.clone();
        let next = Pointer {
            aside: (old == Old::IsPutAside).then(|| name.clone()),
            ..Pointer::to(fresh.name)
        };
        next.write(self.media.as_ref())?;
        *pointer = next;
        let engine = self.current.exchange(fresh.engine);
        Ok(Replaced { name, engine, old })
    }

    /// Waits until nobody reads what was replaced; then it goes, or is put aside: where it is now.
    pub(crate) fn retire(&self, replaced: Replaced) -> io::Result<Option<PathBuf>> {
        const LOOK: Duration = Duration::from_millis(5);
        let Replaced { name, engine, old } = replaced;
        let since = Instant::now();
        while Arc::strong_count(&engine) > 1 {
            if since.elapsed() > READERS_WAIT {
                return Err(io::Error::other("somebody is still reading them"));
            }
            thread::park_timeout(LOOK);
        }
        drop(engine);
        match old {
            Old::Goes => self.shelf.remove(&name).map(|()| None),
            Old::IsPutAside => {
                let aside = self.shelf.put_aside(&name)?;
                let mut pointer = self.pointer();
                pointer.aside = None;
                pointer.write(self.media.as_ref())?;
                Ok(Some(aside))
            }
        }
    }

    fn pointer(&self) -> MutexGuard<'_, Pointer> {
        self.pointer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === free functions ===

/// An empty engine with the first number behind all that are there.
pub(crate) fn fresh(shelf: &dyn Shelf, used: &str) -> Result<Fresh, EngineOpenError> {
    let failed = |why: io::Error| {
        EngineOpenError::Unusable(crate::EngineError::new("find a place for new rows", why))
    };
    let there = shelf.names().map_err(failed)?;
    let numbers = there.iter().map(String::as_str).chain([used]);
    let last = numbers.filter_map(number_of).max().unwrap_or(1);
    let name = name_of(last + 1);
    let engine = shelf.open(&name)?;
    Ok(Fresh { name, engine })
}

/// The number in an engine's name; `None` when it is no engine's name.
pub(crate) fn number_of(name: &str) -> Option<u32> {
    if name == FIRST {
        return Some(1);
    }
    let digits = name.strip_prefix(LATER)?;
    digits.parse().ok().filter(|n| name_of(*n) == name)
}

fn name_of(number: u32) -> String {
    format!("{LATER}{number:04}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_numbers() {
        for (name, number) in [
            ("sled", Some(1)),
            ("rows-0002", Some(2)),
            ("rows-12345", Some(12_345)),
            ("rows-2", None),
            ("rows-0002.broken-1", None),
            ("sled.broken-1", None),
            ("backups", None),
        ] {
            assert_eq!(number_of(name), number, "{name}");
        }
    }
}
