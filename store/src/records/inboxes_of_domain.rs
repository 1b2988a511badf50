//! Table `inboxes_of_domain`: the index from a domain to its inboxes.
//! Key: tenant id, domain id, inbox id. Value: version byte, then the rkyv archive of a row.

use inboxgrove_model::{DomainId, EmailAddress, InboxId, TenantId};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

/// An inbox as an entry of its domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxOfDomain {
    /// Whose.
    pub tenant: TenantId,
    /// On which domain.
    pub domain: DomainId,
    /// Which.
    pub inbox: InboxId,
    /// Its address.
    pub address: EmailAddress,
}

impl Record for InboxOfDomain {
    const TABLE: TableId = TableId::InboxOfDomain;
    type Key = (TenantId, DomainId, InboxId);

    fn key(&self) -> Self::Key {
        (self.tenant, self.domain, self.inbox)
    }

    fn key_bytes((tenant, domain, inbox): &Self::Key, _: &NameKey) -> Vec<u8> {
        KeyBytes::new()
            .id(tenant.as_bytes())
            .id(domain.as_bytes())
            .id(inbox.as_bytes())
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
    use inboxgrove_model::{DomainId, InboxId, TenantId};
    use rkyv::{Archive, Deserialize, Serialize};

    use super::InboxOfDomain;
    use crate::{records::codec, table::RowError};

    pub(super) const VERSION: u8 = 1;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        tenant: [u8; 16],
        domain: [u8; 16],
        inbox: [u8; 16],
        address: String,
    }

    impl From<&InboxOfDomain> for Row {
        fn from(entry: &InboxOfDomain) -> Self {
            Self {
                tenant: *entry.tenant.as_bytes(),
                domain: *entry.domain.as_bytes(),
                inbox: *entry.inbox.as_bytes(),
                address: codec::address_text(&entry.address),
            }
        }
    }

    impl TryFrom<Row> for InboxOfDomain {
        type Error = RowError;

        fn try_from(row: Row) -> Result<Self, RowError> {
            Ok(Self {
                tenant: TenantId::from_bytes(row.tenant),
                domain: DomainId::from_bytes(row.domain),
                inbox: InboxId::from_bytes(row.inbox),
                address: codec::address(&row.address)?,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::InboxOfDomain;
    use crate::{
        records::laws::{self, some},
        table::{Record, Scope},
    };

    fn entries() -> impl Strategy<Value = InboxOfDomain> {
        (
            some::tenant(),
            some::domain(),
            some::inbox(),
            some::address(),
        )
            .prop_map(|(tenant, domain, inbox, address)| InboxOfDomain {
                tenant,
                domain,
                inbox,
                address,
            })
    }

    fn sample() -> InboxOfDomain {
        InboxOfDomain {
            tenant: some::TENANT,
            domain: some::DOMAIN,
            inbox: some::INBOX,
            address: some::ada(),
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        laws::golden(
            &[sample()],
            include_str!("../../golden/inboxes_of_domain.v1.hex"),
        );
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    #[test]
    fn a_domain_holds_its_inboxes_and_no_others() {
        let key = |domain, inbox| {
            let key = (some::TENANT, some::domain_id(domain), some::inbox_id(inbox));
            [
                &[InboxOfDomain::TABLE.byte()],
                laws::key::<InboxOfDomain>(&key).as_slice(),
            ]
            .concat()
        };
        let (from, to) =
            Scope::Domain(some::TENANT, some::domain_id(3)).range(InboxOfDomain::TABLE);
        let to = to.unwrap();
        assert!(from <= key(3, 0) && key(3, 255) < to);
        assert!(key(2, 255) < from && to <= key(4, 0));
    }

    proptest! {
        #[test]
        fn an_entry_comes_back(entry in entries()) {
            prop_assert_eq!(laws::round_trip(&entry), entry);
        }
    }
}
