//! The HTTP edge: routes, and what every request passes on its way to them.
//!
//! A handler parses, asks an actor or reads committed rows, and renders; nothing here decides. The route
//! list is also the OpenAPI list.

// What carries requests.
pub mod server;

mod framing;
mod stream;

// What every request passes.
mod edge;
mod metrics;
pub mod problem;

mod refusals;

// Who asks, and how often.
mod guesses;
pub mod keys;
pub mod limits;
pub mod passwords;
pub mod tokens;

mod caller;
mod verified;

// What comes in and goes out.
mod csv;
mod idempotency;
pub(crate) mod input;
mod paging;
mod wire;

// The routes.
mod auth;
mod domains;
mod event_view;
mod events;
mod health;
mod inboxes;
mod infrastructure;
mod jobs;
mod messages;
mod warmup;

// What describes them.
pub(crate) mod admin_views;
mod documentation;
mod openapi;

use std::{
    future::Future,
    sync::{Arc, Once},
    time::Duration,
};

use axum::{Json, Router};
use inboxgrove_actors::platform::{Platform, Refusal};
use inboxgrove_config::Cidr;
use inboxgrove_model::{PolicyTime, TenantId, WallTime};
use inboxgrove_store::{Record, Scope, Store};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

use self::{
    edge::{Edge, RequestIds},
    events::Streams,
    guesses::Guesses,
    input::BodyRoom,
    keys::EdgeKeys,
    limits::{RateLimits, Rates},
    metrics::HttpMetrics,
    paging::{Cursors, ListView, PageQuery},
    passwords::Passwords,
    problem::ApiError,
    tokens::{TokenRules, Tokens},
};
pub use openapi::document;

/// Where the API's own paths start.
pub(crate) const BASE: &str = "/api/v1";

/// What the operator sets of the edge.
#[derive(Debug, Clone)]
pub struct Options {
    /// What tokens say.
    pub tokens: TokenRules,
    /// How often one may ask.
    pub rates: Rates,
    /// Whether strangers may register.
    pub registration_open: bool,
    /// Fewest characters of a password.
    pub password_chars_min: usize,
    /// Memory in KiB, passes and lanes of a password's hash.
    pub argon2: (u32, u32, u32),
    /// Most bytes of a body.
    pub body_bytes_max: usize,
    /// Longest time for an answer. Less than the server's patience with a silent connection, so that the
    /// client reads why.
    pub answer_wait: Duration,
    /// Event streams that may be open at once. Each is a task and a buffer of some 100 KB at worst.
    pub streams_max: usize,
    /// Event streams that one account may have open at once: a dashboard has one for each of its tabs.
    pub streams_per_tenant_max: usize,
    /// Most bytes of the log that are read to send a stream what it missed; beyond that its client is told
    /// to read its lists again.
    pub replay_bytes_max: u64,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// How often an idle event stream says that it is alive.
    pub heartbeat: Duration,
}

/// What handlers have. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
}

/// The parts of [`Api`], for its handlers only.
pub struct Shared {
    pub(crate) platform: Platform,
    pub(crate) options: Options,
    pub(crate) tokens: Tokens,
    pub(crate) passwords: Passwords,
    pub(crate) cursors: Cursors,
    pub(crate) limits: RateLimits,
    pub(crate) guesses: Guesses,
    pub(crate) metrics: HttpMetrics,
    pub(crate) streams: Streams,
    pub(crate) bodies: BodyRoom,
    pub(crate) request_ids: RequestIds,
    pub(crate) proxy_warned: Once,
    pub(crate) draining: CancellationToken,
    pub(crate) document: openapi::Texts,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            tokens: TokenRules::default(),
            rates: Rates::default(),
            registration_open: true,
            password_chars_min: 8,
            argon2: (19_456, 2, 1),
            body_bytes_max: 1024 * 1024,
            answer_wait: Duration::from_secs(30),
            streams_max: 256,
            streams_per_tenant_max: 8,
            // A second of a disk's time or so.
            replay_bytes_max: 64 * 1024 * 1024,
            trusted_proxies: Vec::new(),
            heartbeat: Duration::from_secs(15),
        }
    }
}

// === impl Api ===

impl std::ops::Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Api {
    /// The edge of a tree; endless responses end when `draining` does.
    pub fn new(
        platform: Platform,
        keys: &EdgeKeys,
        options: Options,
        draining: CancellationToken,
    ) -> Result<Self, argon2::Error> {
        let ports = platform.ports().clone();
        let passwords = Passwords::new(
            Arc::clone(&ports.blocking),
            Arc::clone(&ports.rng),
            options.argon2,
        )?;
        let shared = Shared {
            tokens: Tokens::new(keys, options.tokens.clone()),
            passwords,
            cursors: Cursors::new(keys),
            limits: RateLimits::new(&options.rates, &*ports.rng),
            guesses: Guesses::new(&*ports.rng),
            metrics: HttpMetrics::new(),
            streams: Streams::new(options.streams_max, options.streams_per_tenant_max),
            bodies: BodyRoom::new(),
            request_ids: RequestIds::new(&*ports.rng),
            proxy_warned: Once::new(),
            draining,
            document: openapi::Texts::new(),
            platform,
            options,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// All routes, ready to be served.
    pub fn router(&self) -> Router {
        let (router, _) = routes().split_for_parts();
        router
            .merge(openapi::routes())
            .method_not_allowed_fallback(edge::method_not_allowed)
            .fallback(edge::nothing_here)
            .layer(Edge::new(self.clone()))
            .with_state(self.clone())
    }

    pub(crate) fn store(&self) -> &Store {
        self.platform.store()
    }

    pub(crate) fn now(&self) -> PolicyTime {
        self.platform.ports().clock.policy()
    }

    pub(crate) fn wall(&self) -> WallTime {
        self.platform.ports().clock.wall()
    }

    /// Waits for an owner's answer, a refusal rendered.
    pub(crate) async fn ask<T>(
        &self,
        answer: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, ApiError> {
        self.known(answer.await)
    }

    /// An answer at hand, a refusal rendered.
    pub(crate) fn known<T>(&self, answer: Result<T, impl Into<Refusal>>) -> Result<T, ApiError> {
        answer.map_err(|why| refusals::render(&why.into(), self.now()))
    }

    /// The committed row of this key, or 404.
    pub(crate) fn row<R: Record>(&self, key: &R::Key, what: &str) -> Result<R, ApiError> {
        self.known(self.store().get::<R>(key))?
            .ok_or_else(|| ApiError::not_found(what))
    }

    /// A page of committed rows; `view` may leave a row out.
    pub(crate) fn page<R: Record, V>(
        &self,
        (list, tenant): (&str, TenantId),
        scope: &Scope,
        query: &PageQuery,
        mut view: impl FnMut(&R) -> Result<Option<V>, ApiError>,
    ) -> Result<Json<ListView<V>>, ApiError> {
        let limit = query.limit()?;
        let after = match &query.cursor {
            Some(cursor) => Some(self.cursors.open(list, tenant, cursor)?),
            None => None,
        };
        let page = self.known(self.store().page::<R>(scope, after.as_deref(), limit))?;
        let mut items = Vec::with_capacity(page.items.len());
        for row in &page.items {
            items.extend(view(row)?);
        }
        let rng = &*self.platform.ports().rng;
        let next_cursor = page
            .next
            .map(|key| self.cursors.seal(list, tenant, &key, rng));
        Ok(Json(ListView { items, next_cursor }))
    }
}

// === free functions ===

/// The routes that the OpenAPI document describes.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    // Their paths are whole: a nested router would make a new URI for each request.
    OpenApiRouter::with_openapi(openapi::head())
        .merge(health::routes())
        .merge(auth::routes())
        .merge(domains::routes())
        .merge(infrastructure::routes())
        .merge(warmup::routes())
        .merge(inboxes::routes())
        .merge(messages::routes())
        .merge(jobs::routes())
        .merge(events::routes())
}

#[cfg(test)]
mod tests;
