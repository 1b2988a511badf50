//! `/api/v1/inboxes/{inbox_id}/messages`: an inbox sends a message, and shows what it sent and received.

use axum::{Json, body::Body, extract::State, response::Response};
use http::{HeaderValue, StatusCode, header};
use inboxgrove_actors::platform::NewMessage;
use inboxgrove_model::{
    EmailAddress, InboxId, MessageId,
    limits::{RECIPIENTS_MAX, SUBJECT_CHARS_MAX},
    message::{BounceClass, Folder, Message, MessageClass, Recipient, RecipientState},
};
use inboxgrove_store::Scope;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    caller::{Caller, Reads, Writes},
    idempotency::{Created, guard},
    infrastructure::existing,
    input::{Fields, IdempotencyKey, Input, Path, Path2, Query},
    paging::{ListView, PageQuery},
    problem::ApiError,
    wire::{DirectionView, Time},
};

/// Longest text or HTML part in bytes: together they fit a request.
const PART_BYTES_MAX: usize = 500_000;
/// Longest URL to unsubscribe at.
const URL_LEN_MAX: usize = 1000;

/// All routes, as the OpenAPI document lists them.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, send))
        .routes(routes!(show))
        .routes(routes!(raw))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SendMessage {
    /// To whom.
    #[schema(min_items = 1, max_items = 10)]
    to: Vec<String>,
    #[schema(max_length = 200)]
    subject: String,
    /// The text part.
    #[schema(max_length = 500_000)]
    text: String,
    /// The HTML part.
    #[serde(default)]
    #[schema(max_length = 500_000)]
    html: Option<String>,
    /// The message of this inbox that it answers.
    #[serde(default)]
    in_reply_to: Option<String>,
    /// An https URL at which one POST unsubscribes (RFC 8058).
    #[serde(default)]
    #[schema(max_length = 1000)]
    list_unsubscribe: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct MessageView {
    id: String,
    inbox_id: String,
    direction: DirectionView,
    /// `person`, `warmup`, `system` or `bounce`.
    class: &'static str,
    /// Envelope sender; null for a delivery status notification.
    mail_from: Option<String>,
    recipients: Vec<RecipientView>,
    subject: String,
    message_id: String,
    in_reply_to: Option<String>,
    /// `Message-ID` of the first message of the thread.
    thread: String,
    size: u32,
    accepted_at: Time,
    /// `inbox`, `spam` or `sent`.
    folder: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
struct RecipientView {
    address: String,
    /// `queued`, `attempting`, `delivered`, `bounced`, `uncertain`, `suppressed`, `expired` or `received`.
    state: &'static str,
    /// `recipient`, `infrastructure` or `content`, when bounced.
    bounce_class: Option<&'static str>,
    attempts: u16,
    /// The last answer of a server, or why there was none.
    last_reply: String,
}

/// Accepts a message for sending: it is on disk when the answer comes.
///
/// 409 when a gate is closed, 429 when a budget is used up, 422 for a suppressed recipient.
#[utoipa::path(post, path = "/api/v1/inboxes/{inbox_id}/messages", tag = "messages", request_body = SendMessage,
    params(("inbox_id" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe for 24 hours")),
    responses((status = 202, body = MessageView)))]
async fn send(
    State(api): State<Api>,
    who: Caller<Writes>,
    Path(id): Path<InboxId>,
    key: Option<IdempotencyKey>,
    wanted: Input<SendMessage>,
) -> Result<Created<MessageView>, ApiError> {
    let guard = guard(
        &format!("POST /inboxes/{id}/messages"),
        key.as_ref(),
        &wanted,
    );
    let message = checked(wanted.body)?;
    let sent = api.platform.send(who.tenant, id, message, guard);
    let made = api.ask(sent).await?;
    let view = MessageView::from(&made.value);
    Ok(Created::new(StatusCode::ACCEPTED, view, made.replayed))
}

/// What the inbox sent and received.
#[utoipa::path(get, path = "/api/v1/inboxes/{inbox_id}/messages", tag = "messages",
    params(("inbox_id" = String, Path), PageQuery), responses((status = 200, body = ListView<MessageView>)))]
async fn list(
    State(api): State<Api>,
    who: Caller<Reads>,
    Path(id): Path<InboxId>,
    Query(page): Query<PageQuery>,
) -> Result<Json<ListView<MessageView>>, ApiError> {
    existing(&api, who.tenant, id)?;
    let (list, scope) = (format!("messages of {id}"), Scope::Inbox(who.tenant, id));
    api.page((&list, who.tenant), &scope, &page, |message: &Message| {
        Ok(Some(MessageView::from(message)))
    })
}

/// One message, with the fate of each recipient.
#[utoipa::path(get, path = "/api/v1/inboxes/{inbox_id}/messages/{message_id}", tag = "messages",
    params(("inbox_id" = String, Path), ("message_id" = String, Path)), responses((status = 200, body = MessageView)))]
async fn show(
    State(api): State<Api>,
    who: Caller<Reads>,
    Path2(inbox, id): Path2<InboxId, MessageId>,
) -> Result<Json<MessageView>, ApiError> {
    let message: Message = api.row(&(who.tenant, inbox, id), "message")?;
    Ok(Json(MessageView::from(&message)))
}

/// The bytes of a message, as they were sent or received (RFC 5322).
#[utoipa::path(get, path = "/api/v1/inboxes/{inbox_id}/messages/{message_id}/raw", tag = "messages",
    params(("inbox_id" = String, Path), ("message_id" = String, Path)),
    responses((status = 200, body = String, content_type = "message/rfc822")))]
async fn raw(
    State(api): State<Api>,
    who: Caller<Reads>,
    Path2(inbox, id): Path2<InboxId, MessageId>,
) -> Result<Response, ApiError> {
    let message: Message = api.row(&(who.tenant, inbox, id), "message")?;
    let bytes = api.known(api.store().body(who.tenant, &message.body))?;
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("message/rfc822"),
    );
    // A stranger wrote it: no browser shows it on this origin.
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment; filename=\"message.eml\""),
    );
    Ok(response)
}

// === impl views ===

impl From<&Message> for MessageView {
    fn from(message: &Message) -> Self {
        Self {
            id: message.id.to_string(),
            inbox_id: message.inbox.to_string(),
            direction: message.direction.into(),
            class: class(message.class),
            mail_from: message.mail_from.as_ref().map(ToString::to_string),
            recipients: message.recipients.iter().map(RecipientView::from).collect(),
            subject: message.subject.clone(),
            message_id: message.message_id.clone(),
            in_reply_to: message.in_reply_to.clone(),
            thread: message.thread.clone(),
            size: message.body.size,
            accepted_at: message.accepted_at.into(),
            folder: match message.folder {
                Folder::Inbox => "inbox",
                Folder::Spam => "spam",
                Folder::Sent => "sent",
            },
        }
    }
}

impl From<&Recipient> for RecipientView {
    fn from(recipient: &Recipient) -> Self {
        Self {
            address: recipient.address.to_string(),
            state: match recipient.state {
                RecipientState::Queued => "queued",
                RecipientState::Attempting => "attempting",
                RecipientState::Delivered => "delivered",
                RecipientState::Bounced(_) => "bounced",
                RecipientState::Uncertain => "uncertain",
                RecipientState::Suppressed => "suppressed",
                RecipientState::Expired => "expired",
                RecipientState::Received => "received",
            },
            bounce_class: match recipient.state {
                RecipientState::Bounced(class) => Some(bounce_class(class)),
                _ => None,
            },
            attempts: recipient.attempts,
            last_reply: recipient.last_reply.clone(),
        }
    }
}

// === free functions ===

/// The word of a class.
pub(super) fn class(class: MessageClass) -> &'static str {
    match class {
        MessageClass::Person => "person",
        MessageClass::Warmup => "warmup",
        MessageClass::System => "system",
        MessageClass::Bounce => "bounce",
    }
}

/// The word of whom a refusal blames.
pub(super) fn bounce_class(class: BounceClass) -> &'static str {
    match class {
        BounceClass::Recipient => "recipient",
        BounceClass::Infrastructure => "infrastructure",
        BounceClass::Content => "content",
    }
}

fn checked(wanted: SendMessage) -> Result<NewMessage, ApiError> {
    let mut fields = Fields::default();
    let count = (1..=RECIPIENTS_MAX).contains(&wanted.to.len());
    fields.check("to", count, "expected 1 to 10 addresses");
    let to = wanted.to.iter().take(RECIPIENTS_MAX).enumerate();
    let to = to
        .filter_map(|(at, text)| fields.take(&format!("to[{at}]"), EmailAddress::parse(text)))
        .collect();
    let short = wanted.subject.chars().count() <= SUBJECT_CHARS_MAX;
    // A line break would start another header field (RFC 5322 §2.2).
    let plain = !wanted.subject.chars().any(char::is_control);
    let why = "expected at most 200 characters without control characters";
    fields.check("subject", short && plain, why);
    let html = wanted.html.as_deref().unwrap_or_default();
    for (field, part) in [("text", wanted.text.as_str()), ("html", html)] {
        let fits = part.len() <= PART_BYTES_MAX;
        fields.check(field, fits, "expected at most 500000 bytes");
    }
    let in_reply_to = match &wanted.in_reply_to {
        Some(id) => fields.take("in_reply_to", id.parse()),
        None => None,
    };
    if let Some(url) = &wanted.list_unsubscribe {
        fields.take("list_unsubscribe", https(url));
    }
    fields.done()?;
    Ok(NewMessage {
        to,
        subject: wanted.subject,
        text: wanted.text,
        html: wanted.html,
        in_reply_to,
        list_unsubscribe: wanted.list_unsubscribe,
    })
}

/// Whether this is an https URL that fits a header field.
fn https(url: &str) -> Result<(), &'static str> {
    let plain = url
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"<>\"".contains(&byte));
    let uri: Option<http::Uri> = url
        .parse()
        .ok()
        .filter(|_| plain && url.len() <= URL_LEN_MAX);
    uri.filter(|uri| uri.scheme_str() == Some("https") && uri.host().is_some())
        .map(drop)
        .ok_or("expected an https URL of at most 1000 characters")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_may_unsubscribe() {
        for (url, good) in [
            ("https://acme.example/u?x=1", true),
            ("http://acme.example/u", false),
            ("https://", false),
            ("mailto:a@b.example", false),
            ("https://a.example/\r\nBcc: x", false),
            ("https://a.example/>", false),
        ] {
            assert_eq!(https(url).is_ok(), good, "{url:?}");
        }
    }
}
