//! The committer: the one writer. It turns a group of waiting batches into frames, appends and syncs
//! them once, applies them to the rows, and only then answers.
//!
//! Batches of a group see each other's effects through an overlay over the rows. Any error of a write or
//! a sync is final: the group and everything after it fails, and the process should end.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use inboxgrove_model::{
    event::LoggedEvent,
    ports::{BoxFuture, Rng},
};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    CommitError, Committed, DueMark, Lease, Owner,
    batch::Encoded,
    engine::sled::panic_text,
    shared::{Shared, StoreHealth},
};

mod overlay;
mod prepare;
pub(crate) mod queue;

use overlay::Overlay;
pub(crate) use prepare::EVENT_PLACES;
use prepare::Prepared;

/// Batches in one group: past about a hundred, more only wait longer (the rows are the bottleneck).
const GROUP_BATCHES_MAX: usize = 256;
/// Bytes in one group, unless one batch alone has more.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// Something for the committer.
pub(crate) enum Request {
    /// A batch.
    Commit(Box<Encoded>, Answer<Committed>),
    /// A lease; granted after everything before it.
    Own(Owner, Answer<Lease>),
    /// A lease given back; after everything before it.
    Release(Lease),
    /// Work that no commit may run beside.
    Alone(Box<dyn FnOnce(&mut Committer) + Send>),
}

/// Where an answer goes. Nobody may be waiting any more.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, CommitError>>;

/// The one writer.
pub(crate) struct Committer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) rng: Arc<dyn Rng>,
    /// Bytes applied to the rows since they were last flushed, and when that was.
    unflushed: u64,
    flushed_at: Instant,
}

/// A batch and what has become of it.
type Settled = (Result<Prepared, CommitError>, Answer<Committed>);

/// A group on its way.
struct Group {
    first_seq: u64,
    bytes: Vec<u8>,
    frames: Vec<(u64, usize)>,
    overlay: Overlay,
    settled: Vec<Settled>,
}

// === impl Committer ===

impl Committer {
    pub(crate) fn new(shared: Arc<Shared>, rng: Arc<dyn Rng>) -> Self {
        Self {
            shared,
            rng,
            unflushed: 0,
            flushed_at: Instant::now(),
        }
    }

    /// Does what is asked, in order, in as few groups as its limits allow.
    pub(crate) fn serve(&mut self, requests: impl IntoIterator<Item = Request>) {
        let mut group = self.new_group();
        for request in requests {
            match request {
                Request::Commit(batch, answer) => {
                    self.add(&mut group, *batch, answer);
                    if group.is_full() {
                        self.finish(group);
                        group = self.new_group();
                    }
                }
                Request::Own(owner, answer) => {
                    self.finish(group);
                    group = self.new_group();
                    tell(answer, self.own(owner));
                }
                // Commits before it have been checked against it already.
                Request::Release(lease) => self.shared.leases.release(&lease),
                Request::Alone(work) => {
                    self.finish(group);
                    work(self);
                    group = self.new_group();
                }
            }
        }
        self.finish(group);
        self.checkpoint_if_due();
    }

    /// How long until the rows should be flushed; `None` when there is nothing to flush.
    pub(crate) fn checkpoint_due_in(&self) -> Option<std::time::Duration> {
        let every = self.shared.limits.checkpoint_every;
        (self.unflushed > 0).then(|| every.saturating_sub(self.flushed_at.elapsed()))
    }

    pub(crate) fn count_unflushed(&mut self, bytes: usize) {
        self.unflushed += bytes as u64;
    }

    /// Flushes the rows. A failure is final.
    pub(crate) fn checkpoint(&mut self) {
        if self.shared.failure().is_some() {
            return;
        }
        if let Err(why) = self.shared.engine.flush() {
            self.shared.fail(&why);
        }
        self.unflushed = 0;
        self.flushed_at = Instant::now();
    }

    pub(crate) fn checkpoint_if_due(&mut self) {
        let full = self.unflushed >= self.shared.limits.checkpoint_bytes;
        let late = self.checkpoint_due_in().is_some_and(|wait| wait.is_zero());
        if full || late {
            self.checkpoint();
        }
    }

    fn new_group(&self) -> Group {
        Group {
            first_seq: self.shared.log.next_seq(),
            bytes: Vec::new(),
            frames: Vec::new(),
            overlay: Overlay::new(Arc::clone(&self.shared.engine)),
            settled: Vec::new(),
        }
    }

    fn own(&mut self, owner: Owner) -> Result<Lease, CommitError> {
        self.refuse_if_failed()?;
        Ok(self.shared.leases.grant(owner))
    }

    /// Turns a batch into a frame of the group, or finds out why not.
    fn add(&mut self, group: &mut Group, batch: Encoded, answer: Answer<Committed>) {
        let seq = group.first_seq + group.frames.len() as u64;
        let start = group.bytes.len();
        let ready = self
            .refuse_if_failed()
            .and_then(|()| self.refuse_if_disk_low(batch.batch.essential));
        let prepared = ready.and_then(|()| self.prepare(group, seq, batch));
        match &prepared {
            Ok(_) => group.frames.push((seq, start)),
            Err(_) => group.bytes.truncate(start),
        }
        group.settled.push((prepared, answer));
    }

    /// Makes a group last, then answers everyone in it.
    fn finish(&mut self, mut group: Group) {
        if group.settled.is_empty() {
            return;
        }
        let lasting = if group.frames.is_empty() {
            Ok(())
        } else {
            self.make_last(&mut group)
        };
        if let Err(why) = lasting {
            for (_, answer) in group.settled {
                tell(answer, Err(CommitError::Failed { why: why.clone() }));
            }
            return;
        }
        self.shared
            .count_group(group.frames.len(), group.bytes.len());
        let mut events = Vec::new();
        let mut due = DueMark::NOTHING;
        for (prepared, answer) in group.settled {
            let answered = prepared.map(|mut prepared| {
                events.append(&mut prepared.events);
                due = due.earlier(prepared.due);
                prepared.committed
            });
            tell(answer, answered);
        }
        self.publish(events, due);
    }

    fn make_last(&mut self, group: &mut Group) -> Result<(), String> {
        let position = group.frames.last().map_or(0, |(seq, _)| *seq);
        let writes = group.overlay.take_writes();
        let written = catch_unwind(AssertUnwindSafe(|| {
            let appended = self.shared.log.append(&group.bytes, &group.frames);
            appended.map_err(|why| why.to_string())?;
            let applied = self.shared.engine.apply(&writes, position);
            // Before anybody hears of the commit.
            self.shared.hot.forget(&writes);
            applied.map_err(|why| why.to_string())
        }));
        let written = written.unwrap_or_else(|panic| Err(panic_text(panic.as_ref())));
        self.count_unflushed(group.bytes.len());
        written.inspect_err(|why| self.shared.fail(why))
    }

    fn publish(&self, events: Vec<LoggedEvent>, due: DueMark) {
        if !events.is_empty() {
            // Nobody may be listening: that is no error.
            self.shared.events.send(Arc::new(events)).ok();
        }
        if due != DueMark::NOTHING {
            self.shared.due.tell(due);
        }
    }

    fn refuse_if_failed(&self) -> Result<(), CommitError> {
        match self.shared.failure() {
            Some(why) => Err(CommitError::Failed { why }),
            None => Ok(()),
        }
    }

    pub(crate) fn refuse_if_disk_low(&self, essential: bool) -> Result<(), CommitError> {
        match self.shared.health() {
            StoreHealth::DiskLow { free, floor } if !essential || free < floor / 4 => {
                Err(CommitError::DiskLow { free, floor })
            }
            _ => Ok(()),
        }
    }
}

// === impl Group ===

impl Group {
    fn is_full(&self) -> bool {
        self.settled.len() >= GROUP_BATCHES_MAX || self.bytes.len() >= GROUP_BYTES_MAX
    }
}

/// Answers. Whoever asked may have gone; the commit stands all the same.
fn tell<T>(answer: Answer<T>, result: Result<T, CommitError>) {
    answer.send(result).ok();
}

/// The answer to come, as a future that fails when the committer is gone.
pub(crate) fn awaited<T: Send + 'static>(
    answer: oneshot::Receiver<Result<T, CommitError>>,
) -> BoxFuture<'static, Result<T, CommitError>> {
    Box::pin(async move {
        answer.await.unwrap_or_else(|_gone| {
            Err(CommitError::Failed {
                why: "the committer has ended".to_owned(),
            })
        })
    })
}
