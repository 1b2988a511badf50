//! A simulated day of many active inboxes that write to each other, and months of a few: what memory and disk come to,
//! and whether they grow.
//!
//! The daemon runs in this process, on a real store and real sockets; only its policy time is fast, and never
//! runs past work. The store is kept as the daemon keeps it: a backup, then compaction, then the rows written anew where
//! that is due. Memory is that of this process, so the names and the clock of the small world count, too.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use inboxgrove::ports::SystemClock;
use inboxgrove_model::{
    PolicyTime, WallTime,
    ports::{Activity, BoxFuture, Clock},
};
use inboxgrove_policy::zone::weekday;
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
/// How late a sleeper may wake.
const TICK_MILLIS: i64 = 10_000;
const DAY_MILLIS: i64 = 86_400_000;
/// The months: so many days, of so many inboxes, with a backup every so many hours.
const MONTHS_DAYS: usize = 90;
const MONTHS_INBOXES: u32 = 40;
const MONTHS_KEPT_EVERY: usize = 6;
/// Days of the months before the rows have grown to what is worth a rewrite.
const MONTHS_WARM_UP: usize = 10;
/// A line of the report for so many days.
const MONTHS_LINE_DAYS: usize = 5;
const MIB: f64 = 1024.0 * 1024.0;

/// How long is lived, and by how many.
#[derive(Clone, Copy)]
struct Span {
    inboxes: u32,
    hours: usize,
    /// The store is kept, and looked at, once in so many hours.
    kept_every: usize,
}

/// A clock whose sleepers wake at whole ticks, all of a tick together: what is due one by one is then done side by side,
/// as on a busy machine, and a day does not take a day. While everything is set up it is exact.
#[derive(Clone)]
struct Ticking {
    clock: FastClock,
    ticks: Arc<AtomicBool>,
}

/// What the hours up to one came to.
struct Hour {
    resident: f64,
    disk: f64,
    live: f64,
    /// The rows, and the file that they are in.
    rows: f64,
    rows_file: f64,
    commits: u64,
    activity: usize,
}

/// What is left when the store was kept, in bytes.
struct Kept {
    rows: f64,
    log: f64,
}

// === impl Ticking ===

impl Clock for Ticking {
    fn policy(&self) -> PolicyTime {
        self.clock.policy()
    }

    fn wall(&self) -> WallTime {
        self.clock.wall()
    }

    fn sleep_until(&self, at: PolicyTime) -> BoxFuture<'static, ()> {
        if !self.ticks.load(Ordering::Relaxed) {
            return self.clock.sleep_until(at);
        }
        let ticks = at.as_millis().saturating_add(TICK_MILLIS - 1) / TICK_MILLIS;
        let at = PolicyTime::from_millis(ticks.saturating_mul(TICK_MILLIS));
        self.clock.sleep_until(at)
    }
}

// === free functions ===

/// Runs the bench: as many inboxes as the effort says.
pub(crate) fn run(effort: Effort) -> Result<Section> {
    let runtime = Runtime::new().context("a runtime can be started")?;
    let hours = runtime.block_on(live(Span {
        inboxes: effort.active,
        hours: DAY,
        kept_every: 1,
    }))?;
    let about = format!(
        "{} inboxes in warmup write to each other and answer, over SMTP on loopback, for {DAY} hours of policy time from a Monday noon on, the daemon in this \
         process with a store on the disk; every hour a backup is made ({BACKUPS} are kept), the log is compacted, and the rows are written anew where it is due. Live are the \
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
    section.goal(
        "resident MiB, most",
        Samples::of(most),
        Bound::AtMost(512.0),
    );
    let resident: Vec<f64> = settled.iter().map(|hour| hour.resident / MIB).collect();
    section.goal(
        "resident MiB an hour",
        Samples::of(slope(&resident)),
        Bound::AtMost(1.0),
    );
    let last = hours.last().context("an hour was lived")?;
    section.goal(
        "disk against live data at the end",
        Samples::of(last.disk / last.live),
        Bound::AtMost(3.0),
    );
    Ok(section)
}

/// Runs the bench of months.
pub(crate) fn months(_effort: Effort) -> Result<Section> {
    let runtime = Runtime::new().context("a runtime can be started")?;
    let hours = runtime.block_on(live(Span {
        inboxes: MONTHS_INBOXES,
        hours: MONTHS_DAYS * DAY,
        kept_every: MONTHS_KEPT_EVERY,
    }))?;
    let about = format!(
        "As the day of churn, but {MONTHS_INBOXES} inboxes for {MONTHS_DAYS} days, and a backup every {MONTHS_KEPT_EVERY} hours. Rows \
         are keys and values as the newest backup holds them; their file is sled's."
    );
    let header = ["day", "file of rows MiB", "rows MiB", "ratio", "commits"];
    let mut section = Section::new("Months of churn", &about, &header);
    let days = hours.chunks(DAY / MONTHS_KEPT_EVERY);
    for (n, day) in days.enumerate() {
        let Some(last) = day.last().filter(|_| (n + 1) % MONTHS_LINE_DAYS == 0) else {
            continue;
        };
        section.row(&[
            &(n + 1),
            &format!("{:.1}", last.rows_file / MIB),
            &format!("{:.1}", last.rows / MIB),
            &format!("{:.2}", last.rows_file / last.rows),
            &last.commits,
        ]);
    }
    let settled = hours.iter().skip(MONTHS_WARM_UP * DAY / MONTHS_KEPT_EVERY);
    let most = settled
        .map(|hour| hour.rows_file / hour.rows)
        .fold(0.0, f64::max);
    let what = format!("the file of rows against the rows, most after {MONTHS_WARM_UP} days");
    section.goal(&what, Samples::of(most), Bound::AtMost(3.0));
    Ok(section)
}

async fn live(span: Span) -> Result<Vec<Hour>> {
    let inboxes = span.inboxes;
    let system = SystemClock::new(PolicyTime::default());
    let start = monday_noon_after(system.policy());
    let clock = FastClock::new(start, Arc::new(move || system.wall()));
    let activity = Activity::default();
    let ticking = Ticking {
        clock: clock.clone(),
        ticks: Arc::default(),
    };
    let grove = Grove::start(Arc::new(ticking.clone()), activity.clone()).await?;
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
    ticking.ticks.store(true, Ordering::Relaxed);
    say(&format!("  {inboxes} inboxes are there"));
    let mut hours = Vec::new();
    let begun = clock.policy();
    for (n, hour) in (span.kept_every..=span.hours)
        .step_by(span.kept_every)
        .enumerate()
    {
        let until = begun.after(Duration::from_hours(hour as u64));
        clock.run(&activity, until, Duration::ZERO).await;
        let kept = keep(&grove, n, clock.policy()).await?;
        let store = grove.folder.path().join("store");
        let tree = grove.platform().tree(&"running".into()).await;
        let stats = grove.store.stats();
        let lived = Hour {
            resident: resident()?,
            disk: bytes_of(&store)?,
            live: kept.rows + kept.log,
            rows: kept.rows,
            rows_file: size(stats.rows_bytes),
            commits: stats.commits,
            activity: tree.nodes.len() + tree.left_out,
        };
        say(&format!(
            "  hour {}: {:.0} MiB resident, {:.0} MiB on disk, {:.0} MiB live, {} commits, {} awake",
            hour,
            lived.resident / MIB,
            lived.disk / MIB,
            lived.live / MIB,
            lived.commits,
            lived.activity
        ));
        hours.push(lived);
    }
    grove.end(Duration::from_secs(10)).await?;
    Ok(hours)
}

/// Makes the n-th backup and does what the daemon does after it.
async fn keep(grove: &Grove, n: usize, now: PolicyTime) -> Result<Kept> {
    let folder = grove.folder.path().to_owned();
    let store = grove.store.clone();
    let kept = tokio::task::spawn_blocking(move || {
        let name = |n: usize| folder.join(format!("backup-{n}"));
        store.backup(&name(n))?;
        if let Some(old) = n.checked_sub(BACKUPS) {
            fs::remove_dir_all(name(old))?;
        }
        store.compact(now)?;
        if store.rewrite_is_due() {
            store.rewrite_rows()?;
        }
        let rows = fs::metadata(name(n).join("rows"))?.len();
        Ok(Kept {
            rows: size(rows),
            log: size(store.stats().log_bytes),
        })
    });
    kept.await?
}

/// The noon (UTC) of the first Monday after today: at weekends hardly anybody writes.
fn monday_noon_after(now: PolicyTime) -> PolicyTime {
    let mut later = now.utc_day() + 1..;
    let monday = later
        .find(|day| weekday(*day) == 0)
        .expect("a Monday comes");
    PolicyTime::from_millis(monday * DAY_MILLIS + DAY_MILLIS / 2)
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
    fn life_begins_on_a_monday() {
        // 1970-01-05 and 2026-11-30 are Mondays.
        for (now, monday) in [(0, 4), (3, 4), (4, 11), (20_786, 20_787), (20_787, 20_794)] {
            let noon = monday_noon_after(PolicyTime::from_millis(now * DAY_MILLIS + 5));
            assert_eq!(noon.as_millis(), monday * DAY_MILLIS + DAY_MILLIS / 2);
        }
    }

    #[test]
    fn a_slope_is_what_a_step_adds() {
        assert!((slope(&[1.0, 3.0, 5.0, 7.0]) - 2.0).abs() < 1e-9);
        assert!(slope(&[4.0, 4.0, 4.0]).abs() < 1e-9);
    }
}
