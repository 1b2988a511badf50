//! What the demo tells: rows of the table while it runs, and at its end one report, for people and as JSON.

use std::fmt::Write;

use serde::Serialize;

use super::ledger::{Counts, Day};

/// Longest reason that is shown.
const WHY_CHARS_MAX: usize = 110;

/// Everything the demo found out. Printed by `--json`, as one object.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    /// The seed it ran by.
    pub(super) seed: u64,
    /// Real time from the start to here.
    pub(super) seconds: f64,
    /// Each simulated day, counted by recipients.
    pub(super) days: Vec<Day>,
    /// The sum of all days.
    pub(super) total: Counts,
    /// Each inbox at the end.
    pub(super) inboxes: Vec<InboxLine>,
    /// Each provider: what the daemon counted there, and the provider's own books.
    pub(super) providers: Vec<ProviderLine>,
    /// What stood out, in the order in which it happened.
    pub(super) notes: Vec<Note>,
    /// Letters that the API did not take from quarantined inboxes.
    pub(super) refused: u32,
    /// What became of the one who wrote to a bought list.
    pub(super) bought_list: Option<BoughtList>,
    /// Where the API is, or was.
    pub(super) api: String,
}

/// An inbox at the end.
#[derive(Debug, Clone, Serialize)]
pub(super) struct InboxLine {
    pub(super) id: String,
    pub(super) address: String,
    /// Who takes mail for its domain.
    pub(super) provider: String,
    /// 0 to 100.
    pub(super) score: f64,
    /// Where the score lies nine times in ten.
    pub(super) interval: Interval,
    pub(super) status: String,
    pub(super) band: String,
    /// Why, in a sentence.
    pub(super) reason: String,
}

/// An interval.
#[derive(Debug, Clone, Copy, Serialize, serde::Deserialize)]
pub(super) struct Interval {
    pub(super) low: f64,
    pub(super) high: f64,
}

/// A provider at the end.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ProviderLine {
    pub(super) name: String,
    /// What it thinks of our domains, 0 to 100.
    pub(super) standing: f64,
    /// What the daemon counted.
    pub(super) counted: Counts,
    /// What the provider itself counted.
    pub(super) own_books: OwnBooks,
}

/// A provider's own count of recipients.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct OwnBooks {
    pub(super) accepted: u32,
    pub(super) inbox: u32,
    pub(super) spam: u32,
    pub(super) deferred: u32,
    pub(super) bounced: u32,
}

/// An inbox was moved to another band.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Note {
    pub(super) day: u32,
    pub(super) inbox_id: String,
    pub(super) band: String,
    pub(super) text: String,
}

/// The letters of the one inbox that wrote to a bought list.
#[derive(Debug, Clone, Serialize)]
pub(super) struct BoughtList {
    /// Who.
    pub(super) address: String,
    pub(super) inbox_id: String,
    /// Letters that the API took.
    pub(super) written: u32,
    /// Letters that it did not take, because a gate was closed.
    pub(super) refused: u32,
}

/// A row of the table.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) day: Day,
    /// What each provider thinks of us, 0 to 100.
    pub(super) standings: Vec<f64>,
    /// The mean score of the inboxes; none before the first day is over.
    pub(super) health: Option<f64>,
}

// === impl Row ===

impl Row {
    /// The line of the table.
    pub(super) fn line(&self) -> String {
        let counts = &self.day.counts;
        let mut line = format!(
            "{:>4}  {:>5}  {:>5}  {:>5}  {:>8}  {:>7}  |",
            self.day.day, counts.sent, counts.inbox, counts.spam, counts.deferred, counts.bounced
        );
        for standing in &self.standings {
            write!(line, "  {standing:>7.0}").expect("a string takes any text");
        }
        let health = self
            .health
            .map_or_else(|| "-".to_owned(), |health| format!("{health:.1}"));
        write!(line, "  |  {health:>6}").expect("a string takes any text");
        line
    }
}

// === free functions ===

/// The lines above the table.
pub(super) fn head(providers: &[String]) -> String {
    let mut head = " day   sent  inbox   spam  deferred  bounced  |".to_owned();
    let mut rule = format!("{:-<46}+", "");
    for provider in providers {
        write!(head, "  {provider:>7}").expect("a string takes any text");
        write!(rule, "{:-<9}", "").expect("a string takes any text");
    }
    format!("{head}  |  health\n{rule}--+--------")
}

/// The report for people.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |content: String| writeln!(text, "{content}").expect("a string takes any text");
    let total = &report.total;
    line(format!(
        "{} days in {:.0} s: {} sent, {} delivered, {} deferrals on the way, {} bounced.",
        report.days.len(),
        report.seconds,
        total.sent,
        total.delivered,
        total.deferred,
        total.bounced
    ));
    line(format!(
        "Warmup mail comes back to us, so its folder is known: {} in the inbox, {} in spam ({}).",
        total.inbox,
        total.spam,
        share(total.spam, total.inbox + total.spam)
    ));
    line(format!(
        "Spam share of the first week {}, of the last {}.",
        week(&report.days, false),
        week(&report.days, true)
    ));
    line(String::new());
    if let Some(list) = &report.bought_list {
        line(bought(list, &report.notes));
    }
    let stopped = report
        .notes
        .iter()
        .filter(|note| note.band == "quarantined")
        .count();
    line(format!(
        "{} moves between bands, {stopped} of them into quarantine; --json lists them all with their reasons.",
        report.notes.len()
    ));
    line(String::new());
    let wide = report
        .inboxes
        .iter()
        .map(|inbox| inbox.address.len())
        .max()
        .unwrap_or(0);
    line(format!(
        "{:wide$}  score   interval  status     band",
        "inbox"
    ));
    for inbox in &report.inboxes {
        line(format!(
            "{:wide$}  {:>5.1}  {:>4.0}-{:<4.0}  {:<9}  {}",
            inbox.address,
            inbox.score,
            inbox.interval.low,
            inbox.interval.high,
            inbox.status,
            inbox.band
        ));
    }
    text
}

/// The story of the one who bought a list.
fn bought(list: &BoughtList, notes: &[Note]) -> String {
    let BoughtList {
        address,
        written,
        refused,
        ..
    } = list;
    let moved = notes.iter().filter(|note| note.inbox_id == list.inbox_id);
    let stopped = moved.clone().find(|note| note.band == "quarantined");
    let stopped = match stopped {
        None => "was not quarantined".to_owned(),
        Some(note) => {
            let after = moved
                .clone()
                .skip_while(|other| !std::ptr::eq(*other, note))
                .nth(1);
            let end = after.map_or_else(
                || "to the end".to_owned(),
                |end| format!("to day {}", end.day),
            );
            format!("was quarantined from day {} {end}", note.day)
        }
    };
    format!(
        "{address} wrote {written} letters to a bought list and {stopped}; {refused} more were not taken."
    )
}

/// A reason, short enough for one line.
pub(super) fn short(why: &str) -> String {
    if why.chars().count() <= WHY_CHARS_MAX {
        return why.to_owned();
    }
    let head: String = why.chars().take(WHY_CHARS_MAX).collect();
    format!("{head}...")
}

/// The spam share of the first or the last seven days.
fn week(days: &[Day], last: bool) -> String {
    let take = days.len().min(7);
    let days = if last {
        &days[days.len() - take..]
    } else {
        &days[..take]
    };
    let sum = days
        .iter()
        .fold(Counts::default(), |sum, day| sum.plus(day.counts));
    share(sum.spam, sum.inbox + sum.spam)
}

fn share(part: u32, whole: u32) -> String {
    if whole == 0 {
        return "nothing seen".to_owned();
    }
    format!("{:.1} %", f64::from(part) * 100.0 / f64::from(whole))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn day(day: u32, inbox: u32, spam: u32) -> Day {
        let counts = Counts {
            sent: inbox + spam + 1,
            delivered: inbox + spam,
            inbox,
            spam,
            deferred: 2,
            bounced: 1,
        };
        Day { day, counts }
    }

    fn note(day: u32, band: &str) -> Note {
        Note {
            day,
            inbox_id: "inb_a".into(),
            band: band.into(),
            text: String::new(),
        }
    }

    fn report() -> Report {
        Report {
            seed: 1,
            seconds: 2.5,
            days: vec![day(1, 3, 1), day(2, 4, 0)],
            total: day(1, 3, 1).counts.plus(day(2, 4, 0).counts),
            inboxes: vec![InboxLine {
                id: "inb_a".into(),
                address: "ada@oakmail.example".into(),
                provider: "gmail".into(),
                score: 91.25,
                interval: Interval {
                    low: 80.0,
                    high: 97.0,
                },
                status: "warming".into(),
                band: "healthy".into(),
                reason: String::new(),
            }],
            providers: Vec::new(),
            notes: vec![
                note(2, "soft_hold"),
                note(3, "quarantined"),
                note(9, "throttled"),
            ],
            refused: 7,
            bought_list: Some(BoughtList {
                address: "ada@oakmail.example".into(),
                inbox_id: "inb_a".into(),
                written: 20,
                refused: 5,
            }),
            api: "http://127.0.0.1:1/api/v1".into(),
        }
    }

    #[test]
    fn the_json_has_what_programs_rely_on() {
        let value = serde_json::to_value(report()).unwrap();
        assert_eq!(
            value["days"][0],
            json!({ "day": 1, "sent": 5, "delivered": 4, "inbox": 3, "spam": 1, "deferred": 2, "bounced": 1 })
        );
        let inbox = &value["inboxes"][0];
        assert_eq!(inbox["interval"], json!({ "low": 80.0, "high": 97.0 }));
        for key in ["address", "score", "status"] {
            assert!(!inbox[key].is_null(), "{key}");
        }
    }

    #[test]
    fn rows_stand_under_their_heads() {
        let providers = ["gmail", "outlook", "yahoo"].map(String::from);
        let head = head(&providers);
        for health in [None, Some(88.8)] {
            let row = Row {
                day: day(30, 120, 3),
                standings: vec![42.0, 38.5, 100.0],
                health,
            };
            let lines: Vec<&str> = head.lines().chain([]).collect();
            let bars = |line: &str| {
                line.char_indices()
                    .filter(|(_, c)| "|+".contains(*c))
                    .map(|(at, _)| at)
                    .collect::<Vec<_>>()
            };
            assert_eq!(bars(lines[0]), bars(&row.line()));
            assert_eq!(bars(lines[0]), bars(lines[1]));
        }
    }

    #[test]
    fn the_text_tells_the_whole_and_the_weeks() {
        let text = text(&report());
        for part in [
            "10 sent, 8 delivered",
            "7 in the inbox, 1 in spam (12.5 %)",
            "20 letters to a bought list and was quarantined from day 3 to day 9; 5 more",
            "3 moves between bands, 1 of them",
            "ada@oakmail.example   91.2    80-97",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
        assert_eq!(week(&[], true), "nothing seen");
    }
}
