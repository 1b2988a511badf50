//! Restoring: from a backup to a store that goes on where the backup ended.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::Arc,
};

use inboxgrove_model::ports::Rng;

use crate::{
    BackupError, OpenError, OpenReport, Options, Store, backup,
    engine::{EngineOpenError, sled::SledEngine},
    generations::FIRST,
    media::{private, sync_parent},
};

/// Restores a backup into a new directory and opens the store there. The file of data keys is put there
/// last: what an interrupted restore leaves does not open.
pub fn restore(
    from: &Path,
    into: Options,
    rng: Arc<dyn Rng>,
) -> Result<(Store, OpenReport), BackupError> {
    let failed = |source| BackupError::Io {
        path: into.dir.clone(),
        source,
    };
    let manifest = backup::verify(from)?;
    if manifest.format > into.format_newest {
        let (found, newest) = (manifest.format, into.format_newest);
        return Err(Box::new(OpenError::Format { found, newest }).into());
    }
    make_empty(&into.dir).map_err(failed)?;
    let engine = SledEngine::open(&into.dir.join(FIRST), into.cache_bytes);
    let engine = engine.map_err(EngineOpenError::why)?;
    backup::load_rows_of(from, &manifest, &engine, || {})?;
    drop(engine);
    for name in backup::files_of(from)? {
        copy(&from.join(&name), &into.dir.join(&name)).map_err(failed)?;
    }
    let synced = File::open(&into.dir).and_then(|dir| dir.sync_all());
    synced.map_err(failed)?;
    Store::open(into, rng).map_err(|why| Box::new(why).into())
}

fn make_empty(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    if fs::read_dir(dir)?.next().is_some() {
        return Err(io::ErrorKind::DirectoryNotEmpty.into());
    }
    sync_parent(dir)
}

/// Copies a file; it is on the disk when this returns.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut out = private().create_new(true).open(to)?;
    io::copy(&mut File::open(from)?, &mut out)?;
    out.sync_all()
}
