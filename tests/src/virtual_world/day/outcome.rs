//! What a life came to: a day that was lived, or how it failed.

use std::collections::{BTreeMap, BTreeSet};

use inboxgrove_model::event::{EventKind, LoggedEvent};

use super::Living;
use crate::virtual_world::{
    classes::FaultClass, house::Tally, neighbourhood::EPOCH, people::Entries, records::events_after,
};

/// What a seed came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Lived {
    /// All events.
    pub events: Vec<LoggedEvent>,
    /// What happened, one a line.
    pub trace: Vec<String>,
    /// How many of each kind.
    pub kinds: BTreeMap<&'static str, usize>,
    /// What befell the house.
    pub tally: Tally,
    /// Refusals that people met, by their kind.
    pub refused: BTreeMap<&'static str, u32>,
    /// Messages that were accepted from people.
    pub sent: usize,
    /// Transmissions that were heard on the wires.
    pub heard: usize,
}

/// How a seed failed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Failure {
    /// All of it, for people.
    pub why: String,
    /// What kind of failures it has: the same words whatever the ids and numbers.
    pub kinds: BTreeSet<String>,
    /// How many hours had been lived, rounded up.
    pub hours: u64,
    /// What happened until then, one a line.
    pub trace: Vec<String>,
    /// All events until then, one a line.
    pub events: Vec<String>,
}

// === impl Lived ===

impl Lived {
    /// All events, one a line.
    pub fn lines(&self) -> Vec<String> {
        lines_of(&self.events)
    }
}

// === impl Failure ===

impl Failure {
    pub(super) fn new(why: &anyhow::Error) -> Self {
        let text = format!("{why:#}");
        let kinds = text.lines().map(kind_of).collect();
        Self {
            why: text,
            kinds,
            ..Self::default()
        }
    }

    /// Whether one of its failures is of a kind that another has, too.
    pub fn is_like(&self, other: &Self) -> bool {
        !self.kinds.is_disjoint(&other.kinds)
    }
}

fn lines_of(events: &[LoggedEvent]) -> Vec<String> {
    events.iter().map(|logged| format!("{logged:?}")).collect()
}

/// A sentence without its ids, numbers and times.
fn kind_of(line: &str) -> String {
    let general = |word: &str| {
        let special = word.contains(|c: char| c.is_ascii_digit() || c == '_' || c == '@');
        if special { "#" } else { word }.to_owned()
    };
    let words: Vec<String> = line.split_whitespace().map(general).collect();
    words.join(" ")
}

// === impl Living ===

impl Living {
    pub(super) fn sum_up(&self, events: Vec<LoggedEvent>) -> Lived {
        let mut kinds = BTreeMap::new();
        for logged in &events {
            *kinds.entry(name_of(&logged.event.kind)).or_default() += 1;
        }
        let promised: Entries = self.journal.entries();
        let mut tally = self.house.tally();
        let calls = self.around.vendors.calls();
        let put_off = calls.iter().filter(|call| !call.confirmed).count();
        *tally.struck.entry(FaultClass::Vendor).or_default() += put_off as u64;
        Lived {
            events,
            trace: self.trace.clone(),
            kinds,
            tally,
            refused: promised.refused,
            sent: promised.sent.len(),
            heard: self.around.wire.seen().transmissions.len(),
        }
    }

    pub(super) fn failure(&self, why: &anyhow::Error) -> Failure {
        let lived = self.now().since(EPOCH).as_secs();
        let mut events = self.past.events().to_vec();
        if let Some(platform) = self.house.daemon().platform() {
            let last = events.last().map_or(0, |last| last.id);
            // A disk that is just failing tells no more.
            events.extend(events_after(platform.store(), last).unwrap_or_default());
        }
        Failure {
            hours: lived.div_ceil(3600),
            trace: self.trace.clone(),
            events: lines_of(&events),
            ..Failure::new(why)
        }
    }
}

fn name_of(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::MessageAccepted { .. } => "accepted",
        EventKind::MessageDelivered { .. } => "delivered",
        EventKind::MessageDeferred { .. } => "deferred",
        EventKind::MessageBounced { .. } => "bounced",
        EventKind::MessageUncertain { .. } => "uncertain",
        EventKind::MessageExpired { .. } => "expired",
        EventKind::MessageReceived { .. } => "received",
        EventKind::MessagePlaced { .. } => "placed",
        EventKind::MessageReplied { .. } => "replied",
        _ => "other",
    }
}
