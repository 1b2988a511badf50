//! The report: a section for each bench, with its table and what the figures should be.

use std::fmt;

use crate::{
    Effort,
    conditions::Conditions,
    measure::{Samples, figure},
};

/// How a section's title begins.
const HEADING: &str = "## ";

/// What one bench found.
#[derive(Debug)]
pub(crate) struct Section {
    title: String,
    /// What was done, in sentences.
    about: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    goals: Vec<Goal>,
    /// When it was found, and how often each thing was measured.
    measured: String,
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
            measured: String::new(),
        }
    }

    /// Says under which conditions it was found: parts of the report may be of different days.
    pub(crate) fn measured(&mut self, conditions: &Conditions, effort: Effort) {
        let (rounds, seconds) = (effort.rounds, figure(effort.sample.as_secs_f64()));
        self.measured = format!(
            "Measured {}; {rounds} rounds of about {seconds} s.",
            conditions.moment()
        );
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
        writeln!(f, "{HEADING}{}\n\n{}", self.title, self.about)?;
        if !self.measured.is_empty() {
            writeln!(f, "\n{}", self.measured)?;
        }
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

/// The whole document: what was found now, and of an earlier one the sections that were not measured again.
/// `titles` are all there are, in their order.
pub(crate) fn document(
    conditions: &Conditions,
    titles: &[&str],
    earlier: &str,
    sections: &[Section],
) -> String {
    let mut text = String::from("# What InboxGrove costs\n\n");
    text.push_str(
        "Written by `make bench`; do not edit. Each figure is the median of some rounds with the least and the most in \
         brackets; within a round each thing is measured right beside its reference, and ratios are taken round by round. \
         Absolute figures belong to this machine and this load, ratios travel further.\n\n",
    );
    text.push_str(&conditions.to_string());
    for title in titles {
        let fresh = sections.iter().find(|section| section.title == **title);
        let found = match fresh {
            Some(section) => section.to_string(),
            None => section_of(earlier, title).unwrap_or_default(),
        };
        if !found.is_empty() {
            text.push('\n');
            text.push_str(&found);
        }
    }
    text
}

/// The section with this title in a document, its heading included.
fn section_of(document: &str, title: &str) -> Option<String> {
    let heading = format!("{HEADING}{title}");
    let mut lines = document.lines().skip_while(|line| *line != heading);
    let mut text = format!("{}\n", lines.next()?);
    for line in lines.take_while(|line| !line.starts_with(HEADING)) {
        text.push_str(line);
        text.push('\n');
    }
    Some(format!("{}\n", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_a_table_with_its_goals() {
        let mut section = Section::new("Title", "About.", &["a", "b"]);
        section.row(&[&1, &"x"]);
        let found = Samples::of(0.5);
        section.goal("P0", found.clone(), Bound::AtLeast(0.4));
        section.goal("P0", found, Bound::AtMost(0.4));
        let expected = "## Title\n\nAbout.\n\n| a | b |\n|---|---|\n| 1 | x |\n\n\
            - P0: 0.50, goal ≥ 0.40: met\n- P0: 0.50, goal ≤ 0.40: **missed**\n";
        assert_eq!(section.to_string(), expected);
    }

    #[test]
    fn what_was_not_measured_again_stays_as_it_was() {
        let conditions = Conditions::of_this_machine();
        let titles = ["One", "Two"];
        let section = |title, about| Section::new(title, about, &[]);
        let both = [section("One", "Old."), section("Two", "Old.")];
        let earlier = document(&conditions, &titles, "", &both);
        let merged = document(&conditions, &titles, &earlier, &[section("One", "New.")]);
        assert!(
            merged.ends_with("\n## One\n\nNew.\n\n## Two\n\nOld.\n"),
            "{merged}"
        );
    }
}
