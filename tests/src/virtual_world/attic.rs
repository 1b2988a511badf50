//! Where backups are kept: real directories, since a backup is a directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use tempfile::TempDir;

/// Memory that looks like a directory, where there is one: backups sync every file they write.
const MEMORY: &str = "/dev/shm";

/// The backups of one house. They go with it.
#[derive(Debug, Default)]
pub(super) struct Attic {
    place: Option<TempDir>,
    made: u32,
}

// === impl Attic ===

impl Attic {
    /// A place for the next backup.
    pub(super) fn next(&mut self) -> anyhow::Result<PathBuf> {
        self.made += 1;
        let place = match self.place.take() {
            Some(place) => place,
            None if Path::new(MEMORY).is_dir() => tempfile::tempdir_in(MEMORY)?,
            None => tempfile::tempdir()?,
        };
        let next = place.path().join(format!("{:04}", self.made));
        self.place = Some(place);
        Ok(next)
    }

    /// Flips a bit of a file of the newest backup. False when there is none.
    pub(super) fn rot(&self, which: u64, place: u64) -> anyhow::Result<bool> {
        let Some(newest) = self.newest() else {
            return Ok(false);
        };
        let files = fs::read_dir(&newest)?.collect::<Result<Vec<_>, _>>()?;
        // Not the manifest: without it the directory is no backup at all.
        let mut files: Vec<_> = files.into_iter().map(|file| file.path()).collect();
        files.retain(|file| file.extension().is_none_or(|kind| kind != "json"));
        files.sort();
        let file = &files[usize::try_from(which % files.len() as u64)?];
        let mut bytes = fs::read(file)?;
        let at = usize::try_from(place % bytes.len().max(1) as u64)?;
        let byte = bytes.get_mut(at).context("an empty file in a backup")?;
        *byte ^= 0x10;
        fs::write(file, bytes)?;
        Ok(true)
    }

    /// Throws the newest backup away.
    pub(super) fn throw_newest_away(&self) {
        if let Some(newest) = self.newest() {
            Self::throw_away(&newest);
        }
    }

    /// Throws a backup away, or what there is of it.
    pub(super) fn throw_away(backup: &Path) {
        // One that cannot be removed stays and is found again; a failed one may not have begun.
        fs::remove_dir_all(backup).ok();
    }

    fn newest(&self) -> Option<PathBuf> {
        let kept = fs::read_dir(self.place.as_ref()?.path()).ok()?;
        kept.filter_map(|entry| Some(entry.ok()?.path())).max()
    }
}
