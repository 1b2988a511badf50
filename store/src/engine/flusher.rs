//! A thread that brings rows to the disk while the committer goes on, and a bound on how far it may fall behind.
//!
//! sled hands each of its buffers of a segment's length to one of seven threads, which each want its table of segments when
//! they are done; a writer that has to make the file longer keeps that table while it waits for a truncation that may stand
//! behind them all in the same queue. With seven buffers under way it waits for ever: seen in 1 of 5 minutes of 256 writers.
//! So what is written and not yet on the disk is bounded; and because a writer that flushes itself waits for the disk each
//! time (the slowest in a hundred of 16 writers' commits waited six times as long as for the log alone), another one does.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Alarm, EngineError};

/// A flush begins when so many bytes of writes wait for one.
pub(super) const FLUSH_FROM_BYTES: u64 = 64 << 10;
/// No more than this is written before a flush has ended. sled writes up to some five times of what it is given, in
/// buffers of half a mebibyte, and a flush ends one or two that are not full: that is three at most. There are two engines
/// while the rows are written anew, and all of a process share the seven threads.
const UNFLUSHED_BYTES_MAX: u64 = 128 << 10;
/// A flush that takes longer hangs: the process had better end, and take the rows from the log.
const FLUSH_MAX: Duration = Duration::from_mins(2);

/// Flushes on a thread of its own. Dropped, it ends what it is at and nothing else.
#[derive(Debug)]
pub(super) struct Flusher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    /// Told of every change of the progress.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// Bytes of writes that were made, and those of them that a flush has brought to the disk.
    written: u64,
    flushed: u64,
    /// Flushes that were asked for and that were done. One does all that were asked for before it began.
    asked: u64,
    done: u64,
    /// A flush has failed: there is no other.
    failed: Option<EngineError>,
    /// Who is told of that at once: the next call may be far away.
    alarm: Option<Alarm>,
    /// Nobody waits for the thread any more.
    hangs: bool,
    ends: bool,
}

// === impl Flusher ===

impl Flusher {
    /// Starts the thread, which calls `flush` for each flush.
    pub(super) fn start(
        flush: impl FnMut() -> Result<(), EngineError> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = thread::Builder::new()
            .name("store-flush".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run(flush)
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Waits until so many bytes may be written; those of one writer, [`FLUSH_FROM_BYTES`] at most. Fails when a flush has.
    pub(super) fn make_room(&self, bytes: u64) -> Result<(), EngineError> {
        let room = |progress: &Progress| progress.unflushed() + bytes <= UNFLUSHED_BYTES_MAX;
        let progress = self.shared.until(self.shared.lock(), room)?;
        progress.refuse_if_failed()
    }

    /// So many bytes were written.
    pub(super) fn wrote(&self, bytes: u64) {
        let mut progress = self.shared.lock();
        progress.written += bytes;
        // Those that come while a flush runs are looked at when it ends.
        if progress.is_large() && progress.asked == progress.done {
            progress.asked += 1;
            self.shared.changed.notify_all();
        }
    }

    /// From now on tells of a flush that fails, and of one that has.
    pub(super) fn watch(&self, alarm: &Alarm) {
        let mut progress = self.shared.lock();
        let failed = progress.failed.clone();
        progress.alarm = Some(alarm.clone());
        drop(progress);
        if let Some(why) = failed {
            alarm.tell(&why);
        }
    }

    /// What was written before is on the disk when this returns. Fails when this flush, or one before, has.
    pub(super) fn flush(&self) -> Result<(), EngineError> {
        let mut progress = self.shared.lock();
        progress.asked += 1;
        self.shared.changed.notify_all();
        let mine = progress.asked;
        self.shared
            .until(progress, |progress| progress.done >= mine)
            .map(drop)
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        let mut progress = self.shared.lock();
        progress.ends = true;
        let hangs = progress.hangs;
        drop(progress);
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take().filter(|_| !hangs) {
            // It catches the panics of its work; there is nobody to tell of one of its own.
            thread.join().ok();
        }
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, progress: MutexGuard<'a, Progress>) -> MutexGuard<'a, Progress> {
        let woken = self.changed.wait(progress);
        woken.unwrap_or_else(PoisonError::into_inner)
    }

    /// The progress when it is as wanted, unless no flush will end any more.
    fn until<'a>(
        &self,
        mut progress: MutexGuard<'a, Progress>,
        wanted: impl Fn(&Progress) -> bool,
    ) -> Result<MutexGuard<'a, Progress>, EngineError> {
        while !wanted(&progress) {
            progress.refuse_if_failed()?;
            let woken = self.changed.wait_timeout(progress, FLUSH_MAX);
            let (found, waited) = woken.unwrap_or_else(PoisonError::into_inner);
            progress = found;
            if waited.timed_out() && !wanted(&progress) {
                progress.hangs = true;
                let why = format!("none has ended for {} s", FLUSH_MAX.as_secs());
                return Err(EngineError::new("flush", why));
            }
        }
        Ok(progress)
    }

    fn run(&self, mut flush: impl FnMut() -> Result<(), EngineError>) {
        let mut progress = self.lock();
        loop {
            while progress.asked == progress.done && !progress.ends {
                progress = self.wait(progress);
            }
            if progress.ends {
                return;
            }
            let (asked, written) = (progress.asked, progress.written);
            drop(progress);
            let flushed = flush();
            progress = self.lock();
            match flushed {
                Ok(()) => (progress.done, progress.flushed) = (asked, written),
                Err(why) => {
                    progress.failed = Some(why.clone());
                    let alarm = progress.alarm.clone();
                    drop(progress);
                    self.changed.notify_all();
                    if let Some(alarm) = alarm {
                        alarm.tell(&why);
                    }
                    return;
                }
            }
            if progress.is_large() && progress.asked == progress.done {
                progress.asked += 1;
            }
            self.changed.notify_all();
        }
    }
}

// === impl Progress ===

impl Progress {
    fn unflushed(&self) -> u64 {
        self.written - self.flushed
    }

    fn is_large(&self) -> bool {
        self.unflushed() >= FLUSH_FROM_BYTES
    }

    fn refuse_if_failed(&self) -> Result<(), EngineError> {
        self.failed.clone().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A flusher whose flushes say that they begin, and end as they are told.
    fn held() -> (Flusher, Receiver<()>, Sender<Result<(), EngineError>>) {
        let (begins, begun) = channel();
        let (end, ends) = channel();
        let flusher = Flusher::start(move || {
            begins.send(()).ok();
            ends.recv().unwrap_or(Ok(()))
        });
        (flusher.expect("starts"), begun, end)
    }

    #[test]
    fn a_writer_goes_on_beside_a_flush_until_the_bound() {
        let (flusher, begun, end) = held();
        flusher.make_room(FLUSH_FROM_BYTES).expect("there is room");
        flusher.wrote(FLUSH_FROM_BYTES - 1);
        flusher.wrote(1);
        begun.recv().expect("it is enough for a flush");
        flusher.make_room(FLUSH_FROM_BYTES).expect("room beside it");
        flusher.wrote(FLUSH_FROM_BYTES);

        assert_eq!(flusher.shared.lock().unflushed(), UNFLUSHED_BYTES_MAX);
        thread::scope(|scope| {
            scope.spawn(|| end.send(Ok(())));
            flusher.make_room(1).expect("there is room again");
            assert_eq!(flusher.shared.lock().unflushed(), FLUSH_FROM_BYTES);
        });
        begun.recv().expect("what came meanwhile is flushed next");
    }

    #[test]
    fn a_flush_covers_what_was_written_before_it_was_asked_for() {
        let (flusher, begun, end) = held();
        flusher.wrote(FLUSH_FROM_BYTES);
        begun.recv().expect("begins");
        flusher.wrote(7);
        thread::scope(|scope| {
            scope.spawn(move || {
                end.send(Ok(())).expect("it listens");
                begun.recv().expect("the one under way was not enough");
                end.send(Ok(())).expect("it listens");
            });
            flusher.flush().expect("flushed");
        });
        assert_eq!(flusher.shared.lock().unflushed(), 0);
    }

    #[test]
    fn a_flush_that_fails_is_the_last_and_everybody_hears_of_it() {
        let (flusher, begun, end) = held();
        let why = EngineError::new("flush", "the disk is gone");
        let (tell, told) = channel();
        let alarm = Alarm::new(move |why| tell.send(why.clone()).unwrap_or(()));
        flusher.watch(&alarm);
        flusher.wrote(FLUSH_FROM_BYTES);
        begun.recv().expect("begins");
        flusher.wrote(FLUSH_FROM_BYTES);
        end.send(Err(why.clone())).expect("it listens");
        assert_eq!(told.recv().as_ref(), Ok(&why), "before anybody asks");
        assert_eq!(flusher.make_room(1), Err(why.clone()), "also who waits");
        assert_eq!(
            flusher.make_room(0),
            Err(why.clone()),
            "also below the bound"
        );
        assert_eq!(flusher.flush(), Err(why.clone()));
        flusher.watch(&alarm);
        assert_eq!(told.try_recv().as_ref(), Ok(&why), "also who comes later");
        assert!(begun.recv().is_err(), "there is no other");
    }
}
