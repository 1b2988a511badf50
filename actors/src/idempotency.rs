//! Idempotency keys: committed with the effect they guard, kept for 24 hours of wall time.

use std::{fmt::Display, str::FromStr, time::Duration};

use inboxgrove_model::{TenantId, idempotency::IdempotentAnswer};
use inboxgrove_store::Batch;

use crate::{
    context::Context,
    platform::{IdempotencyKey, Made},
    refusal::Refusal,
};

/// How long a key is remembered (DESIGN §7).
const KEPT_FOR: Duration = Duration::from_hours(24);

/// What was made under this key before. Another body under the same key is refused.
pub(crate) fn seen<Id: FromStr>(
    cx: &Context,
    tenant: TenantId,
    key: Option<IdempotencyKey>,
) -> Result<Option<Id>, Refusal> {
    let Some(key) = key else { return Ok(None) };
    let Some(before) = cx.store.get::<IdempotentAnswer>(&(tenant, key.key))? else {
        return Ok(None);
    };
    if before.expires_at <= cx.ports.clock.wall() {
        return Ok(None);
    }
    if before.body != key.body {
        return Err(Refusal::KeyReused);
    }
    Ok(before.made.parse().ok())
}

/// The answer to a repeated request: what was made, as it is now, unless it has been deleted since.
pub(crate) fn replay<T>(made: Option<T>) -> Result<Made<T>, Refusal> {
    let Some(value) = made else {
        let why = "what this idempotency key made has been deleted since".to_owned();
        return Err(Refusal::Conflict {
            code: "idempotent_result_gone",
            why,
        });
    };
    Ok(Made {
        value,
        replayed: true,
    })
}

/// Remembers, in the commit that makes it, what this key made.
pub(crate) fn remember(
    cx: &Context,
    batch: &mut Batch,
    tenant: TenantId,
    key: Option<IdempotencyKey>,
    status: u16,
    made: &impl Display,
) {
    let Some(key) = key else { return };
    batch.put(&IdempotentAnswer {
        tenant,
        key: key.key,
        body: key.body,
        status,
        made: made.to_string(),
        expires_at: cx.ports.clock.wall().after(KEPT_FOR),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_a_conflict_and_no_damage() {
        assert!(replay(Some(1)).is_ok_and(|made| made.replayed));
        let gone = replay::<u8>(None);
        assert!(
            matches!(gone, Err(Refusal::Conflict { code, .. }) if code == "idempotent_result_gone")
        );
    }
}
