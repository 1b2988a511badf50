//! A failing seed made short: incidents are left out, hours and people taken away, as long as it fails in the same way.

use std::fmt::Write as _;

use super::{
    day::{Failure, Life, Lived, Trouble},
    weather::Incident,
};

/// Events that a trace ends with.
const EVENTS_SHOWN: usize = 12;

/// What is left of a failing life.
#[derive(Debug, Clone, PartialEq)]
pub struct Shrunk {
    /// The shortest life found.
    pub life: Life,
    /// How it fails.
    pub failure: Failure,
    /// Lives that were tried.
    pub tried: usize,
}

/// The search for a shorter life.
struct Search<'a> {
    best: Life,
    failure: Failure,
    tries_left: usize,
    tried: usize,
    live: &'a dyn Fn(&Life) -> Result<Lived, Box<Failure>>,
}

/// Makes a failing life shorter, with so many tries at most.
pub fn shrink(
    life: &Life,
    failure: &Failure,
    tries: usize,
    live: &dyn Fn(&Life) -> Result<Lived, Box<Failure>>,
) -> Shrunk {
    let mut search = Search {
        best: life.clone(),
        failure: failure.clone(),
        tries_left: tries,
        tried: 0,
        live,
    };
    search.fewer_hours();
    search.fewer_incidents();
    search.fewer_people();
    search.fewer_hours();
    Shrunk {
        life: search.best,
        failure: search.failure,
        tried: search.tried,
    }
}

// === impl Search ===

impl Search<'_> {
    /// Takes a shorter life if it fails in the same way.
    fn take(&mut self, life: Life) -> bool {
        if self.tries_left == 0 || life == self.best {
            return false;
        }
        self.tries_left -= 1;
        self.tried += 1;
        match (self.live)(&life) {
            Err(failure) if failure.is_like(&self.failure) => {
                (self.best, self.failure) = (life, *failure);
                true
            }
            _ => false,
        }
    }

    /// What happened after the failure does not matter; perhaps it comes sooner, too.
    fn fewer_hours(&mut self) {
        let lived = self.failure.hours.min(self.best.hours);
        for hours in [lived / 2, lived.saturating_sub(1), lived] {
            if hours > 0 && hours < self.best.hours && self.take(self.of_hours(hours)) {
                return;
            }
        }
    }

    fn of_hours(&self, hours: u64) -> Life {
        let mut life = Life {
            hours,
            ..self.best.clone()
        };
        if let Trouble::Given(incidents) = &mut life.trouble {
            incidents.retain(|incident| incident.at.as_secs() < hours * 3600);
        }
        life
    }

    fn fewer_people(&mut self) {
        for people in 1..self.best.people {
            let life = Life {
                people,
                ..self.best.clone()
            };
            if self.take(life) {
                return;
            }
        }
    }

    /// Delta debugging: leaves out ever smaller parts of the forecast, until nothing can be left out.
    fn fewer_incidents(&mut self) {
        let mut part = self.incidents().len();
        while part > 0 {
            let mut from = 0;
            let mut left_out = false;
            while from < self.incidents().len() {
                let mut rest = self.incidents().to_vec();
                rest.drain(from..(from + part).min(rest.len()));
                let life = Life {
                    trouble: Trouble::Given(rest),
                    ..self.best.clone()
                };
                if self.take(life) {
                    left_out = true;
                } else {
                    from += part;
                }
            }
            // Once nothing of this size can go, smaller parts are tried; single ones until none can go.
            part = match (left_out, part) {
                (true, 1) => 1,
                _ => part / 2,
            };
            if self.tries_left == 0 {
                return;
            }
        }
    }

    fn incidents(&self) -> &[Incident] {
        match &self.best.trouble {
            Trouble::Given(incidents) => incidents,
            Trouble::None | Trouble::CutAtWrite(_) => &[],
        }
    }
}

// === impl Shrunk ===

impl Shrunk {
    /// What is left, for people: how it fails, what happened, the last events.
    pub fn trace(&self) -> String {
        let mut text = format!(
            "{} people, {} hours, {} incidents ({} lives tried)\n",
            self.life.people,
            self.life.hours,
            self.numbers().len(),
            self.tried
        );
        let mut add = |line: &str| writeln!(text, "  {line}").unwrap_or_default();
        self.failure.trace.iter().for_each(|line| add(line));
        let events = &self.failure.events;
        let from = events.len().saturating_sub(EVENTS_SHOWN);
        events[from..].iter().for_each(|line| add(line));
        self.failure.why.lines().for_each(add);
        text
    }

    /// The numbers of the incidents that are left, as a replay is told them.
    pub fn numbers(&self) -> Vec<usize> {
        match &self.life.trouble {
            Trouble::Given(incidents) => incidents.iter().map(|it| it.number).collect(),
            Trouble::None | Trouble::CutAtWrite(_) => Vec::new(),
        }
    }
}
