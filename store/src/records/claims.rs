//! Table `claims`: names that are unique, and who holds them.
//! Key: kind, then the hash of an address, or a domain in clear: behind its tenant when it is unique
//! there only, else with its labels turned round (`com.example.`), so that a name and all below it
//! stand together. Value: version byte, then the rkyv archive of a row, sealed with the holder's key.

use inboxgrove_model::{
    TenantId,
    claim::{Claim, ClaimName},
};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

impl Record for Claim {
    const TABLE: TableId = TableId::Claim;
    type Key = ClaimName;

    fn key(&self) -> ClaimName {
        self.name.clone()
    }

    fn key_bytes(key: &ClaimName, names: &NameKey) -> Vec<u8> {
        let kind = KeyBytes::new().byte(v1::kind(key));
        match key {
            ClaimName::UserEmail(address) | ClaimName::Address(address) => {
                kind.bytes(&names.hash(address)).finish()
            }
            ClaimName::DomainOfTenant(tenant, domain) => {
                kind.id(tenant.as_bytes()).text(domain).finish()
            }
            ClaimName::Domain(domain) => kind.text(&turned_round(domain)).finish(),
        }
    }

    fn seal_with(&self) -> Option<TenantId> {
        Some(self.holder.tenant())
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

/// The prefix of the keys of a proven domain and of all proven names below it.
pub(crate) fn domain_and_below(domain: &str) -> Vec<u8> {
    let name = ClaimName::Domain(domain.to_owned());
    KeyBytes::new()
        .byte(v1::kind(&name))
        .text(&turned_round(domain))
        .finish()
}

/// `a.example.com` as `com.example.a.`.
fn turned_round(domain: &str) -> String {
    domain.rsplit('.').flat_map(|label| [label, "."]).collect()
}

/// Never edited once released; a change is a `mod v2`.
mod v1 {
    use inboxgrove_model::{
        DomainId, InboxId, TenantId, UserId,
        claim::{Claim, ClaimHolder, ClaimName},
    };
    use rkyv::{Archive, Deserialize, Serialize};

    use crate::table::RowError;

    pub(super) const VERSION: u8 = 1;

    const USER_EMAIL: u8 = 1;
    const DOMAIN_OF_TENANT: u8 = 2;
    const DOMAIN: u8 = 3;
    const ADDRESS: u8 = 4;

    const BY_USER: u8 = 1;
    const BY_DOMAIN: u8 = 2;
    const BY_INBOX: u8 = 3;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        kind: u8,
        /// In which the name is unique, when not in the whole installation.
        within: Option<[u8; 16]>,
        name: String,
        holder: u8,
        /// In the order of the variant's fields.
        holder_ids: Vec<[u8; 16]>,
    }

    impl From<&Claim> for Row {
        fn from(claim: &Claim) -> Self {
            let (holder, holder_ids) = match claim.holder {
                ClaimHolder::User(tenant, user) => {
                    (BY_USER, vec![*tenant.as_bytes(), *user.as_bytes()])
                }
                ClaimHolder::Domain(tenant, domain) => {
                    (BY_DOMAIN, vec![*tenant.as_bytes(), *domain.as_bytes()])
                }
                ClaimHolder::Inbox(tenant, domain, inbox) => {
                    let ids = vec![*tenant.as_bytes(), *domain.as_bytes(), *inbox.as_bytes()];
                    (BY_INBOX, ids)
                }
            };
            let (within, name) = match &claim.name {
                ClaimName::DomainOfTenant(tenant, name) => (Some(*tenant.as_bytes()), name),
                ClaimName::UserEmail(name) | ClaimName::Domain(name) | ClaimName::Address(name) => {
                    (None, name)
                }
            };
            Self {
                kind: kind(&claim.name),
                within,
                name: name.clone(),
                holder,
                holder_ids,
            }
        }
    }

    impl TryFrom<Row> for Claim {
        type Error = RowError;

        fn try_from(row: Row) -> Result<Self, RowError> {
            let name = match (row.kind, row.within) {
                (USER_EMAIL, None) => ClaimName::UserEmail(row.name),
                (DOMAIN_OF_TENANT, Some(tenant)) => {
                    ClaimName::DomainOfTenant(TenantId::from_bytes(tenant), row.name)
                }
                (DOMAIN, None) => ClaimName::Domain(row.name),
                (ADDRESS, None) => ClaimName::Address(row.name),
                (code, _) => return Err(RowError::damaged(format!("{code} is no name"))),
            };
            let holder = match (row.holder, row.holder_ids.as_slice()) {
                (BY_USER, [tenant, user]) => {
                    ClaimHolder::User(TenantId::from_bytes(*tenant), UserId::from_bytes(*user))
                }
                (BY_DOMAIN, [tenant, domain]) => ClaimHolder::Domain(
                    TenantId::from_bytes(*tenant),
                    DomainId::from_bytes(*domain),
                ),
                (BY_INBOX, [tenant, domain, inbox]) => ClaimHolder::Inbox(
                    TenantId::from_bytes(*tenant),
                    DomainId::from_bytes(*domain),
                    InboxId::from_bytes(*inbox),
                ),
                (code, ids) => {
                    let why = format!("{code} with {} ids is no holder", ids.len());
                    return Err(RowError::damaged(why));
                }
            };
            Ok(Self { name, holder })
        }
    }

    /// The number of a name's kind, as it also stands in the key.
    pub(super) fn kind(name: &ClaimName) -> u8 {
        match name {
            ClaimName::UserEmail(_) => USER_EMAIL,
            ClaimName::DomainOfTenant(..) => DOMAIN_OF_TENANT,
            ClaimName::Domain(_) => DOMAIN,
            ClaimName::Address(_) => ADDRESS,
        }
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::claim::{Claim, ClaimHolder, ClaimName};
    use proptest::prelude::*;

    use crate::{
        records::laws::{self, some},
        seal::NameKey,
        table::Record,
    };

    fn names() -> impl Strategy<Value = ClaimName> {
        prop_oneof![
            some::address().prop_map(|address| ClaimName::UserEmail(address.key())),
            (some::tenant(), some::host()).prop_map(|(t, host)| ClaimName::DomainOfTenant(t, host)),
            some::host().prop_map(ClaimName::Domain),
            some::address().prop_map(|address| ClaimName::Address(address.key())),
        ]
    }

    fn claims() -> impl Strategy<Value = Claim> {
        let holders = prop_oneof![
            (some::tenant(), some::user()).prop_map(|(t, u)| ClaimHolder::User(t, u)),
            (some::tenant(), some::domain()).prop_map(|(t, d)| ClaimHolder::Domain(t, d)),
            (some::tenant(), some::domain(), some::inbox())
                .prop_map(|(t, d, i)| ClaimHolder::Inbox(t, d, i)),
        ];
        (names(), holders).prop_map(|(name, holder)| Claim { name, holder })
    }

    /// One of each kind of name and of holder.
    fn all() -> [Claim; 4] {
        let (ada, domain) = (some::ada().key(), some::ada().domain().to_string());
        let by_domain = ClaimHolder::Domain(some::TENANT, some::DOMAIN);
        [
            Claim {
                name: ClaimName::UserEmail(ada),
                holder: ClaimHolder::User(some::TENANT, some::USER),
            },
            Claim {
                name: ClaimName::DomainOfTenant(some::TENANT, domain.clone()),
                holder: by_domain,
            },
            Claim {
                name: ClaimName::Domain(domain),
                holder: by_domain,
            },
            sample(),
        ]
    }

    fn sample() -> Claim {
        Claim {
            name: ClaimName::Address(some::ada().key()),
            holder: ClaimHolder::Inbox(some::TENANT, some::DOMAIN, some::INBOX),
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        laws::golden(&all(), include_str!("../../golden/claims.v1.hex"));
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    #[test]
    fn a_domain_and_what_lies_below_it_stand_together() {
        let key = |name: &str| laws::key::<Claim>(&ClaimName::Domain(name.to_owned()));
        let prefix = super::domain_and_below("example.com");
        for within in ["example.com", "a.example.com", "b.a.example.com"] {
            assert!(key(within).starts_with(&prefix), "{within}");
        }
        for without in ["com", "badexample.com", "example.com.test", "example.org"] {
            assert!(!key(without).starts_with(&prefix), "{without}");
        }
    }

    #[test]
    fn no_address_stands_in_a_key() {
        let ada = some::ada().key();
        let other_installation = NameKey::new(&[1; 32]);
        for name in [
            ClaimName::UserEmail(ada.clone()),
            ClaimName::Address(ada.clone()),
        ] {
            let key = laws::key::<Claim>(&name);
            assert_eq!(key.len(), 33);
            assert!(!key.windows(3).any(|part| part == b"ada"));
            assert_ne!(key, Claim::key_bytes(&name, &other_installation));
        }
    }

    proptest! {
        #[test]
        fn a_claim_comes_back(claim in claims()) {
            prop_assert_eq!(laws::round_trip(&claim), claim);
        }

        #[test]
        fn different_names_have_different_keys(a in names(), b in names()) {
            prop_assert_eq!(laws::key::<Claim>(&a) == laws::key::<Claim>(&b), a == b);
        }
    }
}
