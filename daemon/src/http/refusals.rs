//! From what the tree refuses to what a stranger reads.

use inboxgrove_actors::platform::Refusal;
use inboxgrove_model::PolicyTime;

use super::problem::{ApiError, Code};

/// The problem of a refusal.
pub(crate) fn render(refusal: &Refusal, now: PolicyTime) -> ApiError {
    let error = problem(refusal);
    match refusal.retry_after(now) {
        Some(wait) => error.retry_after(wait),
        None => error,
    }
}

fn problem(refusal: &Refusal) -> ApiError {
    match refusal {
        Refusal::NotFound { what } => ApiError::not_found(what),
        Refusal::Conflict { code, why } => ApiError::new(conflict(code), why.clone()),
        Refusal::Invalid { field, why } => ApiError::invalid(*field, why),
        Refusal::PlanLimit { .. } => ApiError::new(Code::PlanLimitExceeded, refusal.to_string()),
        Refusal::Gated { gate, why, .. } => ApiError::new(gated(gate), why.clone()),
        Refusal::Budget(full) => ApiError::new(Code::BudgetFull, full.to_string()),
        Refusal::Unauthenticated { why } => ApiError::new(Code::InvalidToken, *why),
        Refusal::KeyReused => ApiError::new(
            Code::IdempotencyKeyReused,
            "Use a new key for a new request.",
        ),
        Refusal::Busy { what, .. } => {
            ApiError::new(Code::Busy, "Try again in a moment.").because(format!("{what} is busy"))
        }
        Refusal::DiskLow { .. } => ApiError::new(
            Code::StorageFull,
            "Reads work; writes are refused until the operator makes room.",
        )
        .because(refusal),
        Refusal::Parked { .. } => {
            ApiError::new(Code::Parked, "The operator has been told.").because(refusal)
        }
        Refusal::Unavailable { .. } => {
            ApiError::new(Code::Unavailable, "Nothing was done.").because(refusal)
        }
        Refusal::Unknown { .. } => ApiError::new(
            Code::OutcomeUnknown,
            "It may or may not have been done. Ask again, with the same idempotency key.",
        )
        .because(refusal),
        Refusal::Damaged { .. } => ApiError::internal(refusal),
    }
}

/// The code of a conflict that an actor names.
fn conflict(code: &str) -> Code {
    match code {
        "email_taken" | "domain_exists" | "domain_claimed" | "tenant_exists" => Code::Taken,
        "domain_in_use" => Code::DomainInUse,
        "already_shown" => Code::CredentialShown,
        "domain_not_verified" => Code::DomainNotVerified,
        _ => Code::Conflict,
    }
}

/// The code of a gate that is closed.
fn gated(gate: &str) -> Code {
    match gate {
        "tenant" | "plan" | "suspension" => Code::TenantSuspended,
        "domain" | "authentication" => Code::DomainNotVerified,
        "suppression" => Code::RecipientSuppressed,
        _ => Code::GateClosed,
    }
}
