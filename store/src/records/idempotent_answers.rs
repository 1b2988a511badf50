//! Table `idempotent_answers`: what requests with an idempotency key were answered.
//! Key: tenant id, hash of route and key. Value: version byte, then the rkyv archive of a row.

use inboxgrove_model::{TenantId, idempotency::IdempotentAnswer};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

impl Record for IdempotentAnswer {
    const TABLE: TableId = TableId::IdempotentAnswer;
    type Key = (TenantId, [u8; 32]);

    fn key(&self) -> Self::Key {
        (self.tenant, self.key)
    }

    fn key_bytes((tenant, key): &Self::Key, _: &NameKey) -> Vec<u8> {
        KeyBytes::new().id(tenant.as_bytes()).bytes(key).finish()
    }

    /// Hashes and an id: nothing to seal.
    fn seal_with(&self) -> Option<TenantId> {
        None
    }

    fn to_row(&self) -> Vec<u8> {
        codec::write(v1::VERSION, &v1::Row::from(self))
    }

    fn from_row(_: &[u8], row: &[u8]) -> Result<Self, RowError> {
        match codec::split(row)? {
            (v1::VERSION, archive) => Ok(codec::read::<v1::Row>(archive)?.into()),
            (version, _) => Err(RowError::UnknownVersion(version)),
        }
    }
}

/// Never edited once released; a change is a `mod v2`.
mod v1 {
    use inboxgrove_model::{TenantId, idempotency::IdempotentAnswer};
    use rkyv::{Archive, Deserialize, Serialize};

    use crate::records::codec;

    pub(super) const VERSION: u8 = 1;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        tenant: [u8; 16],
        key: [u8; 32],
        body: [u8; 32],
        status: u16,
        made: String,
        expires_at: i64,
    }

    impl From<&IdempotentAnswer> for Row {
        fn from(answer: &IdempotentAnswer) -> Self {
            Self {
                tenant: *answer.tenant.as_bytes(),
                key: answer.key,
                body: answer.body,
                status: answer.status,
                made: answer.made.clone(),
                expires_at: answer.expires_at.as_millis(),
            }
        }
    }

    impl From<Row> for IdempotentAnswer {
        fn from(row: Row) -> Self {
            Self {
                tenant: TenantId::from_bytes(row.tenant),
                key: row.key,
                body: row.body,
                status: row.status,
                made: row.made,
                expires_at: codec::wall(row.expires_at),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::idempotency::IdempotentAnswer;
    use proptest::prelude::*;

    use crate::records::laws::{self, some};

    fn answers() -> impl Strategy<Value = IdempotentAnswer> {
        (
            (some::tenant(), any::<[u8; 32]>(), any::<[u8; 32]>()),
            (any::<u16>(), some::text(100), some::wall()),
        )
            .prop_map(|((tenant, key, body), (status, made, expires_at))| {
                IdempotentAnswer {
                    tenant,
                    key,
                    body,
                    status,
                    made,
                    expires_at,
                }
            })
    }

    fn sample() -> IdempotentAnswer {
        IdempotentAnswer {
            tenant: some::TENANT,
            key: [0x11; 32],
            body: [0x22; 32],
            status: 201,
            made: some::INBOX.to_string(),
            expires_at: some::wall_at(2),
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        laws::golden(
            &[sample()],
            include_str!("../../golden/idempotent_answers.v1.hex"),
        );
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    proptest! {
        #[test]
        fn an_answer_comes_back(answer in answers()) {
            prop_assert_eq!(laws::round_trip(&answer), answer);
        }
    }
}
