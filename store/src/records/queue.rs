//! Table `queue`: recipients that wait for an attempt.
//! Key: time it is due, message id, recipient's index. Value: version byte, then the rkyv archive of a row.
//!
//! In clear: it holds ids and times only, and is the row that is written most.

use inboxgrove_model::{MessageId, PolicyTime, TenantId, message::QueueEntry};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

impl Record for QueueEntry {
    const TABLE: TableId = TableId::Queue;
    type Key = (PolicyTime, MessageId, u16);

    fn key(&self) -> Self::Key {
        (self.due_at, self.message, self.recipient)
    }

    fn key_bytes((due_at, message, recipient): &Self::Key, _: &NameKey) -> Vec<u8> {
        KeyBytes::new()
            .time(*due_at)
            .id(message.as_bytes())
            .small(*recipient)
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
            (v1::VERSION, archive) => codec::read::<v1::Row>(archive)?.try_into(),
            (version, _) => Err(RowError::UnknownVersion(version)),
        }
    }
}

/// Never edited once released; a change is a `mod v2`.
mod v1 {
    use inboxgrove_model::{
        InboxId, MessageId, TenantId,
        message::{MessageClass, QueueEntry},
    };
    use rkyv::{Archive, Deserialize, Serialize};

    use crate::{
        records::{
            codec::{self, IpBytes},
            codes::Code,
        },
        table::RowError,
    };

    pub(super) const VERSION: u8 = 1;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        message: [u8; 16],
        recipient: u16,
        tenant: [u8; 16],
        inbox: [u8; 16],
        due_at: i64,
        accepted_at: i64,
        attempts: u16,
        class: u8,
        attempting: bool,
        source: Option<IpBytes>,
        held: bool,
    }

    impl From<&QueueEntry> for Row {
        fn from(entry: &QueueEntry) -> Self {
            Self {
                message: *entry.message.as_bytes(),
                recipient: entry.recipient,
                tenant: *entry.tenant.as_bytes(),
                inbox: *entry.inbox.as_bytes(),
                due_at: entry.due_at.as_millis(),
                accepted_at: entry.accepted_at.as_millis(),
                attempts: entry.attempts,
                class: entry.class.code(),
                attempting: entry.attempting,
                source: entry.source.map(codec::ip_bytes),
                held: entry.held,
            }
        }
    }

    impl TryFrom<Row> for QueueEntry {
        type Error = RowError;

        fn try_from(row: Row) -> Result<Self, RowError> {
            Ok(Self {
                message: MessageId::from_bytes(row.message),
                recipient: row.recipient,
                tenant: TenantId::from_bytes(row.tenant),
                inbox: InboxId::from_bytes(row.inbox),
                due_at: codec::policy(row.due_at),
                accepted_at: codec::policy(row.accepted_at),
                attempts: row.attempts,
                class: MessageClass::from_code(row.class)?,
                attempting: row.attempting,
                source: row.source.map(codec::ip).transpose()?,
                held: row.held,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use inboxgrove_model::{
        PolicyTime,
        message::{MessageClass, QueueEntry},
    };
    use proptest::{option, prelude::*};

    use crate::records::laws::{self, some};

    fn entries() -> impl Strategy<Value = QueueEntry> {
        (
            (
                some::message(),
                any::<(u16, u16, bool, bool)>(),
                some::tenant(),
                some::inbox(),
            ),
            (some::policy(), some::policy()),
            (some::code::<MessageClass>(), option::of(some::ip())),
        )
            .prop_map(
                |(
                    (message, (recipient, attempts, attempting, held), tenant, inbox),
                    (due_at, accepted_at),
                    (class, source),
                )| QueueEntry {
                    message,
                    recipient,
                    tenant,
                    inbox,
                    due_at,
                    accepted_at,
                    attempts,
                    class,
                    attempting,
                    source,
                    held,
                },
            )
    }

    fn sample() -> QueueEntry {
        QueueEntry {
            message: some::MESSAGE,
            recipient: 3,
            tenant: some::TENANT,
            inbox: some::INBOX,
            due_at: some::at(4),
            accepted_at: some::at(3),
            attempts: 1,
            class: MessageClass::Warmup,
            attempting: true,
            source: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 25))),
            held: false,
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        let never_tried = QueueEntry {
            source: None,
            attempting: false,
            held: true,
            ..sample()
        };
        let over_v6 = QueueEntry {
            source: Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            ..sample()
        };
        laws::golden(
            &[sample(), never_tried, over_v6],
            include_str!("../../golden/queue.v1.hex"),
        );
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    #[test]
    fn the_earliest_entry_comes_first() {
        let key = |millis, message, recipient| {
            laws::key::<QueueEntry>(&(
                PolicyTime::from_millis(millis),
                some::message_id(message),
                recipient,
            ))
        };
        let keys = [
            key(-1, 9, 9),
            key(0, 1, 1),
            key(256, 0, 2),
            key(256, 0, 256),
            key(257, 0, 0),
        ];
        assert!(keys.is_sorted());
    }

    proptest! {
        #[test]
        fn an_entry_comes_back(entry in entries()) {
            prop_assert_eq!(laws::round_trip(&entry), entry);
        }

        #[test]
        fn keys_sort_by_time(a in entries(), b in entries()) {
            prop_assume!(a.due_at != b.due_at);
            let keys = laws::key_of(&a).cmp(&laws::key_of(&b));
            prop_assert_eq!(keys, a.due_at.cmp(&b.due_at));
        }
    }
}
