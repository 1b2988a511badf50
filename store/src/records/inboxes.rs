//! Table `inboxes`: mailboxes.
//! Key: tenant id, inbox id. Value: version byte, then the rkyv archive of a row.

use inboxgrove_model::{InboxId, TenantId, inbox::Inbox};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

impl Record for Inbox {
    const TABLE: TableId = TableId::Inbox;
    type Key = (TenantId, InboxId);

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
        codec::write_cut(v1::VERSION, |cut| v1::Row::cut(self, cut))
    }

    #[cfg(test)]
    fn to_row_at(&self, format: u8) -> Vec<u8> {
        match format {
            to_come::FORMAT => codec::write_cut(to_come::VERSION, |cut| {
                to_come::Row::new(v1::Row::cut(self, cut))
            }),
            _ => self.to_row(),
        }
    }

    fn from_row(_: &[u8], row: &[u8]) -> Result<Self, RowError> {
        match codec::split(row)? {
            (v1::VERSION, archive) => codec::read::<v1::Row>(archive)?.try_into(),
            #[cfg(test)]
            (to_come::VERSION, archive) => codec::read::<to_come::Row>(archive)?.was.try_into(),
            (version, _) => Err(RowError::UnknownVersion(version)),
        }
    }
}

/// Never edited once released; a change is a `mod v2`.
mod v1 {
    use inboxgrove_model::{
        DomainId, InboxId, SecretId, TenantId,
        inbox::{Band, Credential, DayPlan, Inbox, InboxStatus, Partner, Warmup, WarmupState},
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
        domain: [u8; 16],
        address: String,
        display_name: String,
        status: u8,
        reason: String,
        daily_limit: u32,
        hourly_limit: u32,
        time_zone: String,
        credential: CredentialRow,
        warmup: WarmupRow,
        wake_at: Option<i64>,
        partners: Vec<([u8; 16], i64)>,
        created_at: i64,
    }

    #[derive(Archive, Serialize, Deserialize)]
    struct CredentialRow {
        secret: [u8; 16],
        shown: bool,
        rotated_at: i64,
    }

    #[derive(Archive, Serialize, Deserialize)]
    struct WarmupRow {
        state: u8,
        started_at: Option<i64>,
        active_days: u32,
        base: u32,
        increment: u32,
        cap: u32,
        seed: u64,
        today: Option<DayPlanRow>,
        band: u8,
        band_since: i64,
    }

    #[derive(Archive, Serialize, Deserialize)]
    struct DayPlanRow {
        local_day: i64,
        target: u32,
        sent: u32,
        next_at: Option<i64>,
    }

    impl Row {
        /// The reason may be cut.
        pub(super) fn cut(inbox: &Inbox, cut: Cut) -> Self {
            Self {
                id: *inbox.id.as_bytes(),
                tenant: *inbox.tenant.as_bytes(),
                domain: *inbox.domain.as_bytes(),
                address: codec::address_text(&inbox.address),
                display_name: inbox.display_name.clone(),
                status: inbox.status.code(),
                reason: cut.apply(&inbox.reason),
                daily_limit: inbox.daily_limit,
                hourly_limit: inbox.hourly_limit,
                time_zone: inbox.time_zone.clone(),
                credential: CredentialRow {
                    secret: *inbox.credential.secret.as_bytes(),
                    shown: inbox.credential.shown,
                    rotated_at: inbox.credential.rotated_at.as_millis(),
                },
                warmup: WarmupRow::from(&inbox.warmup),
                wake_at: codec::policy_millis(inbox.wake_at),
                partners: inbox
                    .partners
                    .iter()
                    .map(|partner| (*partner.inbox.as_bytes(), partner.met_at.as_millis()))
                    .collect(),
                created_at: inbox.created_at.as_millis(),
            }
        }
    }

    impl From<&Warmup> for WarmupRow {
        fn from(warmup: &Warmup) -> Self {
            Self {
                state: warmup.state.code(),
                started_at: codec::policy_millis(warmup.started_at),
                active_days: warmup.active_days,
                base: warmup.base,
                increment: warmup.increment,
                cap: warmup.cap,
                seed: warmup.seed,
                today: warmup.today.as_ref().map(|plan| DayPlanRow {
                    local_day: plan.local_day,
                    target: plan.target,
                    sent: plan.sent,
                    next_at: codec::policy_millis(plan.next_at),
                }),
                band: warmup.band.code(),
                band_since: warmup.band_since.as_millis(),
            }
        }
    }

    impl TryFrom<Row> for Inbox {
        type Error = RowError;

        fn try_from(row: Row) -> Result<Self, RowError> {
            Ok(Self {
                id: InboxId::from_bytes(row.id),
                tenant: TenantId::from_bytes(row.tenant),
                domain: DomainId::from_bytes(row.domain),
                address: codec::address(&row.address)?,
                display_name: row.display_name,
                status: InboxStatus::from_code(row.status)?,
                reason: row.reason,
                daily_limit: row.daily_limit,
                hourly_limit: row.hourly_limit,
                time_zone: row.time_zone,
                credential: Credential {
                    secret: SecretId::from_bytes(row.credential.secret),
                    shown: row.credential.shown,
                    rotated_at: codec::policy(row.credential.rotated_at),
                },
                warmup: row.warmup.try_into()?,
                wake_at: row.wake_at.map(codec::policy),
                partners: row
                    .partners
                    .into_iter()
                    .map(|(inbox, met_at)| Partner {
                        inbox: InboxId::from_bytes(inbox),
                        met_at: codec::policy(met_at),
                    })
                    .collect(),
                created_at: codec::policy(row.created_at),
            })
        }
    }

    impl TryFrom<WarmupRow> for Warmup {
        type Error = RowError;

        fn try_from(row: WarmupRow) -> Result<Self, RowError> {
            Ok(Self {
                state: WarmupState::from_code(row.state)?,
                started_at: row.started_at.map(codec::policy),
                active_days: row.active_days,
                base: row.base,
                increment: row.increment,
                cap: row.cap,
                seed: row.seed,
                today: row.today.map(|plan| DayPlan {
                    local_day: plan.local_day,
                    target: plan.target,
                    sent: plan.sent,
                    next_at: plan.next_at.map(codec::policy),
                }),
                band: Band::from_code(row.band)?,
                band_since: codec::policy(row.band_since),
            })
        }
    }
}

/// A version as a later release may bring it, for the laws of migration.
#[cfg(test)]
mod to_come {
    use rkyv::{Archive, Deserialize, Serialize};

    use super::v1;

    /// The store's format that has it.
    pub(super) const FORMAT: u8 = 2;
    pub(super) const VERSION: u8 = 2;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        pub(super) was: v1::Row,
        signature: String,
    }

    impl Row {
        pub(super) fn new(was: v1::Row) -> Self {
            Self {
                was,
                signature: "what version 1 has no room for".to_owned(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::{
        inbox::{Band, Credential, DayPlan, Inbox, InboxStatus, Partner, Warmup, WarmupState},
        limits::PARTNERS_MAX,
    };
    use proptest::{collection, option, prelude::*};

    use crate::records::laws::{self, some};

    fn warmups() -> impl Strategy<Value = Warmup> {
        let plan = (any::<(i64, u32, u32)>(), option::of(some::policy())).prop_map(
            |((local_day, target, sent), next_at)| DayPlan {
                local_day,
                target,
                sent,
                next_at,
            },
        );
        (
            (some::code::<WarmupState>(), option::of(some::policy())),
            any::<(u32, u32, u32, u32, u64)>(),
            (option::of(plan), some::code::<Band>(), some::policy()),
        )
            .prop_map(
                |(
                    (state, started_at),
                    (active_days, base, increment, cap, seed),
                    (today, band, band_since),
                )| Warmup {
                    state,
                    started_at,
                    active_days,
                    base,
                    increment,
                    cap,
                    seed,
                    today,
                    band,
                    band_since,
                },
            )
    }

    fn inboxes() -> impl Strategy<Value = Inbox> {
        let credential = (some::secret(), any::<bool>(), some::policy()).prop_map(
            |(secret, shown, rotated_at)| Credential {
                secret,
                shown,
                rotated_at,
            },
        );
        (
            (
                some::tenant(),
                some::domain(),
                some::inbox(),
                some::address(),
            ),
            (
                some::text(100),
                some::code::<InboxStatus>(),
                some::text(200),
            ),
            (any::<(u32, u32)>(), some::zone(), credential),
            (warmups(), some::policy(), option::of(some::policy())),
            collection::vec((some::inbox(), some::policy()), 0..=PARTNERS_MAX),
        )
            .prop_map(
                |(
                    (tenant, domain, id, address),
                    (display_name, status, reason),
                    ((daily_limit, hourly_limit), time_zone, credential),
                    (warmup, created_at, wake_at),
                    partners,
                )| Inbox {
                    id,
                    tenant,
                    domain,
                    address,
                    display_name,
                    status,
                    reason,
                    daily_limit,
                    hourly_limit,
                    time_zone,
                    credential,
                    warmup,
                    wake_at,
                    partners: partners
                        .into_iter()
                        .map(|(inbox, met_at)| Partner { inbox, met_at })
                        .collect(),
                    created_at,
                },
            )
    }

    fn sample() -> Inbox {
        Inbox {
            id: some::INBOX,
            tenant: some::TENANT,
            domain: some::DOMAIN,
            address: some::ada(),
            display_name: "Ada Lovelace".into(),
            status: InboxStatus::Warming,
            reason: "day 5 of the ramp".into(),
            daily_limit: 40,
            hourly_limit: 8,
            time_zone: "Europe/London".into(),
            credential: Credential {
                secret: some::SECRET,
                shown: true,
                rotated_at: some::at(1),
            },
            warmup: Warmup {
                state: WarmupState::Running,
                started_at: Some(some::at(2)),
                active_days: 5,
                base: 2,
                increment: 2,
                cap: 30,
                seed: 0x0123_4567_89ab_cdef,
                today: Some(DayPlan {
                    local_day: 20_460,
                    target: 12,
                    sent: 3,
                    next_at: Some(some::at(7)),
                }),
                band: Band::SoftHold,
                band_since: some::at(6),
            },
            wake_at: Some(some::at(8)),
            partners: vec![Partner {
                inbox: some::INBOX,
                met_at: some::at(3),
            }],
            created_at: some::at(1),
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        let mut fresh = sample();
        fresh.warmup.today = None;
        fresh.warmup.started_at = None;
        fresh.reason.clear();
        fresh.wake_at = None;
        fresh.partners.clear();
        laws::golden(
            &[sample(), fresh],
            include_str!("../../golden/inboxes.v1.hex"),
        );
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    #[test]
    fn a_reason_of_any_length_is_cut_to_fit() {
        let mut inbox = sample();
        inbox.address = some::longest_address(0);
        inbox.partners = vec![inbox.partners[0]; PARTNERS_MAX];
        inbox.reason = "why ".repeat(2_000);
        let kept = laws::round_trip(&inbox);
        assert_eq!(kept.reason, "why ".repeat(100));
    }

    proptest! {
        #[test]
        fn an_inbox_comes_back(inbox in inboxes()) {
            prop_assert_eq!(laws::round_trip(&inbox), inbox);
        }
    }
}
