//! The pace of upkeep: it has the whole day, commits have not.

use std::{thread, time::Duration};

use tokio::time::Instant;

/// Rests as long as it works, so that at least half of the disk and of a core are left to whoever is
/// served. On a disk in memory nobody waits for either.
#[derive(Debug)]
pub(crate) struct Pace {
    rests: bool,
    since: Instant,
}

/// No piece of work is worth a longer rest: a disk that hung once must not hold upkeep up for as long again.
const REST_MAX: Duration = Duration::from_millis(200);

// === impl Pace ===

impl Pace {
    pub(crate) fn new(rests: bool) -> Self {
        Self {
            rests,
            since: Instant::now(),
        }
    }

    /// A piece is done: rests for as long as it took.
    pub(crate) fn rest(&mut self) {
        if self.rests {
            thread::park_timeout(self.since.elapsed().min(REST_MAX));
            self.since = Instant::now();
        }
    }
}
