//! Files as the store needs them: appended, synced, replaced whole, read at an offset.
//!
//! One trait, so that the same log, key file and recovery run on a directory and on a [`MemDisk`]
//! (`memory.rs`) that can be crashed and made to fail. Any error of a write or a sync is final for the
//! process: nobody above retries (after a failed fsync the kernel may have dropped the pages).
//!
//! [`MemDisk`]: crate::MemDisk

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The suffix of files that are being written and have no meaning until they are renamed.
pub(crate) const UNFINISHED: &str = ".unfinished";

/// The file that keeps a second process out of the directory.
const LOCK_NAME: &str = "lock";

/// Named files in one flat place.
pub(crate) trait Media: Send + Sync + fmt::Debug {
    /// The names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;

    /// How long a file is.
    fn size(&self, name: &str) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Makes an empty file, also over one that exists.
    fn create(&self, name: &str) -> io::Result<()>;

    /// Writes at the end of a file.
    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Writes over what a file has at an offset, and beyond its end.
    fn write_at(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// The file's bytes are on the disk when this returns.
    fn sync(&self, name: &str) -> io::Result<()>;

    /// The names are on the disk when this returns.
    fn sync_names(&self) -> io::Result<()>;

    /// Cuts a file.
    fn truncate(&self, name: &str, len: u64) -> io::Result<()>;

    /// Renames a file, over one that exists.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// How many bytes may still be written.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Puts a file that is no longer written to at `to`, outside; replacing it later leaves that as it is.
    fn export(&self, name: &str, to: &Path) -> io::Result<()>;

    /// Whether the file at `path`, outside, is this very file by another name.
    fn is_linked(&self, name: &str, path: &Path) -> bool;
}

impl dyn Media + '_ {
    /// A whole file.
    pub(crate) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.size(name)?).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        let read = self.read_at(name, 0, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Replaces a file whole: after a crash it holds the old bytes or the new ones.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let unfinished = format!("{name}{UNFINISHED}");
        self.create(&unfinished)?;
        self.append(&unfinished, bytes)?;
        self.sync(&unfinished)?;
        self.rename(&unfinished, name)?;
        self.sync_names()
    }
}

/// A directory.
pub(crate) struct DirMedia {
    dir: PathBuf,
    files: Mutex<BTreeMap<String, Arc<File>>>,
    /// Held for as long as the media lives; a directory that is only read has none.
    lock: Option<File>,
}

// === impl DirMedia ===

impl DirMedia {
    /// Opens a directory, making it (mode 0700) when it is not there, and locks it.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        sync_parent(dir)?;
        let lock = private().create(true).open(dir.join(LOCK_NAME))?;
        lock.try_lock().map_err(|why| match why {
            fs::TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another process has the store open",
            ),
            fs::TryLockError::Error(why) => why,
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            files: Mutex::default(),
            lock: Some(lock),
        })
    }

    /// Looks at a directory that nobody changes, as a backup.
    pub(crate) fn look_at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            files: Mutex::default(),
            lock: None,
        }
    }

    fn file(&self, name: &str) -> io::Result<Arc<File>> {
        let mut files = self.files();
        if let Some(file) = files.get(name) {
            return Ok(Arc::clone(file));
        }
        let path = self.dir.join(name);
        let file = Arc::new(match self.lock {
            Some(_) => private().open(path)?,
            None => File::open(path)?,
        });
        files.insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Arc<File>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Media for DirMedia {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
                && name != LOCK_NAME
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.dir.join(name))?.len())
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.file(name)?;
        let mut done = 0;
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
        Ok(done)
    }

    fn create(&self, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        let file = private().create(true).open(path)?;
        file.set_len(0)?;
        self.files().insert(name.to_owned(), Arc::new(file));
        Ok(())
    }

    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.file(name)?;
        file.write_all_at(bytes, file.metadata()?.len())
    }

    fn write_at(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all_at(bytes, offset)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.file(name)?.set_len(len)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        fs::rename(self.dir.join(from), self.dir.join(to))?;
        files.remove(from);
        files.remove(to);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().remove(name);
        fs::remove_file(self.dir.join(name))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.dir).map_err(io::Error::from)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    fn export(&self, name: &str, to: &Path) -> io::Result<()> {
        // A link shares the bytes. On another file system there are none to share.
        if fs::hard_link(self.dir.join(name), to).is_ok() {
            return Ok(());
        }
        let len = self.size(name)?;
        copy_out(self, name, len, len, to)
    }

    fn is_linked(&self, name: &str, path: &Path) -> bool {
        let file = |path: &Path| fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
        let ours = file(&self.dir.join(name));
        ours.is_some() && ours == file(path)
    }
}

impl fmt::Debug for DirMedia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirMedia({})", self.dir.display())
    }
}

/// Copies the first `len` bytes of a file out of a media, followed by zeros up to `padded`; on the disk before this returns.
pub(crate) fn copy_out(
    media: &dyn Media,
    name: &str,
    len: u64,
    padded: u64,
    to: &Path,
) -> io::Result<()> {
    const PIECE: usize = 1 << 20;
    let mut out = private().create_new(true).open(to)?;
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    while offset < len {
        let want = usize::try_from(len - offset).map_or(PIECE, |left| left.min(PIECE));
        let read = media.read_at(name, offset, &mut buffer[..want])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.write_all(&buffer[..read])?;
        offset += read as u64;
    }
    out.set_len(padded)?;
    out.sync_all()
}

/// Makes the entry of `path` in its parent directory last.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Opens for reading and writing, readable by the owner only.
pub(crate) fn private() -> fs::OpenOptions {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let media: Arc<dyn Media> = Arc::new(DirMedia::open(dir.path()).expect("opened"));
        media.replace("a", b"one").expect("written");
        media.replace("a", b"three").expect("written");
        assert_eq!(media.read("a").expect("read"), b"three");
        assert_eq!(media.list().expect("listed"), ["a"]);
        let out = dir.path().join("copy");
        copy_out(media.as_ref(), "a", 2, 4, &out).expect("copied");
        assert_eq!(fs::read(out).expect("read"), b"th\0\0");
    }

    #[test]
    fn a_second_opener_is_kept_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = DirMedia::open(dir.path()).expect("opened");
        let why = DirMedia::open(dir.path()).expect_err("locked");
        assert!(why.to_string().contains("another process"), "{why}");
        drop(first);
        DirMedia::open(dir.path()).expect("free again");
    }
}
