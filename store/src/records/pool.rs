//! Table `pool`: inboxes that take part in warmup.
//! Key: place, inbox id. Value: version byte, then the rkyv archive of a row.
//!
//! The place spreads inboxes evenly and looks random, so that partners are found by reading a few rows
//! from a random place on.

use aws_lc_rs::digest::{SHA256, digest};
use inboxgrove_model::{InboxId, TenantId, inbox::PoolMember};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

impl Record for PoolMember {
    const TABLE: TableId = TableId::Pool;
    type Key = InboxId;

    fn key(&self) -> InboxId {
        self.inbox
    }

    fn key_bytes(key: &InboxId, _: &NameKey) -> Vec<u8> {
        KeyBytes::new()
            .number(pool_place(*key))
            .id(key.as_bytes())
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

/// Where an inbox stands in the pool: the first 8 bytes of the SHA-256 of its id. Never changes.
pub fn pool_place(inbox: InboxId) -> u64 {
    let hash = digest(&SHA256, inbox.as_bytes());
    let head = hash.as_ref().first_chunk();
    u64::from_be_bytes(*head.expect("SHA-256 has 32 bytes"))
}

/// Never edited once released; a change is a `mod v2`.
mod v1 {
    use inboxgrove_model::{DomainId, InboxId, TenantId, inbox::PoolMember};
    use rkyv::{Archive, Deserialize, Serialize};

    use crate::{records::codec, table::RowError};

    pub(super) const VERSION: u8 = 1;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        inbox: [u8; 16],
        tenant: [u8; 16],
        domain: [u8; 16],
        address: String,
        display_name: String,
    }

    impl From<&PoolMember> for Row {
        fn from(member: &PoolMember) -> Self {
            Self {
                inbox: *member.inbox.as_bytes(),
                tenant: *member.tenant.as_bytes(),
                domain: *member.domain.as_bytes(),
                address: codec::address_text(&member.address),
                display_name: member.display_name.clone(),
            }
        }
    }

    impl TryFrom<Row> for PoolMember {
        type Error = RowError;

        fn try_from(row: Row) -> Result<Self, RowError> {
            Ok(Self {
                inbox: InboxId::from_bytes(row.inbox),
                tenant: TenantId::from_bytes(row.tenant),
                domain: DomainId::from_bytes(row.domain),
                address: codec::address(&row.address)?,
                display_name: row.display_name,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::inbox::PoolMember;
    use proptest::prelude::*;

    use super::pool_place;
    use crate::records::laws::{self, some};

    fn members() -> impl Strategy<Value = PoolMember> {
        (
            (some::tenant(), some::domain(), some::inbox()),
            (some::address(), some::text(100)),
        )
            .prop_map(
                |((tenant, domain, inbox), (address, display_name))| PoolMember {
                    inbox,
                    tenant,
                    domain,
                    address,
                    display_name,
                },
            )
    }

    fn sample() -> PoolMember {
        PoolMember {
            inbox: some::INBOX,
            tenant: some::TENANT,
            domain: some::DOMAIN,
            address: some::ada(),
            display_name: "Ada Lovelace".into(),
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        laws::golden(&[sample()], include_str!("../../golden/pool.v1.hex"));
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    proptest! {
        #[test]
        fn a_member_comes_back(member in members()) {
            prop_assert_eq!(laws::round_trip(&member), member);
        }

        #[test]
        fn keys_sort_by_place(a in some::inbox(), b in some::inbox()) {
            let keys = laws::key::<PoolMember>(&a).cmp(&laws::key::<PoolMember>(&b));
            prop_assert_eq!(keys, (pool_place(a), a).cmp(&(pool_place(b), b)));
        }
    }
}
