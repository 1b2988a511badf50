//! Table `sessions`: log-ins.
//! Key: tenant id, session id. Value: version byte, then the rkyv archive of a row.

use inboxgrove_model::{SessionId, TenantId, tenant::Session};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

impl Record for Session {
    const TABLE: TableId = TableId::Session;
    type Key = (TenantId, SessionId);

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
    use inboxgrove_model::{SessionId, TenantId, UserId, tenant::Session};
    use rkyv::{Archive, Deserialize, Serialize};

    use crate::{records::codec, table::RowError};

    pub(super) const VERSION: u8 = 1;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        id: [u8; 16],
        tenant: [u8; 16],
        user: [u8; 16],
        refresh_hash: [u8; 32],
        previous_hash: Option<[u8; 32]>,
        rotated_at: Option<i64>,
        expires_at: i64,
        created_at: i64,
        revoked_at: Option<i64>,
    }

    impl From<&Session> for Row {
        fn from(session: &Session) -> Self {
            Self {
                id: *session.id.as_bytes(),
                tenant: *session.tenant.as_bytes(),
                user: *session.user.as_bytes(),
                refresh_hash: session.refresh_hash,
                previous_hash: session.previous_hash,
                rotated_at: codec::wall_millis(session.rotated_at),
                expires_at: session.expires_at.as_millis(),
                created_at: session.created_at.as_millis(),
                revoked_at: codec::wall_millis(session.revoked_at),
            }
        }
    }

    impl TryFrom<Row> for Session {
        type Error = RowError;

        fn try_from(row: Row) -> Result<Self, RowError> {
            Ok(Self {
                id: SessionId::from_bytes(row.id),
                tenant: TenantId::from_bytes(row.tenant),
                user: UserId::from_bytes(row.user),
                refresh_hash: row.refresh_hash,
                previous_hash: row.previous_hash,
                rotated_at: row.rotated_at.map(codec::wall),
                expires_at: codec::wall(row.expires_at),
                created_at: codec::wall(row.created_at),
                revoked_at: row.revoked_at.map(codec::wall),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::tenant::Session;
    use proptest::prelude::*;

    use crate::records::laws::{self, some};

    fn sessions() -> impl Strategy<Value = Session> {
        (
            (
                some::tenant(),
                some::session(),
                some::user(),
                any::<[u8; 32]>(),
            ),
            proptest::option::of((any::<[u8; 32]>(), some::wall())),
            (
                some::wall(),
                some::wall(),
                proptest::option::of(some::wall()),
            ),
        )
            .prop_map(
                |(
                    (tenant, id, user, refresh_hash),
                    before,
                    (expires_at, created_at, revoked_at),
                )| {
                    Session {
                        id,
                        tenant,
                        user,
                        refresh_hash,
                        previous_hash: before.map(|(hash, _)| hash),
                        rotated_at: before.map(|(_, at)| at),
                        expires_at,
                        created_at,
                        revoked_at,
                    }
                },
            )
    }

    fn sample() -> Session {
        Session {
            id: some::SESSION,
            tenant: some::TENANT,
            user: some::USER,
            refresh_hash: [0xab; 32],
            previous_hash: Some([0xcd; 32]),
            rotated_at: Some(some::wall_at(3)),
            expires_at: some::wall_at(30),
            created_at: some::wall_at(1),
            revoked_at: Some(some::wall_at(2)),
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        laws::golden(&[sample()], include_str!("../../golden/sessions.v1.hex"));
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    proptest! {
        #[test]
        fn a_session_comes_back(session in sessions()) {
            prop_assert_eq!(laws::round_trip(&session), session);
        }
    }
}
