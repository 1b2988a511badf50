//! Every due row is done: soon while the daemon is well, and all of them in calm.

use std::{collections::VecDeque, time::Duration};

use inboxgrove_model::{
    PolicyTime,
    due::DueRow,
    inbox::Inbox,
    job::{Job, JobState},
    message::QueueEntry,
};
use inboxgrove_store::{ReadError, Scope};

use super::Inspection;

/// Work for a time is done within this long of true time in which nothing befell the house.
const DUE_WITHIN: Duration = Duration::from_mins(10);
/// In calm, mail is tried within this long; the pace of a site may hold it up.
const QUEUE_WITHIN: Duration = Duration::from_hours(2);

/// Since when the house has been well: true and policy time of looks in which it was.
#[derive(Debug, Default)]
pub(super) struct Well {
    looks: VecDeque<(PolicyTime, PolicyTime)>,
}

// === impl Well ===

impl Well {
    /// Something befell the house.
    pub(super) fn not_now(&mut self) {
        self.looks.clear();
    }

    /// A look at a house that is well. What policy time was when all that was due then must be done by now.
    fn look(&mut self, truth: PolicyTime, policy: PolicyTime) -> Option<PolicyTime> {
        self.looks.push_back((truth, policy));
        let long_ago = |look: &(PolicyTime, PolicyTime)| truth.since(look.0) >= DUE_WITHIN;
        while self.looks.get(1).is_some_and(long_ago) {
            self.looks.pop_front();
        }
        self.looks
            .front()
            .copied()
            .filter(long_ago)
            .map(|look| look.1)
    }
}

impl Inspection<'_> {
    /// What was due a while ago has been done, if the house was well meanwhile.
    pub(super) fn due_work_is_done(&mut self, well: &mut Well) -> Result<(), ReadError> {
        let Some(done_by) = well.look(self.scene.truth, self.scene.now) else {
            return Ok(());
        };
        let late = self
            .scene
            .store
            .page::<DueRow>(&Scope::Before(done_by), None, 10)?;
        for row in late.items {
            self.demand(row.at >= done_by, || {
                format!(
                    "{:?} was due {} and is not done, though the house has been well since {done_by}",
                    row.work, row.at
                )
            });
        }
        Ok(())
    }

    /// In calm everything that was due has been done.
    pub(super) fn no_work_is_left(&mut self) -> Result<(), ReadError> {
        let now = self.scene.now;
        for row in self.rows::<DueRow>()? {
            self.demand(row.at.after(DUE_WITHIN) >= now, || {
                format!("{:?} was due {} and is not done at {now}", row.work, row.at)
            });
        }
        for row in self.rows::<QueueEntry>()? {
            self.demand(row.due_at.after(QUEUE_WITHIN) >= now, || {
                format!(
                    "recipient {} of {} was due {} and waits at {now}",
                    row.recipient, row.message, row.due_at
                )
            });
        }
        let (inboxes, jobs) = (self.rows::<Inbox>()?, self.rows::<Job>()?);
        for (tenant, id, _) in &self.scene.promised.jobs.clone() {
            let job = jobs.iter().find(|job| job.id == *id);
            self.demand(job.is_some_and(|job| job.state == JobState::Done), || {
                format!("the job {id} is not done")
            });
            let asked: u32 = self
                .scene
                .promised
                .jobs
                .iter()
                .filter(|job| job.0 == *tenant)
                .map(|job| job.2)
                .sum();
            let made = inboxes
                .iter()
                .filter(|inbox| inbox.tenant == *tenant)
                .count();
            self.demand(usize::try_from(asked) == Ok(made), || {
                format!("{made} of {asked} inboxes were made for {tenant}")
            });
        }
        Ok(())
    }
}
