//! Clocks that live fast: [`VirtualClock`] for a paused runtime, [`FastClock`] for real sockets.

mod fast;

use std::{sync::Arc, time::Duration};

use inboxgrove_model::{
    PolicyTime, WallTime,
    ports::{BoxFuture, Clock},
};
use tokio::time::Instant;

pub use fast::FastClock;

/// All three times from tokio's clock. On a paused runtime months pass while nothing has to be done,
/// and not a moment while something has.
#[derive(Debug, Clone)]
pub struct VirtualClock {
    origin: Arc<Origin>,
}

#[derive(Debug)]
struct Origin {
    epoch: PolicyTime,
    start: Instant,
}

// === impl VirtualClock ===

impl VirtualClock {
    /// A clock that shows `epoch` now. To be made on the runtime it is used on.
    pub fn new(epoch: PolicyTime) -> Self {
        Self {
            origin: Arc::new(Origin {
                epoch,
                start: Instant::now(),
            }),
        }
    }

    /// Lets this much time pass: resolves when it has.
    pub async fn pass(&self, wait: Duration) {
        self.sleep_until(self.policy().after(wait)).await;
    }
}

impl Clock for VirtualClock {
    fn policy(&self) -> PolicyTime {
        self.origin.epoch.after(self.origin.start.elapsed())
    }

    fn wall(&self) -> WallTime {
        WallTime::from_millis(self.policy().as_millis())
    }

    fn sleep_until(&self, at: PolicyTime) -> BoxFuture<'static, ()> {
        let origin = Arc::clone(&self.origin);
        Box::pin(async move {
            match origin.start.checked_add(at.since(origin.epoch)) {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                // So late that tokio cannot count to it: it never comes.
                None => std::future::pending().await,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: PolicyTime = PolicyTime::from_millis(1_800_000_000_000);
    const DAY: Duration = Duration::from_hours(24);

    #[tokio::test(start_paused = true)]
    async fn a_sleeper_wakes_at_its_time_and_not_before() {
        let clock = VirtualClock::new(EPOCH);
        for days in [1, 30, 400, 1_000] {
            let at = EPOCH.after(DAY * days);
            clock.sleep_until(at).await;
            assert!(clock.policy() >= at);
            assert!(clock.policy() <= at.after(Duration::from_millis(2)));
            assert_eq!(clock.wall().as_millis(), clock.policy().as_millis());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_past_is_now_and_the_end_of_time_never_comes() {
        let clock = VirtualClock::new(EPOCH);
        clock.sleep_until(PolicyTime::from_millis(0)).await;
        assert_eq!(clock.policy(), EPOCH);
        let never = clock.sleep_until(PolicyTime::from_millis(i64::MAX));
        assert!(tokio::time::timeout(DAY, never).await.is_err());
    }
}
