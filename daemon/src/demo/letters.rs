//! Who writes what to whom, besides the warmup: a few letters to customers, and one colleague who bought a list.

use inboxgrove_model::ports::Rng;
use inboxgrove_sim::rng::SeededRng;

/// People with a mailbox at each strangers' domain.
pub(super) const CUSTOMERS: [&str; 12] = [
    "alma", "bruno", "carla", "dario", "edda", "franz", "greta", "hugo", "irma", "jonas", "klara",
    "levin",
];
/// The chance that an inbox writes a letter in one half of a working day.
const WRITES: f64 = 0.3;
/// The chance that such a letter's address is mistyped.
const MISTYPED: f64 = 0.03;
/// Letters of the bought list in one half of a day.
const BLAST: usize = 5;
/// The share of a bought list that nobody reads any more.
const STALE: f64 = 0.7;
/// The day on which the list is bought, in a demo that is long enough: the second Monday.
const BLAST_DAY: u32 = 8;
/// How long it is written to, if nobody stops it.
const BLAST_DAYS: u32 = 5;
/// Days before anybody writes to customers: warmup goes first.
const QUIET_DAYS: u32 = 3;

/// What letters are about.
const TOPICS: [(&str, &str); 6] = [
    (
        "Tuesday's delivery",
        "Hello,\n\nthe delivery comes on Tuesday before noon. Is the side door still the right one?\n\nKind regards\n",
    ),
    (
        "Your question about the invoice",
        "Hello,\n\nthank you for asking. The second line is the deposit, and it will be taken off the next invoice.\n\nKind regards\n",
    ),
    (
        "Notes from this morning",
        "Hello,\n\nhere is what we agreed on: samples first, then the larger order in spring.\n\nKind regards\n",
    ),
    (
        "The drawing you asked for",
        "Hello,\n\nthe drawing is nearly done. Two measurements are missing; could you send them?\n\nKind regards\n",
    ),
    (
        "Opening hours in December",
        "Hello,\n\nwe are here until the twentieth, and again from the seventh of January.\n\nKind regards\n",
    ),
    (
        "A date for the visit",
        "Hello,\n\nwould the week after next suit you? Any day but Wednesday is fine.\n\nKind regards\n",
    ),
];
/// What the bought list gets.
const OFFER: (&str, &str) = (
    "A quick question about your growth",
    "Hi there,\n\nI came across your company and think that we could double your leads.\nDo you have 15 minutes this week?\n",
);

/// A letter to a stranger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    /// The writer's place among the inboxes.
    pub(super) from: usize,
    /// The recipient's address.
    pub(super) to: String,
    /// Its subject.
    pub(super) subject: &'static str,
    /// Its text.
    pub(super) text: &'static str,
    /// Whether the address is of the bought list.
    pub(super) bought: bool,
}

/// Draws letters.
pub(super) struct Letters {
    rng: SeededRng,
    /// Strangers' domains, one behind each provider.
    domains: Vec<String>,
    inboxes: usize,
    blast: std::ops::Range<u32>,
    black_sheep: Option<usize>,
    invented: u32,
}

// === impl Letters ===

impl Letters {
    /// Letters of so many inboxes to people at these domains, in a demo of so many days.
    pub(super) fn new(rng: SeededRng, domains: Vec<String>, inboxes: usize, days: u32) -> Self {
        let from = if days >= BLAST_DAY + BLAST_DAYS {
            BLAST_DAY
        } else {
            days.div_ceil(2)
        };
        Self {
            rng,
            domains,
            inboxes,
            blast: from..from + BLAST_DAYS,
            black_sheep: None,
            invented: 0,
        }
    }

    /// Whether somebody buys a list on this day. Nobody does when there are fewer than two inboxes.
    pub(super) fn is_tempting(&self, day: u32) -> bool {
        self.inboxes >= 2 && self.black_sheep.is_none() && self.blast.contains(&day)
    }

    /// Who buys the list, by their place among the inboxes.
    pub(super) fn tempt(&mut self, place: usize) {
        self.black_sheep = Some(place);
    }

    /// The place of the inbox that bought a list.
    pub(super) fn black_sheep(&self) -> Option<usize> {
        self.black_sheep
    }

    /// The letters of half a day.
    pub(super) fn of(&mut self, day: u32) -> Vec<Letter> {
        let blasting = self.blast.contains(&day);
        let mut letters = Vec::new();
        for from in 0..self.inboxes {
            if blasting && self.black_sheep == Some(from) {
                letters.extend((0..BLAST).map(|_| self.bought(from)));
            } else if is_working_day(day) && day > QUIET_DAYS && self.unit() < WRITES {
                letters.push(self.ordinary(from));
            }
        }
        letters
    }

    fn ordinary(&mut self, from: usize) -> Letter {
        let (subject, text) = *self.pick(&TOPICS);
        let to = if self.unit() < MISTYPED {
            self.nobody()
        } else {
            self.customer()
        };
        Letter {
            from,
            to,
            subject,
            text,
            bought: false,
        }
    }

    fn bought(&mut self, from: usize) -> Letter {
        let to = if self.unit() < STALE {
            self.nobody()
        } else {
            self.customer()
        };
        Letter {
            from,
            to,
            subject: OFFER.0,
            text: OFFER.1,
            bought: true,
        }
    }

    fn customer(&self) -> String {
        format!("{}@{}", self.pick(&CUSTOMERS), self.pick(&self.domains))
    }

    /// An address that nobody has; a new one each time, for the daemon writes to none of them twice.
    fn nobody(&mut self) -> String {
        self.invented += 1;
        format!(
            "{}{}@{}",
            self.pick(&CUSTOMERS),
            100 + self.invented,
            self.pick(&self.domains)
        )
    }

    fn unit(&self) -> f64 {
        (&self.rng as &dyn Rng).unit()
    }

    fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        let place = (&self.rng as &dyn Rng).below(from.len() as u64);
        &from[usize::try_from(place).expect("it is below a length")]
    }
}

/// Whether people work on a day of the demo. Day 1 is a Monday.
fn is_working_day(day: u32) -> bool {
    (day - 1) % 7 < 5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(inboxes: usize, days: u32) -> Letters {
        let domains = ["one.example", "two.example"].map(String::from).to_vec();
        Letters::new(SeededRng::new(5), domains, inboxes, days)
    }

    fn all(inboxes: usize, days: u32) -> Vec<(u32, Letter)> {
        let mut letters = letters(inboxes, days);
        let mut all = Vec::new();
        for day in 1..=days {
            if letters.is_tempting(day) {
                letters.tempt(1);
            }
            all.extend(letters.of(day).into_iter().map(|letter| (day, letter)));
        }
        all
    }

    #[test]
    fn the_same_seed_writes_the_same_letters() {
        assert_eq!(all(12, 30), all(12, 30));
    }

    #[test]
    fn one_inbox_misbehaves_in_any_demo_and_no_address_is_invented_twice() {
        for days in [1, 3, 12, 30, 90] {
            let (bought, others): (Vec<_>, Vec<_>) = all(12, days)
                .into_iter()
                .partition(|(_, letter)| letter.bought);
            assert!(!bought.is_empty(), "{days} days");
            assert!(
                bought
                    .iter()
                    .all(|(day, letter)| *day <= days && letter.from == 1)
            );
            assert!(
                others
                    .iter()
                    .all(|(day, _)| is_working_day(*day) && *day > QUIET_DAYS)
            );
            let mut nobody: Vec<_> = bought
                .iter()
                .map(|(_, letter)| &letter.to)
                .filter(|to| to.contains(|c: char| c.is_ascii_digit()))
                .collect();
            let count = nobody.len();
            nobody.sort();
            nobody.dedup();
            assert_eq!(nobody.len(), count);
        }
        assert!(all(1, 30).iter().all(|(_, letter)| !letter.bought));
    }
}
