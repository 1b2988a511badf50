//! How much memory the process has, and what follows from it.
//!
//! The tree cannot see its own size: the daemon reads it every few seconds and tells [`Platform::press`]. Above
//! the soft mark actors are put to sleep as soon as they idle and caches are cut; above the hard mark no new
//! work is taken until it is back: the edge refuses, the clock and outbound wait. What is under way goes on.
//! A mark is left a little below where it was met, so that nothing flutters.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    directory::DirectoryMsg,
    platform::{Component, Platform},
    refusal::{RETRY_MEMORY, Refusal},
    vault::VaultMsg,
};

/// Share of the ceiling, in percent, above which the tree makes itself small.
const SOFT_PERCENT: u64 = 70;
/// Share of the ceiling above which no new work is taken.
const HARD_PERCENT: u64 = 90;
/// So far below its mark a pressure ends.
const SLACK_PERCENT: u64 = 5;

/// How tight memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Pressure {
    /// There is enough.
    #[default]
    None,
    /// The tree makes itself small.
    Soft,
    /// No new work is taken.
    Hard,
}

/// The last reading.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    now: Mutex<Reading>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    used: u64,
    ceiling: u64,
    pressure: Pressure,
}

// === impl Memory ===

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How tight it is.
    pub(crate) fn pressure(&self) -> Pressure {
        self.lock().pressure
    }

    /// Whether no new work is taken.
    pub(crate) fn is_short(&self) -> bool {
        self.pressure() == Pressure::Hard
    }

    /// Takes a reading in; the pressure before and after it.
    fn read(&self, used: u64, ceiling: u64) -> (Pressure, Pressure) {
        let mut now = self.lock();
        let before = now.pressure;
        let pressure = next(before, used, ceiling);
        *now = Reading {
            used,
            ceiling,
            pressure,
        };
        (before, pressure)
    }

    /// For readiness; none while nobody reads it.
    pub(crate) fn component(&self) -> Option<Component> {
        let now = *self.lock();
        let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
        let word = match now.pressure {
            Pressure::None => "",
            Pressure::Soft => "; actors sleep early",
            Pressure::Hard => "; no new work is taken",
        };
        (now.ceiling > 0).then(|| Component {
            name: "memory",
            ok: now.pressure != Pressure::Hard,
            detail: format!("{} MiB of {}{word}", mib(now.used), mib(now.ceiling)),
        })
    }
}

/// The pressure that follows on one. A ceiling of 0 is none.
fn next(before: Pressure, used: u64, ceiling: u64) -> Pressure {
    let above = |percent: u64| ceiling > 0 && used > ceiling / 100 * percent;
    let within = |pressure, percent| {
        let left = if before >= pressure { SLACK_PERCENT } else { 0 };
        above(percent - left)
    };
    if within(Pressure::Hard, HARD_PERCENT) {
        Pressure::Hard
    } else if within(Pressure::Soft, SOFT_PERCENT) {
        Pressure::Soft
    } else {
        Pressure::None
    }
}

// === the face ===

impl Platform {
    /// Says how much memory the process has, and how much it may have; 0 for no ceiling.
    pub fn press(&self, used: u64, ceiling: u64) {
        let (before, now) = self.cx.memory.read(used, ceiling);
        let metrics = &self.cx.metrics;
        metrics
            .memory_used
            .set(i64::try_from(used).unwrap_or(i64::MAX));
        metrics.memory_pressure.set(now as i64);
        if before != now {
            tracing::warn!(
                ?before,
                ?now,
                used,
                ceiling,
                "the pressure of memory changed"
            );
        }
        if now == Pressure::None {
            return;
        }
        // Who is too busy to hear it hears it at the next reading.
        if let Err(why) = self.cx.directory.tell(DirectoryMsg::Sweep) {
            tracing::warn!(%why, "idle actors were not put to sleep");
        }
        if let Err(why) = self.cx.vault.tell(VaultMsg::Shrink) {
            tracing::warn!(%why, "parsed keys were not dropped");
        }
    }

    /// Whether new work may be taken now. For the edge, before it reads a body.
    ///
    /// Errors: [`Refusal::Busy`] while memory is short.
    pub fn has_room(&self) -> Result<(), Refusal> {
        if self.cx.memory.is_short() {
            self.cx.metrics.refused_for_memory.inc();
            return Err(Refusal::Busy {
                what: "the memory of this daemon",
                retry_after: RETRY_MEMORY,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_left_below_where_it_is_met() {
        use Pressure::{Hard, None, Soft};
        for (before, used, expected) in [
            (None, 70, None),
            (None, 71, Soft),
            (Soft, 66, Soft),
            (Soft, 65, None),
            (None, 91, Hard),
            (Soft, 90, Soft),
            (Hard, 86, Hard),
            (Hard, 85, Soft),
            (Hard, 60, None),
        ] {
            assert_eq!(
                next(before, used * 10, 1000),
                expected,
                "{before:?} {used} %"
            );
        }
        assert_eq!(next(None, u64::MAX, 0), None, "no ceiling, no pressure");
    }
}
