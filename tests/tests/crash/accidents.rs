//! Kills, power cuts and sequences of both, a third of the single ones in the start after another. How many: `KILLS`,
//! `CUTS` and `NESTED` of the Makefile; at which moments: `GROVE_TESTS_CHANCE`, the seed of the first laboratory.
//!
//! A laboratory is used for a minute of trials and then for one of waiting, until what an accident made uncertain is tried
//! again. So the next one begins while the last one waits.

use anyhow::{Context, Result};
use inboxgrove_tests::{
    disk::FileSystem,
    laboratory::{Laboratory, Moment, Plan},
    load::Writers,
    programs,
};
use tokio::task::{JoinSet, LocalSet};

/// Unless the Makefile says otherwise.
const KILLS: u32 = 60;
/// Unless the Makefile says otherwise. They are shared among file systems and numbers of writers.
const CUTS: u32 = 20;
/// Unless the Makefile says otherwise.
const NESTED: u32 = 10;
/// Accidents in one laboratory: its lists get longer, and what was uncertain twice waits longer at its end.
const ACCIDENTS_MAX: u32 = 60;
/// Accidents of a nested sequence, each in the start after the one before.
const DEPTH: (u64, u64) = (5, 8);
/// Sequences in one laboratory.
const SEQUENCES_MAX: u32 = 10;

/// Where the power goes, and how many write then.
const SCENES: [(FileSystem, Writers); 4] = [
    (FileSystem::Ext4, Writers::Eight),
    (FileSystem::Xfs, Writers::Eight),
    (FileSystem::Ext4, Writers::One),
    (FileSystem::Xfs, Writers::One),
];

/// What is asked of one laboratory.
#[derive(Debug, Clone, Copy)]
struct Task {
    plan: Plan,
    work: Work,
}

#[derive(Debug, Clone, Copy)]
enum Work {
    Accidents(u32),
    Sequences(u32),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_torn_by_kills() -> Result<()> {
    let asked = programs::trials("GROVE_TESTS_KILLS", KILLS)?;
    // Every fourth laboratory has a lone writer.
    let tasks = shares(asked, ACCIDENTS_MAX)
        .zip(
            [Writers::Eight, Writers::Eight, Writers::Eight, Writers::One]
                .into_iter()
                .cycle(),
        )
        .map(|(kills, writers)| (None, writers, Work::Accidents(kills)));
    survive("GROVE_TESTS_KILLS", tasks).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_torn_by_power_cuts() -> Result<()> {
    let asked = programs::trials("GROVE_TESTS_CUTS", CUTS)?;
    let scenes = u32::try_from(SCENES.len()).context("a few scenes")?;
    let each = asked.div_ceil(scenes);
    let tasks = SCENES.iter().flat_map(|(disk, writers)| {
        shares(each, ACCIDENTS_MAX).map(|cuts| (Some(*disk), *writers, Work::Accidents(cuts)))
    });
    survive("GROVE_TESTS_CUTS", tasks).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_torn_by_accidents_in_the_recovery_from_accidents()
-> Result<()> {
    let asked = programs::trials("GROVE_TESTS_NESTED", NESTED)?;
    // Half of them on each file system.
    let halves = shares(asked, asked.div_ceil(2).clamp(1, SEQUENCES_MAX));
    let tasks = halves.zip([FileSystem::Ext4, FileSystem::Xfs].into_iter().cycle());
    let tasks =
        tasks.map(|(sequences, disk)| (Some(disk), Writers::Eight, Work::Sequences(sequences)));
    survive("GROVE_TESTS_NESTED", tasks).await
}

/// A number in parts of this size at most.
fn shares(whole: u32, most: u32) -> impl Iterator<Item = u32> {
    let parts = whole.div_ceil(most);
    (0..parts).map(move |part| whole * (part + 1) / parts - whole * part / parts)
}

/// One laboratory after the other; their ends beside each other.
async fn survive(
    variable: &str,
    tasks: impl Iterator<Item = (Option<FileSystem>, Writers, Work)>,
) -> Result<()> {
    LocalSet::new()
        .run_until(survive_all(variable, tasks))
        .await
}

#[expect(
    clippy::print_stdout,
    reason = "the figures of a run are what its log is read for"
)]
async fn survive_all(
    variable: &str,
    tasks: impl Iterator<Item = (Option<FileSystem>, Writers, Work)>,
) -> Result<()> {
    let first_seed = programs::trials("GROVE_TESTS_CHANCE", 1)?;
    let mut ends = JoinSet::new();
    for ((disk, writers, work), seed) in tasks.zip(first_seed..) {
        let plan = Plan {
            disk,
            writers,
            seed: seed.into(),
        };
        let task = Task { plan, work };
        let again = move || format!("{task:?}; again: GROVE_TESTS_CHANCE={seed}");
        let laboratory = task.run().await.with_context(again)?;
        ends.spawn_local(async move { laboratory.finish().await.with_context(again) });
    }
    if ends.is_empty() {
        println!("left out: {variable} asks for nothing");
    }
    while let Some(ended) = ends.join_next().await {
        println!("{}", ended.context("a laboratory's end panicked")??);
    }
    Ok(())
}

impl Task {
    async fn run(self) -> Result<Laboratory> {
        let mut laboratory = Laboratory::new(self.plan).await?;
        match self.work {
            Work::Accidents(asked) => {
                let mut moments = [Moment::InRecovery, Moment::UnderLoad].into_iter().cycle();
                while laboratory.accidents() < usize::try_from(asked)? {
                    let left = usize::try_from(asked)? - laboratory.accidents();
                    let moment = moments.next().filter(|_| left > 1);
                    laboratory
                        .trial(moment.unwrap_or(Moment::UnderLoad))
                        .await?;
                }
            }
            Work::Sequences(asked) => {
                for _ in 0..asked {
                    let length = laboratory.any_length(DEPTH.0, DEPTH.1);
                    laboratory.sequence(length).await?;
                }
            }
        }
        Ok(laboratory)
    }
}
