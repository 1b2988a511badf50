//! What was once in the log stays there, and policy time never goes back.

use std::time::Duration;

use inboxgrove_model::event::LoggedEvent;
use inboxgrove_store::{ReadError, StoreHealth};

use super::{Inspection, Past};
use crate::virtual_world::records::events_after;

/// Events are made a moment before they are committed, and a crash may take policy time back to the mark of a minute
/// ago: two may stand in the wrong order by this much.
const EVENT_SLACK: Duration = Duration::from_mins(1);

impl Inspection<'_> {
    /// Reads what is new in the log; all of it when a run has ended since.
    pub(super) fn history_stays(&mut self, past: &mut Past) -> Result<(), ReadError> {
        let ends = self.scene.heard.ends.len();
        if past.ends != Some(ends) {
            past.ends = Some(ends);
            let whole = events_after(self.scene.store, 0)?;
            let known = past.events.len();
            let same = whole.get(..known) == Some(&past.events[..]);
            self.demand(same, || {
                format!("the first {known} events of the log are not what they were")
            });
            past.events = whole;
            self.in_order(&past.events);
            return Ok(());
        }
        let last = past.events.last().map_or(0, |last| last.id);
        let new = events_after(self.scene.store, last)?;
        let before = past.events.len().saturating_sub(1);
        past.events.extend(new);
        self.in_order(&past.events[before..]);
        Ok(())
    }

    fn in_order(&mut self, events: &[LoggedEvent]) {
        for pair in events.windows(2) {
            let [earlier, later] = pair else { continue };
            self.demand(earlier.id < later.id, || {
                format!("event {} comes after {}", later.id, earlier.id)
            });
            self.demand(
                later.event.at.after(EVENT_SLACK) >= earlier.event.at,
                || format!("event {} is earlier than the one before it", later.id),
            );
        }
    }

    /// Policy time goes back by what a crash may take, no more, and not at all within a run. A crash takes it back to its
    /// mark, which nobody can write while the disk has no room.
    pub(super) fn policy_time_rises(&mut self, past: &mut Past) {
        let (now, ends) = (self.scene.now, self.scene.heard.ends.len());
        let (slack, before) = if past.policy_ends == ends {
            (Duration::ZERO, past.policy)
        } else {
            (EVENT_SLACK, past.policy_marked)
        };
        self.demand(now.after(slack) >= before, || {
            format!("policy time went back from {before} to {now}")
        });
        let room = self.has_room_for_marks();
        // Between two looks lies more than the minute that passes between two marks.
        if room && past.had_room {
            past.policy_marked = now;
        }
        (past.policy, past.policy_ends, past.had_room) = (now, ends, room);
    }

    fn has_room_for_marks(&self) -> bool {
        match self.scene.store.health() {
            StoreHealth::Ok => true,
            // What is essential is written down to a quarter of the floor.
            StoreHealth::DiskLow { free, floor } => free >= floor / 4,
            StoreHealth::Failed { .. } => false,
        }
    }
}
