//! The report: a section for each bench, with its table and what the figures should be.

use std::fmt::{self, Write as _};

use crate::{
    Effort,
    conditions::Conditions,
    measure::{Samples, figure},
};

/// What one bench found.
#[derive(Debug)]
pub(crate) struct Section {
    title: String,
    /// What was done, in sentences.
    about: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    goals: Vec<Goal>,
}

/// A ratio to the reference, and what it should be.
#[derive(Debug)]
struct Goal {
    what: String,
    found: Samples,
    bound: Bound,
}

/// On which side of it a figure should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// Not below.
    AtLeast(f64),
    /// Not above.
    AtMost(f64),
}

// === impl Section ===

impl Section {
    pub(crate) fn new(title: &str, about: &str, header: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            about: about.to_owned(),
            header: header.iter().map(|cell| (*cell).to_owned()).collect(),
            rows: Vec::new(),
            goals: Vec::new(),
        }
    }

    /// A bench that failed: the report says so, for a missing figure must not look like one never wanted.
    pub(crate) fn not_measured(name: &str, why: &anyhow::Error) -> Self {
        Self::new(name, &format!("**Not measured**: {why:#}."), &[])
    }

    pub(crate) fn row(&mut self, cells: &[&dyn fmt::Display]) {
        debug_assert_eq!(cells.len(), self.header.len(), "a cell a column");
        self.rows
            .push(cells.iter().map(ToString::to_string).collect());
    }

    /// A ratio and its goal.
    pub(crate) fn goal(&mut self, what: &str, found: Samples, bound: Bound) {
        self.goals.push(Goal {
            what: what.to_owned(),
            found,
            bound,
        });
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n\n{}", self.title, self.about)?;
        if !self.rows.is_empty() {
            writeln!(f, "\n| {} |", self.header.join(" | "))?;
            writeln!(f, "|{}", "---|".repeat(self.header.len()))?;
        }
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        if !self.goals.is_empty() {
            writeln!(f)?;
        }
        for goal in &self.goals {
            writeln!(f, "- {goal}")?;
        }
        Ok(())
    }
}

// === impl Goal ===

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, bound, met) = match self.bound {
            Bound::AtLeast(bound) => ("≥", bound, self.found.median() >= bound),
            Bound::AtMost(bound) => ("≤", bound, self.found.median() <= bound),
        };
        let met = if met { "met" } else { "**missed**" };
        write!(
            f,
            "{}: {}, goal {sign} {}: {met}",
            self.what,
            self.found,
            figure(bound)
        )
    }
}

// === free functions ===

/// The whole document.
pub(crate) fn document(conditions: &Conditions, effort: Effort, sections: &[Section]) -> String {
    let mut text = String::from("# What InboxGrove costs\n\n");
    let seconds = figure(effort.sample.as_secs_f64());
    let rounds = effort.rounds;
    write!(
        text,
        "Written by `make bench`; do not edit. Each figure is the median of {rounds} rounds of about {seconds} s with the \
         least and the most in brackets; within a round each thing is measured right beside its reference, and ratios are \
         taken round by round. Absolute figures belong to this machine and this load, ratios travel further.\n\n"
    )
    .expect("a String takes everything");
    text.push_str(&conditions.to_string());
    for section in sections {
        text.push('\n');
        text.push_str(&section.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_a_table_with_its_goals() {
        let mut section = Section::new("Title", "About.", &["a", "b"]);
        section.row(&[&1, &"x"]);
        let mut found = Samples::default();
        found.push(0.5);
        section.goal("P0", found.clone(), Bound::AtLeast(0.4));
        section.goal("P0", found, Bound::AtMost(0.4));
        let expected = "## Title\n\nAbout.\n\n| a | b |\n|---|---|\n| 1 | x |\n\n\
            - P0: 0.50 [0.50..0.50], goal ≥ 0.40: met\n- P0: 0.50 [0.50..0.50], goal ≤ 0.40: **missed**\n";
        assert_eq!(section.to_string(), expected);
    }
}
