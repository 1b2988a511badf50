//! Kills and power cuts, every third one in the start after another. How many: `CUTS` and `KILLS` of the Makefile.

use anyhow::Result;
use inboxgrove_tests::{
    disk::FileSystem,
    laboratory::{Laboratory, Moment},
    programs,
};

/// Unless the Makefile says otherwise.
const KILLS: u32 = 60;
/// Unless the Makefile says otherwise.
const CUTS: u32 = 20;
/// XFS gets a share of ext4's cuts: one machine in so many has it.
const XFS_SHARE: u32 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_torn_by_kills() -> Result<()> {
    survive(None, programs::trials("GROVE_TESTS_KILLS", KILLS)?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_torn_by_power_cuts_on_ext4() -> Result<()> {
    survive(
        Some(FileSystem::Ext4),
        programs::trials("GROVE_TESTS_CUTS", CUTS)?,
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_torn_by_power_cuts_on_xfs() -> Result<()> {
    survive(
        Some(FileSystem::Xfs),
        programs::trials("GROVE_TESTS_CUTS", CUTS)?.div_ceil(XFS_SHARE),
    )
    .await
}

#[expect(
    clippy::print_stdout,
    reason = "the figures of a run are what its log is read for"
)]
async fn survive(file_system: Option<FileSystem>, trials: u32) -> Result<()> {
    if trials == 0 {
        println!("left out: no accident was asked for");
        return Ok(());
    }
    let mut laboratory = Laboratory::new(file_system).await?;
    for trial in 0..trials {
        let moment = if trial % 3 == 2 {
            Moment::InRecovery
        } else {
            Moment::UnderLoad
        };
        laboratory.trial(moment).await?;
    }
    let report = laboratory.finish().await?;
    println!(
        "{}: {report}",
        file_system.map_or("kills".to_owned(), |found| format!("cuts on {found:?}"))
    );
    Ok(())
}
