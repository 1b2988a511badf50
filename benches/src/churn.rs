//! A simulated day of many active inboxes that write to each other: what memory and disk come to, and whether
//! they grow.
//!
//! The daemon runs in this process, on a real store and real sockets; only its policy time is fast, and never
//! runs past work. Each hour a backup is made and the log is compacted, as operators have it. Memory is that of
//! this process, so the names and the clock of the small world count, too.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use inboxgrove::ports::SystemClock;
use inboxgrove_model::{
    PolicyTime,
    ports::{Activity, Clock},
};
use inboxgrove_sim::clock::FastClock;
use tokio::runtime::Runtime;

use crate::{
    Effort,
    grove::Grove,
    measure::{Samples, count},
    report::{Bound, Section},
    say,
};

/// Inboxes on one domain.
const INBOXES_OF_DOMAIN: u32 = 100;
/// Domains of one tenant.
const DOMAINS_OF_TENANT: u32 = 5;
/// Hours before memory is taken to have settled: caches fill, everybody has been awake once.
const WARM_UP: usize = 6;
/// Backups that are kept.
const BACKUPS: usize = 2;
const DAY: usize = 24;
const MIB: f64 = 1024.0 * 1024.0;

/// What one hour came to.
struct Hour {
    resident: f64,
    disk: f64,
    live: f64,
    commits: u64,
    activity: usize,
}

/// Runs the bench: as many inboxes as the effort says.
pub(crate) fn run(effort: Effort) -> Result<Section> {
    let runtime = Runtime::new().context("a runtime can be started")?;
    let hours = runtime.block_on(live(effort.active))?;
    let about = format!(
        "{} inboxes in warmup write to each other and answer, over SMTP on loopback, for {DAY} hours of policy time, the daemon in this \
         process with a store on the disk; every hour a backup is made ({BACKUPS} are kept) and the log is compacted. Live are the \
         rows as the newest backup holds them, and the log as compaction leaves it. The slope is by least squares after {WARM_UP} hours.",
        effort.active
    );
    let header = [
        "hour",
        "resident MiB",
        "store on disk MiB",
        "live MiB",
        "commits",
        "actors awake",
    ];
    let mut section = Section::new("A day of churn", &about, &header);
    for (n, hour) in hours.iter().enumerate() {
        section.row(&[
            &(n + 1),
            &format!("{:.0}", hour.resident / MIB),
            &format!("{:.0}", hour.disk / MIB),
            &format!("{:.0}", hour.live / MIB),
            &hour.commits,
            &hour.activity,
        ]);
    }
    let settled = &hours[WARM_UP.min(hours.len())..];
    let most = hours
        .iter()
        .map(|hour| hour.resident / MIB)
        .fold(0.0, f64::max);
    section.goal("resident MiB, most", one(most), Bound::AtMost(512.0));
    let resident: Vec<f64> = settled.iter().map(|hour| hour.resident / MIB).collect();
    section.goal(
        "resident MiB an hour",
        one(slope(&resident)),
        Bound::AtMost(1.0),
    );
    let last = hours.last().context("an hour was lived")?;
    section.goal(
        "disk against live data at the end",
        one(last.disk / last.live),
        Bound::AtMost(3.0),
    );
    Ok(section)
}

async fn live(inboxes: u32) -> Result<Vec<Hour>> {
    let system = SystemClock::new(PolicyTime::default());
    let start = system.policy();
    let clock = FastClock::new(start, Arc::new(move || system.wall()));
    let activity = Activity::default();
    let grove = Grove::start(Arc::new(clock.clone()), activity.clone()).await?;
    // Policy time creeps on while everything is set up, so that what is due is done.
    let setting_up = {
        let (clock, activity) = (clock.clone(), activity.clone());
        tokio::spawn(async move {
            let until = start.after(Duration::from_hours(1));
            clock.run(&activity, until, Duration::from_hours(24)).await;
        })
    };
    let of_tenant = INBOXES_OF_DOMAIN * DOMAINS_OF_TENANT;
    for n in 0..inboxes.div_ceil(of_tenant) {
        let domains = (inboxes - n * of_tenant)
            .min(of_tenant)
            .div_ceil(INBOXES_OF_DOMAIN);
        let name = format!("company{n}");
        grove
            .tenant(&name, domains, INBOXES_OF_DOMAIN.min(inboxes), true)
            .await?;
    }
    setting_up.abort();
    say(&format!("  {inboxes} inboxes are there"));
    let mut hours = Vec::new();
    let begun = clock.policy();
    for n in 0..DAY {
        let until = begun.after(Duration::from_hours(n as u64 + 1));
        clock.run(&activity, until, Duration::ZERO).await;
        let live = keep(&grove, n, clock.policy()).await?;
        let store = grove.folder.path().join("store");
        let tree = grove.platform().tree(&"running".into()).await;
        let hour = Hour {
            resident: resident()?,
            disk: bytes_of(&store)?,
            live,
            commits: grove.store.stats().commits,
            activity: tree.nodes.len() + tree.left_out,
        };
        say(&format!(
            "  hour {}: {:.0} MiB resident, {:.0} MiB on disk, {:.0} MiB live, {} commits, {} awake",
            n + 1,
            hour.resident / MIB,
            hour.disk / MIB,
            hour.live / MIB,
            hour.commits,
            hour.activity
        ));
        hours.push(hour);
    }
    grove.end(Duration::from_secs(10)).await?;
    Ok(hours)
}

/// Makes this hour's backup and compacts the log; the rows and the log that are left, in bytes.
async fn keep(grove: &Grove, hour: usize, now: PolicyTime) -> Result<f64> {
    let folder = grove.folder.path().to_owned();
    let store = grove.store.clone();
    let kept = tokio::task::spawn_blocking(move || {
        let name = |hour: usize| folder.join(format!("backup-{hour}"));
        store.backup(&name(hour))?;
        if let Some(old) = hour.checked_sub(BACKUPS) {
            fs::remove_dir_all(name(old))?;
        }
        store.compact(now)?;
        let rows = fs::metadata(name(hour).join("rows"))?.len();
        Ok(size(rows + store.stats().log_bytes))
    });
    kept.await?
}

// === free functions ===

fn one(sample: f64) -> Samples {
    let mut samples = Samples::default();
    samples.push(sample);
    samples
}

/// By how much a series rises a step, by least squares.
fn slope(series: &[f64]) -> f64 {
    let n = count(series.len());
    let mean_x = (n - 1.0) / 2.0;
    let mean_y = series.iter().sum::<f64>() / n;
    let (mut over, mut under) = (0.0, 0.0);
    for (at, y) in series.iter().enumerate() {
        let x = count(at) - mean_x;
        over += x * (y - mean_y);
        under += x * x;
    }
    over / under
}

/// What this process has in memory.
fn resident() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kib: f64 = kib
        .context("the kernel tells what is resident")?
        .trim()
        .parse()?;
    Ok(kib * 1024.0)
}

#[expect(clippy::cast_precision_loss, reason = "files below 2^53 bytes")]
fn size(bytes: u64) -> f64 {
    bytes as f64
}

/// What the files below a folder take on the disk.
fn bytes_of(folder: &Path) -> Result<f64> {
    let mut bytes = 0.0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        bytes += if path.is_dir() {
            bytes_of(&path)?
        } else {
            // A file that is replaced meanwhile is counted next time.
            path.metadata().map_or(0.0, |file| size(file.len()))
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_what_a_step_adds() {
        assert!((slope(&[1.0, 3.0, 5.0, 7.0]) - 2.0).abs() < 1e-9);
        assert!(slope(&[4.0, 4.0, 4.0]).abs() < 1e-9);
    }
}
