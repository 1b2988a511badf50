//! Table `suppressions`: addresses that are not written to again.
//! Key: tenant id, hash of the folded address. Value: version byte, then the rkyv archive of a row.
//!
//! Keys are not sealed, so the address stands in them as a hash: a list comes in no order of its names.

use inboxgrove_model::{TenantId, suppression::Suppression};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

impl Record for Suppression {
    const TABLE: TableId = TableId::Suppression;
    /// Tenant, and the address as [`EmailAddress::key`](inboxgrove_model::EmailAddress::key) folds it.
    type Key = (TenantId, String);

    fn key(&self) -> Self::Key {
        (self.tenant, self.address.key())
    }

    fn key_bytes((tenant, address): &Self::Key, names: &NameKey) -> Vec<u8> {
        KeyBytes::new()
            .id(tenant.as_bytes())
            .bytes(&names.hash(address))
            .finish()
    }

    fn seal_with(&self) -> Option<TenantId> {
        Some(self.tenant)
    }

    fn to_row(&self) -> Vec<u8> {
        codec::write(v1::VERSION, &v1::Row::from(self))
    }

    fn from_row(_: &[u8], row: &[u8]) -> Result<Self, RowError> {
        match codec::split(row)? {
            (v1::VERSION, archive) => codec::read::<v1::Row>(archive)?.try_into(),
            (version, _) => Err(RowError::UnknownVersion(version)),
        }
    }
}

/// Never edited once released; a change is a `mod v2`.
mod v1 {
    use inboxgrove_model::{
        TenantId,
        suppression::{Suppression, SuppressionReason},
    };
    use rkyv::{Archive, Deserialize, Serialize};

    use crate::{
        records::{codec, codes::Code},
        table::RowError,
    };

    pub(super) const VERSION: u8 = 1;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        tenant: [u8; 16],
        address: String,
        reason: u8,
        since: i64,
    }

    impl From<&Suppression> for Row {
        fn from(suppression: &Suppression) -> Self {
            Self {
                tenant: *suppression.tenant.as_bytes(),
                address: codec::address_text(&suppression.address),
                reason: suppression.reason.code(),
                since: suppression.since.as_millis(),
            }
        }
    }

    impl TryFrom<Row> for Suppression {
        type Error = RowError;

        fn try_from(row: Row) -> Result<Self, RowError> {
            Ok(Self {
                tenant: TenantId::from_bytes(row.tenant),
                address: codec::address(&row.address)?,
                reason: SuppressionReason::from_code(row.reason)?,
                since: codec::policy(row.since),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::{
        EmailAddress,
        suppression::{Suppression, SuppressionReason},
    };
    use proptest::prelude::*;

    use crate::records::laws::{self, some};

    fn suppressions() -> impl Strategy<Value = Suppression> {
        (
            (some::tenant(), some::address()),
            (some::code::<SuppressionReason>(), some::policy()),
        )
            .prop_map(|((tenant, address), (reason, since))| Suppression {
                tenant,
                address,
                reason,
                since,
            })
    }

    fn sample() -> Suppression {
        Suppression {
            tenant: some::TENANT,
            address: some::ada(),
            reason: SuppressionReason::Unsubscribe,
            since: some::at(3),
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        laws::golden(
            &[sample()],
            include_str!("../../golden/suppressions.v1.hex"),
        );
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    #[test]
    fn an_address_is_found_in_any_case_and_never_shown() {
        let mut shouted = sample();
        shouted.address = EmailAddress::parse("ADA.Lovelace@EXAMPLE.com").unwrap();
        let key = laws::key_of(&sample());
        assert_eq!(laws::key_of(&shouted), key);
        assert!(!key.windows(3).any(|part| part == b"ada"));
        assert!(key.starts_with(some::TENANT.as_bytes()));
    }

    proptest! {
        #[test]
        fn a_suppression_comes_back(suppression in suppressions()) {
            prop_assert_eq!(laws::round_trip(&suppression), suppression);
        }
    }
}
