//! What happened, counted by simulated days: from the events of the public API, nothing else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Letters whose answer is still waited for; older ones are forgotten.
const OPEN_MAX: usize = 20_000;
/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// An event of the account, as far as the demo reads it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Event {
    /// As in `message_delivered`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// RFC 3339.
    pub(super) at: String,
    pub(super) inbox_id: String,
    pub(super) message_id: String,
    /// Who receives: `google`, `microsoft`, `yahoo`.
    pub(super) provider: String,
    pub(super) recipients: u32,
    pub(super) spam: Option<bool>,
    pub(super) band: Option<String>,
    pub(super) why: String,
}

/// Counts of recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Counts {
    /// Accepted for sending.
    pub(super) sent: u32,
    /// Taken by the receiving provider.
    pub(super) delivered: u32,
    /// Found in the inbox.
    pub(super) inbox: u32,
    /// Found in the spam folder.
    pub(super) spam: u32,
    /// Told to come again; each time counts.
    pub(super) deferred: u32,
    /// Refused for good.
    pub(super) bounced: u32,
}

/// A day of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Day {
    /// Counted from 1.
    pub(super) day: u32,
    #[serde(flatten)]
    pub(super) counts: Counts,
}

/// An inbox that was moved to another band.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct BandChange {
    /// The day, counted from 1.
    pub(super) day: u32,
    /// Which inbox.
    pub(super) inbox_id: String,
    /// `healthy`, `soft_hold`, `throttled` or `quarantined`.
    pub(super) band: String,
    /// In a sentence.
    pub(super) why: String,
}

/// Somebody answered a letter: their provider sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answered {
    /// Who had written it.
    pub(super) inbox_id: String,
    /// Where it was answered.
    pub(super) provider: String,
}

/// The books of the demo.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    first_day: i64,
    days: BTreeMap<u32, Counts>,
    providers: BTreeMap<String, Counts>,
    bands: Vec<BandChange>,
    /// Where each letter went, until it is answered.
    open: BTreeMap<String, String>,
    seen: u64,
}

// === impl Ledger ===

impl Ledger {
    /// Empty books whose day 1 is this UTC day.
    pub(super) fn new(first_day: i64) -> Self {
        Self {
            first_day,
            ..Self::default()
        }
    }

    /// Books an event.
    pub(super) fn take(&mut self, event: &Event) -> Option<Answered> {
        self.seen += 1;
        let day = self.day_of(&event.at)?;
        match event.kind.as_str() {
            "message_accepted" => self.days.entry(day).or_default().sent += event.recipients,
            "message_delivered" => {
                self.count(day, event, |counts| counts.delivered += 1);
                if self.open.len() == OPEN_MAX {
                    self.open.pop_first();
                }
                self.open
                    .insert(event.message_id.clone(), event.provider.clone());
            }
            "message_deferred" => self.count(day, event, |counts| counts.deferred += 1),
            "message_bounced" => self.count(day, event, |counts| counts.bounced += 1),
            "message_placed" => self.count(day, event, |counts| match event.spam {
                Some(true) => counts.spam += 1,
                _ => counts.inbox += 1,
            }),
            "message_replied" => {
                let provider = self.open.remove(&event.message_id)?;
                return Some(Answered {
                    inbox_id: event.inbox_id.clone(),
                    provider,
                });
            }
            "band_changed" => self.bands.push(BandChange {
                day,
                inbox_id: event.inbox_id.clone(),
                band: event.band.clone().unwrap_or_default(),
                why: event.why.clone(),
            }),
            _ => {}
        }
        None
    }

    /// How many events were booked.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// A day; all zeros when nothing happened.
    pub(super) fn day(&self, day: u32) -> Day {
        Day {
            day,
            counts: self.days.get(&day).copied().unwrap_or_default(),
        }
    }

    /// What happened at each provider, over all days.
    pub(super) fn providers(&self) -> &BTreeMap<String, Counts> {
        &self.providers
    }

    /// The moves between bands, in their order.
    pub(super) fn bands(&self) -> &[BandChange] {
        &self.bands
    }

    fn count(&mut self, day: u32, event: &Event, count: impl Fn(&mut Counts)) {
        count(self.days.entry(day).or_default());
        count(self.providers.entry(event.provider.clone()).or_default());
    }

    /// The day of a time, counted from 1; what came before day 1 belongs to it.
    fn day_of(&self, at: &str) -> Option<u32> {
        let at: jiff::Timestamp = at.parse().ok()?;
        let day = at.as_millisecond().div_euclid(DAY_MS) - self.first_day + 1;
        u32::try_from(day.max(1)).ok()
    }
}

// === impl Counts ===

impl Counts {
    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            delivered: self.delivered + other.delivered,
            inbox: self.inbox + other.inbox,
            spam: self.spam + other.spam,
            deferred: self.deferred + other.deferred,
            bounced: self.bounced + other.bounced,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// 2026-11-23.
    const FIRST: i64 = 20_780;

    fn event(kind: &str, at: &str, more: &serde_json::Value) -> Event {
        let mut fields =
            json!({ "type": kind, "at": at, "id": 1, "inbox_id": "inb_a", "message_id": "msg_a" });
        for (key, value) in more.as_object().unwrap() {
            fields[key] = value.clone();
        }
        serde_json::from_value(fields).unwrap()
    }

    #[test]
    fn events_are_booked_on_their_own_day() {
        let mut ledger = Ledger::new(FIRST);
        let google = json!({ "provider": "google" });
        for (kind, at, more) in [
            (
                "message_accepted",
                "2026-11-23T23:59:59Z",
                json!({ "recipients": 2 }),
            ),
            (
                "message_deferred",
                "2026-11-23T23:59:59.999Z",
                google.clone(),
            ),
            ("message_delivered", "2026-11-24T00:00:00Z", google.clone()),
            ("message_bounced", "2026-11-24T00:00:00Z", google.clone()),
            (
                "message_placed",
                "2026-11-24T00:00:01Z",
                json!({ "provider": "google", "spam": true }),
            ),
            (
                "message_placed",
                "2026-11-24T00:00:01Z",
                json!({ "provider": "yahoo", "spam": false }),
            ),
            ("inbox_created", "2026-11-24T00:00:01Z", json!({})),
            (
                "message_accepted",
                "no time at all",
                json!({ "recipients": 9 }),
            ),
        ] {
            assert_eq!(ledger.take(&event(kind, at, &more)), None);
        }
        let first = Counts {
            sent: 2,
            deferred: 1,
            ..Counts::default()
        };
        assert_eq!(ledger.day(1).counts, first);
        let second = Counts {
            delivered: 1,
            bounced: 1,
            inbox: 1,
            spam: 1,
            ..Counts::default()
        };
        assert_eq!(ledger.day(2).counts, second);
        assert_eq!(ledger.day(3).counts, Counts::default());
        assert_eq!(ledger.providers()["yahoo"].inbox, 1);
        assert_eq!(
            (ledger.providers()["google"].deferred, ledger.seen()),
            (1, 8)
        );
    }

    #[test]
    fn an_answer_is_told_once_and_with_the_place_of_its_letter() {
        let mut ledger = Ledger::new(FIRST);
        let at = "2026-11-25T09:00:00Z";
        let replied = event("message_replied", at, &json!({}));
        assert_eq!(
            ledger.take(&replied),
            None,
            "of a letter that never arrived"
        );
        ledger.take(&event(
            "message_delivered",
            at,
            &json!({ "provider": "yahoo" }),
        ));
        let answered = ledger.take(&replied).unwrap();
        assert_eq!(
            (answered.inbox_id.as_str(), answered.provider.as_str()),
            ("inb_a", "yahoo")
        );
        assert_eq!(ledger.take(&replied), None);
    }

    #[test]
    fn a_move_between_bands_is_kept_with_its_reason() {
        let mut ledger = Ledger::new(FIRST);
        let more = json!({ "band": "quarantined", "why": "the bounce rate" });
        ledger.take(&event("band_changed", "2026-12-01T09:00:00Z", &more));
        let moved = &ledger.bands()[0];
        assert_eq!(
            (moved.day, moved.band.as_str(), moved.why.as_str()),
            (9, "quarantined", "the bounce rate")
        );
    }
}
