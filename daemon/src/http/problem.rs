//! How a request fails: RFC 9457 `application/problem+json`, with one stable `code` for each cause.
//!
//! Handlers return [`ApiError`]. It travels as an extension of an empty response, and [`finish`], the
//! outermost layer, writes the body with the request's id; so does every refusal of the router itself.
//! What a stranger may read (`detail`) and what goes to the log (`internal`) are two fields.

use std::{borrow::Cow, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

/// The media type of a problem (RFC 9457 §3).
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";
/// What a problem's `type` starts with; the code follows.
const TYPE_BASE: &str = "urn:inboxgrove:problem:";

/// What a client is told to wait when nobody knows better.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// Most characters of a text that may hold input: enough to know it by.
const ECHO_CHARS_MAX: usize = 200;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident, $text:literal, $status:ident, $title:literal;)*) => {
        /// The stable causes of a failed request. A client matches on these, never on `detail`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        pub enum Code {$(
            $(#[$doc])*
            #[serde(rename = $text)]
            $name,
        )*}

        impl Code {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The text a client matches on.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status it comes with.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// What it is, in words that never change.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The request cannot be understood at all.
    MalformedRequest, "malformed_request", BAD_REQUEST, "The request is malformed";
    /// The body is not JSON.
    MalformedJson, "malformed_json", BAD_REQUEST, "The body is not valid JSON";
    /// The cursor was not made by this installation for this list.
    InvalidCursor, "invalid_cursor", BAD_REQUEST, "The cursor is not one of this list";
    /// No access token was sent.
    Unauthenticated, "unauthenticated", UNAUTHORIZED, "An access token is needed";
    /// The token is forged, spent, revoked or of another kind.
    InvalidToken, "invalid_token", UNAUTHORIZED, "The token is not valid";
    /// The token was good once.
    TokenExpired, "token_expired", UNAUTHORIZED, "The token has expired";
    /// E-mail address or password is wrong.
    InvalidCredentials, "invalid_credentials", UNAUTHORIZED, "E-mail address or password is wrong";
    /// The plan does not allow that much.
    PlanLimitExceeded, "plan_limit_exceeded", PAYMENT_REQUIRED, "The plan's limit is reached";
    /// The user's role does not allow it.
    Forbidden, "forbidden", FORBIDDEN, "The role of this user does not allow it";
    /// The account is suspended or closed.
    TenantSuspended, "tenant_suspended", FORBIDDEN, "The account is suspended";
    /// The operator does not let strangers register.
    RegistrationClosed, "registration_closed", FORBIDDEN, "Registration is closed";
    /// There is no such thing, or it belongs to another account.
    NotFound, "not_found", NOT_FOUND, "Not found";
    /// The path exists, but not with this method.
    MethodNotAllowed, "method_not_allowed", METHOD_NOT_ALLOWED, "The method is not allowed here";
    /// The request did not arrive, or was not answered, in time.
    RequestTimeout, "request_timeout", REQUEST_TIMEOUT, "The request took too long to arrive";
    /// The name is taken.
    Taken, "taken", CONFLICT, "The name is taken";
    /// What was asked does not fit the present state.
    Conflict, "conflict", CONFLICT, "It does not fit the present state";
    /// A gate does not let it through; `detail` says which and why.
    GateClosed, "gate_closed", CONFLICT, "A gate is closed";
    /// The domain's DNS records are not proven.
    DomainNotVerified, "domain_not_verified", CONFLICT, "The domain is not verified";
    /// Inboxes still hang on the domain.
    DomainInUse, "domain_in_use", CONFLICT, "The domain still has inboxes";
    /// The first request with this idempotency key is not answered yet.
    IdempotencyInProgress, "idempotency_in_progress", CONFLICT, "A request with this key is in progress";
    /// The password has been shown; it can only be rotated.
    CredentialShown, "credential_shown", GONE, "The password has been shown already";
    /// The body is larger than allowed.
    BodyTooLarge, "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The body is of a media type that is not understood here.
    UnsupportedMediaType, "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The media type is not supported";
    /// A field is wrong; `errors` names each.
    InvalidInput, "invalid_input", UNPROCESSABLE_ENTITY, "The input is not valid";
    /// The idempotency key came with another body before.
    IdempotencyKeyReused, "idempotency_key_reused", UNPROCESSABLE_ENTITY, "The idempotency key was used with another body";
    /// The address asked not to be written to.
    RecipientSuppressed, "recipient_suppressed", UNPROCESSABLE_ENTITY, "The recipient is suppressed";
    /// A cap over an hour or a day is used up.
    BudgetFull, "budget_full", TOO_MANY_REQUESTS, "A sending budget is used up";
    /// Too many requests.
    RateLimited, "rate_limited", TOO_MANY_REQUESTS, "Too many requests";
    /// A bug of ours. The request id finds it in the log.
    Internal, "internal", INTERNAL_SERVER_ERROR, "Something broke on our side";
    /// Too much to do at the moment; nothing was done.
    Busy, "busy", SERVICE_UNAVAILABLE, "The service is busy";
    /// What was asked for cannot be served at the moment; nothing was done.
    Unavailable, "unavailable", SERVICE_UNAVAILABLE, "Not available at the moment";
    /// Nobody can say whether it was done: ask again, with the same idempotency key.
    OutcomeUnknown, "outcome_unknown", SERVICE_UNAVAILABLE, "The outcome is not known";
    /// The actor behind it is out of service until an operator frees it.
    Parked, "parked", SERVICE_UNAVAILABLE, "Out of service until an operator looks at it";
    /// The disk is nearly full: reads work, writes do not.
    StorageFull, "storage_full", INSUFFICIENT_STORAGE, "The storage is full";
}

/// A failed request.
#[derive(Debug, Clone)]
pub struct ApiError {
    code: Code,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
    internal: Option<String>,
}

/// A field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Its path in the body or its name in the query.
    #[schema(example = "company_email")]
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// A problem as it goes over the wire (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// A URN that ends in the code.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// What it is, in words that never change.
    pub(crate) title: &'static str,
    /// The HTTP status.
    pub(crate) status: u16,
    /// What happened this time.
    pub(crate) detail: String,
    /// The stable cause.
    pub(crate) code: Code,
    /// Names this request in our log.
    pub(crate) request_id: String,
    /// The fields that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<FieldError>,
}

// === impl Code ===

impl Code {
    /// When to try again where nobody knows better: what is refused for want of room or time says when.
    fn retry_after(self) -> Option<Duration> {
        let status = self.status();
        [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::INSUFFICIENT_STORAGE,
        ]
        .contains(&status)
        .then_some(RETRY_AFTER)
    }
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let words = Self::ALL.iter().map(|code| code.text());
        let titles = Self::ALL.iter().map(|code| {
            format!(
                "`{}` ({}): {}",
                code.text(),
                code.status().as_u16(),
                code.title()
            )
        });
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(format!(
                "The stable causes of a failed request. A client matches on these, never on `detail`.\n\n{}",
                titles.collect::<Vec<_>>().join("\n\n")
            )))
            .enum_values(Some(words))
            .build()
            .into()
    }
}

impl ToSchema for Code {}

// === impl ApiError ===

impl ApiError {
    /// A failure of this cause; `detail` is what a stranger may read.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            internal: None,
        }
    }

    /// A field that is wrong.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "an error is handed over by `map_err`"
    )]
    pub fn invalid(field: impl Into<String>, message: impl ToString) -> Self {
        Self::invalid_fields(vec![FieldError {
            field: field.into(),
            message: message.to_string(),
        }])
    }

    /// Fields that are wrong; at least one.
    pub fn invalid_fields(mut errors: Vec<FieldError>) -> Self {
        for error in &mut errors {
            cut(&mut error.field);
            cut(&mut error.message);
        }
        let detail = errors.first().map_or_else(
            || "A field is wrong.".to_owned(),
            |first| format!("{}: {}", first.field, first.message),
        );
        Self {
            errors,
            ..Self::new(Code::InvalidInput, detail)
        }
    }

    /// There is no such thing. The same words whether it never was or belongs to somebody else.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("There is no such {what}."))
    }

    /// A bug of ours: the stranger reads nothing of it.
    pub fn internal(why: impl ToString) -> Self {
        Self::new(Code::Internal, "The request id names it in our log.").because(why)
    }

    /// Adds when to try again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Adds what only the log may say.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "an error is handed over by `map_err`"
    )]
    pub fn because(mut self, why: impl ToString) -> Self {
        self.internal = Some(why.to_string());
        self
    }

    /// What a stranger may read.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// Its cause.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The failure that stands for a bare status of the router or of a layer below us.
    fn of_status(status: StatusCode) -> Self {
        let code = match status {
            StatusCode::NOT_FOUND => {
                return Self::new(Code::NotFound, "There is nothing at this path.");
            }
            StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Code::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
            StatusCode::REQUEST_TIMEOUT => Code::RequestTimeout,
            StatusCode::UNPROCESSABLE_ENTITY => Code::InvalidInput,
            status if status.is_client_error() => Code::MalformedRequest,
            _ => Code::Internal,
        };
        Self::new(code, code.title())
    }

    /// The problem, as bytes.
    fn body(&self, request_id: &str) -> Vec<u8> {
        let problem = Problem {
            kind: format!("{TYPE_BASE}{}", self.code.text()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: self.detail.clone().into_owned(),
            code: self.code,
            request_id: request_id.to_owned(),
            errors: self.errors.clone(),
        };
        serde_json::to_vec(&problem).expect("texts and numbers make JSON")
    }

    /// The whole response, for whoever stands outside the layers.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let mut response = Response::new(Body::from(self.body(request_id)));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.code.status() == StatusCode::UNAUTHORIZED {
            // RFC 9110 §11.6.1: a 401 names the scheme it wants.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after.or_else(|| self.code.retry_after()) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(wait)));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.code.status();
        response.extensions_mut().insert(self);
        response
    }
}

// === free functions ===

/// Gives every failed response its problem: the one it carries, or the one of its bare status.
pub(crate) fn finish(response: Response, request_id: &str, detail: Detail) -> Response {
    if !response.status().is_client_error() && !response.status().is_server_error() {
        return response;
    }
    if response.extensions().get::<Rendered>().is_some() {
        return response;
    }
    let error = response
        .extensions()
        .get::<ApiError>()
        .cloned()
        .unwrap_or_else(|| ApiError::of_status(response.status()));
    log(&error, request_id, detail);
    let mut finished = error.render(request_id);
    if let Some(allow) = response.headers().get(header::ALLOW) {
        finished.headers_mut().insert(header::ALLOW, allow.clone());
    }
    finished
}

/// Whether a problem's detail may stand in our log: it echoes input, which for a log-in is a password or
/// an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// It may.
    Logged,
    /// It may not.
    Private,
}

/// Marks a failed status whose body is an answer of its own, as the readiness report with its 503.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rendered;

fn log(error: &ApiError, request_id: &str, detail: Detail) {
    let detail = match detail {
        Detail::Logged => error.detail(),
        Detail::Private => "",
    };
    let internal = error.internal.as_deref().unwrap_or_default();
    let code = error.code.text();
    if error.code.status().is_server_error() {
        tracing::error!(request_id, code, detail, internal, "request failed");
    } else {
        tracing::debug!(request_id, code, detail, internal, "request refused");
    }
}

/// Cuts what echoes input.
fn cut(text: &mut String) {
    if let Some((at, _)) = text.char_indices().nth(ECHO_CHARS_MAX) {
        text.truncate(at);
        text.push('…');
    }
}

/// Whole seconds, rounded up, at least one: a client that comes back a moment early is refused again.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0 || wait.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_match_their_json() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|code| code.text()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.text());
            assert!(code.status().is_client_error() || code.status().is_server_error());
        }
    }

    #[test]
    fn what_only_the_log_may_say_is_not_in_the_body() {
        let error = ApiError::internal("sled says no: /var/lib/secret");
        let body = String::from_utf8(error.body("req_1")).unwrap();
        assert!(!body.contains("sled"), "{body}");
        assert!(body.contains("req_1"), "{body}");
    }

    #[test]
    fn whatever_is_refused_for_now_says_when_to_come_again() {
        for code in Code::ALL {
            let for_now = matches!(code.status().as_u16(), 429 | 503 | 507);
            let rendered = ApiError::new(*code, "x").render("req_1");
            let says = rendered.headers().contains_key(header::RETRY_AFTER);
            assert_eq!(says, for_now, "{code:?}");
        }
    }

    #[test]
    fn echoed_input_is_cut() {
        let error = ApiError::invalid("é".repeat(300), "ü".repeat(201));
        let first = &error.errors[0];
        assert_eq!(
            (first.field.chars().count(), first.message.chars().count()),
            (201, 201)
        );
        let short = ApiError::invalid("name", "x".repeat(200));
        assert_eq!(short.errors[0].message.len(), 200);
    }

    #[test]
    fn a_wait_is_rounded_up() {
        for (millis, expected) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (61_000, 61)] {
            assert_eq!(seconds(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn a_bare_status_of_the_router_becomes_a_problem() {
        let mut bare = Response::new(Body::empty());
        *bare.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        bare.headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("GET"));
        let finished = finish(bare, "req_1", Detail::Logged);
        assert_eq!(finished.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
        assert_eq!(finished.headers()[header::ALLOW], "GET");
    }
}
