//! Events as JSON: a kind, a time, and the fields of what happened.

use inboxgrove_model::event::{EventKind, LoggedEvent};
use serde_json::{Value, json};

use super::{
    messages::{bounce_class, class},
    wire::{
        BandView, DomainStatusView, JobStateView, SuspensionReasonView, TenantStatusView,
        WarmupStateView,
    },
};

/// The kind of an event, and the event.
pub(super) fn render(logged: &LoggedEvent) -> (&'static str, Value) {
    let (kind, mut fields) = account(&logged.event.kind)
        .or_else(|| things(&logged.event.kind))
        .or_else(|| mail(&logged.event.kind))
        .unwrap_or_else(|| ("unknown", json!({})));
    if let Value::Object(fields) = &mut fields {
        fields.insert("id".to_owned(), json!(logged.id));
        fields.insert("type".to_owned(), json!(kind));
        fields.insert("at".to_owned(), json!(logged.event.at.to_string()));
    }
    (kind, fields)
}

/// What happened to the account and its people.
fn account(kind: &EventKind) -> Option<(&'static str, Value)> {
    Some(match kind {
        EventKind::TenantRegistered { user } => {
            ("tenant_registered", json!({ "user_id": user.to_string() }))
        }
        EventKind::UserLoggedIn { user, from } => (
            "user_logged_in",
            json!({ "user_id": user.to_string(), "from": from.map(|ip| ip.to_string()) }),
        ),
        EventKind::RefreshReused { user } => {
            ("refresh_reused", json!({ "user_id": user.to_string() }))
        }
        EventKind::TenantStatusChanged {
            status,
            reason,
            note,
        } => (
            "tenant_status_changed",
            json!({
                "status": TenantStatusView::from(*status),
                "reason": reason.map(SuspensionReasonView::from),
                "note": note,
            }),
        ),
        EventKind::JobChanged {
            job,
            done,
            total,
            state,
        } => (
            "job_changed",
            json!({ "job_id": job.to_string(), "done": done, "total": total, "state": JobStateView::from(*state) }),
        ),
        EventKind::OperatorActed { verb, subject, .. } => (
            "operator_acted",
            json!({ "verb": verb, "subject": subject }),
        ),
        _ => return None,
    })
}

/// What happened to domains and inboxes.
fn things(kind: &EventKind) -> Option<(&'static str, Value)> {
    Some(match kind {
        EventKind::DomainAdded { domain } => {
            ("domain_added", json!({ "domain_id": domain.to_string() }))
        }
        EventKind::DomainStatusChanged {
            domain,
            status,
            reason,
        } => (
            "domain_status_changed",
            json!({ "domain_id": domain.to_string(), "status": DomainStatusView::from(*status), "reason": reason }),
        ),
        EventKind::DomainRemoved { domain } => {
            ("domain_removed", json!({ "domain_id": domain.to_string() }))
        }
        EventKind::InboxCreated { inbox } => {
            ("inbox_created", json!({ "inbox_id": inbox.to_string() }))
        }
        EventKind::InboxChanged { inbox, what } => (
            "inbox_changed",
            json!({ "inbox_id": inbox.to_string(), "what": what }),
        ),
        EventKind::InboxDeleted { inbox } => {
            ("inbox_deleted", json!({ "inbox_id": inbox.to_string() }))
        }
        EventKind::CredentialRotated { inbox } => (
            "credential_rotated",
            json!({ "inbox_id": inbox.to_string() }),
        ),
        EventKind::WarmupChanged { inbox, state } => (
            "warmup_changed",
            json!({ "inbox_id": inbox.to_string(), "state": WarmupStateView::from(*state) }),
        ),
        EventKind::BandChanged { inbox, band, why } => (
            "band_changed",
            json!({ "inbox_id": inbox.to_string(), "band": BandView::from(*band), "why": why }),
        ),
        _ => return None,
    })
}

/// What happened to mail.
fn mail(kind: &EventKind) -> Option<(&'static str, Value)> {
    Some(match kind {
        EventKind::MessageAccepted {
            message,
            inbox,
            class: of,
            recipients,
        } => (
            "message_accepted",
            json!({ "message_id": message.to_string(), "inbox_id": inbox.to_string(), "class": class(*of), "recipients": recipients }),
        ),
        EventKind::MessageDelivered {
            message,
            inbox,
            recipient,
            provider,
            reply,
        } => (
            "message_delivered",
            json!({ "message_id": message.to_string(), "inbox_id": inbox.to_string(), "recipient": recipient.as_str(), "provider": provider, "reply": reply }),
        ),
        EventKind::MessageDeferred {
            message,
            inbox,
            recipient,
            provider,
            reply,
            next_at,
        } => (
            "message_deferred",
            json!({ "message_id": message.to_string(), "inbox_id": inbox.to_string(), "recipient": recipient.as_str(), "provider": provider, "reply": reply, "next_at": next_at.to_string() }),
        ),
        EventKind::MessageBounced {
            message,
            inbox,
            recipient,
            provider,
            reply,
            class,
        } => (
            "message_bounced",
            json!({ "message_id": message.to_string(), "inbox_id": inbox.to_string(), "recipient": recipient.as_str(), "provider": provider, "reply": reply, "bounce_class": bounce_class(*class) }),
        ),
        EventKind::MessageUncertain {
            message,
            inbox,
            recipient,
            provider,
        } => (
            "message_uncertain",
            json!({ "message_id": message.to_string(), "inbox_id": inbox.to_string(), "recipient": recipient.as_str(), "provider": provider }),
        ),
        EventKind::MessageExpired {
            message,
            inbox,
            recipient,
        } => (
            "message_expired",
            json!({ "message_id": message.to_string(), "inbox_id": inbox.to_string(), "recipient": recipient.as_str() }),
        ),
        EventKind::MessageReceived {
            message,
            inbox,
            class: of,
            from,
        } => (
            "message_received",
            json!({ "message_id": message.to_string(), "inbox_id": inbox.to_string(), "class": class(*of), "from": from.as_ref().map(ToString::to_string) }),
        ),
        EventKind::MessagePlaced {
            message,
            inbox,
            provider,
            spam,
        } => (
            "message_placed",
            json!({ "message_id": message.to_string(), "inbox_id": inbox.to_string(), "provider": provider, "spam": spam }),
        ),
        EventKind::MessageReplied { message, inbox } => (
            "message_replied",
            json!({ "message_id": message.to_string(), "inbox_id": inbox.to_string() }),
        ),
        _ => return None,
    })
}
