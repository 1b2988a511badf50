//! Table `tenants`: accounts.
//! Key: tenant id. Value: version byte, then the rkyv archive of a row.

use inboxgrove_model::{TenantId, tenant::Tenant};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

impl Record for Tenant {
    const TABLE: TableId = TableId::Tenant;
    type Key = TenantId;

    fn key(&self) -> TenantId {
        self.id
    }

    fn key_bytes(key: &TenantId, _: &NameKey) -> Vec<u8> {
        KeyBytes::new().id(key.as_bytes()).finish()
    }

    fn seal_with(&self) -> Option<TenantId> {
        Some(self.id)
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
        tenant::{Suspension, SuspensionReason, Tenant, TenantStatus},
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
        company: String,
        plan: String,
        status: u8,
        suspension: Option<SuspensionRow>,
        time_zone: String,
        created_at: i64,
        trial_ends_at: Option<i64>,
        domains_count: u32,
        inboxes_count: u32,
    }

    #[derive(Archive, Serialize, Deserialize)]
    struct SuspensionRow {
        reason: u8,
        note: String,
        since: i64,
        former: u8,
    }

    impl Row {
        /// The note may be cut.
        pub(super) fn cut(tenant: &Tenant, cut: Cut) -> Self {
            let suspension = tenant.suspension.as_ref();
            Self {
                id: *tenant.id.as_bytes(),
                company: tenant.company.clone(),
                plan: tenant.plan.clone(),
                status: tenant.status.code(),
                suspension: suspension.map(|why| SuspensionRow {
                    reason: why.reason.code(),
                    note: cut.apply(&why.note),
                    since: why.since.as_millis(),
                    former: why.former.code(),
                }),
                time_zone: tenant.time_zone.clone(),
                created_at: tenant.created_at.as_millis(),
                trial_ends_at: codec::policy_millis(tenant.trial_ends_at),
                domains_count: tenant.domains_count,
                inboxes_count: tenant.inboxes_count,
            }
        }
    }

    impl TryFrom<Row> for Tenant {
        type Error = RowError;

        fn try_from(row: Row) -> Result<Self, RowError> {
            Ok(Self {
                id: TenantId::from_bytes(row.id),
                company: row.company,
                plan: row.plan,
                status: TenantStatus::from_code(row.status)?,
                suspension: row.suspension.map(Suspension::try_from).transpose()?,
                time_zone: row.time_zone,
                created_at: codec::policy(row.created_at),
                trial_ends_at: row.trial_ends_at.map(codec::policy),
                domains_count: row.domains_count,
                inboxes_count: row.inboxes_count,
            })
        }
    }

    impl TryFrom<SuspensionRow> for Suspension {
        type Error = RowError;

        fn try_from(row: SuspensionRow) -> Result<Self, RowError> {
            Ok(Self {
                reason: SuspensionReason::from_code(row.reason)?,
                note: row.note,
                since: codec::policy(row.since),
                former: TenantStatus::from_code(row.former)?,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::tenant::{Suspension, SuspensionReason, Tenant, TenantStatus};
    use proptest::prelude::*;

    use crate::records::laws::{self, some};

    fn tenants() -> impl Strategy<Value = Tenant> {
        let suspension = (
            some::code::<SuspensionReason>(),
            some::text(300),
            some::policy(),
            some::code::<TenantStatus>(),
        )
            .prop_map(|(reason, note, since, former)| Suspension {
                reason,
                note,
                since,
                former,
            });
        (
            (some::tenant(), some::text(200), "[a-z]{1,20}"),
            (
                some::code::<TenantStatus>(),
                proptest::option::of(suspension),
            ),
            (
                some::zone(),
                some::policy(),
                proptest::option::of(some::policy()),
            ),
            any::<(u32, u32)>(),
        )
            .prop_map(
                |(
                    (id, company, plan),
                    (status, suspension),
                    (time_zone, created_at, trial_ends_at),
                    (domains_count, inboxes_count),
                )| Tenant {
                    id,
                    company,
                    plan,
                    status,
                    suspension,
                    time_zone,
                    created_at,
                    trial_ends_at,
                    domains_count,
                    inboxes_count,
                },
            )
    }

    fn sample() -> Tenant {
        Tenant {
            id: some::TENANT,
            company: "Analytical Engines Ltd".into(),
            plan: "growth".into(),
            status: TenantStatus::Suspended,
            suspension: Some(Suspension {
                reason: SuspensionReason::HardBounces,
                note: "six of ten bounced".into(),
                since: some::at(2),
                former: TenantStatus::Active,
            }),
            time_zone: "Europe/Berlin".into(),
            created_at: some::at(1),
            trial_ends_at: Some(some::at(7)),
            domains_count: 3,
            inboxes_count: 40,
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        let trying = Tenant {
            status: TenantStatus::Trial,
            suspension: None,
            trial_ends_at: None,
            ..sample()
        };
        laws::golden(
            &[sample(), trying],
            include_str!("../../golden/tenants.v1.hex"),
        );
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    #[test]
    fn a_note_of_any_length_is_cut_to_fit() {
        let mut tenant = sample();
        let long = "€".repeat(5_000);
        tenant.suspension.as_mut().unwrap().note.clone_from(&long);
        let kept = laws::round_trip(&tenant).suspension.unwrap().note;
        assert!(kept.len() >= 200 && long.starts_with(&kept), "{kept}");
    }

    proptest! {
        #[test]
        fn a_tenant_comes_back(tenant in tenants()) {
            prop_assert_eq!(laws::round_trip(&tenant), tenant);
        }
    }
}
