//! What was once in the log stays there, and policy time never goes back.

use std::time::Duration;

use inboxgrove_model::event::LoggedEvent;
use inboxgrove_store::ReadError;

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

    /// Policy time goes back by what a crash may take, no more, and not at all within a run. A disk without room takes more
    /// of it: then nothing was committed since that could tell.
    pub(super) fn policy_time_rises(&mut self, past: &mut Past) -> Result<(), ReadError> {
        let (now, ends) = (self.scene.now, self.scene.heard.ends.len());
        let (before, crashed) = (past.policy, past.policy_ends != ends);
        let slack = if crashed { EVENT_SLACK } else { Duration::ZERO };
        if now.after(slack) < before {
            let known = past.events.last();
            let new = events_after(self.scene.store, known.map_or(0, |last| last.id))?;
            let last = new.last().or(known).map(|last| last.event.at);
            let told = last.is_none_or(|last| now.after(slack) < last);
            self.demand(crashed && !told, || {
                format!("policy time went back from {before} to {now}, and {last:?} was committed")
            });
        }
        (past.policy, past.policy_ends) = (now, ends);
        Ok(())
    }
}
