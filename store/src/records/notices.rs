//! Table `notices`: the outbox of what is told to operators and owners.
//! Key: id. Value: version byte, then the rkyv archive of a row; sealed when it is about a tenant.

use inboxgrove_model::{TenantId, notice::Notice};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

impl Record for Notice {
    const TABLE: TableId = TableId::Notice;
    type Key = u64;

    fn key(&self) -> u64 {
        self.id
    }

    fn key_bytes(key: &u64, _: &NameKey) -> Vec<u8> {
        KeyBytes::new().number(*key).finish()
    }

    fn seal_with(&self) -> Option<TenantId> {
        self.tenant
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
        TenantId,
        notice::{Notice, NoticeState},
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
        id: u64,
        tenant: Option<[u8; 16]>,
        code: String,
        text: String,
        subject: String,
        at: i64,
        attempts: u32,
        state: u8,
        last_error: String,
    }

    impl Row {
        /// The sentence and the last error may be cut.
        pub(super) fn cut(notice: &Notice, cut: Cut) -> Self {
            Self {
                id: notice.id,
                tenant: notice.tenant.map(|tenant| *tenant.as_bytes()),
                code: notice.code.clone(),
                text: cut.apply(&notice.text),
                subject: notice.subject.clone(),
                at: notice.at.as_millis(),
                attempts: notice.attempts,
                state: notice.state.code(),
                last_error: cut.apply(&notice.last_error),
            }
        }
    }

    impl TryFrom<Row> for Notice {
        type Error = RowError;

        fn try_from(row: Row) -> Result<Self, RowError> {
            Ok(Self {
                id: row.id,
                tenant: row.tenant.map(TenantId::from_bytes),
                code: row.code,
                text: row.text,
                subject: row.subject,
                at: codec::policy(row.at),
                attempts: row.attempts,
                state: NoticeState::from_code(row.state)?,
                last_error: row.last_error,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::notice::{Notice, NoticeState};
    use proptest::{option, prelude::*};

    use crate::records::laws::{self, some};

    fn notices() -> impl Strategy<Value = Notice> {
        (
            (any::<u64>(), option::of(some::tenant()), "[a-z_]{1,30}"),
            (some::text(300), some::text(100), some::text(300)),
            (some::policy(), any::<u32>(), some::code::<NoticeState>()),
        )
            .prop_map(
                |((id, tenant, code), (text, subject, last_error), (at, attempts, state))| Notice {
                    id,
                    tenant,
                    code,
                    text,
                    subject,
                    at,
                    attempts,
                    state,
                    last_error,
                },
            )
    }

    fn sample() -> Notice {
        Notice {
            id: 513,
            tenant: Some(some::TENANT),
            code: "domain_degraded".into(),
            text: "example.com has lost its DMARC record.".into(),
            subject: some::DOMAIN.to_string(),
            at: some::at(3),
            attempts: 2,
            state: NoticeState::Dead,
            last_error: "503 from the webhook".into(),
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        let of_nobody = Notice {
            tenant: None,
            ..sample()
        };
        laws::golden(
            &[sample(), of_nobody],
            include_str!("../../golden/notices.v1.hex"),
        );
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    #[test]
    fn long_texts_are_cut_to_fit() {
        let mut notice = sample();
        notice.last_error = "no ".repeat(3_000);
        notice.text = "yes ".repeat(3_000);
        let kept = laws::round_trip(&notice);
        assert_eq!((kept.text.len(), kept.last_error.len()), (400, 400));
    }

    #[test]
    fn later_notices_come_later() {
        assert!(
            [1, 255, 256, u64::MAX]
                .map(|id| laws::key::<Notice>(&id))
                .is_sorted()
        );
    }

    proptest! {
        #[test]
        fn a_notice_comes_back(notice in notices()) {
            prop_assert_eq!(laws::round_trip(&notice), notice);
        }
    }
}
