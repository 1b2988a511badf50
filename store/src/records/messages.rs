//! Table `messages`: messages, sent and received.
//! Key: tenant id, inbox id, message id. Value: version byte, then the rkyv archive of a row.
//!
//! The bound: with ten of the longest addresses and a sender of that length about 3,100 of the 3,896
//! bytes of a row are taken. Replies and the subject are cut to one length, at worst to 24 bytes each,
//! until the row fits; the three message ids are never cut. So a message whose ids have at most
//! [`MESSAGE_IDS_BYTES_MAX`] together always fits; any other may make a row above
//! [`ROW_BYTES_MAX`](super::ROW_BYTES_MAX), which the commit refuses as too big.

use inboxgrove_model::{InboxId, MessageId, TenantId, message::Message};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

/// Bytes that `message_id`, `in_reply_to` and `thread` may have together for a message to fit in its
/// row whatever its addresses and texts. One with fewer or shorter addresses may have more.
pub const MESSAGE_IDS_BYTES_MAX: usize = 498;

impl Record for Message {
    const TABLE: TableId = TableId::Message;
    type Key = (TenantId, InboxId, MessageId);

    fn key(&self) -> Self::Key {
        (self.tenant, self.inbox, self.id)
    }

    fn key_bytes((tenant, inbox, id): &Self::Key, _: &NameKey) -> Vec<u8> {
        KeyBytes::new()
            .id(tenant.as_bytes())
            .id(inbox.as_bytes())
            .id(id.as_bytes())
            .finish()
    }

    fn seal_with(&self) -> Option<TenantId> {
        Some(self.tenant)
    }

    fn to_row(&self) -> Vec<u8> {
        codec::write_cut(v1::VERSION, |cut| v1::Row::cut(self, cut))
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
        message::{
            BodyRef, BounceClass, Direction, Folder, Message, MessageClass, Recipient,
            RecipientState,
        },
    };
    use rkyv::{Archive, Deserialize, Serialize};

    use crate::{
        records::{
            codec::{self, Cut},
            codes::Code,
        },
        table::RowError,
    };

    pub(super) const VERSION: u8 = 1;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        id: [u8; 16],
        tenant: [u8; 16],
        inbox: [u8; 16],
        direction: u8,
        class: u8,
        mail_from: Option<String>,
        recipients: Vec<RecipientRow>,
        subject: String,
        message_id: String,
        in_reply_to: Option<String>,
        thread: String,
        body_seq: u64,
        body_index: u32,
        body_size: u32,
        accepted_at: i64,
        folder: u8,
    }

    #[derive(Archive, Serialize, Deserialize)]
    struct RecipientRow {
        address: String,
        state: u8,
        attempts: u16,
        last_reply: String,
    }

    impl Row {
        /// The subject and the replies may be cut.
        pub(super) fn cut(message: &Message, cut: Cut) -> Self {
            let recipients = message.recipients.iter();
            Self {
                id: *message.id.as_bytes(),
                tenant: *message.tenant.as_bytes(),
                inbox: *message.inbox.as_bytes(),
                direction: message.direction.code(),
                class: message.class.code(),
                mail_from: message.mail_from.as_ref().map(codec::address_text),
                recipients: recipients.map(|to| RecipientRow::cut(to, cut)).collect(),
                subject: cut.apply(&message.subject),
                message_id: message.message_id.clone(),
                in_reply_to: message.in_reply_to.clone(),
                thread: message.thread.clone(),
                body_seq: message.body.seq,
                body_index: message.body.index,
                body_size: message.body.size,
                accepted_at: message.accepted_at.as_millis(),
                folder: message.folder.code(),
            }
        }
    }

    impl RecipientRow {
        fn cut(recipient: &Recipient, cut: Cut) -> Self {
            Self {
                address: codec::address_text(&recipient.address),
                state: state_code(recipient.state),
                attempts: recipient.attempts,
                last_reply: cut.apply(&recipient.last_reply),
            }
        }
    }

    impl TryFrom<Row> for Message {
        type Error = RowError;

        fn try_from(row: Row) -> Result<Self, RowError> {
            let recipients = row.recipients.into_iter().map(Recipient::try_from);
            Ok(Self {
                id: MessageId::from_bytes(row.id),
                tenant: TenantId::from_bytes(row.tenant),
                inbox: InboxId::from_bytes(row.inbox),
                direction: Direction::from_code(row.direction)?,
                class: MessageClass::from_code(row.class)?,
                mail_from: row.mail_from.as_deref().map(codec::address).transpose()?,
                recipients: recipients.collect::<Result<_, _>>()?,
                subject: row.subject,
                message_id: row.message_id,
                in_reply_to: row.in_reply_to,
                thread: row.thread,
                body: BodyRef {
                    seq: row.body_seq,
                    index: row.body_index,
                    size: row.body_size,
                },
                accepted_at: codec::policy(row.accepted_at),
                folder: Folder::from_code(row.folder)?,
            })
        }
    }

    impl TryFrom<RecipientRow> for Recipient {
        type Error = RowError;

        fn try_from(row: RecipientRow) -> Result<Self, RowError> {
            Ok(Self {
                address: codec::address(&row.address)?,
                state: recipient_state(row.state)?,
                attempts: row.attempts,
                last_reply: row.last_reply,
            })
        }
    }

    fn state_code(state: RecipientState) -> u8 {
        match state {
            RecipientState::Queued => 1,
            RecipientState::Attempting => 2,
            RecipientState::Delivered => 3,
            RecipientState::Bounced(BounceClass::Recipient) => 4,
            RecipientState::Bounced(BounceClass::Infrastructure) => 5,
            RecipientState::Bounced(BounceClass::Content) => 6,
            RecipientState::Uncertain => 7,
            RecipientState::Suppressed => 8,
            RecipientState::Expired => 9,
            RecipientState::Received => 10,
        }
    }

    fn recipient_state(code: u8) -> Result<RecipientState, RowError> {
        match code {
            1 => Ok(RecipientState::Queued),
            2 => Ok(RecipientState::Attempting),
            3 => Ok(RecipientState::Delivered),
            4 => Ok(RecipientState::Bounced(BounceClass::Recipient)),
            5 => Ok(RecipientState::Bounced(BounceClass::Infrastructure)),
            6 => Ok(RecipientState::Bounced(BounceClass::Content)),
            7 => Ok(RecipientState::Uncertain),
            8 => Ok(RecipientState::Suppressed),
            9 => Ok(RecipientState::Expired),
            10 => Ok(RecipientState::Received),
            _ => Err(RowError::damaged(format!("{code} is no recipient state"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::{
        limits::{RECIPIENTS_MAX, REPLY_CHARS_MAX, SUBJECT_CHARS_MAX},
        message::{
            BodyRef, BounceClass, Direction, Folder, Message, MessageClass, Recipient,
            RecipientState,
        },
    };
    use proptest::{collection::vec, option, prelude::*, sample::select};

    use super::MESSAGE_IDS_BYTES_MAX;
    use crate::{
        records::{
            codec::ROW_BYTES_MAX,
            laws::{self, some},
        },
        table::Record,
    };

    const STATES: [RecipientState; 10] = [
        RecipientState::Queued,
        RecipientState::Attempting,
        RecipientState::Delivered,
        RecipientState::Bounced(BounceClass::Recipient),
        RecipientState::Bounced(BounceClass::Infrastructure),
        RecipientState::Bounced(BounceClass::Content),
        RecipientState::Uncertain,
        RecipientState::Suppressed,
        RecipientState::Expired,
        RecipientState::Received,
    ];

    fn recipients() -> impl Strategy<Value = Recipient> {
        (
            some::address(),
            select(&STATES[..]),
            any::<u16>(),
            some::text(100),
        )
            .prop_map(|(address, state, attempts, last_reply)| Recipient {
                address,
                state,
                attempts,
                last_reply,
            })
    }

    fn messages() -> impl Strategy<Value = Message> {
        let body =
            any::<(u64, u32, u32)>().prop_map(|(seq, index, size)| BodyRef { seq, index, size });
        (
            (
                some::tenant(),
                some::inbox(),
                some::message(),
                some::code::<Direction>(),
            ),
            (
                some::code::<MessageClass>(),
                option::of(some::address()),
                vec(recipients(), 0..11),
            ),
            (
                some::text(200),
                some::text(60),
                option::of(some::text(60)),
                some::text(60),
            ),
            (body, some::policy(), some::code::<Folder>()),
        )
            .prop_map(
                |(
                    (tenant, inbox, id, direction),
                    (class, mail_from, recipients),
                    (subject, message_id, in_reply_to, thread),
                    (body, accepted_at, folder),
                )| Message {
                    id,
                    tenant,
                    inbox,
                    direction,
                    class,
                    mail_from,
                    recipients,
                    subject,
                    message_id,
                    in_reply_to,
                    thread,
                    body,
                    accepted_at,
                    folder,
                },
            )
    }

    fn sample() -> Message {
        Message {
            id: some::MESSAGE,
            tenant: some::TENANT,
            inbox: some::INBOX,
            direction: Direction::Out,
            class: MessageClass::Person,
            mail_from: Some(some::ada()),
            recipients: vec![Recipient {
                address: some::ada(),
                state: RecipientState::Bounced(BounceClass::Recipient),
                attempts: 2,
                last_reply: "550 5.1.1 no such user".into(),
            }],
            subject: "Notes on the engine".into(),
            message_id: "1@example.com".into(),
            in_reply_to: Some("0@example.net".into()),
            thread: "0@example.net".into(),
            body: BodyRef {
                seq: 77,
                index: 1,
                size: 12_345,
            },
            accepted_at: some::at(3),
            folder: Folder::Sent,
        }
    }

    /// The largest message that the contract allows, but for its ids.
    fn largest() -> Message {
        let mut message = sample();
        message.mail_from = Some(some::longest_address(0));
        message.subject = "€".repeat(SUBJECT_CHARS_MAX);
        message.recipients = (0..RECIPIENTS_MAX)
            .map(|n| Recipient {
                address: some::longest_address(n),
                last_reply: format!("550 5.7.26 {}", "ü".repeat(REPLY_CHARS_MAX - 11)),
                ..message.recipients[0].clone()
            })
            .collect();
        message
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        let mut sent = sample();
        sent.recipients = STATES
            .map(|state| Recipient {
                state,
                ..sent.recipients[0].clone()
            })
            .to_vec();
        let received = Message {
            direction: Direction::In,
            mail_from: None,
            in_reply_to: None,
            folder: Folder::Spam,
            ..sample()
        };
        laws::golden(
            &[sent, received],
            include_str!("../../golden/messages.v1.hex"),
        );
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    #[test]
    fn ten_longest_addresses_with_longest_replies_fit() {
        let mut message = largest();
        let id = "i".repeat(MESSAGE_IDS_BYTES_MAX / 3);
        message.message_id.clone_from(&id);
        message.in_reply_to = Some(id.clone());
        message.thread.clone_from(&id);
        let kept = laws::round_trip(&message);
        assert_eq!((kept.message_id, kept.thread), (id.clone(), id));
        for (kept, given) in kept.recipients.iter().zip(&message.recipients) {
            assert_eq!(kept.address, given.address);
            assert!(given.last_reply.starts_with(&kept.last_reply));
            assert!(
                kept.last_reply.starts_with("550 5.7.26 "),
                "{}",
                kept.last_reply
            );
        }
    }

    #[test]
    fn a_message_that_cannot_be_cut_is_above_the_limit() {
        let mut message = largest();
        message.in_reply_to = Some("i".repeat(998));
        assert!(message.to_row().len() > ROW_BYTES_MAX);
    }

    #[test]
    fn an_inbox_holds_its_messages_in_the_order_they_came() {
        let key = |inbox, message| {
            laws::key::<Message>(&(
                some::TENANT,
                some::inbox_id(inbox),
                some::message_id(message),
            ))
        };
        assert!([key(1, 1), key(1, 2), key(2, 0)].is_sorted());
    }

    proptest! {
        #[test]
        fn a_message_comes_back(message in messages()) {
            prop_assert_eq!(laws::round_trip(&message), message);
        }
    }
}
