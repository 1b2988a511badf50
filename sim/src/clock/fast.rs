//! A policy clock that jumps from sleeper to sleeper, and stands still while anybody is at work.
//!
//! The sockets of the demo are real, and so are its deadlines; only policy time is fast. A jump needs
//! all of: nobody at work ([`Activity`]), everybody who was woken by the last jump has been polled,
//! and both still hold after a moment, so that bytes on their way through the kernel find their reader.
//! Both ends of a connection hold a guard while they wait for each other, so there is no gap between them.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use inboxgrove_model::{
    PolicyTime, WallTime,
    ports::{Activity, BoxFuture, Clock},
};
use tokio::time::Instant;

/// Real time that must pass in idleness before a jump: a few turns of the runtime's reactor, and the
/// least that tokio's timer can do.
const SETTLE: Duration = Duration::from_millis(1);
/// Yields at the start of the settling moment: tasks that are ready run in them.
const SETTLE_YIELDS: usize = 8;
/// How long a woken sleeper may go unpolled before it no longer holds up the clock: its task waits for
/// something else, perhaps for this clock.
const WOKEN_GRACE: Duration = Duration::from_millis(250);
/// How far time goes on at once when nobody sleeps: watchers of the clock see every hour.
const IDLE_STEP: Duration = Duration::from_hours(1);
/// A day, the unit of the pace.
const DAY: Duration = Duration::from_hours(24);

/// The fast policy clock of the demo. Clones show the same time.
#[derive(Clone)]
pub struct FastClock {
    shared: Arc<Shared>,
}

struct Shared {
    wall: Arc<dyn Fn() -> WallTime + Send + Sync>,
    state: Mutex<State>,
}

struct State {
    now: PolicyTime,
    next_id: u64,
    sleepers: BTreeMap<(PolicyTime, u64), Waker>,
    /// Woken by a jump and not yet polled.
    woken: BTreeMap<u64, Instant>,
}

/// One call of `sleep_until`. Forgotten by the clock when dropped.
struct Sleep {
    shared: Arc<Shared>,
    at: PolicyTime,
    id: Option<u64>,
}

// === impl FastClock ===

impl FastClock {
    /// A clock that shows `epoch` until [`run`](Self::run) moves it; `wall` tells the true wall time.
    pub fn new(epoch: PolicyTime, wall: Arc<dyn Fn() -> WallTime + Send + Sync>) -> Self {
        Self {
            shared: Arc::new(Shared {
                wall,
                state: Mutex::new(State {
                    now: epoch,
                    next_id: 0,
                    sleepers: BTreeMap::new(),
                    woken: BTreeMap::new(),
                }),
            }),
        }
    }

    /// Moves the clock until it shows `until`: whenever nobody is at work, to the earliest sleeper, and
    /// by the hour when nobody sleeps. A simulated day takes at least `pace` of real time.
    /// Cancel safe: the clock then stands still.
    pub async fn run(&self, activity: &Activity, until: PolicyTime, pace: Duration) {
        let mut jumped_at = Instant::now();
        while self.policy() < until {
            self.settled(activity).await;
            let now = self.policy();
            let target = self.shared.lock().target(until);
            let due = jumped_at + scaled(pace, target.since(now));
            if due > Instant::now() {
                // While the pace is kept somebody may begin to work, or to sleep for less: look again.
                tokio::time::sleep_until(due.min(Instant::now() + WOKEN_GRACE)).await;
                continue;
            }
            // Between this look and the jump there is no await: work on this thread cannot have begun,
            // and work on another thread begins, at worst, a moment after the jump instead of before it.
            if activity.busy() == 0 {
                self.shared.jump(target);
                jumped_at = Instant::now();
            }
        }
    }

    /// How many are asleep.
    pub fn sleepers(&self) -> usize {
        self.shared.lock().sleepers.len()
    }

    /// When the earliest sleeper wants to be woken.
    pub fn earliest(&self) -> Option<PolicyTime> {
        self.shared.lock().earliest()
    }

    /// Resolves after a moment in which nobody was at work.
    async fn settled(&self, activity: &Activity) {
        loop {
            activity.idle().await;
            for _ in 0..SETTLE_YIELDS {
                tokio::task::yield_now().await;
            }
            if activity.busy() == 0 {
                tokio::time::sleep(SETTLE).await;
            }
            if activity.busy() == 0 && !self.shared.lock().awaits_polls() {
                return;
            }
        }
    }
}

impl fmt::Debug for FastClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("FastClock")
            .field("now", &state.now)
            .field("sleepers", &state.sleepers.len())
            .finish_non_exhaustive()
    }
}

impl Clock for FastClock {
    fn policy(&self) -> PolicyTime {
        self.shared.lock().now
    }

    fn wall(&self) -> WallTime {
        (self.shared.wall)()
    }

    fn sleep_until(&self, at: PolicyTime) -> BoxFuture<'static, ()> {
        Box::pin(Sleep {
            shared: Arc::clone(&self.shared),
            at,
            id: None,
        })
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows `at` and wakes everybody who slept until then.
    fn jump(&self, at: PolicyTime) {
        let wakers = self.lock().jump(at, Instant::now());
        // Outside the lock: a waker may run code of its own.
        wakers.into_iter().for_each(Waker::wake);
    }
}

// === impl State ===

impl State {
    fn earliest(&self) -> Option<PolicyTime> {
        self.sleepers.keys().next().map(|(at, _)| *at)
    }

    /// Where to jump next.
    fn target(&self, until: PolicyTime) -> PolicyTime {
        let next = self.earliest().unwrap_or(self.now.after(IDLE_STEP));
        next.clamp(self.now, until.max(self.now))
    }

    fn jump(&mut self, at: PolicyTime, moment: Instant) -> Vec<Waker> {
        self.now = self.now.max(at);
        let later = self
            .sleepers
            .split_off(&(self.now.after(Duration::from_millis(1)), 0));
        let due = std::mem::replace(&mut self.sleepers, later);
        self.woken.extend(due.keys().map(|(_, id)| (*id, moment)));
        due.into_values().collect()
    }

    /// Whether somebody who was woken a short time ago has not run yet.
    fn awaits_polls(&mut self) -> bool {
        self.woken.retain(|_, since| since.elapsed() < WOKEN_GRACE);
        !self.woken.is_empty()
    }
}

// === impl Sleep ===

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        if state.now >= self.at {
            if let Some(id) = self.id.take() {
                state.woken.remove(&id);
                state.sleepers.remove(&(self.at, id));
            }
            return Poll::Ready(());
        }
        let id = *self.id.get_or_insert_with(|| {
            state.next_id += 1;
            state.next_id
        });
        state
            .sleepers
            .insert((self.at, id), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let mut state = self.shared.lock();
            state.sleepers.remove(&(self.at, id));
            state.woken.remove(&id);
        }
    }
}

/// The real time that `span` of simulated time takes at least.
fn scaled(pace: Duration, span: Duration) -> Duration {
    pace.mul_f64(span.as_secs_f64() / DAY.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EPOCH: PolicyTime = PolicyTime::from_millis(1_800_000_000_000);

    fn clock() -> FastClock {
        FastClock::new(EPOCH, Arc::new(|| WallTime::from_millis(5)))
    }

    fn hours(n: u32) -> PolicyTime {
        EPOCH.after(IDLE_STEP * n)
    }

    #[tokio::test(start_paused = true)]
    async fn it_stands_still_while_somebody_is_at_work() {
        let (clock, activity) = (clock(), Activity::default());
        let busy = activity.begin();
        let run = clock.run(&activity, hours(24), Duration::ZERO);
        let hour = Duration::from_hours(1);
        assert!(tokio::time::timeout(hour, run).await.is_err());
        assert_eq!(clock.policy(), EPOCH);
        drop(busy);
        clock.run(&activity, hours(24), Duration::ZERO).await;
        assert_eq!(clock.policy(), hours(24));
        assert_eq!(clock.wall(), WallTime::from_millis(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_day_takes_its_pace() {
        let clock = clock();
        let started = Instant::now();
        let pace = Duration::from_secs(10);
        clock.run(&Activity::default(), hours(48), pace).await;
        assert!(started.elapsed() >= pace * 2);
        assert!(started.elapsed() < pace * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_sleeper_is_forgotten() {
        let clock = clock();
        let sleep = clock.sleep_until(hours(5));
        assert!(
            tokio::time::timeout(Duration::from_secs(1), sleep)
                .await
                .is_err()
        );
        assert_eq!((clock.sleepers(), clock.earliest()), (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleeper_that_nobody_polls_does_not_stop_the_clock() {
        let clock = clock();
        let mut sleep = clock.sleep_until(hours(1));
        assert!(futures_util::poll!(&mut sleep).is_pending());
        clock
            .run(&Activity::default(), hours(3), Duration::ZERO)
            .await;
        assert!(futures_util::poll!(&mut sleep).is_ready());
    }

    /// A worker that sleeps, then works for a while, over and over; tells what the clock showed at the
    /// start and at the end of each piece of work.
    async fn worker(
        clock: FastClock,
        activity: Activity,
        naps: Vec<u16>,
    ) -> Vec<(PolicyTime, PolicyTime, PolicyTime)> {
        let mut seen = Vec::new();
        for nap in naps {
            let wanted = clock
                .policy()
                .after(Duration::from_secs(u64::from(nap) * 60));
            clock.sleep_until(wanted).await;
            let busy = activity.begin();
            let began = clock.policy();
            tokio::time::sleep(Duration::from_millis(u64::from(nap) % 70)).await;
            tokio::task::yield_now().await;
            seen.push((wanted, began, clock.policy()));
            drop(busy);
        }
        seen
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn it_never_runs_past_work_in_flight(naps in prop::collection::vec(prop::collection::vec(1_u16..600, 1..8), 1..6)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let (clock, activity) = (clock(), Activity::default());
                let workers: Vec<_> = naps
                    .into_iter()
                    .map(|naps| tokio::spawn(worker(clock.clone(), activity.clone(), naps)))
                    .collect();
                clock.run(&activity, hours(24 * 7), Duration::ZERO).await;
                for worker in workers {
                    for (wanted, began, ended) in worker.await.unwrap() {
                        assert_eq!(wanted, began, "woken at its time");
                        assert_eq!(began, ended, "time stood still during the work");
                    }
                }
            });
        }
    }
}
