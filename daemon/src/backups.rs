//! Backups: where they go, what they are called, which of them are kept. `upkeep` says when they are made.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use inboxgrove_actors::platform::Platform;
use inboxgrove_config::Config;
use inboxgrove_model::WallTime;
use inboxgrove_store::{BackupError, BackupReport, Store};

use crate::serve::make_private;

/// What the directory of a backup is called; the time follows, so that names sort by age.
const PREFIX: &str = "backup-";
/// The file that the store writes last: with it a directory is a backup.
const MANIFEST: &str = "manifest.json";

/// Where backups go.
pub(crate) fn folder(config: &Config) -> PathBuf {
    let folder = &config.store.backup.directory;
    if folder.as_os_str().is_empty() {
        config.server.data_dir.join("backups")
    } else {
        folder.clone()
    }
}

/// Where the next backup goes.
pub(crate) fn next_path(platform: &Platform) -> PathBuf {
    folder(platform.config()).join(name(platform.ports().clock.wall()))
}

/// Makes a backup. What a failed one left behind is removed, unless it was there before.
pub(crate) fn make(store: &Store, to: &Path) -> Result<BackupReport, BackupError> {
    let fresh = !to.exists();
    let made = store.backup(to);
    if made.is_err()
        && fresh
        && let Err(why) = fs::remove_dir_all(to)
        && why.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %to.display(), %why, "the remains of a backup could not be removed");
    }
    made
}

/// Makes one of the regular backups, and removes the oldest beyond `kept`.
pub(crate) fn make_regular(
    store: &Store,
    to: &Path,
    folder: &Path,
    kept: usize,
) -> anyhow::Result<BackupReport> {
    make_private(folder)?;
    let report = make(store, to)?;
    prune(folder, kept)?;
    Ok(report)
}

/// `backup-20261123T150000Z`.
fn name(at: WallTime) -> String {
    let text = at.to_string();
    let digits: String = text
        .chars()
        .take_while(|c| *c != '.')
        .filter(|c| c.is_ascii_digit() || *c == 'T')
        .collect();
    format!("{PREFIX}{digits}Z")
}

/// Removes the oldest backups beyond `kept`. What has no manifest is none: it neither counts nor goes.
fn prune(folder: &Path, kept: usize) -> io::Result<()> {
    let mut backups = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let named = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if named && entry.path().join(MANIFEST).is_file() {
            backups.push(entry.path());
        }
    }
    backups.sort();
    for old in backups.iter().rev().skip(kept) {
        fs::remove_dir_all(old)?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use inboxgrove_model::ports::Rng;
    use inboxgrove_store::{Keys, MemDisk};

    use super::*;

    pub(crate) struct Ones;
    impl Rng for Ones {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(1);
        }
    }

    #[test]
    fn a_backup_that_fails_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (to, there) = (folder.path().join("new"), folder.path().join("there"));
        fs::create_dir(&there).unwrap();
        fs::write(there.join("mine"), "").unwrap();
        let disk = MemDisk::new();
        let keys = Keys::from_bytes([1; 32]);
        let (store, _) = Store::in_memory(disk.clone(), keys, Arc::new(Ones)).unwrap();
        assert!(make(&store, &there).is_err());
        assert!(there.join("mine").exists());
        make(&store, &to).unwrap();
        fs::remove_dir_all(&to).unwrap();
        for name in disk.names() {
            disk.flip(&name, 3);
        }
        assert!(make(&store, &to).is_err());
        assert!(!to.exists());
    }

    #[test]
    fn names_sort_by_age_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        for millis in [3_000, 1_000, 2_000] {
            let backup = folder.path().join(name(WallTime::from_millis(millis)));
            fs::create_dir(&backup).unwrap();
            fs::write(backup.join(MANIFEST), "{}").unwrap();
        }
        let broken = name(WallTime::from_millis(4_000));
        fs::create_dir(folder.path().join(broken)).unwrap();
        fs::create_dir(folder.path().join("something else")).unwrap();
        prune(folder.path(), 2).unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let expected = [
            "backup-19700101T000002Z",
            "backup-19700101T000003Z",
            "backup-19700101T000004Z",
            "something else",
        ];
        assert_eq!(left, expected);
    }
}
