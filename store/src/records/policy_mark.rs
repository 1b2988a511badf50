//! Table `policy_mark`: one row, the highest policy time seen.
//! Key: empty. Value: version byte, then the rkyv archive of a row.

use inboxgrove_model::{PolicyTime, TenantId};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

/// The highest policy time seen: policy time goes on from here after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyMark {
    /// When.
    pub at: PolicyTime,
}

impl Record for PolicyMark {
    const TABLE: TableId = TableId::PolicyMark;
    type Key = ();

    fn key(&self) {}

    fn key_bytes((): &(), _: &NameKey) -> Vec<u8> {
        KeyBytes::new().finish()
    }

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
    use rkyv::{Archive, Deserialize, Serialize};

    use super::PolicyMark;
    use crate::records::codec;

    pub(super) const VERSION: u8 = 1;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        at: i64,
    }

    impl From<&PolicyMark> for Row {
        fn from(mark: &PolicyMark) -> Self {
            Self {
                at: mark.at.as_millis(),
            }
        }
    }

    impl From<Row> for PolicyMark {
        fn from(row: Row) -> Self {
            Self {
                at: codec::policy(row.at),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::PolicyMark;
    use crate::records::laws::{self, some};

    fn sample() -> PolicyMark {
        PolicyMark { at: some::at(3) }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        laws::golden(&[sample()], include_str!("../../golden/policy_mark.v1.hex"));
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    proptest! {
        #[test]
        fn a_mark_comes_back(at in some::policy()) {
            let mark = PolicyMark { at };
            prop_assert_eq!(laws::round_trip(&mark), mark);
        }
    }
}
