//! `/api/v1/inboxes/{inbox_id}/health`: what we believe about an inbox, how surely, and why.

use axum::{Json, extract::State};
use inboxgrove_actors::platform::Health;
use inboxgrove_model::InboxId;
use inboxgrove_policy::score::Driver;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    caller::{Caller, Reads},
    infrastructure::existing,
    input::Path,
    problem::ApiError,
    wire::{BandView, InboxStatusView, Time, rounded},
};

/// All routes, as the OpenAPI document lists them.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(health))
}

#[derive(Debug, Serialize, ToSchema)]
struct HealthView {
    inbox_id: String,
    address: String,
    status: InboxStatusView,
    band: BandView,
    band_since: Time,
    /// Why it is what it is, in a sentence.
    reason: String,
    /// 0 to 100, as expected on the evidence.
    score: f64,
    /// Nine times in ten the score lies between these two.
    interval: IntervalView,
    /// What cost most, most first.
    drivers: Vec<DriverView>,
    /// What would move it.
    advice: Vec<String>,
    /// The rates behind the score.
    signals: Vec<SignalView>,
}

#[derive(Debug, Serialize, ToSchema)]
struct IntervalView {
    low: f64,
    high: f64,
}

/// A signal that cost points.
#[derive(Debug, Serialize, ToSchema)]
struct DriverView {
    /// `deferral`, `placement`, `bounce` or `complaint`.
    signal: &'static str,
    /// Points it cost.
    points: f64,
    rate: f64,
    rate_low: f64,
    rate_high: f64,
    /// The rate above which we act.
    limit: f64,
    /// The probability that the rate is above its limit.
    over_limit: f64,
    /// Outcomes behind it, older ones counted less.
    samples: f64,
    /// The provider it is worst at, when one stands out.
    provider: Option<String>,
}

/// What is believed about one rate.
#[derive(Debug, Serialize, ToSchema)]
struct SignalView {
    signal: &'static str,
    rate: f64,
    samples: f64,
    over_limit: f64,
}

/// The health of an inbox: a score with its interval, what drives it, what would move it.
#[utoipa::path(get, path = "/api/v1/inboxes/{inbox_id}/health", tag = "inboxes", params(("inbox_id" = String, Path)),
    responses((status = 200, body = HealthView)))]
async fn health(
    State(api): State<Api>,
    who: Caller<Reads>,
    Path(id): Path<InboxId>,
) -> Result<Json<HealthView>, ApiError> {
    existing(&api, who.tenant, id)?;
    let health = api.known(api.platform.health(who.tenant, id))?;
    Ok(Json(HealthView::from(&health)))
}

// === impl views ===

impl From<&Health> for HealthView {
    fn from(health: &Health) -> Self {
        let (inbox, score) = (&health.inbox, &health.score);
        let signals = health.beliefs.signals.iter();
        Self {
            inbox_id: inbox.id.to_string(),
            address: inbox.address.to_string(),
            status: inbox.status.into(),
            band: inbox.warmup.band.into(),
            band_since: inbox.warmup.band_since.into(),
            reason: inbox.reason.clone(),
            score: rounded(score.value),
            interval: IntervalView {
                low: rounded(score.low),
                high: rounded(score.high),
            },
            drivers: score.drivers.iter().map(DriverView::from).collect(),
            advice: score.advice.clone(),
            signals: signals
                .map(|(signal, belief)| SignalView {
                    signal: signal.name(),
                    rate: rounded(belief.posterior.mean()),
                    samples: rounded(belief.samples),
                    over_limit: rounded(belief.over_limit()),
                })
                .collect(),
        }
    }
}

impl From<&Driver> for DriverView {
    fn from(driver: &Driver) -> Self {
        Self {
            signal: driver.signal.name(),
            points: rounded(driver.points),
            rate: rounded(driver.rate),
            rate_low: rounded(driver.rate_low),
            rate_high: rounded(driver.rate_high),
            limit: rounded(driver.limit),
            over_limit: rounded(driver.over_limit),
            samples: rounded(driver.samples),
            provider: driver.provider.clone(),
        }
    }
}
