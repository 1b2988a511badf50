//! Table `evidence`: what happened to an inbox's mail, by day and provider.
//! Key: tenant id, inbox id, UTC day, provider. Value: version byte, then the rkyv archive of a row.
//!
//! In clear: sums and the names of providers. Written by the committer only, which adds to it.

use inboxgrove_model::{InboxId, TenantId, inbox::EvidenceDay};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

/// An [`EvidenceDay`] with its inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceRow {
    /// Whose.
    pub tenant: TenantId,
    /// Of which inbox.
    pub inbox: InboxId,
    /// The day, the provider and the sums.
    pub day: EvidenceDay,
}

impl Record for EvidenceRow {
    const TABLE: TableId = TableId::Evidence;
    /// Tenant, inbox, UTC day, provider.
    type Key = (TenantId, InboxId, i64, String);

    fn key(&self) -> Self::Key {
        (
            self.tenant,
            self.inbox,
            self.day.utc_day,
            self.day.provider.clone(),
        )
    }

    fn key_bytes((tenant, inbox, utc_day, provider): &Self::Key, _: &NameKey) -> Vec<u8> {
        KeyBytes::new()
            .id(tenant.as_bytes())
            .id(inbox.as_bytes())
            .signed(*utc_day)
            .text(provider)
            .finish()
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
    use inboxgrove_model::{
        InboxId, TenantId,
        inbox::{DayCounts, EvidenceDay},
    };
    use rkyv::{Archive, Deserialize, Serialize};

    use super::EvidenceRow;

    pub(super) const VERSION: u8 = 1;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        tenant: [u8; 16],
        inbox: [u8; 16],
        utc_day: i64,
        provider: String,
        delivered: u32,
        deferred: u32,
        bounced_recipient: u32,
        bounced_policy: u32,
        placed_inbox: u32,
        placed_spam: u32,
        complaints: u32,
        replies: u32,
    }

    impl From<&EvidenceRow> for Row {
        fn from(evidence: &EvidenceRow) -> Self {
            let counts = evidence.day.counts;
            Self {
                tenant: *evidence.tenant.as_bytes(),
                inbox: *evidence.inbox.as_bytes(),
                utc_day: evidence.day.utc_day,
                provider: evidence.day.provider.clone(),
                delivered: counts.delivered,
                deferred: counts.deferred,
                bounced_recipient: counts.bounced_recipient,
                bounced_policy: counts.bounced_policy,
                placed_inbox: counts.placed_inbox,
                placed_spam: counts.placed_spam,
                complaints: counts.complaints,
                replies: counts.replies,
            }
        }
    }

    impl From<Row> for EvidenceRow {
        fn from(row: Row) -> Self {
            Self {
                tenant: TenantId::from_bytes(row.tenant),
                inbox: InboxId::from_bytes(row.inbox),
                day: EvidenceDay {
                    utc_day: row.utc_day,
                    provider: row.provider,
                    counts: DayCounts {
                        delivered: row.delivered,
                        deferred: row.deferred,
                        bounced_recipient: row.bounced_recipient,
                        bounced_policy: row.bounced_policy,
                        placed_inbox: row.placed_inbox,
                        placed_spam: row.placed_spam,
                        complaints: row.complaints,
                        replies: row.replies,
                    },
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::inbox::{DayCounts, EvidenceDay};
    use proptest::prelude::*;

    use super::EvidenceRow;
    use crate::records::laws::{self, some};

    fn rows() -> impl Strategy<Value = EvidenceRow> {
        (
            (some::tenant(), some::inbox(), any::<i64>(), "[a-z.]{1,40}"),
            any::<[u32; 8]>(),
        )
            .prop_map(|((tenant, inbox, utc_day, provider), counts)| EvidenceRow {
                tenant,
                inbox,
                day: EvidenceDay {
                    utc_day,
                    provider,
                    counts: counts_of(counts),
                },
            })
    }

    fn counts_of(n: [u32; 8]) -> DayCounts {
        DayCounts {
            delivered: n[0],
            deferred: n[1],
            bounced_recipient: n[2],
            bounced_policy: n[3],
            placed_inbox: n[4],
            placed_spam: n[5],
            complaints: n[6],
            replies: n[7],
        }
    }

    fn sample() -> EvidenceRow {
        EvidenceRow {
            tenant: some::TENANT,
            inbox: some::INBOX,
            day: EvidenceDay {
                utc_day: 20_456,
                provider: "google".into(),
                counts: counts_of([1, 2, 3, 4, 5, 6, 7, 8]),
            },
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        laws::golden(&[sample()], include_str!("../../golden/evidence.v1.hex"));
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    #[test]
    fn an_inbox_holds_its_days_in_order() {
        let key = |day: i64, provider: &str| {
            laws::key::<EvidenceRow>(&(some::TENANT, some::INBOX, day, provider.to_owned()))
        };
        assert!(
            [
                key(-1, "z"),
                key(0, "a"),
                key(0, "ab"),
                key(0, "b"),
                key(256, "a")
            ]
            .is_sorted()
        );
    }

    proptest! {
        #[test]
        fn a_row_comes_back(row in rows()) {
            prop_assert_eq!(laws::round_trip(&row), row);
        }
    }
}
