//! Idempotency keys at the edge: from a header to what is committed with the effect.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode};
use inboxgrove_actors::platform::IdempotencyKey as Guard;
use serde::Serialize;

use super::{
    input::{IdempotencyKey, Input},
    tokens::sha256,
};

/// Says that the answer is to an earlier request with the same key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The answer of a route that makes something.
pub(crate) struct Created<V> {
    status: StatusCode,
    view: V,
    replayed: bool,
}

// === impl Created ===

impl<V> Created<V> {
    /// The rendered thing, with 201, or 202 for work that goes on.
    pub(crate) fn new(status: StatusCode, view: V, replayed: bool) -> Self {
        Self {
            status,
            view,
            replayed,
        }
    }
}

impl<V: Serialize> IntoResponse for Created<V> {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.view)).into_response();
        if self.replayed {
            let headers = response.headers_mut();
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

// === free functions ===

/// What guards the effect of this request: the route and key, and the body, each as a hash.
pub(crate) fn guard<T>(
    route: &str,
    key: Option<&IdempotencyKey>,
    input: &Input<T>,
) -> Option<Guard> {
    key.map(|IdempotencyKey(key)| Guard {
        key: sha256(format!("{route}\n{key}").as_bytes()),
        body: sha256(&input.bytes),
    })
}
