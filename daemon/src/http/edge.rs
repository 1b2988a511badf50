//! What every request passes: its id, its span, the limit of its address, a deadline, a net for panics,
//! and on the way back the problem, the security headers, the count.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::HttpBody,
    extract::{MatchedPath, Request},
    response::{IntoResponse, Response},
};
use data_encoding::BASE32_NOPAD;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Method, header};
use inboxgrove_model::ports::{Busy, Rng};
use tokio::time::{Instant, timeout};
use tower::{Layer, Service};
use tracing::{Instrument, Span};

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
/// Headers that are added to a response here and behind us: a map with room for them need not grow on the way.
const HEADERS: usize = 9;

/// Makes the ids of requests. They only tell requests apart, so one number drawn at the start is counted on: to draw one
/// for each would cost more than all else that is done with it.
pub(crate) struct RequestIds {
    next: Mutex<u128>,
}

/// The layer around all routes. One of axum's `from_fn` would clone the route and put three more futures on the heap
/// for each request.
#[derive(Clone)]
pub(crate) struct Edge {
    api: Api,
}

/// A route behind the edge.
#[derive(Clone)]
pub(crate) struct Edged<S> {
    api: Api,
    route: S,
}

/// What a request is known by on its way back.
struct Passing {
    api: Api,
    busy: Busy,
    started: Instant,
    id: String,
    method: Method,
    matched: Option<MatchedPath>,
    detail: Detail,
    span: Span,
}

// === impl RequestIds ===

impl RequestIds {
    /// Ids that no other start of the daemon makes.
    pub(crate) fn new(rng: &dyn Rng) -> Self {
        let mut first = [0; 16];
        rng.fill(&mut first);
        Self {
            next: Mutex::new(u128::from_be_bytes(first)),
        }
    }

    fn next(&self) -> String {
        let number = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next = next.wrapping_add(1);
            next.to_be_bytes()
        };
        let mut id = format!("REQ_{}", BASE32_NOPAD.encode_display(&number[6..]));
        id.make_ascii_lowercase();
        id
    }
}

// === impl Edge ===

impl Edge {
    pub(crate) const fn new(api: Api) -> Self {
        Self { api }
    }
}

impl<S> Layer<S> for Edge {
    type Service = Edged<S>;

    fn layer(&self, route: S) -> Edged<S> {
        Edged {
            api: self.api.clone(),
            route,
        }
    }
}

// === impl Edged ===

impl<S> Service<Request> for Edged<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.route.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let passing = Passing::begin(self.api.clone(), &mut request);
        let answer = match admit(&self.api, &request) {
            Ok(()) => Ok(self.route.call(request)),
            Err(refused) => Err(refused),
        };
        Box::pin(async move {
            let answered = async {
                match answer {
                    Ok(answer) => guarded(answer, passing.api.options.answer_wait).await,
                    Err(refused) => refused.into_response(),
                }
            };
            let response = answered.instrument(passing.span.clone()).await;
            Ok(passing.end(response))
        })
    }
}

// === impl Passing ===

impl Passing {
    fn begin(api: Api, request: &mut Request) -> Self {
        let busy = api.platform.ports().activity.begin();
        let started = Instant::now();
        let id = request_id(&api, request);
        let method = request.method().clone();
        let matched = request.extensions().get::<MatchedPath>().cloned();
        let route = route_of(matched.as_ref());
        let whole = api.options.body_bytes_max;
        let (body_bytes, detail) = if route.starts_with(AUTH) {
            (whole.min(AUTH_BODY_BYTES_MAX), Detail::Private)
        } else {
            (whole, Detail::Logged)
        };
        let span = tracing::info_span!("request", request_id = %id, %method, %route);
        // Most requests have no body, and an extension is a piece of the heap.
        if !request.body().is_end_stream() {
            request.extensions_mut().insert(BodyLimit(body_bytes));
            request.extensions_mut().insert(api.bodies.clone());
        }
        believe_proxy(&api, request);
        Self {
            api,
            busy,
            started,
            id,
            method,
            matched,
            detail,
            span,
        }
    }

    fn end(self, response: Response) -> Response {
        let _entered = self.span.enter();
        let mut response = problem::finish(response, &self.id, self.detail);
        dress(&mut response, self.id);
        let took = self.started.elapsed();
        let status = response.status().as_u16();
        let route = route_of(self.matched.as_ref());
        let metrics = &self.api.metrics;
        metrics.count(self.method.as_str(), route, status, took);
        tracing::debug!(status, took_ms = took.as_secs_f64() * 1000.0, "answered");
        drop(self.busy);
        response
    }
}

fn route_of(matched: Option<&MatchedPath>) -> &str {
    matched.map_or("unmatched", MatchedPath::as_str)
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

/// Whether the request may go on: the limit of its address, and room for what it may make.
fn admit(api: &Api, request: &Request) -> Result<(), ApiError> {
    let peer = request.extensions().get::<Peer>();
    if let Some(ip) = peer.and_then(Peer::limited_by) {
        api.limits.ip(ip)?;
    }
    // Reads go on while memory is short: they wake nobody.
    if request.method().is_safe() {
        return Ok(());
    }
    api.known(api.platform.has_room())
}

/// A route's answer, or the problem that it panicked or took too long.
async fn guarded(
    answer: impl Future<Output = Result<Response, Infallible>>,
    patience: Duration,
) -> Response {
    match timeout(patience, AssertUnwindSafe(answer).catch_unwind()).await {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(never))) => match never {},
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
    api.request_ids.next()
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
    if let Some(ip) = client(lists.iter().map(HeaderValue::as_bytes), trusted) {
        let client = Peer::Net(SocketAddr::new(ip, at.port()));
        request.extensions_mut().insert(client);
    }
}

/// The last hop of the lists that is not trusted; none when something else than an address stands before it.
fn client<'a>(
    lists: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    // A list may begin with what the client wrote: what is no text there must not hide the rest.
    let hops = lists
        .rev()
        .flat_map(|list| list.rsplit(|byte| *byte == b','));
    hops.map_while(|hop| str::from_utf8(hop).ok().and_then(address))
        .find(|ip| !trusted(*ip))
}

/// The address of a hop, which some proxies write with its port.
fn address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']'));
    let with_port = || hop.parse::<SocketAddr>().ok().map(|at| at.ip());
    bare.unwrap_or(hop).parse().ok().or_else(with_port)
}

/// Adds what no response goes without. There is no CORS: another site's script may not read us.
fn dress(response: &mut Response, id: String) {
    let headers = response.headers_mut();
    headers.reserve(HEADERS);
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
    if let Ok(id) = HeaderValue::try_from(id) {
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
    fn the_last_hop_that_is_no_proxy_is_the_client() {
        let trusted = |ip: IpAddr| ip == IpAddr::from([10, 0, 0, 1]);
        let client = |lists: &[&[u8]]| client(lists.iter().copied(), trusted);
        let at = |last| Some(IpAddr::from([192, 0, 2, last]));
        for (lists, found) in [
            (&[b"192.0.2.9, 192.0.2.1".as_slice()][..], at(1)),
            (&[b"192.0.2.1, 10.0.0.1"], at(1)),
            (&[b"192.0.2.9", b"192.0.2.1", b"10.0.0.1"], at(1)),
            // What the client wrote is no text.
            (&[b"\xff, 192.0.2.1"], at(1)),
            (&[b"192.0.2.9, nonsense, 10.0.0.1"], None),
            (&[b"10.0.0.1"], None),
            (&[], None),
        ] {
            assert_eq!(client(lists), found, "{lists:?}");
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
