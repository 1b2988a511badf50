//! The store that is damaged: tenants, messages with bodies, events, counters, a backup in the middle, several segments of
//! log; closed well, or without power since its last checkpoint, or compacted.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    fs,
    future::Future,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use inboxgrove_model::{
    PolicyTime,
    budget::{BudgetKey, Take, Window},
    domain::Domain,
    due::{DueRow, DueWork},
    event::{Event, EventKind},
    inbox::{DayCounts, Inbox, PoolMember},
    message::Message,
    notice::{Notice, NoticeState},
    ports::Rng,
    tenant::Tenant,
};
use inboxgrove_sim::rng::SeededRng;
use inboxgrove_store::{
    Batch, EvidenceRow, InboxOfDomain, Keys, Options, ReadError, Record, Scope, SeedPlan, Seeded,
    Store,
};

use super::plant::FileKind;

/// When everything happened.
const NOW: PolicyTime = PolicyTime::from_millis(1_800_000_000_000);
/// Small, so that what there is lies in several of them.
const SEGMENT_BYTES: u64 = 32 * 1024;
/// Notices in each half of the life.
const NOTICES: u64 = 40;
/// Where the rows are.
const ROWS: &str = "data/sled";
/// Rows that are written again and again before all else, so that sled has several segments, and pages far from each other.
const BUSY_ROWS: u64 = 300;
/// Texts of these are long.
const BUSY_TEXT: usize = 900;
/// How often each of them is written.
const BUSY_TIMES: u64 = 6;
/// All events of a specimen are fewer.
const EVENTS_MAX: usize = 10_000;

/// In which state a specimen's files were left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Closed well: the rows know everything.
    Closed,
    /// Without power: the rows are as at the checkpoint before the backup, and what came after is in the log only.
    Cut,
    /// Compacted after two backups, then closed: the log alone does not have all rows any more.
    Compacted,
}

/// A store with known content, and the place where copies of it are damaged.
#[derive(Debug)]
pub struct Specimen {
    state: State,
    master: PathBuf,
    question: Question,
}

/// What a store is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Where the damaged copy lies.
    pub place: PathBuf,
    /// Its rows lack what came last, also where nothing is damaged.
    pub behind: bool,
    /// What must be true of the store.
    pub facts: Arc<Vec<Fact>>,
    /// What was true before the last commit.
    pub before_last: Arc<Vec<Fact>>,
    /// What must be true of the store that a backup restores; by the backup's name.
    pub restored: Arc<BTreeMap<String, Vec<Fact>>>,
}

/// How something is asked for.
type Ask = Box<dyn Fn(&Store) -> Result<Found, ReadError> + Send + Sync>;

/// Something that was acknowledged.
pub struct Fact {
    /// What it is about.
    pub name: String,
    ask: Ask,
}

/// What a store says to a fact.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// It is so.
    AsItWas,
    /// It knows nothing of it.
    Missing,
    /// It says something else.
    Other(String),
}

// === impl State ===

impl State {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Cut, Self::Compacted];

    /// A folder's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Cut => "cut",
            Self::Compacted => "compacted",
        }
    }
}

// === impl Specimen ===

impl Specimen {
    /// Lives the life of the store in `folder`, where its copies will lie too: it remembers where its backups are.
    pub fn make(folder: &Path, state: State) -> Result<Self> {
        let (place, master) = (folder.join("trial"), folder.join("master"));
        fs::create_dir_all(&place)?;
        let (store, _) = open(&place, 1)?;
        let mut restored = BTreeMap::new();
        live_busily(&store)?;
        store.close();
        // What was opened before has a snapshot of sled.
        let (store, _) = open(&place, 2)?;
        let first = live_first_half(&store)?;
        store.checkpoint();
        if state == State::Cut {
            copy_tree(&place.join(ROWS), &master.join(ROWS))?;
        }
        back_up(&store, &place, "one", &first, &mut restored)?;
        let seeded = live_second_half(&store, first)?;
        if state == State::Compacted {
            back_up(&store, &place, "two", &seeded, &mut restored)?;
            commit(&store, note(9000, "after the second backup"))?;
            let report = store.compact(NOW.after(Duration::from_hours(1)))?;
            ensure!(report.changed > 0, "nothing was compacted: {report:?}");
            commit(&store, note(9001, "after the compaction"))?;
        }
        let before_last = facts_of(&store, &seeded)?;
        commit(&store, last_commit())?;
        let facts = facts_of(&store, &seeded)?;
        ensure!(store.verify().is_clean(), "{:?}", store.verify().problems);
        store.close();
        if state == State::Cut {
            // What sled has written since was never synced.
            fs::remove_dir_all(place.join(ROWS))?;
            copy_tree(&master.join(ROWS), &place.join(ROWS))?;
            fs::remove_dir_all(&master)?;
        }
        fs::rename(&place, &master)?;
        Ok(Self {
            state,
            master,
            question: Question {
                place,
                behind: state == State::Cut,
                facts: Arc::new(facts),
                before_last: Arc::new(before_last),
                restored: Arc::new(restored),
            },
        })
    }

    /// How its files were left.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether it has a file of this kind.
    pub fn has(&self, kind: FileKind) -> bool {
        kind.files(&self.master)
            .is_ok_and(|files| !files.is_empty())
    }

    /// What a copy is asked.
    pub fn question(&self) -> Question {
        self.question.clone()
    }

    /// A new copy, in the place of the last one.
    pub fn copy(&self) -> Result<PathBuf> {
        let place = &self.question.place;
        if place.exists() {
            fs::remove_dir_all(place)?;
        }
        copy_tree(&self.master, place)?;
        Ok(place.clone())
    }
}

// === impl Fact ===

impl Fact {
    /// Asks a store.
    pub fn ask(&self, store: &Store) -> Result<Found, ReadError> {
        (self.ask)(store)
    }

    fn new(
        name: String,
        ask: impl Fn(&Store) -> Result<Found, ReadError> + Send + Sync + 'static,
    ) -> Self {
        let ask = Box::new(ask);
        Self { name, ask }
    }
}

impl Debug for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Opens the store of a copy, or makes it. The rows are flushed when it is said, not by the clock.
pub fn open(place: &Path, seed: u64) -> Result<(Store, inboxgrove_store::OpenReport)> {
    let rng: Arc<dyn Rng> = Arc::new(SeededRng::new(seed));
    Ok(Store::open(options(&place.join("data")), rng)?)
}

/// How a specimen is opened.
pub fn options(dir: &Path) -> Options {
    Options {
        segment_bytes: SEGMENT_BYTES,
        free_floor_bytes: 0,
        cache_bytes: 16 << 20,
        checkpoint_every: Duration::from_hours(1),
        ..Options::new(dir, Keys::from_bytes([7; 32]))
    }
}

/// A batch with one notice.
pub fn note(id: u64, text: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(&notice(id, text));
    batch
}

fn notice(id: u64, text: &str) -> Notice {
    Notice {
        id,
        tenant: None,
        code: "specimen".to_owned(),
        text: text.to_owned(),
        subject: format!("subject {id}"),
        at: NOW,
        attempts: 0,
        state: NoticeState::Waiting,
        last_error: String::new(),
    }
}

/// Commits, and waits for it.
pub fn commit(store: &Store, batch: Batch) -> Result<()> {
    wait(store.commit(batch))?.context("a commit")?;
    Ok(())
}

fn wait<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(future))
}

/// Long enough to fill sectors of its own.
fn last_commit() -> Batch {
    let mut batch = Batch::new();
    batch.put(&notice(9002, &"the last one ".repeat(200)));
    batch
}

fn live_busily(store: &Store) -> Result<()> {
    for round in 0..BUSY_TIMES {
        for some in 0..BUSY_ROWS / 20 {
            let mut batch = Batch::new();
            for id in 0..20 {
                // Far from each other in the order of keys.
                let id = 10_000 + (id * 20 + some) * (round + 1) % BUSY_ROWS;
                batch.put(&notice(id, &format!("{round} {}", "x".repeat(BUSY_TEXT))));
            }
            commit(store, batch)?;
        }
        store.checkpoint();
    }
    Ok(())
}

fn live_first_half(store: &Store) -> Result<Seeded> {
    let seeded = seed(store, 2, 11)?;
    for id in 0..NOTICES {
        commit(store, happening(id, "first"))?;
    }
    Ok(seeded)
}

fn live_second_half(store: &Store, mut seeded: Seeded) -> Result<Seeded> {
    for key in seeded.messages.drain(..3) {
        let mut batch = Batch::new();
        batch.remove::<Message>(&key);
        commit(store, batch)?;
    }
    for id in NOTICES / 2..NOTICES * 3 / 2 {
        commit(store, happening(id, "second"))?;
    }
    for id in 0..5 {
        let mut batch = Batch::new();
        batch.remove::<Notice>(&id);
        commit(store, batch)?;
    }
    let more = seed(store, 1, 12)?;
    seeded.tenants.extend(more.tenants);
    seeded.inboxes.extend(more.inboxes);
    seeded.messages.extend(more.messages);
    for (tenant, inbox) in seeded.inboxes.clone() {
        let mut batch = Batch::new();
        let counts = DayCounts {
            delivered: 3,
            replies: 1,
            ..DayCounts::default()
        };
        batch.count(tenant, inbox, NOW.utc_day(), "example", counts);
        batch.put(&DueRow {
            at: NOW,
            work: DueWork::Warmup(tenant, inbox),
        });
        commit(store, batch)?;
    }
    Ok(seeded)
}

fn seed(store: &Store, tenants: u32, seed: u64) -> Result<Seeded> {
    let plan = SeedPlan {
        tenants,
        inboxes_of_tenant: 3,
        messages_of_inbox: 3,
        body_bytes: 1200,
        at: NOW,
        wake_over: None,
    };
    Ok(wait(store.seed(&plan, &SeededRng::new(seed)))??)
}

/// A notice, an event and a take.
fn happening(id: u64, text: &str) -> Batch {
    let mut batch = note(id, &format!("{text} {id}"));
    batch.event(Event {
        at: NOW,
        tenant: None,
        kind: EventKind::OperatorActed {
            verb: text.to_owned(),
            subject: format!("{id}"),
            uid: 0,
        },
    });
    let window = Window {
        index: 1,
        cap: 10_000,
        ends_at: NOW,
    };
    batch.take(Take {
        budget: BudgetKey::Global,
        n: 1,
        hour: window,
        day: window,
    });
    batch
}

fn back_up(
    store: &Store,
    place: &Path,
    name: &str,
    seeded: &Seeded,
    restored: &mut BTreeMap<String, Vec<Fact>>,
) -> Result<()> {
    store.backup(&place.join("backups").join(name))?;
    restored.insert(name.to_owned(), facts_of(store, seeded)?);
    Ok(())
}

/// Everything that the store says now, as what it must say for ever.
fn facts_of(store: &Store, seeded: &Seeded) -> Result<Vec<Fact>> {
    let mut facts = Vec::new();
    rows::<Tenant>(store, &mut facts)?;
    rows::<Domain>(store, &mut facts)?;
    rows::<Inbox>(store, &mut facts)?;
    rows::<InboxOfDomain>(store, &mut facts)?;
    rows::<Message>(store, &mut facts)?;
    rows::<PoolMember>(store, &mut facts)?;
    rows::<EvidenceRow>(store, &mut facts)?;
    rows::<Notice>(store, &mut facts)?;
    rows::<DueRow>(store, &mut facts)?;
    for key in &seeded.messages {
        let message = store.existing::<Message>(key)?;
        let bytes = store.body(message.tenant, &message.body)?;
        facts.push(Fact::new(format!("body of {}", message.id), move |store| {
            let found = store.body(message.tenant, &message.body)?;
            Ok(compare(&bytes, Some(&found)))
        }));
    }
    let events = store.events(0, EVENTS_MAX, None)?;
    for event in events {
        facts.push(Fact::new(format!("event {}", event.id), move |store| {
            let found = store.events(event.id - 1, 1, None)?;
            let found = found.first().filter(|found| found.id == event.id);
            Ok(compare(&event, found))
        }));
    }
    let used = store.budget(&BudgetKey::Global)?;
    facts.push(Fact::new("budget".to_owned(), move |store| {
        Ok(compare(&used, Some(&store.budget(&BudgetKey::Global)?)))
    }));
    let counts = store.count_rows()?;
    facts.push(Fact::new("numbers of rows".to_owned(), move |store| {
        Ok(compare(&counts, Some(&store.count_rows()?)))
    }));
    Ok(facts)
}

fn rows<R: Record + PartialEq + Debug + Sync>(store: &Store, facts: &mut Vec<Fact>) -> Result<()> {
    let page = store.page::<R>(&Scope::All, None, usize::MAX)?;
    ensure!(page.next.is_none(), "{} has more than a page", R::TABLE);
    for record in page.items {
        let name = format!("{} of {:?}", R::TABLE, facts.len());
        facts.push(Fact::new(name, move |store| {
            Ok(compare(&record, store.get::<R>(&record.key())?.as_ref()))
        }));
    }
    Ok(())
}

fn compare<T: PartialEq + Debug>(expected: &T, found: Option<&T>) -> Found {
    match found {
        None => Found::Missing,
        Some(found) if found == expected => Found::AsItWas,
        Some(found) => Found::Other(format!("{found:?} in the place of {expected:?}")),
    }
}

/// Copies a folder; files that are one by a link are one in the copy too.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fn copy(from: &Path, to: &Path, linked: &mut BTreeMap<u64, PathBuf>) -> Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let (path, copied) = (entry.path(), to.join(entry.file_name()));
            let found = entry.metadata()?;
            if found.is_dir() {
                copy(&path, &copied, linked)?;
            } else if let Some(first) = linked.get(&found.ino()) {
                fs::hard_link(first, &copied)?;
            } else {
                fs::copy(&path, &copied)?;
                linked.insert(found.ino(), copied);
            }
        }
        Ok(())
    }
    copy(from, to, &mut BTreeMap::new()).map_err(|why| anyhow!("{}: {why:#}", from.display()))
}
