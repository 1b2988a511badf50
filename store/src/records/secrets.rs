//! Table `secrets`: the vault.
//! Key: tenant id, secret id. Value: version byte, then the rkyv archive of a row; always sealed.

use std::fmt;

use inboxgrove_model::{SecretId, TenantId};
use zeroize::{Zeroize, Zeroizing};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

/// A secret. Shows nothing of itself; its memory is wiped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub id: SecretId,
    /// What.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for SecretRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretRow")
            .field("tenant", &self.tenant)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Record for SecretRow {
    const TABLE: TableId = TableId::Secret;
    type Key = (TenantId, SecretId);

    fn key(&self) -> Self::Key {
        (self.tenant, self.id)
    }

    fn key_bytes((tenant, id): &Self::Key, _: &NameKey) -> Vec<u8> {
        KeyBytes::new()
            .id(tenant.as_bytes())
            .id(id.as_bytes())
            .finish()
    }

    fn seal_with(&self) -> Option<TenantId> {
        Some(self.tenant)
    }

    fn to_row(&self) -> Vec<u8> {
        let mut row = v1::Row::from(self);
        let bytes = codec::write(v1::VERSION, &row);
        row.bytes.zeroize();
        bytes
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
    use inboxgrove_model::{SecretId, TenantId};
    use rkyv::{Archive, Deserialize, Serialize};
    use zeroize::Zeroizing;

    use super::SecretRow;

    pub(super) const VERSION: u8 = 1;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        tenant: [u8; 16],
        id: [u8; 16],
        pub(super) bytes: Vec<u8>,
    }

    impl From<&SecretRow> for Row {
        fn from(secret: &SecretRow) -> Self {
            Self {
                tenant: *secret.tenant.as_bytes(),
                id: *secret.id.as_bytes(),
                bytes: secret.bytes.to_vec(),
            }
        }
    }

    impl From<Row> for SecretRow {
        fn from(row: Row) -> Self {
            Self {
                tenant: TenantId::from_bytes(row.tenant),
                id: SecretId::from_bytes(row.id),
                bytes: Zeroizing::new(row.bytes),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::SecretRow;
    use crate::{
        records::laws::{self, some},
        table::Record,
    };

    fn secrets() -> impl Strategy<Value = SecretRow> {
        (some::tenant(), some::secret(), vec(any::<u8>(), 0..2_000)).prop_map(
            |(tenant, id, bytes)| SecretRow {
                tenant,
                id,
                bytes: bytes.into(),
            },
        )
    }

    fn sample() -> SecretRow {
        SecretRow {
            tenant: some::TENANT,
            id: some::SECRET,
            bytes: b"correct horse battery staple".to_vec().into(),
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        laws::golden(&[sample()], include_str!("../../golden/secrets.v1.hex"));
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    #[test]
    fn a_secret_is_sealed_and_never_shown() {
        assert_eq!(sample().seal_with(), Some(some::TENANT));
        let shown = format!("{:?}", sample());
        assert!(!shown.contains("horse") && !shown.contains("99"), "{shown}");
    }

    proptest! {
        #[test]
        fn a_secret_comes_back(secret in secrets()) {
            prop_assert_eq!(laws::round_trip(&secret), secret);
        }
    }
}
