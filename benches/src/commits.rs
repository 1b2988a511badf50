//! Durable commits of one row of 300 bytes, against the same bytes appended to a file with fdatasync.
//!
//! Both are asked by the same tasks in the same way and gather what waits into groups, one sync each; so the
//! difference is what the store does beyond writing: encoding, framing, preconditions, applying to the rows.

use std::{
    fs::File,
    future::Future,
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::rand;
use inboxgrove_model::{
    PolicyTime,
    notice::{Notice, NoticeState},
    ports::Rng,
};
use inboxgrove_store::{Batch, Keys, Options, Record, Store};
use tokio::{runtime::Runtime, sync::oneshot};

pub(crate) mod lives;

use crate::{
    Effort,
    installation::beside_the_binary,
    measure::{Samples, at_share, count, monotonic, since},
    report::{Bound, Section},
};

/// Bytes of the row, its key included.
const ROW_BYTES: usize = 300;
/// How many ask at a time; with it the least ratio of rates and the largest of p99s that we want (P7, P8).
const WRITERS: [(usize, f64, Option<f64>); 3] = [
    (1, 0.35, None),
    (16, 0.4, Some(4.0)),
    (256, 0.12, Some(8.0)),
];
/// Appends gathered into one sync, as many as the writers at most.
const GROUP_MAX: usize = 1024;

/// What one sample found.
struct Found {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Samples of all rounds.
#[derive(Default)]
struct Series {
    per_second: Samples,
    p50_ms: Samples,
    p99_ms: Samples,
}

/// The reference: one thread that appends what waits, syncs, and answers.
struct Appender {
    requests: Option<mpsc::Sender<(Vec<u8>, oneshot::Sender<()>)>>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Chance from aws-lc.
pub(crate) struct SystemRng;

/// Runs the bench.
pub(crate) fn run(effort: Effort) -> Result<Section> {
    let runtime = Runtime::new().context("a runtime can be started")?;
    let folder = beside_the_binary()?;
    let options = Options::new(folder.path().join("store"), Keys::from_bytes([7; 32]));
    let (store, _report) = Store::open(options, Arc::new(SystemRng))?;
    let next = Arc::new(AtomicU64::new(0));
    let mut section = section();
    for (writers, rate_least, p99_most) in WRITERS {
        let (mut ours, mut theirs) = (Series::default(), Series::default());
        let mut grouped = Samples::default();
        for round in 0..effort.rounds {
            let file = folder.path().join(format!("raw-{writers}-{round}"));
            theirs.push(&append(&runtime, &file, writers, effort.sample, ROW_BYTES)?);
            let before = store.stats();
            ours.push(&commit(&runtime, &store, &next, writers, effort.sample)?);
            let after = store.stats();
            let (commits, groups) = (after.commits - before.commits, after.groups - before.groups);
            grouped.push(ratio(commits, groups));
        }
        let rates = ours.per_second.over(&theirs.per_second);
        section.row(&[
            &writers,
            &"raw",
            &theirs.per_second,
            &"1",
            &theirs.p50_ms,
            &theirs.p99_ms,
            &"–",
        ]);
        section.row(&[
            &writers,
            &"store",
            &ours.per_second,
            &rates,
            &ours.p50_ms,
            &ours.p99_ms,
            &grouped,
        ]);
        let what = format!("P7, rate against raw at {writers} writers");
        section.goal(&what, rates, Bound::AtLeast(rate_least));
        if let Some(most) = p99_most {
            let what = format!("P8, p99 against raw at {writers} writers");
            section.goal(&what, ours.p99_ms.over(&theirs.p99_ms), Bound::AtMost(most));
        }
    }
    store.close();
    Ok(section)
}

fn section() -> Section {
    let about = format!(
        "Batches of one row of {ROW_BYTES} bytes (a notice, not sealed), each writer waiting for its own commit before the \
         next; `raw` is one thread that appends the same bytes to a growing file, calls fdatasync once for all that wait, and \
         answers. Both on one file system. `a sync`: how many commits shared one."
    );
    let header = [
        "writers",
        "",
        "durable commits/s",
        "ratio",
        "p50 ms",
        "p99 ms",
        "a sync",
    ];
    Section::new("Durable commits", &about, &header)
}

fn commit(
    runtime: &Runtime,
    store: &Store,
    next: &Arc<AtomicU64>,
    writers: usize,
    sample: Duration,
) -> Result<Found> {
    let template = notice()?;
    gather(runtime, writers, sample, || {
        let (store, next, template) = (store.clone(), Arc::clone(next), template.clone());
        move || {
            let mut notice = template.clone();
            notice.id = next.fetch_add(1, Ordering::Relaxed);
            let mut batch = Batch::new();
            batch.put(&notice);
            let committed = store.commit(batch);
            async move { Ok(committed.await.map(drop)?) }
        }
    })
}

/// Appends so many bytes each time.
fn append(
    runtime: &Runtime,
    file: &Path,
    writers: usize,
    sample: Duration,
    bytes: usize,
) -> Result<Found> {
    let mut appender = Appender::start(file)?;
    let requests = appender.requests.clone().context("it was just started")?;
    let found = gather(runtime, writers, sample, || {
        let requests = requests.clone();
        move || {
            let (answer, answered) = oneshot::channel();
            let sent = requests.send((vec![b'x'; bytes], answer));
            async move {
                sent.ok().context("the appender has ended")?;
                Ok(answered.await?)
            }
        }
    });
    drop(requests);
    appender.end()?;
    found
}

/// Lets so many tasks do something again and again for a while.
fn gather<Do, Done>(
    runtime: &Runtime,
    writers: usize,
    sample: Duration,
    mut writer: impl FnMut() -> Do,
) -> Result<Found>
where
    Do: Fn() -> Done + Send + 'static,
    Done: Future<Output = Result<()>> + Send,
{
    let began = monotonic();
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let work = writer();
            runtime.spawn(async move {
                let mut waits = Vec::new();
                while since(began) < sample {
                    let asked = monotonic();
                    work().await?;
                    waits.push(since(asked).as_secs_f64() * 1e3);
                }
                anyhow::Ok(waits)
            })
        })
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(runtime.block_on(task).context("a writer panicked")??);
    }
    let took = since(began).as_secs_f64();
    waits.sort_by(f64::total_cmp);
    Ok(Found {
        per_second: count(waits.len()) / took,
        p50_ms: at_share(&waits, 0.5),
        p99_ms: at_share(&waits, 0.99),
    })
}

/// A notice whose row and key have [`ROW_BYTES`].
fn notice() -> Result<Notice> {
    let mut notice = Notice {
        id: 0,
        tenant: None,
        code: "bench".to_owned(),
        text: "x".repeat(ROW_BYTES),
        subject: "bench".to_owned(),
        at: PolicyTime::from_millis(0),
        attempts: 0,
        state: NoticeState::Told,
        last_error: String::new(),
    };
    let surplus = (notice.to_row().len() + size_of::<u64>()).saturating_sub(ROW_BYTES);
    notice.text.truncate(ROW_BYTES.saturating_sub(surplus));
    let bytes = notice.to_row().len() + size_of::<u64>();
    ensure!(bytes.abs_diff(ROW_BYTES) < 8, "the row has {bytes} bytes");
    Ok(notice)
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
fn ratio(of: u64, to: u64) -> f64 {
    of as f64 / to as f64
}

// === impl Series ===

impl Series {
    fn push(&mut self, found: &Found) {
        self.per_second.push(found.per_second);
        self.p50_ms.push(found.p50_ms);
        self.p99_ms.push(found.p99_ms);
    }
}

// === impl Appender ===

impl Appender {
    fn start(path: &Path) -> Result<Self> {
        let mut file = File::create_new(path).with_context(|| format!("{}", path.display()))?;
        let (requests, waiting) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>();
        let thread = std::thread::spawn(move || {
            while let Ok(first) = waiting.recv() {
                let group: Vec<_> = std::iter::once(first)
                    .chain(waiting.try_iter().take(GROUP_MAX - 1))
                    .collect();
                let bytes: Vec<u8> = group.iter().flat_map(|(bytes, _)| bytes).copied().collect();
                file.write_all(&bytes)?;
                file.sync_data()?;
                for (_, answer) in group {
                    // A writer that is gone no longer waits.
                    answer.send(()).unwrap_or_default();
                }
            }
            Ok(())
        });
        Ok(Self {
            requests: Some(requests),
            thread: Some(thread),
        })
    }

    fn end(&mut self) -> Result<()> {
        self.requests = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            Some(Err(_)) => anyhow::bail!("the appender panicked"),
            None => Ok(()),
        }
    }
}

// === impl SystemRng ===

impl Rng for SystemRng {
    fn fill(&self, bytes: &mut [u8]) {
        rand::fill(bytes).expect("aws-lc aborts rather than run without entropy");
    }
}
