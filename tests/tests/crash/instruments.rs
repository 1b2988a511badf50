//! The instruments of the laboratory: a disk that would forgive a writer who does not sync would prove nothing.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use inboxgrove_tests::{
    disk::{FileSystem, PowerDisk},
    wait::eventually,
    world,
};

/// Cuts of each writer on each file system.
const CUTS: u32 = 3;
/// Lines that a writer has acknowledged before the power goes.
const LINES_BEFORE_CUT: u64 = 50;
/// A line for each number, of one size.
const LINE_LEN: usize = 21;

#[tokio::test]
async fn what_was_synced_survives_a_cut_and_what_was_not_is_lost() -> Result<()> {
    for file_system in [FileSystem::Ext4, FileSystem::Xfs] {
        let folder = world::scratch_folder()?;
        let mut disk = PowerDisk::new(folder.path(), file_system)?;
        for cut in 0..CUTS {
            let (acknowledged, kept) =
                cut_while_writing(&mut disk, &format!("synced-{cut}"), true).await?;
            assert!(
                kept >= acknowledged,
                "{file_system:?}: {kept} of {acknowledged} synced lines are left"
            );

            let (acknowledged, kept) =
                cut_while_writing(&mut disk, &format!("unsynced-{cut}"), false).await?;
            assert!(
                kept < acknowledged,
                "{file_system:?}: all {kept} lines are there though nobody synced"
            );
        }
    }
    Ok(())
}

/// How many lines were acknowledged before the cut, and how many whole ones are there after it.
async fn cut_while_writing(disk: &mut PowerDisk, name: &str, syncs: bool) -> Result<(u64, u64)> {
    let path = disk.path().join(name);
    let (acknowledged, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let writer = {
        let (path, acknowledged, stop) = (path.clone(), acknowledged.clone(), stop.clone());
        thread::spawn(move || write_lines(&path, syncs, &acknowledged, &stop))
    };
    eventually("the writer", Duration::from_secs(30), async || {
        Ok((acknowledged.load(Ordering::SeqCst) >= LINES_BEFORE_CUT).then_some(()))
    })
    .await?;

    let before_cut = acknowledged.load(Ordering::SeqCst);
    let photograph = disk.photograph()?;
    stop.store(true, Ordering::SeqCst);
    writer.join().expect("the writer does not panic")?;
    disk.restore(photograph)?;

    // A file whose name was not synced may be gone altogether.
    let text = fs::read(&path).unwrap_or_default();
    let whole = text
        .chunks_exact(LINE_LEN)
        .zip(0_u64..)
        .take_while(|(line, number)| *line == line_of(*number).as_bytes())
        .count();
    Ok((before_cut, u64::try_from(whole).context("a count fits")?))
}

fn write_lines(
    path: &Path,
    syncs: bool,
    acknowledged: &AtomicU64,
    stop: &AtomicBool,
) -> Result<()> {
    let mut file = File::create(path)?;
    if syncs {
        // The name is part of what is promised.
        File::open(path.parent().context("a file lies in a folder")?)?.sync_all()?;
    }
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        file.write_all(line_of(number).as_bytes())?;
        if syncs {
            file.sync_data()?;
        }
        acknowledged.store(number + 1, Ordering::SeqCst);
    }
    Ok(())
}

fn line_of(number: u64) -> String {
    format!("{number:020}\n")
}
