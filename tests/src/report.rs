//! What a laboratory found: a line of names and numbers, for people and for the driver of the long run.

use std::{fmt, time::Duration};

use crate::{fates::Doubts, laboratory::Plan};

/// What is counted along the way.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Figures {
    pub(crate) sequences: usize,
    pub(crate) kills: usize,
    pub(crate) cuts: usize,
    pub(crate) in_start: usize,
    pub(crate) before_bound: usize,
    pub(crate) slowest_start: Duration,
}

/// What was found when all is over.
#[derive(Debug, Clone)]
pub struct Report {
    pub(crate) plan: Plan,
    pub(crate) figures: Figures,
    pub(crate) usual_start: Duration,
    pub(crate) accepted: usize,
    pub(crate) received: usize,
    pub(crate) jobs: usize,
    pub(crate) delivered: usize,
    pub(crate) doubts: Doubts,
    pub(crate) trials_took: Duration,
    pub(crate) end_took: Duration,
}

impl fmt::Display for Report {
    /// A line of names and numbers: people read it, and the driver of the long run.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            plan,
            figures,
            doubts,
            ..
        } = self;
        let on = plan.disk.map_or_else(
            || "folder".to_owned(),
            |disk| format!("{disk:?}").to_lowercase(),
        );
        let accidents = figures.kills + figures.cuts;
        let each = self.trials_took.as_secs_f64()
            / f64::from(u32::try_from(accidents.max(1)).unwrap_or(u32::MAX));
        write!(
            f,
            "tally: on={on} writers={:?} chance={} accidents={accidents} kills={} cuts={} sequences={} in_start={} \
             before_bound={} accepted={} received={} jobs={} delivered={} lost=0 torn=0 found_attempting={} broken={} \
             duplicates={} undetected=0 usual_start_ms={} slowest_start_ms={} seconds_each={each:.2} end_seconds={}",
            plan.writers,
            plan.seed,
            figures.kills,
            figures.cuts,
            figures.sequences,
            figures.in_start,
            figures.before_bound,
            self.accepted,
            self.received,
            self.jobs,
            self.delivered,
            doubts.found,
            doubts.broken,
            doubts.duplicates,
            self.usual_start.as_millis(),
            figures.slowest_start.as_millis(),
            self.end_took.as_secs(),
        )
    }
}
