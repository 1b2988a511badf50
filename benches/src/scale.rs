//! What a full store costs: a million inboxes in ten thousand tenants, of which ten thousand are at work, beside a
//! hundred in ten. The daemon is the real one, on a store that was filled before it starts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use inboxgrove_model::InboxId;
use serde_json::json;
use tokio::{runtime::Runtime, time::sleep};

use crate::{
    Effort,
    http::Connection,
    installation::Tenant,
    measure::{Samples, at_share, count, figure, monotonic, since},
    reading::connect,
    report::{Bound, Section},
    seeded::{Filled, Running, Size, WAKE_OVER, fill},
    sending,
};

/// Inboxes of a tenant in the large store.
const INBOXES_OF_TENANT: u32 = 100;
/// The small store.
const SMALL: Size = Size {
    tenants: 10,
    inboxes_of_tenant: 10,
};
/// Inboxes that are woken: the first half one after the other, each for its time, the second half for its memory.
const ACTIVE: usize = 10_000;
/// Connections that read and wake.
const LANES: usize = 16;
/// GETs of a lane in a round.
const GETS_OF_LANE: usize = 2_000;
/// After a start the daemon does what became due while the store was being filled.
const SETTLES_WITHIN: Duration = Duration::from_mins(3);
/// How often one looks whether it has.
const SETTLE_STEP: Duration = Duration::from_secs(2);
/// Due work is watched for so long, for each second of a sample.
const WATCH_PER_SECOND: f64 = 40.0;
/// The day that due rows are spread over, in seconds.
const DAY_SECS: f64 = 86_400.0;
/// Due rows of the goal.
const DUE_ROWS: f64 = 1e6;

/// A running daemon on a filled store.
struct Side {
    running: Running,
    /// Sends mail: a tenant that registered and proved its domain, beside those that were filled in.
    sender: Tenant,
    domains: Vec<String>,
    get_us: Samples,
    first_get_us: Samples,
    sends: sending::Series,
}

/// Runs the bench.
pub(crate) fn run(effort: Effort) -> Result<Section> {
    let runtime = Runtime::new().context("a runtime can be started")?;
    let size = Size {
        tenants: effort.inboxes.div_ceil(INBOXES_OF_TENANT).max(1),
        inboxes_of_tenant: INBOXES_OF_TENANT,
    };
    runtime.block_on(all(effort, size))
}

async fn all(effort: Effort, size: Size) -> Result<Section> {
    let large = fill(size).await?;
    let mut section = section(size, &large);
    let mut large = large.serve().await?;
    ready(&mut section, &mut large, effort.rounds).await?;
    let small = fill(SMALL).await?.serve().await?;
    due(&mut section, &large, &small, effort).await?;
    let mut sides = [Side::of(small).await?, Side::of(large).await?];
    growth(&mut section, &mut sides, effort).await?;
    active(&mut section, &sides).await?;
    Ok(section)
}

fn section(size: Size, large: &Filled) -> Section {
    let about = format!(
        "{} inboxes in {} tenants, written in {:.0} s as `inboxgrove store seed` does ({} MB on the disk), every inbox with a \
         warmup turn due within {} hours, and a session for each tenant; beside it {} inboxes in {}. All requests come over HTTP, \
         and each names an inbox that is drawn by chance from all of them. RSS and CPU are the daemon's process, all threads, idle work \
         included. Each store also has a tenant that sends, with {} inboxes of its own, as in the bench of a send.",
        size.tenants * size.inboxes_of_tenant,
        size.tenants,
        large.took.as_secs_f64(),
        large.disk_bytes / 1_000_000,
        WAKE_OVER.as_secs() / 3600,
        SMALL.tenants * SMALL.inboxes_of_tenant,
        SMALL.tenants,
        sending::INBOXES,
    );
    Section::new("A full store", &about, &["", "found", "how"])
}

/// How soon a killed daemon answers again.
async fn ready(section: &mut Section, large: &mut Running, rounds: usize) -> Result<()> {
    let mut ready = Samples::default();
    for _ in 0..rounds {
        let began = monotonic();
        large.installation.restart().await?;
        let request = large.request(0, "GET", |inbox| (inbox_path(inbox), String::new()))?;
        let mut connection = connect(1, large.installation.api).await?.remove(0);
        let answer = connection.exchange(&request).await?;
        ensure!(answer.status == 200, "the first GET: {}", answer.status);
        ready.push(since(began).as_secs_f64());
    }
    let how = "from SIGKILL to the first 200 of an authenticated GET";
    section.row(&[&"ready to answer, s", &ready, &how]);
    section.goal("P10, ready to answer, s", ready, Bound::AtMost(3.0));
    Ok(())
}

/// What due work costs while nothing else happens.
async fn due(
    section: &mut Section,
    large: &Running,
    small: &Running,
    effort: Effort,
) -> Result<()> {
    let settled = monotonic();
    let mut woken = large.woken().await?;
    // What became due while the store was being filled is done first.
    loop {
        sleep(SETTLE_STEP).await;
        let now = large.woken().await?;
        let expected = large.inboxes() / WAKE_OVER.as_secs_f64() * SETTLE_STEP.as_secs_f64();
        if now - woken <= 2.0 * expected + 2.0 {
            break;
        }
        ensure!(since(settled) < SETTLES_WITHIN, "due work does not end");
        woken = now;
    }
    let (cpu, idle) = (large.installation.cpu()?, small.installation.cpu()?);
    let (woken, began) = (large.woken().await?, monotonic());
    sleep(effort.sample.mul_f64(WATCH_PER_SECOND)).await;
    let took = since(began).as_secs_f64();
    let woken = large.woken().await? - woken;
    let share =
        |before: Duration, now: Duration| now.saturating_sub(before).as_secs_f64() / took * 100.0;
    let (share, idle) = (
        share(cpu, large.installation.cpu()?),
        share(idle, small.installation.cpu()?),
    );
    let row_ms = (share - idle) / 100.0 * took / woken * 1e3;
    let day = idle + row_ms / 1e3 * DUE_ROWS / DAY_SECS * 100.0;
    let how = format!(
        "over {took:.0} s without requests, {:.1} rows a second; the daemon on the small store: {} %",
        woken / took,
        figure(idle)
    );
    section.row(&[&"due work, % of a core", &figure(share), &how]);
    let how = "a warmup turn: the inbox is woken, judged, its day planned, the next turn committed; it sends nothing";
    section.row(&[&"a due row, CPU ms", &figure(row_ms), &how]);
    let day = Samples::of(day);
    section.row(&[
        &"a million due rows a day, % of a core",
        &day,
        &"that, times 11.6 a second, and the idle daemon",
    ]);
    section.goal(
        "a million due rows a day, % of a core",
        day,
        Bound::AtMost(2.0),
    );
    Ok(())
}

/// What a GET and a send cost, with much and with little beside them.
async fn growth(section: &mut Section, sides: &mut [Side; 2], effort: Effort) -> Result<()> {
    for round in 0..=effort.rounds {
        for side in &mut *sides {
            let (get_us, first_get_us, sends) = side.round(round, effort).await?;
            // The first round wakes the actors, opens the connections and fills the caches: it is not counted.
            if round > 0 {
                side.get_us.push(get_us);
                side.first_get_us.push(first_get_us);
                side.sends.append(sends);
            }
        }
    }
    let [small, large] = sides;
    section.row(&[
        &"first GET of an inbox, CPU µs",
        &large.first_get_us,
        &"nobody has asked for it since the start, nor for anything else of most of the accounts",
    ]);
    for (what, small, large) in [
        (
            "GET of an active inbox, CPU µs",
            &small.get_us,
            &large.get_us,
        ),
        ("send, CPU ms", &small.sends.cpu_ms, &large.sends.cpu_ms),
    ] {
        let how = format!("{small} on the small store");
        section.row(&[&what, large, &how]);
        let what = format!("P12, {what}: large against small");
        section.goal(&what, large.over(small), Bound::AtMost(1.5));
    }
    Ok(())
}

/// What inboxes cost that are at work, and how soon one that sleeps answers.
async fn active(section: &mut Section, [small, large]: &[Side; 2]) -> Result<()> {
    let (small, large) = (&small.running, &large.running);
    let before = large.installation.daemon().resident_bytes()?;
    let little = small.installation.daemon().resident_bytes()?;
    let mut connection = connect(1, large.installation.api).await?.remove(0);
    let (mut asleep, mut awake) = (Vec::new(), Vec::new());
    for at in 0..ACTIVE / 2 {
        let request = large.request(at, "POST", wake)?;
        for waits in [&mut asleep, &mut awake] {
            let asked = monotonic();
            let answer = connection.exchange(&request).await?;
            ensure!(answer.status == 200, "a message: {}", answer.status);
            waits.push(since(asked).as_secs_f64() * 1e6);
        }
    }
    let half = large.installation.daemon().resident_bytes()?;
    for at in ACTIVE / 2..ACTIVE {
        let answer = connection
            .exchange(&large.request(at, "POST", wake)?)
            .await?;
        ensure!(answer.status == 200, "a message: {}", answer.status);
    }
    let all = large.installation.daemon().resident_bytes()?;
    asleep.sort_by(f64::total_cmp);
    awake.sort_by(f64::total_cmp);
    let shares = |waits: &[f64]| [0.5, 0.99].map(|share| at_share(waits, share));
    let ([p50, p99], [awake50, awake99]) = (shares(&asleep), shares(&awake));
    let how = format!(
        "p50 and p99 of {} one after the other over one connection; the same to an inbox awake: {}, {}",
        asleep.len(),
        figure(awake50),
        figure(awake99)
    );
    section.row(&[
        &"first message to a sleeping inbox, µs",
        &format!("{}, {}", figure(p50), figure(p99)),
        &how,
    ]);
    section.goal(
        "P11, first message to a sleeping inbox, p50 µs",
        Samples::of(p50),
        Bound::AtMost(200.0),
    );
    section.goal(
        "P11, first message to a sleeping inbox, p99 µs",
        Samples::of(p99),
        Bound::AtMost(5000.0),
    );
    let mib = |bytes: u64| figure(count_bytes(bytes) / f64::from(1 << 20));
    let idle = count_bytes(before.saturating_sub(little)) / large.inboxes();
    let how = format!(
        "{} MiB before one was woken; the daemon on the small store: {} MiB, so a sleeping inbox costs {} bytes",
        mib(before),
        mib(little),
        figure(idle)
    );
    section.row(&[&format!("RSS with {ACTIVE} active, MiB"), &mib(all), &how]);
    let further = count_bytes(all.saturating_sub(half)) / count(ACTIVE / 2) / 1024.0;
    section.row(&[
        &"a further active inbox, KiB",
        &figure(further),
        &format!(
            "between {} and {ACTIVE}, drawn from all tenants",
            ACTIVE / 2
        ),
    ]);
    section.goal(
        "P9, RSS, GiB",
        Samples::of(count_bytes(all) / f64::from(1 << 30)),
        Bound::AtMost(1.0),
    );
    section.goal(
        "P9, a further active inbox, KiB",
        Samples::of(further),
        Bound::AtMost(12.0),
    );
    section.goal(
        "P9, a sleeping inbox, bytes",
        Samples::of(idle),
        Bound::AtMost(600.0),
    );
    Ok(())
}

// === impl Side ===

impl Side {
    async fn of(running: Running) -> Result<Self> {
        let domains = running.installation.ground.neighbours(sending::SITES);
        let sender = running
            .installation
            .tenant("sender", sending::INBOXES)
            .await?;
        Ok(Self {
            running,
            sender,
            domains,
            get_us: Samples::default(),
            first_get_us: Samples::default(),
            sends: sending::Series::default(),
        })
    }

    /// CPU microseconds of a GET of an active inbox and of one that was not asked for before, and a round of sends.
    async fn round(&self, round: usize, effort: Effort) -> Result<(f64, f64, sending::Series)> {
        let installation = &self.running.installation;
        let get_us = self.gets(|at| at % ACTIVE).await?;
        let begun = ACTIVE + round * LANES * GETS_OF_LANE;
        let first_get_us = self.gets(|at| begun + at).await?;
        let mut sends = sending::Series::default();
        let messages = sending::messages_of(effort);
        sending::send_all(
            installation,
            &self.sender,
            &self.domains,
            messages,
            &mut sends,
        )
        .await?;
        Ok((get_us, first_get_us, sends))
    }

    /// CPU microseconds of a GET; `number` says which inbox the n-th asks for.
    async fn gets(&self, number: impl Fn(usize) -> usize) -> Result<f64> {
        let installation = &self.running.installation;
        let mut lanes = Vec::new();
        for (lane, connection) in connect(LANES, installation.api)
            .await?
            .into_iter()
            .enumerate()
        {
            let first = lane * GETS_OF_LANE;
            let requests = (first..first + GETS_OF_LANE)
                .map(|at| {
                    self.running.request(number(at), "GET", |inbox| {
                        (inbox_path(inbox), String::new())
                    })
                })
                .collect::<Result<Vec<_>>>()?;
            lanes.push((connection, requests));
        }
        let before = installation.cpu()?;
        let lanes: Vec<_> = lanes
            .into_iter()
            .map(|(connection, requests)| tokio::spawn(get_all(connection, requests)))
            .collect();
        for lane in lanes {
            lane.await.context("a client panicked")??;
        }
        let cpu = installation.cpu()?.saturating_sub(before).as_secs_f64() * 1e6;
        Ok(cpu / count(LANES * GETS_OF_LANE))
    }
}

// === free functions ===

async fn get_all(mut connection: Connection, requests: Vec<Vec<u8>>) -> Result<()> {
    for request in requests {
        let answer = connection.exchange(&request).await?;
        ensure!(answer.status == 200, "a GET: {}", answer.status);
    }
    Ok(())
}

fn inbox_path(inbox: InboxId) -> String {
    format!("/api/v1/infrastructure/inboxes/{inbox}")
}

/// A message that changes nothing: what an inbox that runs its warmup answers without a commit.
fn wake(inbox: InboxId) -> (String, String) {
    let body = json!({ "inbox_ids": [inbox.to_string()] });
    ("/api/v1/warmup/start".to_owned(), body.to_string())
}

#[expect(clippy::cast_precision_loss, reason = "bytes below 2^53")]
fn count_bytes(bytes: u64) -> f64 {
    bytes as f64
}
