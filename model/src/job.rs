//! Jobs: long work that a person can follow.

use crate::{JobId, PolicyTime, TenantId};

/// Long work. Its row belongs to the actor that does it (provisioning: the domain's).
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Which.
    pub id: JobId,
    /// Whose.
    pub tenant: TenantId,
    /// What is to be done.
    pub work: JobWork,
    /// Where it stands.
    pub state: JobState,
    /// Its steps, in order.
    pub steps: Vec<JobStep>,
    /// What went wrong; at most 20.
    pub errors: Vec<String>,
    /// When it was asked for.
    pub created_at: PolicyTime,
    /// When it last moved.
    pub changed_at: PolicyTime,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum JobWork {
    /// Make inboxes on a domain.
    Provision {
        /// Where.
        domain: crate::DomainId,
        /// How many.
        count: u32,
        /// How they are called.
        naming: Naming,
        /// Whether their warmup starts at once.
        start_warmup: bool,
        /// The zone they live in.
        time_zone: String,
        /// Most recipients a day.
        daily_limit: u32,
    },
}

/// How inboxes are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Naming {
    /// `ada.lovelace`: a first and a last name, as people have them.
    FirstnameLastname,
    /// Random letters and digits.
    Random,
    /// `inbox1`, `inbox2`, …
    Numbered,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Waits for its first step.
    Pending,
    /// At work; survives a restart.
    Running,
    /// All steps done.
    Done,
    /// Given up; see its errors.
    Failed,
    /// Its owner stopped it; what was done stays.
    Cancelled,
}

/// A resumable part of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStep {
    /// What it does, in a word or two.
    pub name: String,
    /// Units done.
    pub done: u32,
    /// Units in all.
    pub total: u32,
}
