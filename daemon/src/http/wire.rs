//! What several routes say in the same words: times, and the states of things.

use inboxgrove_model::{
    PolicyTime, WallTime, domain, inbox, job, message, ports,
    tenant::{self},
};
use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, schema::Type},
};

/// A time, RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Time(String);

// === impl Time ===

impl From<PolicyTime> for Time {
    fn from(at: PolicyTime) -> Self {
        Self(at.to_string())
    }
}

impl From<WallTime> for Time {
    fn from(at: WallTime) -> Self {
        Self(at.to_string())
    }
}

impl PartialSchema for Time {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .description(Some("A time, RFC 3339 in UTC."))
            .build()
            .into()
    }
}

impl ToSchema for Time {}

// === enumerations ===

macro_rules! wire_enums {
    ($($(#[$doc:meta])* $name:ident from $from:path { $($variant:ident = $text:literal),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        pub(crate) enum $name {
            $(
                #[serde(rename = $text)]
                $variant,
            )*
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .enum_values(Some([$($text),*]))
                    .build()
                    .into()
            }
        }

        impl ToSchema for $name {}

        impl From<$from> for $name {
            fn from(state: $from) -> Self {
                use $from as From;
                match state {
                    $(From::$variant => Self::$variant,)*
                }
            }
        }
    )*};
}

wire_enums! {
    /// What an account may do.
    TenantStatusView from tenant::TenantStatus {
        Trial = "trial", Active = "active", PastDue = "past_due", Suspended = "suspended", Closed = "closed",
    }
    /// Why an account is suspended.
    SuspensionReasonView from tenant::SuspensionReason {
        SpamComplaints = "spam_complaints", HardBounces = "hard_bounces", Blacklisted = "blacklisted",
        PaymentFailed = "payment_failed", TermsViolation = "terms_violation", Manual = "manual",
        TrialExpired = "trial_expired",
    }
    /// What a user may do.
    RoleView from tenant::Role {
        Owner = "owner", Admin = "admin", Member = "member", Billing = "billing", Viewer = "viewer",
    }
    /// What a domain may do.
    DomainStatusView from domain::DomainStatus {
        PendingPurchase = "pending_purchase", PendingDns = "pending_dns", Active = "active",
        Degraded = "degraded", Suspended = "suspended", Expired = "expired",
    }
    /// How a check ended.
    CheckOutcomeView from domain::CheckOutcome { Pass = "pass", Fail = "fail", Unknown = "unknown" }
    /// The type of a DNS record.
    RecordTypeView from ports::RecordType {
        A = "A", Aaaa = "AAAA", Mx = "MX", Txt = "TXT", Ns = "NS", Cname = "CNAME", Ptr = "PTR", Soa = "SOA",
    }
    /// What an inbox does.
    InboxStatusView from inbox::InboxStatus {
        Pending = "pending", Warming = "warming", Active = "active", Paused = "paused",
        Suspended = "suspended", Deleted = "deleted",
    }
    /// Whether warmup runs.
    WarmupStateView from inbox::WarmupState {
        Off = "off", Running = "running", Paused = "paused", Graduated = "graduated",
    }
    /// How much an inbox is let do.
    BandView from inbox::Band {
        Healthy = "healthy", SoftHold = "soft_hold", Throttled = "throttled", Quarantined = "quarantined",
    }
    /// Where a job stands.
    JobStateView from job::JobState {
        Pending = "pending", Running = "running", Done = "done", Failed = "failed", Cancelled = "cancelled",
    }
    /// Out or in.
    DirectionView from message::Direction { Out = "out", In = "in" }
}

/// How inboxes are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NamingView {
    /// As people are: `ada.lovelace`.
    FirstnameLastname,
    /// Random letters and digits.
    Random,
    /// `inbox1`, `inbox2`, …
    Numbered,
}

// === impl NamingView ===

impl From<NamingView> for job::Naming {
    fn from(naming: NamingView) -> Self {
        match naming {
            NamingView::FirstnameLastname => Self::FirstnameLastname,
            NamingView::Random => Self::Random,
            NamingView::Numbered => Self::Numbered,
        }
    }
}

impl From<job::Naming> for NamingView {
    fn from(naming: job::Naming) -> Self {
        match naming {
            job::Naming::FirstnameLastname => Self::FirstnameLastname,
            job::Naming::Random => Self::Random,
            job::Naming::Numbered => Self::Numbered,
        }
    }
}

// === free functions ===

/// The text that an enumeration has on the wire.
pub(crate) fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}

/// A whole number of permille, kept to three digits: floats of policy are not promises.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_the_words_that_are_sent() {
        let schema = serde_json::to_value(DomainStatusView::schema()).unwrap();
        let listed = schema["enum"].as_array().unwrap();
        let sent = serde_json::to_value(DomainStatusView::PendingDns).unwrap();
        assert!(listed.contains(&sent), "{schema}");
    }
}
