//! Policy time from a wall clock that may be set: it never goes back, and a jump forward is held before it is believed.

use std::time::Duration;

use inboxgrove_model::{PolicyTime, WallTime};

/// How long a forward jump of the wall clock is held: an operator's typo is mended within it.
pub const HOLD: Duration = Duration::from_mins(5);
/// The wall may run ahead of monotonic time by this much between two looks without being a jump.
pub const SLACK: Duration = Duration::from_secs(30);
/// Policy time that is so far behind the wall at a start is held like a jump: nobody can tell a long stop from a clock that
/// was set meanwhile, and five minutes more are nothing after an hour.
const STOP_BELIEVED: Duration = Duration::from_hours(1);
/// Ahead of the wall, policy time goes on so many times slower, until the wall has caught up: work is not stopped for
/// a day by a clock that was a day fast, and no day has more than one day's budget.
const SLOWED: i64 = 2;

/// Policy time: the larger of the mark it was started with and the wall, less a jump that is being held. Ahead of the
/// wall it goes on at half speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldClock {
    /// The latest policy time given out.
    high: i64,
    /// The wall and the monotonic time of the last look.
    wall: i64,
    mono: Duration,
    /// A forward jump that is being held: how much, and until when in monotonic time.
    held: Option<(i64, Duration)>,
    /// Time that has passed ahead of the wall and is not yet given out, below [`SLOWED`].
    slow: i64,
}

/// What a look has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Policy time.
    pub now: PolicyTime,
    /// How far the wall jumped forward since the last look, when it did: operators should know.
    pub jumped: Option<Duration>,
    /// How far the wall was set back since the last look, when it was and no jump was being held.
    pub set_back: Option<Duration>,
}

// === impl HeldClock ===

impl HeldClock {
    /// Policy time starts at `mark`, the highest one that was ever committed, or later; at the wall, when nothing
    /// was ever committed. Monotonic time starts at zero.
    pub fn new(mark: PolicyTime, wall: WallTime) -> Self {
        let (mark, wall) = (mark.as_millis(), wall.as_millis());
        let gap = wall - mark;
        let held = mark > 0 && gap > millis(STOP_BELIEVED);
        Self {
            high: if held { mark } else { mark.max(wall) },
            wall,
            mono: Duration::ZERO,
            held: held.then_some((gap, HOLD)),
            slow: 0,
        }
    }

    /// The forward jump that is being held.
    pub fn held(&self) -> Option<Duration> {
        self.held.map(|(held, _)| span(held))
    }

    /// Policy time at this wall and monotonic time. Never goes back; a jump of the wall that monotonic
    /// time does not explain is held for five minutes, then believed.
    pub fn look(&mut self, wall: WallTime, mono: Duration) -> Look {
        let wall = wall.as_millis();
        let passed = millis(mono.saturating_sub(self.mono));
        let (jumped, set_back) = self.steps(wall, passed, mono);
        if self.held.is_some_and(|(_, until)| mono >= until) {
            self.held = None;
        }
        (self.wall, self.mono) = (wall, mono);
        let believed = wall - self.held.map_or(0, |(held, _)| held);
        if believed >= self.high {
            (self.high, self.slow) = (believed, 0);
        } else {
            self.slow += passed;
            self.high += self.slow / SLOWED;
            self.slow %= SLOWED;
        }
        Look {
            now: PolicyTime::from_millis(self.high),
            jumped,
            set_back,
        }
    }

    /// What the wall did beside passing, forward and back; a forward jump is held from now on.
    fn steps(
        &mut self,
        wall: i64,
        passed: i64,
        mono: Duration,
    ) -> (Option<Duration>, Option<Duration>) {
        let jump = wall - self.wall - passed;
        let held = self.held.map_or(0, |(held, _)| held);
        // A wall that only comes back to where policy time is already jumps nowhere.
        let ahead = (self.high + held - self.wall - passed).max(0);
        if jump - ahead > millis(SLACK) {
            self.held = Some((held + jump - ahead, mono + HOLD));
            return (Some(span(jump - ahead)), None);
        }
        if jump >= -millis(SLACK) {
            return (None, None);
        }
        if self.held.is_none() {
            return (None, Some(span(-jump)));
        }
        // It was set back again: the jump was a mistake, and is mended.
        self.held = self
            .held
            .map(|(held, until)| (held + jump, until))
            .filter(|(held, _)| *held > 0);
        (None, None)
    }
}

fn span(millis: i64) -> Duration {
    Duration::from_millis(millis.unsigned_abs())
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000;

    fn clock(wall: i64) -> HeldClock {
        HeldClock::new(PolicyTime::default(), WallTime::from_millis(wall))
    }

    fn at(clock: &mut HeldClock, wall: i64, mono: u64) -> i64 {
        let wall = WallTime::from_millis(wall);
        clock.look(wall, Duration::from_secs(mono)).now.as_millis()
    }

    #[test]
    fn policy_time_follows_the_wall() {
        let mut clock = clock(1_000);
        assert_eq!(at(&mut clock, 11_000, 10), 11_000);
        assert_eq!(at(&mut clock, 11_500, 11), 11_500);
    }

    #[test]
    fn it_never_goes_back_and_goes_on_slowly_until_the_wall_has_caught_up() {
        let mut clock = clock(HOUR);
        assert_eq!(at(&mut clock, 0, 1), HOUR + 500);
        // A look each millisecond must not lose half of each.
        for ms in 1..=1_000 {
            let mono = Duration::from_secs(1) + Duration::from_millis(ms);
            let wall = i64::try_from(ms).expect("small");
            clock.look(WallTime::from_millis(wall), mono);
        }
        assert_eq!(at(&mut clock, 1_000, 2), HOUR + 1_000);
        // The wall is set right again: nothing jumps, nothing is held.
        assert_eq!(at(&mut clock, HOUR + 3_000, 3), HOUR + 3_000);
        assert_eq!(clock.held(), None);
    }

    #[test]
    fn a_wall_far_beyond_the_mark_is_held_at_a_start() {
        let started =
            |mark, wall| HeldClock::new(PolicyTime::from_millis(mark), WallTime::from_millis(wall));
        let day = 24 * HOUR;
        let mut held = started(HOUR, HOUR + day);
        assert_eq!(held.held(), Some(Duration::from_hours(24)));
        assert_eq!(at(&mut held, HOUR + day + 1_000, 1), HOUR + 1_000);
        let later = HOUR + day + 300_000;
        assert_eq!(at(&mut held, later, 300), later);
        let mut restarted = started(HOUR, HOUR + 60_000);
        assert_eq!(at(&mut restarted, HOUR + 60_000, 0), HOUR + 60_000);
        let mut first = started(0, day);
        assert_eq!(at(&mut first, day, 0), day);
    }

    #[test]
    fn a_forward_jump_is_held_then_believed() {
        let mut clock = clock(0);
        assert_eq!(at(&mut clock, HOUR + 1_000, 1), 1_000);
        assert_eq!(at(&mut clock, HOUR + 299_000, 299), 299_000);
        assert_eq!(at(&mut clock, HOUR + 302_000, 302), HOUR + 302_000);
    }

    #[test]
    fn a_jump_that_is_mended_in_time_never_happened() {
        let mut clock = clock(0);
        assert_eq!(at(&mut clock, HOUR + 1_000, 1), 1_000);
        assert_eq!(at(&mut clock, 60_000, 60), 60_000);
        assert_eq!(at(&mut clock, 400_000, 400), 400_000);
    }

    #[test]
    fn a_jump_is_reported_once() {
        let mut clock = clock(0);
        let day = WallTime::from_millis(24 * HOUR);
        let mut look = || clock.look(day, Duration::ZERO).jumped;
        assert_eq!(look(), Some(Duration::from_hours(24)));
        assert_eq!(look(), None);
    }

    proptest! {
        #[test]
        fn whatever_the_wall_does_policy_time_rises(steps in prop::collection::vec((-2 * HOUR..2 * HOUR, 0_u64..600), 1..60)) {
            let mut clock = clock(HOUR);
            let (mut wall, mut mono, mut last) = (HOUR, 0, HOUR);
            for (jump, passed) in steps {
                wall += jump;
                mono += passed;
                let now = at(&mut clock, wall, mono);
                prop_assert!(now >= last);
                last = now;
            }
        }
    }
}
