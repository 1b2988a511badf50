//! Policy time from a wall clock that may be set: it never goes back, and a jump forward is held before it is believed.

use std::time::Duration;

use inboxgrove_model::{PolicyTime, WallTime};

/// How long a forward jump of the wall clock is held: an operator's typo is mended within it.
pub const HOLD: Duration = Duration::from_mins(5);
/// The wall may run ahead of monotonic time by this much between two looks without being a jump.
const SLACK: Duration = Duration::from_secs(30);

/// Policy time: the larger of the mark it was started with and the wall, less a jump that is being held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldClock {
    /// The latest policy time given out.
    high: i64,
    /// The wall and the monotonic time of the last look.
    wall: i64,
    mono: Duration,
    /// A forward jump that is being held: how much, and until when in monotonic time.
    held: Option<(i64, Duration)>,
}

/// What a look has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Policy time.
    pub now: PolicyTime,
    /// How far the wall jumped forward since the last look, when it did: operators should know.
    pub jumped: Option<Duration>,
}

// === impl HeldClock ===

impl HeldClock {
    /// Policy time starts at `mark`, the highest one that was ever committed, or later. Monotonic time starts at zero.
    pub fn new(mark: PolicyTime, wall: WallTime) -> Self {
        Self {
            high: mark.as_millis().max(wall.as_millis()),
            wall: wall.as_millis(),
            mono: Duration::ZERO,
            held: None,
        }
    }

    /// Policy time at this wall and monotonic time. Never goes back; a jump of the wall that monotonic
    /// time does not explain is held for five minutes, then believed.
    pub fn look(&mut self, wall: WallTime, mono: Duration) -> Look {
        let wall = wall.as_millis();
        let passed = millis(mono.saturating_sub(self.mono));
        let jump = wall - self.wall - passed;
        let jumped = (jump > millis(SLACK)).then(|| Duration::from_millis(jump.unsigned_abs()));
        if jumped.is_some() {
            let held = self.held.map_or(0, |(held, _)| held) + jump;
            self.held = Some((held, mono + HOLD));
        } else if jump < -millis(SLACK) && self.held.is_some() {
            // It was set back again: the jump was a mistake, and is mended.
            self.held = self
                .held
                .map(|(held, until)| (held + jump, until))
                .filter(|(held, _)| *held > 0);
        }
        if self.held.is_some_and(|(_, until)| mono >= until) {
            self.held = None;
        }
        (self.wall, self.mono) = (wall, mono);
        let believed = wall - self.held.map_or(0, |(held, _)| held);
        self.high = self.high.max(believed);
        Look {
            now: PolicyTime::from_millis(self.high),
            jumped,
        }
    }
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
    fn it_never_goes_back() {
        let mut clock = clock(HOUR);
        assert_eq!(at(&mut clock, 0, 1), HOUR);
        assert_eq!(at(&mut clock, 1_000, 2), HOUR);
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
