//! What every actor of the tree is given: the ports, the store, the rules, and the doors to its fellows.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use inboxgrove_config::Config;
use inboxgrove_mail::dkim::KeyMaker;
use inboxgrove_model::{
    PolicyTime,
    id::IdSource,
    limits::PAGE_MAX,
    ports::{Busy, Ports},
};
use inboxgrove_store::{Record, Scope, Store};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::{
    clock::ClockMsg,
    directory::DirectoryMsg,
    mailbox::{Door, Own},
    memory::Memory,
    metrics::Metrics,
    notifier::{Notices, NotifierMsg},
    outbound::OutboundMsg,
    refusal::Refusal,
    rules::Rules,
    vault::VaultMsg,
};

/// Where an answer goes. The asker may have gone away: then it is dropped.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What every actor is given, cheap to clone.
pub(crate) type Cx = Arc<Context>;

/// Letters under way at once, over all actors. Each holds a few hundred bytes: 4,096 are a megabyte or two.
pub(crate) const LETTERS_MAX: usize = 4096;
/// Questions and orders that may lie before one service at once. Its own tasks' news come beside them: they are
/// bounded where the tasks are started.
const SERVICE_LETTERS_MAX: usize = 1024;
/// Letters that may lie before the directory at once: all that may be under way, and room for operators.
const DIRECTORY_LETTERS_MAX: usize = LETTERS_MAX + 64;
/// Looks at the DNS of domains at once. Each asks some ten names at every server: more only wait for each other.
const LOOKS_MAX: usize = 128;
/// Looks that may wait for their turn, each with its domain awake: some 50 MB. Beyond it a person is told to come
/// again, and due work is offered again.
const LOOKS_WAITING_MAX: usize = 4096;
/// How long a question to an actor may take before its asker gives up. A commit takes milliseconds; the
/// longest handlers wait for one RSA key (about 200 ms) or a queue of commits.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The tree's shared surroundings.
pub(crate) struct Context {
    pub(crate) ports: Ports,
    pub(crate) store: Store,
    pub(crate) config: Arc<Config>,
    pub(crate) key_maker: Arc<dyn KeyMaker>,
    pub(crate) rules: Rules,
    pub(crate) ids: IdSource,
    pub(crate) metrics: Metrics,
    /// Tasks that actors started. A drain waits for those that count as work: see [`Context::spawn`].
    pub(crate) tasks: TaskTracker,
    /// Inbound sessions. A drain waits for all of them: told to stop, each ends by itself.
    pub(crate) sessions: TaskTracker,
    /// The gate before every mailbox: ractor's own are unbounded.
    pub(crate) letters: Arc<Semaphore>,
    pub(crate) directory: Door<DirectoryMsg>,
    pub(crate) vault: Door<VaultMsg>,
    pub(crate) outbound: Door<OutboundMsg>,
    pub(crate) notifier: Door<NotifierMsg>,
    pub(crate) clock: Door<ClockMsg>,
    /// What the notifier has still to write down. It outlives the notifier.
    pub(crate) notices: Notices,
    /// How much memory is in use, and what follows from it.
    pub(crate) memory: Memory,
    /// Looks at the DNS of domains that may be under way at once.
    pub(crate) looks: Arc<Semaphore>,
    /// Those and the ones that wait for their turn.
    pub(crate) look_queue: Arc<Semaphore>,
    /// Connections to mail servers that may be open at once, over all sites.
    pub(crate) connections: Arc<Semaphore>,
    fatal: watch::Sender<Option<String>>,
    draining: AtomicBool,
}

/// Keeps a wake-up that is already in a mailbox from being sent again: a mailbox has no bound of its own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nudge {
    waiting: Arc<AtomicBool>,
}

// === impl Context ===

impl Context {
    pub(crate) fn new(
        ports: Ports,
        store: Store,
        config: Arc<Config>,
        key_maker: Arc<dyn KeyMaker>,
        rules: Rules,
    ) -> Cx {
        let connections = usize::try_from(config.outbound.concurrency.connections);
        Arc::new(Self {
            connections: Arc::new(Semaphore::new(connections.unwrap_or(usize::MAX))),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            look_queue: Arc::new(Semaphore::new(LOOKS_WAITING_MAX)),
            memory: Memory::default(),
            ports,
            store,
            config,
            key_maker,
            rules,
            ids: IdSource::new(),
            metrics: Metrics::new(),
            tasks: TaskTracker::new(),
            sessions: TaskTracker::new(),
            letters: Arc::new(Semaphore::new(LETTERS_MAX)),
            directory: Door::shut("the directory", DIRECTORY_LETTERS_MAX),
            vault: Door::shut("the vault", SERVICE_LETTERS_MAX),
            outbound: Door::shut("outbound", SERVICE_LETTERS_MAX),
            notifier: Door::shut("the notifier", SERVICE_LETTERS_MAX),
            clock: Door::shut("the clock", SERVICE_LETTERS_MAX),
            notices: Notices::default(),
            fatal: watch::Sender::new(None),
            draining: AtomicBool::new(false),
        })
    }

    /// Policy time.
    pub(crate) fn now(&self) -> PolicyTime {
        self.ports.clock.policy()
    }

    /// Sixteen bytes for a new id.
    pub(crate) fn new_id(&self) -> [u8; 16] {
        self.ids.next(self.ports.clock.wall(), &*self.ports.rng)
    }

    /// Says that the process has to end, and why. The first reason stays.
    pub(crate) fn die(&self, why: String) {
        tracing::error!(%why, "a fatal child has died: the process ends");
        self.fatal
            .send_if_modified(|reason| reason.is_none() && reason.replace(why).is_none());
    }

    /// Resolves with the reason when the process has to end.
    pub(crate) async fn died(&self) -> String {
        let mut watch = self.fatal.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        match watch.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the tree is gone".to_owned(),
        }
    }

    /// Says that no new work is taken.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether no new work is taken.
    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Starts a task that a drain waits for, and that counts as work in flight.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let busy: Busy = self.ports.activity.begin();
        self.tasks.spawn(async move {
            work.await;
            drop(busy);
        });
    }

    /// Starts a task that only waits: neither a drain nor a fast clock need care for it.
    pub(crate) fn spawn_waiting(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.tasks.spawn(work));
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

// === impl Nudge ===

impl Nudge {
    /// Whether the wake-up has to be sent; until [`Nudge::heard`] it has been.
    pub(crate) fn is_first(&self) -> bool {
        !self.waiting.swap(true, Ordering::AcqRel)
    }

    /// The wake-up was received: what comes from now on needs another one.
    pub(crate) fn heard(&self) {
        self.waiting.store(false, Ordering::Release);
    }
}

/// Nudges an actor whenever a commit has added due or queue rows.
pub(crate) fn watch_commits<M: Send + 'static>(
    cx: &Context,
    nudge: Nudge,
    actor: Own<M>,
    wake_up: impl Fn(Busy) -> M + Send + 'static,
) {
    let mut marks = cx.store.due_watch();
    let activity = cx.ports.activity.clone();
    cx.spawn_waiting(async move {
        while marks.changed().await.is_ok() {
            if nudge.is_first() && !actor.tell(wake_up(activity.begin())) {
                return;
            }
        }
    });
}

/// All rows of a scope, page by page, so that memory holds one page at a time.
pub(crate) fn pages<'a, R: Record>(
    cx: &'a Context,
    scope: &'a Scope,
) -> impl Iterator<Item = Result<R, Refusal>> + 'a {
    let mut after: Option<Vec<u8>> = None;
    let mut ended = false;
    let mut rows = Vec::new().into_iter();
    std::iter::from_fn(move || {
        loop {
            if let Some(row) = rows.next() {
                return Some(Ok(row));
            }
            if ended {
                return None;
            }
            match cx.store.page::<R>(scope, after.as_deref(), PAGE_MAX) {
                Ok(page) => {
                    ended = page.next.is_none();
                    after = page.next;
                    rows = page.items.into_iter();
                }
                Err(why) => {
                    ended = true;
                    return Some(Err(why.into()));
                }
            }
        }
    })
}

/// Waits for an answer; a lost or late one is [`Refusal::Unknown`].
pub(crate) async fn answer_of<T>(
    who: &str,
    answer: oneshot::Receiver<Result<T, Refusal>>,
) -> Result<T, Refusal> {
    match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) | Err(_) => Err(Refusal::Unknown {
            who: who.to_owned(),
        }),
    }
}

/// Sends an answer; the asker may have gone away.
pub(crate) fn answer<T>(reply: Reply<T>, result: Result<T, Refusal>) {
    drop(reply.send(result));
}
