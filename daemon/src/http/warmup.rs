//! `/api/v1/warmup`: inboxes start and pause their warmup, and show how far it has come.

use axum::{Json, extract::State};
use inboxgrove_actors::platform::Refusal;
use inboxgrove_model::{InboxId, TenantId, inbox::Inbox, limits::PAGE_MAX};
use inboxgrove_store::Scope;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    caller::{Caller, Reads, Writes},
    infrastructure::live,
    input::{Fields, Input, Query},
    paging::{ListView, PageQuery},
    problem::{ApiError, Code},
    refusals,
    wire::{BandView, Time, WarmupStateView},
};

/// All routes, as the OpenAPI document lists them.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(start))
        .routes(routes!(pause))
        .routes(routes!(progress))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WarmupInboxes {
    /// Which inboxes.
    #[schema(min_items = 1, max_items = 500)]
    inbox_ids: Vec<String>,
}

/// An inbox's warmup.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WarmupView {
    state: WarmupStateView,
    started_at: Option<Time>,
    /// Days on which it sent something: what the ramp counts.
    active_days: u32,
    /// The first day's target.
    base: u32,
    /// What each active day adds.
    increment: u32,
    /// Where the ramp ends.
    cap: u32,
    band: BandView,
    band_since: Time,
    today: Option<DayView>,
}

/// An inbox's day.
#[derive(Debug, Serialize, ToSchema)]
struct DayView {
    /// The day in the inbox's zone.
    #[schema(format = Date)]
    date: String,
    target: u32,
    sent: u32,
    next_at: Option<Time>,
}

/// An inbox with its warmup.
#[derive(Debug, Serialize, ToSchema)]
struct ProgressView {
    inbox_id: String,
    address: String,
    warmup: WarmupView,
}

/// What became of one of the inboxes that were named.
#[derive(Debug, Serialize, ToSchema)]
struct ChangedView {
    inbox_id: String,
    /// Its warmup now; null when it was refused.
    warmup: Option<WarmupView>,
    /// Why it was refused; null when it was not.
    refusal: Option<RefusalView>,
}

#[derive(Debug, Serialize, ToSchema)]
struct RefusalView {
    code: Code,
    detail: String,
}

/// What became of all of them.
#[derive(Debug, Serialize, ToSchema)]
struct ChangesView {
    items: Vec<ChangedView>,
}

/// Starts or resumes the warmup of inboxes.
///
/// Each is answered for itself; when every one is refused, the first refusal is the answer.
#[utoipa::path(post, path = "/api/v1/warmup/start", tag = "warmup", request_body = WarmupInboxes,
    responses((status = 200, body = ChangesView)))]
async fn start(
    State(api): State<Api>,
    who: Caller<Writes>,
    wanted: Input<WarmupInboxes>,
) -> Result<Json<ChangesView>, ApiError> {
    let mut changed = Vec::new();
    for id in checked(&wanted.body)? {
        changed.push((id, api.platform.start_warmup(who.tenant, id).await));
    }
    answer(&api, who.tenant, changed)
}

/// Pauses the warmup of inboxes. People's mail goes on.
#[utoipa::path(post, path = "/api/v1/warmup/pause", tag = "warmup", request_body = WarmupInboxes,
    responses((status = 200, body = ChangesView)))]
async fn pause(
    State(api): State<Api>,
    who: Caller<Writes>,
    wanted: Input<WarmupInboxes>,
) -> Result<Json<ChangesView>, ApiError> {
    let mut changed = Vec::new();
    for id in checked(&wanted.body)? {
        changed.push((id, api.platform.pause_warmup(who.tenant, id).await));
    }
    answer(&api, who.tenant, changed)
}

/// How far the warmup of each inbox has come.
#[utoipa::path(get, path = "/api/v1/warmup/progress", tag = "warmup", params(PageQuery),
    responses((status = 200, body = ListView<ProgressView>)))]
async fn progress(
    State(api): State<Api>,
    who: Caller<Reads>,
    Query(page): Query<PageQuery>,
) -> Result<Json<ListView<ProgressView>>, ApiError> {
    let scope = Scope::Tenant(who.tenant);
    api.page(("warmup", who.tenant), &scope, &page, |inbox: &Inbox| {
        Ok(live(inbox).map(ProgressView::from))
    })
}

// === impl views ===

impl From<&Inbox> for WarmupView {
    fn from(inbox: &Inbox) -> Self {
        let warmup = &inbox.warmup;
        Self {
            state: warmup.state.into(),
            started_at: warmup.started_at.map(Time::from),
            active_days: warmup.active_days,
            base: warmup.base,
            increment: warmup.increment,
            cap: warmup.cap,
            band: warmup.band.into(),
            band_since: warmup.band_since.into(),
            today: warmup.today.as_ref().map(|today| DayView {
                date: date(today.local_day),
                target: today.target,
                sent: today.sent,
                next_at: today.next_at.map(Time::from),
            }),
        }
    }
}

impl From<&Inbox> for ProgressView {
    fn from(inbox: &Inbox) -> Self {
        Self {
            inbox_id: inbox.id.to_string(),
            address: inbox.address.to_string(),
            warmup: WarmupView::from(inbox),
        }
    }
}

// === free functions ===

/// A count of days since the Unix epoch, as a date.
fn date(day: i64) -> String {
    let epoch = jiff::civil::date(1970, 1, 1);
    let span = jiff::Span::new().try_days(day);
    span.and_then(|span| epoch.checked_add(span))
        .map_or_else(|_| epoch.to_string(), |date| date.to_string())
}

fn checked(wanted: &WarmupInboxes) -> Result<Vec<InboxId>, ApiError> {
    let mut fields = Fields::default();
    let count = (1..=PAGE_MAX).contains(&wanted.inbox_ids.len());
    fields.check("inbox_ids", count, "expected 1 to 500 ids");
    let ids = wanted.inbox_ids.iter().take(PAGE_MAX).enumerate();
    let mut ids: Vec<InboxId> = ids
        .filter_map(|(at, id)| fields.take(&format!("inbox_ids[{at}]"), id.parse()))
        .collect();
    fields.done()?;
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn answer(
    api: &Api,
    tenant: TenantId,
    changed: Vec<(InboxId, Result<Inbox, Refusal>)>,
) -> Result<Json<ChangesView>, ApiError> {
    let now = api.now();
    if changed.iter().all(|(_, result)| result.is_err())
        && let Some((_, Err(why))) = changed.first()
    {
        return Err(refusals::render(why, now));
    }
    let items = changed.into_iter().map(|(id, result)| match result {
        Ok(inbox) => {
            debug_assert_eq!(inbox.tenant, tenant);
            ChangedView {
                inbox_id: id.to_string(),
                warmup: Some(WarmupView::from(&inbox)),
                refusal: None,
            }
        }
        Err(why) => {
            let error = refusals::render(&why, now);
            ChangedView {
                inbox_id: id.to_string(),
                warmup: None,
                refusal: Some(RefusalView {
                    code: error.code(),
                    detail: error.detail().to_owned(),
                }),
            }
        }
    });
    Ok(Json(ChangesView {
        items: items.collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_a_date() {
        for (day, expected) in [
            (0, "1970-01-01"),
            (20_780, "2026-11-23"),
            (-1, "1969-12-31"),
        ] {
            assert_eq!(date(day), expected);
        }
        assert_eq!(date(i64::MAX), "1970-01-01");
    }
}
