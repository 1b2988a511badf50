//! How requests reach the committer: through a bounded queue to its own thread, or inline where
//! everything runs on one thread.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;

use super::{Answer, Committer, Request};
use crate::{
    CommitError, MemDisk, engine::sled::panic_text, shared::Shared, witness::serve_witnessed,
};

/// Requests that may wait: four full groups. More would only wait longer.
const QUEUE_LEN: usize = 1024;
/// Bytes that may wait: twice the largest batch, and a quarter of the memory of a small machine.
const QUEUE_BYTES: usize = 128 << 20;
/// Requests drained at once.
const DRAIN_MAX: usize = 256;

/// The way to the committer.
pub(crate) enum Queue {
    /// It runs where the commit is called; one at a time, and not while its disk holds syncs.
    Inline(Arc<Mutex<Committer>>, MemDisk),
    /// It has a thread of its own.
    Thread {
        sender: Option<SyncSender<(Request, usize)>>,
        load: Arc<Load>,
        thread: Option<JoinHandle<()>>,
    },
}

/// What lies before the committer's thread.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Bytes of the requests that wait.
    bytes: AtomicUsize,
    /// Requests that were handed over and are not done.
    requests: AtomicUsize,
}

// === impl Queue ===

impl Queue {
    /// A queue to a committer that runs inline on this disk.
    pub(crate) fn inline(committer: Committer, disk: MemDisk) -> Self {
        Self::Inline(Arc::new(Mutex::new(committer)), disk)
    }

    /// A queue to a committer on its own thread.
    pub(crate) fn thread(committer: Committer) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE_LEN);
        let load = Arc::<Load>::default();
        let waiting = Arc::clone(&load);
        let thread = thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || run(committer, &receiver, &waiting))?;
        Ok(Self::Thread {
            sender: Some(sender),
            load,
            thread: Some(thread),
        })
    }

    /// Whether all that was handed over is done. Never said of an inline committer: its disk may hold requests back.
    pub(crate) fn rests(&self) -> bool {
        match self {
            Self::Inline(..) => false,
            Self::Thread { load, .. } => load.requests.load(Ordering::Acquire) == 0,
        }
    }

    /// Hands a request over. It is refused with `Busy` when too much waits.
    pub(crate) fn send(&self, request: Request) {
        match self {
            Self::Inline(committer, disk) => {
                if let Some(request) = disk.hold(committer, request) {
                    serve_witnessed(disk, committer, request);
                }
            }
            Self::Thread {
                sender: Some(sender),
                load,
                ..
            } => send(sender, load, request),
            Self::Thread { sender: None, .. } => request.refuse(&CommitError::Failed {
                why: "the store is closed".to_owned(),
            }),
        }
    }

    /// Runs work that no commit may run beside, and waits for it. `None` when the committer is gone.
    pub(crate) fn alone<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Committer) -> T + Send + 'static,
    ) -> Option<T> {
        match self {
            Self::Inline(committer, _) => {
                let mut committer = committer.lock().unwrap_or_else(PoisonError::into_inner);
                Some(work(&mut committer))
            }
            Self::Thread {
                sender: Some(sender),
                load,
                ..
            } => {
                let (answer, answered) = std::sync::mpsc::channel();
                let work = Request::Alone(Box::new(move |committer| {
                    // Whoever asked waits below; only a panic of theirs could take them away.
                    answer.send(work(committer)).ok();
                }));
                load.requests.fetch_add(1, Ordering::AcqRel);
                sender.send((work, 0)).ok()?;
                answered.recv().ok()
            }
            Self::Thread { sender: None, .. } => None,
        }
    }
}

impl Drop for Queue {
    /// Waits until what was handed over is done and the rows are flushed.
    fn drop(&mut self) {
        if let Self::Thread { sender, thread, .. } = self {
            sender.take();
            if let Some(thread) = thread.take()
                && thread.thread().id() != thread::current().id()
                && thread.join().is_err()
            {
                tracing::error!("the committer's thread panicked");
            }
        }
    }
}

// === impl Request ===

impl Request {
    /// A batch or a lease, refused.
    fn refuse(self, why: &CommitError) {
        // Whoever asked may have gone.
        match self {
            Self::Commit(_, answer) => answer.send(Err(why.clone())).ok(),
            Self::Own(_, answer) => answer.send(Err(why.clone())).ok(),
            // A lease that stays is one entry; its owner's next lease takes its place.
            Self::Release(_) | Self::Alone(_) => None,
        }
        .unwrap_or_default();
    }

    fn weight(&self) -> usize {
        match self {
            Self::Commit(batch, _) => batch.bytes,
            Self::Own(..) | Self::Release(_) | Self::Alone(_) => 0,
        }
    }
}

/// Lets an inline committer serve, where it is called.
pub(crate) fn serve_inline(
    committer: &Mutex<Committer>,
    requests: impl IntoIterator<Item = Request>,
) {
    let mut committer = committer.lock().unwrap_or_else(PoisonError::into_inner);
    committer.serve(requests);
}

/// A pair of ends for an answer.
pub(crate) fn answer<T>() -> (Answer<T>, oneshot::Receiver<Result<T, CommitError>>) {
    oneshot::channel()
}

fn send(sender: &SyncSender<(Request, usize)>, load: &Load, request: Request) {
    let weight = request.weight();
    load.requests.fetch_add(1, Ordering::AcqRel);
    let before = load.bytes.fetch_add(weight, Ordering::AcqRel);
    let refused = if before > 0 && before + weight > QUEUE_BYTES {
        Some((request, CommitError::Busy))
    } else {
        match sender.try_send((request, weight)) {
            Ok(()) => None,
            Err(TrySendError::Full((request, _))) => Some((request, CommitError::Busy)),
            Err(TrySendError::Disconnected((request, _))) => {
                let why = "the committer has ended".to_owned();
                Some((request, CommitError::Failed { why }))
            }
        }
    };
    if let Some((request, why)) = refused {
        load.bytes.fetch_sub(weight, Ordering::AcqRel);
        load.requests.fetch_sub(1, Ordering::AcqRel);
        request.refuse(&why);
    }
}

/// The committer's thread: ends when the store is dropped.
fn run(mut committer: Committer, receiver: &Receiver<(Request, usize)>, load: &Load) {
    let shared: Arc<Shared> = Arc::clone(&committer.shared);
    loop {
        let ended = catch_unwind(AssertUnwindSafe(|| {
            serve(&mut committer, receiver, load);
        }));
        match ended {
            Ok(()) => break,
            // What a panic left half done is unknown: fail, and go on only to refuse.
            Err(panic) => shared.fail(panic_text(panic.as_ref())),
        }
    }
    committer.checkpoint();
}

fn serve(committer: &mut Committer, receiver: &Receiver<(Request, usize)>, load: &Load) {
    loop {
        let first = match committer.checkpoint_due_in() {
            Some(wait) => match receiver.recv_timeout(wait) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    committer.checkpoint_if_due();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            },
            None => match receiver.recv() {
                Ok(first) => first,
                Err(_gone) => return,
            },
        };
        // What waits already goes with it; nobody is waited for.
        let rest = receiver.try_iter().take(DRAIN_MAX - 1);
        let drained: Vec<Request> = std::iter::once(first)
            .chain(rest)
            .map(|(request, weight)| {
                load.bytes.fetch_sub(weight, Ordering::AcqRel);
                request
            })
            .collect();
        let count = drained.len();
        committer.serve(drained);
        load.requests.fetch_sub(count, Ordering::AcqRel);
    }
}
