//! `/health` and `/metrics`: for load balancers, systemd and Prometheus. No token is asked for.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Api, problem::Rendered};

/// All routes, as the OpenAPI document lists them.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(live))
        .routes(routes!(ready))
        .routes(routes!(health))
        .routes(routes!(metrics))
}

#[derive(Debug, Serialize, ToSchema)]
struct LiveView {
    /// Always `ok`.
    status: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
struct ReadyView {
    /// `ok`, `draining` or `failing`.
    status: &'static str,
    service: &'static str,
    version: &'static str,
    components: Vec<ComponentView>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ComponentView {
    name: &'static str,
    ok: bool,
    /// What is wrong, or a figure.
    detail: String,
}

/// Whether the process answers at all.
#[utoipa::path(get, path = "/health/live", tag = "health", security(()), responses((status = 200, body = LiveView)))]
async fn live() -> Json<LiveView> {
    Json(LiveView { status: "ok" })
}

/// Whether it should get requests: 503 while a component fails or the daemon drains.
#[utoipa::path(get, path = "/health/ready", tag = "health", security(()),
    responses((status = 200, body = ReadyView), (status = 503, body = ReadyView)))]
async fn ready(State(api): State<Api>) -> Response {
    report(&api)
}

/// The same as `/health/ready`.
#[utoipa::path(get, path = "/health", tag = "health", security(()),
    responses((status = 200, body = ReadyView), (status = 503, body = ReadyView)))]
async fn health(State(api): State<Api>) -> Response {
    report(&api)
}

/// Figures for Prometheus, in the OpenMetrics format.
#[utoipa::path(get, path = "/metrics", tag = "health", security(()),
    responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
async fn metrics(State(api): State<Api>) -> Response {
    let text = api.metrics.text(&api.platform.metrics());
    let mut response = text.into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    );
    response
}

// === free functions ===

fn report(api: &Api) -> Response {
    let components = api.platform.components();
    let status = if api.platform.draining() || api.draining.is_cancelled() {
        "draining"
    } else if components.iter().all(|component| component.ok) {
        "ok"
    } else {
        "failing"
    };
    let view = ReadyView {
        status,
        service: "inboxgrove",
        version: env!("CARGO_PKG_VERSION"),
        components: components
            .into_iter()
            .map(|component| ComponentView {
                name: component.name,
                ok: component.ok,
                detail: component.detail,
            })
            .collect(),
    };
    if status == "ok" {
        return Json(view).into_response();
    }
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, Json(view)).into_response();
    response.extensions_mut().insert(Rendered);
    response
}
