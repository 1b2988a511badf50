//! What comes in with a request: extractors whose refusals are problems that name each wrong field.

use std::{str::FromStr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, OptionalFromRequestParts, RawPathParams, Request},
};
use bytes::Bytes;
use http::{HeaderMap, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use super::problem::{ApiError, Code, FieldError};

/// Most bytes of a body where nobody said otherwise.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Bodies up to this count for nothing: connections bound their number.
const SMALL_BODY_BYTES_MAX: usize = 16 * 1024;
/// Memory for what larger bodies have beyond that, over all requests, in KiB: some sixty of the largest.
const BODIES_KIB_MAX: usize = 64 * 1024;
/// What a client beyond it is told to wait.
const ROOM_AGAIN: Duration = Duration::from_secs(1);
/// Longest silence within a body.
const BODY_IDLE: Duration = Duration::from_secs(10);
/// Longest time for a whole body: 1 MiB in it is 35 KiB a second. Less than an answer may take.
const BODY_TOTAL: Duration = Duration::from_secs(30);
/// Longest idempotency key; a UUID has 36.
const IDEMPOTENCY_KEY_LEN_MAX: usize = 128;

/// A JSON body of this shape, whole, with the bytes it was read from.
#[derive(Debug)]
pub(crate) struct Input<T> {
    /// What it says.
    pub(crate) body: T,
    /// What was sent: an idempotency key guards these bytes.
    pub(crate) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

/// The query of this shape.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

/// The one parameter of the path, parsed. What does not parse does not exist: 404.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

/// The two parameters of the path, parsed.
#[derive(Debug)]
pub(crate) struct Path2<A, B>(pub(crate) A, pub(crate) B);

/// The `Idempotency-Key` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdempotencyKey(pub(crate) String);

/// Most bytes of a body, in the extensions of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimit(pub(crate) usize);

/// Memory for large bodies of all requests, in KiB. In the extensions of a request.
#[derive(Debug, Clone)]
pub(crate) struct BodyRoom(Arc<Semaphore>);

/// Collects what is wrong with a body's fields, so that a client learns of all at once.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    errors: Vec<FieldError>,
}

// === impl Input ===

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Input<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::new(
                Code::UnsupportedMediaType,
                "Send Content-Type: application/json.",
            ));
        }
        let BodyLimit(limit) = request
            .extensions()
            .get()
            .copied()
            .unwrap_or(BodyLimit(BODY_BYTES_MAX));
        let room = request.extensions().get::<BodyRoom>().cloned();
        let (bytes, room) = read(request.into_body(), limit, room.as_ref()).await?;
        let body = parse(&bytes)?;
        Ok(Self {
            body,
            bytes,
            _room: room,
        })
    }
}

// === impl BodyRoom ===

impl BodyRoom {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BODIES_KIB_MAX)))
    }

    /// Sees to it that `has` covers a body that has come to so many bytes.
    fn cover(&self, has: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), ApiError> {
        let wanted = bytes.saturating_sub(SMALL_BODY_BYTES_MAX).div_ceil(1024);
        let more = wanted.saturating_sub(has.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let taken = Arc::clone(&self.0).try_acquire_many_owned(more);
        let taken = taken.map_err(|_| {
            ApiError::new(Code::Busy, "Too many large bodies at once.").retry_after(ROOM_AGAIN)
        })?;
        match has {
            Some(has) => has.merge(taken),
            None => *has = Some(taken),
        }
        Ok(())
    }
}

// === impl Query ===

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(query)| Self(query))
            .map_err(|why| query_error(&why.body_text()))
    }
}

// === impl Path ===

impl<S: Send + Sync, T: FromStr + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = params(parts, state).await?;
        parameter(&params, 0).map(Self)
    }
}

impl<S: Send + Sync, A: FromStr + Send, B: FromStr + Send> FromRequestParts<S> for Path2<A, B> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = params(parts, state).await?;
        Ok(Self(parameter(&params, 0)?, parameter(&params, 1)?))
    }
}

// === impl IdempotencyKey ===

impl<S: Send + Sync> OptionalFromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, ApiError> {
        let mut values = parts.headers.get_all("idempotency-key").iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return if parts.headers.contains_key("idempotency-key") {
                Err(bad_key("it was sent more than once"))
            } else {
                Ok(None)
            };
        };
        let text = value
            .to_str()
            .map_err(|_| bad_key("expected visible ASCII characters"))?
            .trim();
        if text.is_empty() || text.len() > IDEMPOTENCY_KEY_LEN_MAX {
            return Err(bad_key("expected 1 to 128 characters"));
        }
        Ok(Some(Self(text.to_owned())))
    }
}

// === impl Fields ===

impl Fields {
    /// Keeps what `parsed` holds, or notes what is wrong with this field.
    pub(crate) fn take<T, E: ToString>(&mut self, field: &str, parsed: Result<T, E>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(why) => {
                self.wrong(field, &why);
                None
            }
        }
    }

    /// Notes that a field is wrong.
    pub(crate) fn wrong(&mut self, field: &str, why: &(impl ToString + ?Sized)) {
        self.errors.push(FieldError {
            field: field.to_owned(),
            message: why.to_string(),
        });
    }

    /// Notes that a field is wrong unless `holds`.
    pub(crate) fn check(&mut self, field: &str, holds: bool, why: &str) {
        if !holds {
            self.wrong(field, why);
        }
    }

    /// Fails with all that was noted.
    pub(crate) fn done(self) -> Result<(), ApiError> {
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(ApiError::invalid_fields(self.errors))
        }
    }
}

// === free functions ===

async fn params<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<RawPathParams, ApiError> {
    let params = <RawPathParams as FromRequestParts<S>>::from_request_parts(parts, state).await;
    params.map_err(|_| nothing_here())
}

fn parameter<T: FromStr>(params: &RawPathParams, at: usize) -> Result<T, ApiError> {
    let text = params.iter().nth(at).map(|(_, text)| text);
    text.and_then(|text| text.parse().ok())
        .ok_or_else(nothing_here)
}

fn nothing_here() -> ApiError {
    ApiError::new(Code::NotFound, "There is nothing at this path.")
}

fn bad_key(why: &str) -> ApiError {
    ApiError::invalid("Idempotency-Key", why)
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence = |kind: &str| {
        let essence = kind.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
    };
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(essence)
}

/// Takes the field's name out of axum's sentence (`Failed to deserialize query string: limit: …`).
fn query_error(text: &str) -> ApiError {
    let why = text.strip_prefix("Failed to deserialize query string: ");
    match why.and_then(|why| why.split_once(": ")) {
        Some((field, why)) => ApiError::invalid(field, why),
        None => ApiError::invalid("query", why.unwrap_or(text)),
    }
}

/// Reads a body whole, within its limits of size and time.
async fn read(
    body: Body,
    limit: usize,
    room: Option<&BodyRoom>,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    let mut taken = None;
    let slow = || ApiError::new(Code::RequestTimeout, "The body did not arrive in time.");
    let deadline = Instant::now() + BODY_TOTAL;
    let mut body = std::pin::pin!(Limited::new(body, limit));
    let mut whole = Vec::new();
    loop {
        let frame = timeout_at(deadline, timeout(BODY_IDLE, body.frame()))
            .await
            .map_err(|_| slow())?
            .map_err(|_| slow())?;
        match frame {
            None => return Ok((whole.into(), taken)),
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                if let Some(room) = room {
                    room.cover(&mut taken, whole.len() + data.len())?;
                }
                whole.extend(data);
            }
            Some(Err(why)) if why.is::<LengthLimitError>() => {
                let detail = format!("At most {limit} bytes are taken.");
                return Err(ApiError::new(Code::BodyTooLarge, detail));
            }
            Some(Err(why)) => {
                return Err(
                    ApiError::new(Code::MalformedRequest, "The body broke off.").because(why)
                );
            }
        }
    }
}

/// Parses JSON, telling text that is no JSON (400) from JSON of another shape (422, with the path).
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|why| {
        let path = why.path().to_string();
        let inner = why.into_inner();
        if inner.is_data() {
            let field = if path == "." { "body".to_owned() } else { path };
            ApiError::invalid(field, without_place(&inner))
        } else {
            malformed(&inner)
        }
    })?;
    reader.end().map_err(|why| malformed(&why))?;
    Ok(parsed)
}

fn malformed(why: &serde_json::Error) -> ApiError {
    // serde_json names the place and what it expected there, never the input.
    ApiError::new(Code::MalformedJson, format!("{why}."))
}

/// The message without `at line 1 column 7`: the path says more.
fn without_place(why: &serde_json::Error) -> String {
    let text = why.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Shape {
        name: String,
        #[serde(default)]
        count: u8,
    }

    #[test]
    fn a_body_is_refused_for_what_it_is() {
        for (body, code, field) in [
            ("", Code::MalformedJson, ""),
            ("{", Code::MalformedJson, ""),
            ("{} {}", Code::InvalidInput, "body"),
            (r#"{"name":"a"} x"#, Code::MalformedJson, ""),
            (r#"{"name":1}"#, Code::InvalidInput, "name"),
            (r#"{"name":"a","count":256}"#, Code::InvalidInput, "count"),
            (r#"{"name":"a","other":1}"#, Code::InvalidInput, "other"),
            (r#"{"name":"a","name":"b"}"#, Code::InvalidInput, "name"),
            ("[]", Code::InvalidInput, "body"),
        ] {
            let error = parse::<Shape>(body.as_bytes()).unwrap_err();
            assert_eq!(error.code(), code, "{body}");
            if !field.is_empty() {
                assert!(format!("{error:?}").contains(field), "{body}: {error:?}");
            }
        }
        let shape = parse::<Shape>(br#"{"name":"a"}"#).unwrap();
        assert_eq!((shape.name.as_str(), shape.count), ("a", 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let body =
            Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(
            read(body, BODY_BYTES_MAX, None).await.unwrap_err().code(),
            Code::RequestTimeout
        );
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_is_refused() {
        let body = Body::from(vec![b' '; BODY_BYTES_MAX + 1]);
        assert_eq!(
            read(body, BODY_BYTES_MAX, None).await.unwrap_err().code(),
            Code::BodyTooLarge
        );
        assert!(
            read(Body::from(vec![b' '; BODY_BYTES_MAX]), BODY_BYTES_MAX, None)
                .await
                .is_ok()
        );
    }

    proptest! {
        #[test]
        fn no_body_breaks_the_parser(body in prop::collection::vec(any::<u8>(), 0..512)) {
            drop(parse::<Shape>(&body));
        }
    }
}
