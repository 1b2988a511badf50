//! What is due of an account: the end of its trial, the count of its rows, and what is to be forgotten.

use std::time::Duration;

use inboxgrove_model::{
    PolicyTime,
    domain::Domain,
    due::{DueRow, DueWork},
    idempotency::IdempotentAnswer,
    inbox::{Inbox, InboxStatus},
    job::{Job, JobState},
    tenant::{Session, SuspensionReason, Tenant, TenantStatus},
};
use inboxgrove_store::Scope;

use super::{TenantState, sessions::is_over};
use crate::{context::pages, refusal::Refusal};

/// Milliseconds of a day: an account's counts are compared with its rows once in each.
const DAY_MILLIS: i64 = 86_400_000;
/// Rows of a kind forgotten in one clean-up: a commit holds 10,000 rows at most.
const FORGET_MAX: usize = 2000;
/// When a clean-up was full, the next one comes after this.
const FORGET_AGAIN: Duration = Duration::from_mins(1);

impl TenantState {
    /// Ends a trial whose time is up, and compares the counts with the rows.
    pub(super) async fn due(&mut self, row: DueRow) -> Result<(), Refusal> {
        let Some(tenant) = self.tenant.clone() else {
            let mut batch = self.batch();
            batch.remove::<DueRow>(&(row.at, row.work));
            self.cx.store.commit(batch).await?;
            return Ok(());
        };
        let now = self.cx.now();
        if tenant.status == TenantStatus::Trial && tenant.trial_ends_at.is_some_and(|at| at <= now)
        {
            self.suspend(
                SuspensionReason::TrialExpired,
                "the trial has ended".to_owned(),
            )
            .await?;
        }
        let mut tenant = self.existing()?.clone();
        (tenant.domains_count, tenant.inboxes_count) = self.count()?;
        let mut batch = self.batch();
        batch.remove::<DueRow>(&(row.at, row.work));
        // Also after a recount out of turn: the row is there already then, under the same key.
        batch.put(&DueRow {
            at: next_look(&tenant, now),
            work: DueWork::Tenant(self.id),
        });
        batch.put(&tenant);
        self.cx.store.commit(batch).await?;
        self.tenant = Some(tenant);
        self.forget_expired().await
    }

    /// Log-ins and idempotency keys whose time is over.
    async fn forget_expired(&self) -> Result<(), Refusal> {
        let now = self.cx.ports.clock.wall();
        let sessions = first_of(
            pages::<Session>(&self.cx, &Scope::Tenant(self.id)),
            |session| is_over(session, now),
        )?;
        let answers = first_of(
            pages::<IdempotentAnswer>(&self.cx, &Scope::Tenant(self.id)),
            |answer| answer.expires_at <= now,
        )?;
        if sessions.is_empty() && answers.is_empty() {
            return Ok(());
        }
        let mut batch = self.batch();
        for session in &sessions {
            batch.remove::<Session>(&(self.id, session.id));
        }
        for answer in &answers {
            batch.remove::<IdempotentAnswer>(&(self.id, answer.key));
        }
        if sessions.len() == FORGET_MAX || answers.len() == FORGET_MAX {
            batch.put(&DueRow {
                at: self.cx.now().after(FORGET_AGAIN),
                work: DueWork::Tenant(self.id),
            });
        }
        self.cx.store.commit(batch).await?;
        Ok(())
    }

    /// Domains and inboxes by their rows. What jobs have still to make is counted as made: before the inboxes,
    /// so that what a job makes in between is counted twice rather than not at all, and no plan is exceeded.
    fn count(&self) -> Result<(u32, u32), Refusal> {
        let (mut domains, mut inboxes) = (0, 0);
        for job in pages::<Job>(&self.cx, &Scope::Tenant(self.id)) {
            let job = job?;
            if matches!(job.state, JobState::Pending | JobState::Running) {
                inboxes += job
                    .steps
                    .iter()
                    .map(|step| step.total - step.done)
                    .sum::<u32>();
            }
        }
        for domain in pages::<Domain>(&self.cx, &Scope::Tenant(self.id)) {
            domain?;
            domains += 1;
        }
        for inbox in pages::<Inbox>(&self.cx, &Scope::Tenant(self.id)) {
            if inbox?.status != InboxStatus::Deleted {
                inboxes += 1;
            }
        }
        Ok((domains, inboxes))
    }
}

/// The first rows that are meant, [`FORGET_MAX`] at most.
fn first_of<R>(
    rows: impl Iterator<Item = Result<R, Refusal>>,
    is_meant: impl Fn(&R) -> bool,
) -> Result<Vec<R>, Refusal> {
    rows.filter(|row| row.as_ref().map_or(true, &is_meant))
        .take(FORGET_MAX)
        .collect()
}

/// When an account is next looked at: once a UTC day at a time of its own, and when its trial ends. It follows
/// from the account and the day alone, so that a look out of turn comes to the same due row.
pub(super) fn next_look(tenant: &Tenant, now: PolicyTime) -> PolicyTime {
    let seed = u64::from_be_bytes(
        *tenant
            .id
            .as_bytes()
            .last_chunk()
            .expect("an id has 16 bytes"),
    );
    let own_time = (seed % DAY_MILLIS.unsigned_abs()).cast_signed();
    let daily = PolicyTime::from_millis((now.utc_day() + 1) * DAY_MILLIS + own_time);
    match tenant.trial_ends_at {
        Some(ends_at) if tenant.status == TenantStatus::Trial && ends_at > now => {
            daily.min(ends_at)
        }
        _ => daily,
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::TenantId;

    use super::*;

    fn tenant(last_byte: u8) -> Tenant {
        let mut id = [7; 16];
        id[15] = last_byte;
        Tenant {
            id: TenantId::from_bytes(id),
            company: "Acme".into(),
            plan: "trial".into(),
            status: TenantStatus::Active,
            suspension: None,
            time_zone: "UTC".into(),
            created_at: PolicyTime::from_millis(0),
            trial_ends_at: None,
            domains_count: 0,
            inboxes_count: 0,
        }
    }

    #[test]
    fn looks_out_of_turn_come_to_the_same_due_row() {
        for last_byte in 0..=255 {
            let tenant = tenant(last_byte);
            let mut row = next_look(&tenant, PolicyTime::from_millis(12_345));
            for _ in 0..5 {
                let after = next_look(&tenant, row);
                let out_of_turn = row.after(Duration::from_mins(1));
                assert!(after > row);
                if out_of_turn.utc_day() == row.utc_day() {
                    assert_eq!(next_look(&tenant, out_of_turn), after);
                }
                row = after;
            }
        }
    }

    #[test]
    fn a_trials_end_is_not_missed() {
        let now = PolicyTime::from_millis(12_345);
        let ends_at = now.after(Duration::from_mins(3));
        let trial = Tenant {
            status: TenantStatus::Trial,
            trial_ends_at: Some(ends_at),
            ..tenant(1)
        };
        assert_eq!(next_look(&trial, now), ends_at);
        assert!(next_look(&trial, ends_at) > ends_at);
    }

    #[test]
    fn of_many_rows_only_the_expired_count_against_the_limit() {
        let rows = (0..10_000).map(Ok::<u32, Refusal>);
        let found = first_of(rows, |row| *row >= 9_990).expect("all are read");
        assert_eq!(found.len(), 10);
        let many = first_of((0..10_000).map(Ok::<u32, Refusal>), |_| true).expect("all are read");
        assert_eq!(many.len(), FORGET_MAX);
    }
}
