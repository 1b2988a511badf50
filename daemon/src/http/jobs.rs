//! `/api/v1/jobs`: long work that a person can follow and cancel.

use axum::{Json, extract::State};
use inboxgrove_model::{
    JobId,
    job::{Job, JobStep, JobWork},
};
use inboxgrove_store::Scope;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    caller::{Caller, Reads, Writes},
    input::{Path, Query},
    paging::{ListView, PageQuery},
    problem::ApiError,
    wire::{JobStateView, NamingView, Time},
};

/// All routes, as the OpenAPI document lists them.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(cancel))
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobView {
    id: String,
    work: WorkView,
    state: JobStateView,
    steps: Vec<StepView>,
    /// 0 to 100.
    progress: u32,
    /// What went wrong; at most 20.
    errors: Vec<String>,
    created_at: Time,
    changed_at: Time,
}

/// What is to be done.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum WorkView {
    /// Inboxes are made.
    Provision {
        domain_id: String,
        count: u32,
        naming: NamingView,
        start_warmup: bool,
        time_zone: String,
        daily_limit: u32,
    },
}

#[derive(Debug, Serialize, ToSchema)]
struct StepView {
    name: String,
    done: u32,
    total: u32,
}

/// The jobs of the account.
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", params(PageQuery),
    responses((status = 200, body = ListView<JobView>)))]
async fn list(
    State(api): State<Api>,
    who: Caller<Reads>,
    Query(page): Query<PageQuery>,
) -> Result<Json<ListView<JobView>>, ApiError> {
    let scope = Scope::Tenant(who.tenant);
    api.page(("jobs", who.tenant), &scope, &page, |job: &Job| {
        Ok(Some(JobView::from(job)))
    })
}

/// One job: its steps, its progress, what went wrong.
#[utoipa::path(get, path = "/api/v1/jobs/{job_id}", tag = "jobs", params(("job_id" = String, Path)),
    responses((status = 200, body = JobView)))]
async fn show(
    State(api): State<Api>,
    who: Caller<Reads>,
    Path(id): Path<JobId>,
) -> Result<Json<JobView>, ApiError> {
    let job: Job = api.row(&(who.tenant, id), "job")?;
    Ok(Json(JobView::from(&job)))
}

/// Stops a job; what it has done stays. 409 when it has ended.
#[utoipa::path(post, path = "/api/v1/jobs/{job_id}/cancel", tag = "jobs", params(("job_id" = String, Path)),
    responses((status = 200, body = JobView)))]
async fn cancel(
    State(api): State<Api>,
    who: Caller<Writes>,
    Path(id): Path<JobId>,
) -> Result<Json<JobView>, ApiError> {
    let job = api.ask(api.platform.cancel_job(who.tenant, id)).await?;
    Ok(Json(JobView::from(&job)))
}

// === impl views ===

impl From<&Job> for JobView {
    fn from(job: &Job) -> Self {
        let JobWork::Provision {
            domain,
            count,
            naming,
            start_warmup,
            time_zone,
            daily_limit,
        } = &job.work;
        Self {
            id: job.id.to_string(),
            work: WorkView::Provision {
                domain_id: domain.to_string(),
                count: *count,
                naming: (*naming).into(),
                start_warmup: *start_warmup,
                time_zone: time_zone.clone(),
                daily_limit: *daily_limit,
            },
            state: job.state.into(),
            progress: progress(&job.steps),
            steps: job.steps.iter().map(StepView::from).collect(),
            errors: job.errors.clone(),
            created_at: job.created_at.into(),
            changed_at: job.changed_at.into(),
        }
    }
}

impl From<&JobStep> for StepView {
    fn from(step: &JobStep) -> Self {
        Self {
            name: step.name.clone(),
            done: step.done,
            total: step.total,
        }
    }
}

// === free functions ===

/// Units done of all units, in percent, rounded down.
fn progress(steps: &[JobStep]) -> u32 {
    let done: u64 = steps.iter().map(|step| u64::from(step.done)).sum();
    let total: u64 = steps.iter().map(|step| u64::from(step.total)).sum();
    let percent = (done * 100).checked_div(total).unwrap_or(0).min(100);
    u32::try_from(percent).expect("at most 100")
}
