//! What became of every letter, told by three witnesses that must agree: the event log of the daemon, the lists of the
//! API, and the mail servers of the others.
//!
//! A letter may arrive twice for one reason only: an accident fell between the others' 250 and the daemon's commit of it.
//! The start after the accident finds such a letter *attempting*, says so in an event, and tries it again. So each
//! delivery beyond the first needs an event of its own, and each process has one such event of a letter at most.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Whose answer it was, when a start found a letter in an attempt of which nobody knows how it ended.
const NOBODY: &str = "unknown";

/// How often each subject has arrived.
pub type Arrivals = BTreeMap<String, usize>;

/// All letters that left or shall leave.
#[derive(Debug, Default)]
pub struct Fates {
    /// By the message's id.
    letters: BTreeMap<String, Letter>,
    /// Subjects, unlike each other, to ids.
    ids: BTreeMap<String, String>,
}

/// A letter that leaves.
#[derive(Debug, Default)]
struct Letter {
    subject: String,
    /// Attempts of which a start did not know how they had ended.
    found: usize,
    /// Attempts of which the running daemon did not know it: the connection broke after the dot.
    broken: usize,
    /// How often it has arrived.
    arrived: usize,
    /// It is recorded as delivered: from here on it must not arrive again.
    settled: bool,
}

/// How often nobody knew, and how often that made a letter arrive twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Doubts {
    /// Attempts that a start found without an end.
    pub found: usize,
    /// Attempts whose connection broke after the dot.
    pub broken: usize,
    /// Deliveries beyond the first, each excused by one of those.
    pub duplicates: usize,
}

impl Fates {
    /// A letter that leaves is in a list of the API.
    pub fn listed(&mut self, id: &str, subject: &str) -> Result<()> {
        let known = self.ids.insert(subject.to_owned(), id.to_owned());
        ensure!(
            known.as_deref().is_none_or(|known| known == id),
            "{subject} is {id} and {known:?}"
        );
        let letter = self.letters.entry(id.to_owned()).or_default();
        subject.clone_into(&mut letter.subject);
        Ok(())
    }

    /// Takes the events since the last time; so many processes have lived between then and now. `before` and `after` them
    /// the others were asked how often each subject has arrived.
    pub fn hear(
        &mut self,
        before: &Arrivals,
        events: &[Value],
        after: &Arrivals,
        lives: usize,
    ) -> Result<()> {
        for letter in self.letters.values_mut().filter(|letter| letter.settled) {
            let count = of(after, &letter.subject);
            ensure!(
                count == letter.arrived,
                "DUPLICATE: {letter:?} is recorded as delivered, and has arrived {count} times"
            );
        }
        self.hear_events(events, after, lives)?;
        for (subject, count) in before {
            let letter = self
                .ids
                .get(subject)
                .and_then(|id| self.letters.get_mut(id))
                .with_context(|| format!("{subject} has arrived, and is in no list"))?;
            letter.arrived = letter.arrived.max(*count);
            ensure!(
                letter.arrived <= 1 + letter.found + letter.broken,
                "DUPLICATE: {letter:?} has arrived more often than an accident excuses"
            );
        }
        Ok(())
    }

    /// Letters that are not recorded as delivered.
    pub fn on_their_way(&self) -> Vec<String> {
        let open = self.letters.values().filter(|letter| !letter.settled);
        open.map(|letter| letter.subject.clone()).collect()
    }

    /// All doubts so far.
    pub fn doubts(&self) -> Doubts {
        let letters = self.letters.values();
        letters.fold(Doubts::default(), |sum, letter| Doubts {
            found: sum.found + letter.found,
            broken: sum.broken + letter.broken,
            duplicates: sum.duplicates + letter.arrived.saturating_sub(1),
        })
    }

    fn hear_events(&mut self, events: &[Value], after: &Arrivals, lives: usize) -> Result<()> {
        let mut found_now: BTreeMap<&str, usize> = BTreeMap::new();
        for event in events {
            let kind = event["type"].as_str().unwrap_or_default();
            if !["message_uncertain", "message_delivered"].contains(&kind) {
                continue;
            }
            let id = event["message_id"].as_str().context("of which message?")?;
            let letter = self
                .letters
                .get_mut(id)
                .with_context(|| format!("it is in no list: {event}"))?;
            ensure!(
                !letter.settled,
                "{letter:?} was delivered, and then {event}"
            );
            if kind == "message_delivered" {
                letter.settled = true;
                letter.arrived = of(after, &letter.subject);
                ensure!(letter.arrived > 0, "{letter:?} never arrived: {event}");
            } else if event["provider"] == NOBODY {
                letter.found += 1;
                let times = found_now.entry(id).or_default();
                *times += 1;
                ensure!(
                    *times <= lives,
                    "{lives} processes found {letter:?} {times} times"
                );
            } else {
                letter.broken += 1;
            }
        }
        Ok(())
    }
}

fn of(arrivals: &Arrivals, subject: &str) -> usize {
    arrivals.get(subject).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arrived(times: usize) -> Arrivals {
        [("a letter".to_owned(), times)].into()
    }

    fn event(kind: &str, provider: &str) -> Value {
        json!({ "type": kind, "message_id": "msg_1", "provider": provider })
    }

    /// What is found when a letter has arrived so often before and after these events, and then so often at the next look.
    fn found(before: usize, events: &[Value], after: usize, later: usize, lives: usize) -> String {
        let mut fates = Fates::default();
        fates.listed("msg_1", "a letter").expect("it is new");
        let heard = fates.hear(&arrived(before), events, &arrived(after), lives);
        let heard = heard.and_then(|()| fates.hear(&arrived(later), &[], &arrived(later), 1));
        heard.map_or_else(|why| why.to_string(), |()| String::new())
    }

    #[test]
    fn a_second_delivery_needs_an_attempt_that_a_start_found() {
        let uncertain = [event("message_uncertain", NOBODY)];
        assert_eq!(found(1, &[], 1, 1, 1), "");
        assert!(found(2, &[], 2, 2, 1).contains("DUPLICATE"));
        assert_eq!(found(2, &uncertain, 2, 2, 1), "");
        assert!(found(3, &uncertain, 3, 3, 1).contains("DUPLICATE"));
    }

    #[test]
    fn a_start_finds_a_letter_once() {
        let twice = [(); 2].map(|()| event("message_uncertain", NOBODY));
        assert!(found(1, &twice, 1, 1, 1).contains("processes found"));
        assert_eq!(found(3, &twice, 3, 3, 2), "");
    }

    #[test]
    fn what_is_recorded_as_delivered_has_arrived_and_does_not_arrive_again() {
        let delivered = [event("message_delivered", "post.test")];
        assert_eq!(found(0, &delivered, 1, 1, 1), "");
        assert!(found(0, &delivered, 0, 0, 1).contains("never arrived"));
        assert!(found(1, &delivered, 1, 2, 1).contains("DUPLICATE"));
        let and_then = [delivered[0].clone(), event("message_uncertain", NOBODY)];
        assert!(found(1, &and_then, 1, 1, 1).contains("and then"));
    }

    #[test]
    fn what_arrives_is_in_a_list() {
        let mut fates = Fates::default();
        let why = fates.hear(&arrived(1), &[], &arrived(1), 1);
        assert!(why.is_err_and(|why| why.to_string().contains("in no list")));
    }
}
