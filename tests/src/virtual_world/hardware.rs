//! The clock on the wall of the house, which somebody may set, and what each run of the daemon makes of it.
//!
//! True time is the world's: people, providers and weather live by it, and no setting of a clock changes it. Policy
//! time is reckoned from the wall by the same rules as in the daemon.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use inboxgrove_model::{
    PolicyTime, WallTime,
    ports::{BoxFuture, Clock, sleep_in_naps},
};
use inboxgrove_policy::HeldClock;
use inboxgrove_sim::clock::VirtualClock;

/// The clock of the house. Clones are the same clock.
#[derive(Clone)]
pub struct Hardware {
    truth: Arc<VirtualClock>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// How far the wall is ahead of the truth.
    ahead_ms: i64,
    /// The clock of the run that is up, or was last.
    run: Option<RunClock>,
    /// The latest policy time of any run.
    high: PolicyTime,
}

/// Time as one run of the daemon has it.
#[derive(Clone)]
pub struct RunClock {
    hardware: Hardware,
    held: Arc<Mutex<HeldClock>>,
    /// Where monotonic time starts.
    start: PolicyTime,
}

// === impl Hardware ===

impl Hardware {
    /// A clock that shows the truth, until it is set.
    pub fn new(truth: Arc<VirtualClock>) -> Self {
        Self {
            truth,
            state: Arc::default(),
        }
    }

    /// Somebody sets it forward or back, from what it shows.
    pub fn step(&self, millis: i64) {
        self.lock().ahead_ms += millis;
    }

    /// True time.
    pub fn truth(&self) -> PolicyTime {
        self.truth.policy()
    }

    /// A run of the daemon begins, and has found this mark on its disk.
    pub fn boot(&self, mark: PolicyTime) -> RunClock {
        let run = RunClock {
            hardware: self.clone(),
            held: Arc::new(Mutex::new(HeldClock::new(mark, self.wall()))),
            start: self.truth(),
        };
        self.lock().run = Some(run.clone());
        run
    }

    /// The latest policy time that was ever seen.
    pub fn high(&self) -> PolicyTime {
        self.lock().high
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hardware(ahead {} ms)", self.lock().ahead_ms)
    }
}

/// Policy time is that of the run that is up, or was last.
impl Clock for Hardware {
    fn policy(&self) -> PolicyTime {
        let run = self.lock().run.clone();
        run.map_or_else(|| self.truth(), |run| run.policy())
    }

    fn wall(&self) -> WallTime {
        WallTime::from_millis(self.truth().as_millis() + self.lock().ahead_ms)
    }

    fn sleep_until(&self, at: PolicyTime) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        Box::pin(sleep_in_naps(move || clock.policy(), at))
    }
}

// === impl RunClock ===

impl Clock for RunClock {
    fn policy(&self) -> PolicyTime {
        let passed = self.hardware.truth().since(self.start);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = held.look(self.hardware.wall(), passed).now;
        drop(held);
        let mut state = self.hardware.lock();
        state.high = state.high.max(now);
        now
    }

    fn wall(&self) -> WallTime {
        self.hardware.wall()
    }

    fn sleep_until(&self, at: PolicyTime) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        Box::pin(sleep_in_naps(move || clock.policy(), at))
    }
}

impl fmt::Debug for RunClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunClock(since {})", self.start)
    }
}
