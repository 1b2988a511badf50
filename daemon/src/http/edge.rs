//! What every request passes: its id, its span, the limit of its address, a deadline, a net for panics,
//! and on the way back the problem, the security headers, the count.

use std::{
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use data_encoding::BASE32_NOPAD;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, header};
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use super::{
    Api,
    input::BodyLimit,
    problem::{self, ApiError, Code, Detail},
    server::Peer,
};

/// Longest request id that is taken over from a client.
const REQUEST_ID_LEN_MAX: usize = 64;
/// Where people log in.
const AUTH: &str = "/api/v1/auth/";
/// Most bytes of a body there: anybody may send one, and an address and a password are short.
const AUTH_BODY_BYTES_MAX: usize = 8 * 1024;
/// The header of the request id, both ways.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What proxies say of whom they pass on.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Who may embed what we say.
const CROSS_ORIGIN: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The layer around all routes.
pub(crate) async fn pass(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let busy = api.platform.ports().activity.begin();
    let started = Instant::now();
    let id = request_id(&api, &request);
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
    let is_auth = route.starts_with(AUTH);
    let whole = api.options.body_bytes_max;
    let (body_bytes, detail) = if is_auth {
        (whole.min(AUTH_BODY_BYTES_MAX), Detail::Private)
    } else {
        (whole, Detail::Logged)
    };
    request.extensions_mut().insert(BodyLimit(body_bytes));
    request.extensions_mut().insert(api.bodies.clone());
    believe_proxy(&api, &mut request);
    let span = tracing::info_span!("request", request_id = %id, %method, %route);
    let response = answer(&api, request, next).instrument(span.clone()).await;
    let mut response = span.in_scope(|| problem::finish(response, &id, detail));
    dress(&mut response, &id);
    let took = started.elapsed();
    let status = response.status().as_u16();
    api.metrics.count(method.as_str(), route, status, took);
    span.in_scope(|| tracing::debug!(status, took_ms = took.as_secs_f64() * 1000.0, "answered"));
    drop(busy);
    response
}

/// Nothing is at this path.
pub(crate) async fn nothing_here() -> ApiError {
    ApiError::new(Code::NotFound, "There is nothing at this path.")
}

/// Something is at this path, but not for this method.
pub(crate) async fn method_not_allowed() -> ApiError {
    ApiError::new(
        Code::MethodNotAllowed,
        "The Allow header names the methods of this path.",
    )
}

async fn answer(api: &Api, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    if let Some(ip) = peer.as_ref().and_then(Peer::limited_by)
        && let Err(refused) = api.limits.ip(ip)
    {
        return refused.into_response();
    }
    // Reads go on while memory is short: they wake nobody.
    if !request.method().is_safe()
        && let Err(refused) = api.known(api.platform.has_room())
    {
        return refused.into_response();
    }
    let answered = timeout(
        api.options.answer_wait,
        AssertUnwindSafe(next.run(request)).catch_unwind(),
    );
    match answered.await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => ApiError::internal(words(&*panic)).into_response(),
        Err(_) => ApiError::new(
            Code::OutcomeUnknown,
            "The answer took too long; it may still be done. Ask again, with the same idempotency key.",
        )
        .into_response(),
    }
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("a handler panicked: {}", text.unwrap_or_default())
}

/// The client's own id when it is harmless, a fresh one otherwise.
fn request_id(api: &Api, request: &Request) -> String {
    let given = request.headers().get(&REQUEST_ID);
    if let Some(text) = given.and_then(|value| value.to_str().ok())
        && is_harmless(text)
    {
        return text.to_owned();
    }
    let mut bytes = [0; 10];
    api.platform.ports().rng.fill(&mut bytes);
    let mut id = format!("REQ_{}", BASE32_NOPAD.encode_display(&bytes));
    id.make_ascii_lowercase();
    id
}

fn is_harmless(text: &str) -> bool {
    (1..=REQUEST_ID_LEN_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Puts the client's address in place of a trusted proxy's: the last one of `X-Forwarded-For` that is not
/// a trusted proxy itself. What stands before it the client may have written.
fn believe_proxy(api: &Api, request: &mut Request) {
    let trusted = |ip: IpAddr| {
        api.options
            .trusted_proxies
            .iter()
            .any(|range| range.contains(ip))
    };
    let Some(Peer::Net(at)) = request.extensions().get::<Peer>().copied() else {
        return;
    };
    if !trusted(at.ip()) {
        if at.ip().to_canonical().is_loopback() && request.headers().contains_key(FORWARDED_FOR) {
            api.proxy_warned.call_once(|| {
                tracing::warn!("a proxy on this machine sends X-Forwarded-For, but is not in api.trusted_proxies: all its clients share one limit");
            });
        }
        return;
    }
    let lists = request.headers().get_all(FORWARDED_FOR);
    let hops: Vec<&str> = lists
        .iter()
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','))
        .collect();
    let client = hops
        .iter()
        .rev()
        .map_while(|hop| address(hop))
        .find(|ip| !trusted(*ip));
    if let Some(ip) = client {
        let client = Peer::Net(SocketAddr::new(ip, at.port()));
        request.extensions_mut().insert(client);
    }
}

/// The address of a hop, which some proxies write with its port.
fn address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']'));
    let with_port = || hop.parse::<SocketAddr>().ok().map(|at| at.ip());
    bare.unwrap_or(hop).parse().ok().or_else(with_port)
}

/// Adds what no response goes without. There is no CORS: another site's script may not read us.
fn dress(response: &mut Response, id: &str) {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (header::CACHE_CONTROL, "no-store"),
        (CROSS_ORIGIN, "same-origin"),
    ] {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_may_have_a_port() {
        for (hop, ip) in [
            (" 192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:5678 ", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:80", Some("2001:db8::1")),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(address(hop), ip.map(|ip| ip.parse().unwrap()), "{hop:?}");
        }
    }

    #[test]
    fn a_request_id_that_could_forge_a_log_line_is_not_taken() {
        for (text, good) in [
            ("4f-a.B_9", true),
            ("", false),
            ("a b", false),
            ("a\"b", false),
            ("a\u{1b}[31m", false),
            (&"a".repeat(65), false),
        ] {
            assert_eq!(is_harmless(text), good, "{text:?}");
        }
    }
}
