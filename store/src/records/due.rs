//! Table `due`: work for a time.
//! Key: time, kind, ids. Value: version byte, then the rkyv archive of a row.
//!
//! In clear: ids and times only. The ids of each kind have a fixed number, so kinds never run together.

use inboxgrove_model::{
    PolicyTime, TenantId,
    due::{DueRow, DueWork},
};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

impl Record for DueRow {
    const TABLE: TableId = TableId::Due;
    type Key = (PolicyTime, DueWork);

    fn key(&self) -> Self::Key {
        (self.at, self.work.clone())
    }

    fn key_bytes((at, work): &Self::Key, _: &NameKey) -> Vec<u8> {
        let (kind, ids, number) = v1::parts(work);
        let key = KeyBytes::new().time(*at).byte(kind);
        let key = ids.iter().fold(key, KeyBytes::id);
        match work {
            DueWork::Notice(_) => key.number(number).finish(),
            _ => key.finish(),
        }
    }

    fn seal_with(&self) -> Option<TenantId> {
        None
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
        DomainId, InboxId, JobId, MessageId, TenantId,
        due::{DueRow, DueWork},
    };
    use rkyv::{Archive, Deserialize, Serialize};

    use crate::{records::codec, table::RowError};

    pub(super) const VERSION: u8 = 1;

    const WARMUP: u8 = 1;
    const REPLY: u8 = 2;
    const CHECK_DOMAIN: u8 = 3;
    const JOB: u8 = 4;
    const TENANT: u8 = 5;
    const NOTICE: u8 = 6;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        at: i64,
        kind: u8,
        /// In the order of the variant's fields.
        ids: Vec<[u8; 16]>,
        /// Of a notice; else 0.
        number: u64,
    }

    impl From<&DueRow> for Row {
        fn from(due: &DueRow) -> Self {
            let (kind, ids, number) = parts(&due.work);
            Self {
                at: due.at.as_millis(),
                kind,
                ids,
                number,
            }
        }
    }

    impl TryFrom<Row> for DueRow {
        type Error = RowError;

        fn try_from(row: Row) -> Result<Self, RowError> {
            let work = match (row.kind, row.ids.as_slice()) {
                (WARMUP, [tenant, inbox]) => {
                    DueWork::Warmup(TenantId::from_bytes(*tenant), InboxId::from_bytes(*inbox))
                }
                (REPLY, [tenant, inbox, message]) => DueWork::Reply(
                    TenantId::from_bytes(*tenant),
                    InboxId::from_bytes(*inbox),
                    MessageId::from_bytes(*message),
                ),
                (CHECK_DOMAIN, [tenant, domain]) => DueWork::CheckDomain(
                    TenantId::from_bytes(*tenant),
                    DomainId::from_bytes(*domain),
                ),
                (JOB, [tenant, domain, job]) => DueWork::Job(
                    TenantId::from_bytes(*tenant),
                    DomainId::from_bytes(*domain),
                    JobId::from_bytes(*job),
                ),
                (TENANT, [tenant]) => DueWork::Tenant(TenantId::from_bytes(*tenant)),
                (NOTICE, []) => DueWork::Notice(row.number),
                (kind, ids) => {
                    let why = format!("{kind} with {} ids is no due work", ids.len());
                    return Err(RowError::damaged(why));
                }
            };
            Ok(Self {
                at: codec::policy(row.at),
                work,
            })
        }
    }

    /// Kind, ids and number, as they also stand in the key.
    pub(super) fn parts(work: &DueWork) -> (u8, Vec<[u8; 16]>, u64) {
        match work {
            DueWork::Warmup(tenant, inbox) => {
                (WARMUP, vec![*tenant.as_bytes(), *inbox.as_bytes()], 0)
            }
            DueWork::Reply(tenant, inbox, message) => {
                let ids = vec![*tenant.as_bytes(), *inbox.as_bytes(), *message.as_bytes()];
                (REPLY, ids, 0)
            }
            DueWork::CheckDomain(tenant, domain) => (
                CHECK_DOMAIN,
                vec![*tenant.as_bytes(), *domain.as_bytes()],
                0,
            ),
            DueWork::Job(tenant, domain, job) => {
                let ids = vec![*tenant.as_bytes(), *domain.as_bytes(), *job.as_bytes()];
                (JOB, ids, 0)
            }
            DueWork::Tenant(tenant) => (TENANT, vec![*tenant.as_bytes()], 0),
            DueWork::Notice(id) => (NOTICE, Vec::new(), *id),
        }
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::due::{DueRow, DueWork};
    use proptest::prelude::*;

    use crate::records::laws::{self, some};

    fn works() -> impl Strategy<Value = DueWork> {
        prop_oneof![
            (some::tenant(), some::inbox()).prop_map(|(t, i)| DueWork::Warmup(t, i)),
            (some::tenant(), some::inbox(), some::message())
                .prop_map(|(t, i, m)| DueWork::Reply(t, i, m)),
            (some::tenant(), some::domain()).prop_map(|(t, d)| DueWork::CheckDomain(t, d)),
            (some::tenant(), some::domain(), some::job())
                .prop_map(|(t, d, j)| DueWork::Job(t, d, j)),
            some::tenant().prop_map(DueWork::Tenant),
            any::<u64>().prop_map(DueWork::Notice),
        ]
    }

    fn rows() -> impl Strategy<Value = DueRow> {
        (some::policy(), works()).prop_map(|(at, work)| DueRow { at, work })
    }

    /// One of each kind.
    fn all() -> [DueRow; 6] {
        [
            DueWork::Warmup(some::TENANT, some::INBOX),
            DueWork::Reply(some::TENANT, some::INBOX, some::MESSAGE),
            DueWork::CheckDomain(some::TENANT, some::DOMAIN),
            DueWork::Job(some::TENANT, some::DOMAIN, some::JOB),
            DueWork::Tenant(some::TENANT),
            DueWork::Notice(7),
        ]
        .map(|work| DueRow {
            at: some::at(4),
            work,
        })
    }

    fn sample() -> DueRow {
        DueRow {
            at: some::at(4),
            work: DueWork::Reply(some::TENANT, some::INBOX, some::MESSAGE),
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        laws::golden(&all(), include_str!("../../golden/due.v1.hex"));
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    proptest! {
        #[test]
        fn a_row_comes_back(row in rows()) {
            prop_assert_eq!(laws::round_trip(&row), row);
        }

        #[test]
        fn keys_sort_by_time_and_differ_with_the_work(a in rows(), b in rows()) {
            if a.at == b.at {
                prop_assert_eq!(laws::key_of(&a) == laws::key_of(&b), a == b);
            } else {
                prop_assert_eq!(laws::key_of(&a).cmp(&laws::key_of(&b)), a.at.cmp(&b.at));
            }
        }
    }
}
