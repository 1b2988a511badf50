//! The daemon's view of the fast clock: whoever was woken counts as at work until they sleep again.
//!
//! Actors work between their wake-up and the first task that says so: they read rows, and may wait for a
//! commit. On a slow disk that takes longer than the moment after which [`FastClock`] takes silence for rest.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use inboxgrove_model::{
    PolicyTime, WallTime,
    ports::{Activity, BoxFuture, Busy, Clock},
};
use inboxgrove_sim::clock::FastClock;

/// Who does not sleep again within this real time has no more to do: several commits long.
const AWAKE_MAX: Duration = Duration::from_millis(50);

/// A [`FastClock`] that waits for those whom it has woken.
#[derive(Clone)]
pub(super) struct WakingClock {
    clock: FastClock,
    activity: Activity,
    awake: Arc<Mutex<Awake>>,
}

/// Those who were woken, in the order of their waking.
#[derive(Default)]
struct Awake {
    next_id: u64,
    sleepers: VecDeque<(u64, Busy)>,
}

// === impl WakingClock ===

impl WakingClock {
    pub(super) fn new(clock: FastClock, activity: Activity) -> Self {
        Self {
            clock,
            activity,
            awake: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Awake> {
        self.awake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody was woken. Without a sleep of theirs it is forgotten after [`AWAKE_MAX`].
    fn woken(self) {
        let busy = self.activity.begin();
        let mut awake = self.lock();
        let id = awake.next_id;
        awake.next_id += 1;
        awake.sleepers.push_back((id, busy));
        drop(awake);
        tokio::spawn(async move {
            tokio::time::sleep(AWAKE_MAX).await;
            self.lock().sleepers.retain(|(other, _)| *other != id);
        });
    }
}

impl Clock for WakingClock {
    fn policy(&self) -> PolicyTime {
        self.clock.policy()
    }

    fn wall(&self) -> WallTime {
        self.clock.wall()
    }

    fn sleep_until(&self, at: PolicyTime) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        let sleep = self.clock.sleep_until(at);
        let (now, rested) = (self.policy(), self.lock().sleepers.pop_front());
        Box::pin(async move {
            // Whoever goes to sleep has done what they were woken for; the sleep begins before that counts.
            let mut sleep = sleep;
            let early = futures_util::poll!(&mut sleep);
            drop(rested);
            if early.is_pending() {
                sleep.await;
            }
            if at > now {
                clock.woken();
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: PolicyTime = PolicyTime::from_millis(1_800_000_000_000);
    const MINUTE: Duration = Duration::from_mins(1);

    fn clocks() -> (FastClock, WakingClock, Activity) {
        let fast = FastClock::new(EPOCH, Arc::new(|| WallTime::from_millis(5)));
        let activity = Activity::default();
        (
            fast.clone(),
            WakingClock::new(fast, activity.clone()),
            activity,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn time_waits_for_whoever_was_woken_until_they_sleep_again() {
        let (fast, clock, activity) = clocks();
        let sleeper = tokio::spawn(async move {
            let mut seen = Vec::new();
            for n in 1..=5 {
                clock.sleep_until(EPOCH.after(MINUTE * n)).await;
                // A commit on a slow disk, which says nothing of itself.
                tokio::time::sleep(AWAKE_MAX / 2).await;
                seen.push(clock.policy());
            }
            seen
        });
        fast.run(&activity, EPOCH.after(MINUTE * 60), Duration::ZERO)
            .await;
        let expected: Vec<_> = (1..=5).map(|n| EPOCH.after(MINUTE * n)).collect();
        assert_eq!(sleeper.await.unwrap(), expected);
        assert_eq!(
            (fast.policy(), activity.busy()),
            (EPOCH.after(MINUTE * 60), 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_sleeps_again_is_forgotten_and_the_past_wakes_nobody() {
        let (fast, clock, activity) = clocks();
        clock.sleep_until(EPOCH).await;
        assert_eq!(activity.busy(), 0);
        let until = EPOCH.after(MINUTE);
        tokio::join!(
            fast.run(&activity, until, Duration::ZERO),
            clock.sleep_until(until)
        );
        assert_eq!(activity.busy(), 1);
        tokio::time::sleep(AWAKE_MAX * 2).await;
        assert_eq!(activity.busy(), 0);
    }
}
