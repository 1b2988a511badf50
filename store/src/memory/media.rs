//! The files of a disk in memory.

use std::{collections::BTreeSet, fmt, io, path::Path};

use super::{Fault, MemDisk, file::MemFile};
use crate::media::{Media, copy_out};

/// The files of a [`MemDisk`], as one opening sees them.
pub(crate) struct MemMedia {
    pub(super) disk: MemDisk,
    pub(super) generation: u64,
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
        disk.file(name)?.sync();
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
