//! Table `users`: the people in accounts.
//! Key: tenant id, user id. Value: version byte, then the rkyv archive of a row.

use inboxgrove_model::{TenantId, UserId, tenant::User};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

impl Record for User {
    const TABLE: TableId = TableId::User;
    type Key = (TenantId, UserId);

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
    use inboxgrove_model::{
        TenantId, UserId,
        tenant::{Role, User},
    };
    use rkyv::{Archive, Deserialize, Serialize};
    use secrecy::ExposeSecret;

    use crate::{
        records::{codec, codes::Code},
        table::RowError,
    };

    pub(super) const VERSION: u8 = 1;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        id: [u8; 16],
        tenant: [u8; 16],
        email: String,
        password_hash: String,
        role: u8,
        created_at: i64,
        last_login_at: Option<i64>,
    }

    impl From<&User> for Row {
        fn from(user: &User) -> Self {
            Self {
                id: *user.id.as_bytes(),
                tenant: *user.tenant.as_bytes(),
                email: codec::address_text(&user.email),
                password_hash: user.password_hash.expose_secret().to_owned(),
                role: user.role.code(),
                created_at: user.created_at.as_millis(),
                last_login_at: codec::wall_millis(user.last_login_at),
            }
        }
    }

    impl TryFrom<Row> for User {
        type Error = RowError;

        fn try_from(row: Row) -> Result<Self, RowError> {
            Ok(Self {
                id: UserId::from_bytes(row.id),
                tenant: TenantId::from_bytes(row.tenant),
                email: codec::address(&row.email)?,
                password_hash: row.password_hash.into(),
                role: Role::from_code(row.role)?,
                created_at: codec::wall(row.created_at),
                last_login_at: row.last_login_at.map(codec::wall),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::tenant::{Role, User};
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use crate::records::laws::{self, some};

    fn users() -> impl Strategy<Value = User> {
        (
            (some::tenant(), some::user(), some::address()),
            (some::text(150), some::code::<Role>()),
            (some::wall(), proptest::option::of(some::wall())),
        )
            .prop_map(
                |((tenant, id, email), (hash, role), (created_at, last_login_at))| User {
                    id,
                    tenant,
                    email,
                    password_hash: hash.into(),
                    role,
                    created_at,
                    last_login_at,
                },
            )
    }

    fn sample() -> User {
        User {
            id: some::USER,
            tenant: some::TENANT,
            email: some::ada(),
            password_hash: "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA".into(),
            role: Role::Admin,
            created_at: some::wall_at(1),
            last_login_at: Some(some::wall_at(2)),
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        laws::golden(&[sample()], include_str!("../../golden/users.v1.hex"));
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    #[test]
    fn an_account_holds_its_users_together() {
        let key = |tenant, user| laws::key::<User>(&(some::tenant_id(tenant), some::user_id(user)));
        assert!([key(1, 9), key(2, 1), key(2, 3)].is_sorted());
    }

    proptest! {
        #[test]
        fn a_user_comes_back(user in users()) {
            let back = laws::round_trip(&user);
            // A user has no equality, so that hashes are not compared by chance.
            prop_assert_eq!(back.password_hash.expose_secret(), user.password_hash.expose_secret());
            prop_assert_eq!(
                (back.id, back.tenant, back.email, back.role, back.created_at, back.last_login_at),
                (user.id, user.tenant, user.email, user.role, user.created_at, user.last_login_at)
            );
        }
    }
}
