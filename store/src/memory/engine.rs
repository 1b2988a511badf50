//! The rows of a disk in memory.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, MutexGuard},
};

use super::{Disk, Fault, MemDisk, MemRows};
use crate::{
    engine::{
        Engine, EngineError, EngineOpenError, POSITION_KEY, RawRow, Shelf, Write, position_from,
    },
    generations::number_of,
};

/// The engines of a [`MemDisk`], as one opening sees them.
#[derive(Debug)]
pub(crate) struct MemShelf {
    pub(super) disk: MemDisk,
    pub(super) generation: u64,
}

/// The rows of one engine of a [`MemDisk`], as one opening sees them.
pub(crate) struct MemEngine {
    pub(super) disk: MemDisk,
    pub(super) generation: u64,
    name: String,
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
