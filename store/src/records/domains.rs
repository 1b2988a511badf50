//! Table `domains`: names mail is sent from.
//! Key: tenant id, domain id. Value: version byte, then the rkyv archive of a row.
//!
//! The texts of its checks and its reason are for people and come from DNS: they are cut until the row
//! fits. Name, selectors, hosts and token are never cut; the longest name, 2 RSA keys and 3 of the
//! longest hosts still leave room for 12 checks.

use inboxgrove_model::{DomainId, TenantId, domain::Domain};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

impl Record for Domain {
    const TABLE: TableId = TableId::Domain;
    type Key = (TenantId, DomainId);

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
        DomainId, SecretId, TenantId,
        domain::{
            Check, CheckKind, CheckOutcome, DkimAlgorithm, DkimSelector, Domain, DomainStatus,
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

    const OWNERSHIP: u8 = 1;
    const MX: u8 = 2;
    const SPF: u8 = 3;
    const DKIM: u8 = 4;
    const DMARC: u8 = 5;
    const PTR: u8 = 6;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        id: [u8; 16],
        tenant: [u8; 16],
        name: String,
        status: u8,
        reason: String,
        selectors: Vec<SelectorRow>,
        ownership_token: String,
        mail_hosts: Vec<String>,
        checks: Vec<CheckRow>,
        created_at: i64,
        verified_at: Option<i64>,
        checked_at: Option<i64>,
        inboxes_count: u32,
    }

    #[derive(Archive, Serialize, Deserialize)]
    struct SelectorRow {
        name: String,
        algorithm: u8,
        public_key: String,
        secret: [u8; 16],
    }

    #[derive(Archive, Serialize, Deserialize)]
    struct CheckRow {
        kind: u8,
        /// Of a DKIM check; else empty.
        selector: String,
        outcome: u8,
        subject: String,
        expected: String,
        found: String,
        fix: String,
        at: i64,
        passed_at: Option<i64>,
    }

    impl Row {
        /// The reason and the texts of the checks may be cut.
        pub(super) fn cut(domain: &Domain, cut: Cut) -> Self {
            Self {
                id: *domain.id.as_bytes(),
                tenant: *domain.tenant.as_bytes(),
                name: domain.name.as_str().to_owned(),
                status: domain.status.code(),
                reason: cut.apply(&domain.reason),
                selectors: domain.selectors.iter().map(SelectorRow::from).collect(),
                ownership_token: domain.ownership_token.clone(),
                mail_hosts: domain.mail_hosts.clone(),
                checks: domain
                    .checks
                    .iter()
                    .map(|check| CheckRow::cut(check, cut))
                    .collect(),
                created_at: domain.created_at.as_millis(),
                verified_at: codec::policy_millis(domain.verified_at),
                checked_at: codec::policy_millis(domain.checked_at),
                inboxes_count: domain.inboxes_count,
            }
        }
    }

    impl From<&DkimSelector> for SelectorRow {
        fn from(selector: &DkimSelector) -> Self {
            Self {
                name: selector.name.clone(),
                algorithm: selector.algorithm.code(),
                public_key: selector.public_key.clone(),
                secret: *selector.secret.as_bytes(),
            }
        }
    }

    impl CheckRow {
        fn cut(check: &Check, cut: Cut) -> Self {
            let (kind, selector) = kind_code(&check.kind);
            Self {
                kind,
                selector: selector.to_owned(),
                outcome: check.outcome.code(),
                subject: cut.apply(&check.subject),
                expected: cut.apply(&check.expected),
                found: cut.apply(&check.found),
                fix: cut.apply(&check.fix),
                at: check.at.as_millis(),
                passed_at: codec::policy_millis(check.passed_at),
            }
        }
    }

    impl TryFrom<Row> for Domain {
        type Error = RowError;

        fn try_from(row: Row) -> Result<Self, RowError> {
            let selectors = row.selectors.into_iter().map(DkimSelector::try_from);
            let checks = row.checks.into_iter().map(Check::try_from);
            Ok(Self {
                id: DomainId::from_bytes(row.id),
                tenant: TenantId::from_bytes(row.tenant),
                name: codec::domain_name(&row.name)?,
                status: DomainStatus::from_code(row.status)?,
                reason: row.reason,
                selectors: selectors.collect::<Result<_, _>>()?,
                ownership_token: row.ownership_token,
                mail_hosts: row.mail_hosts,
                checks: checks.collect::<Result<_, _>>()?,
                created_at: codec::policy(row.created_at),
                verified_at: row.verified_at.map(codec::policy),
                checked_at: row.checked_at.map(codec::policy),
                inboxes_count: row.inboxes_count,
            })
        }
    }

    impl TryFrom<SelectorRow> for DkimSelector {
        type Error = RowError;

        fn try_from(row: SelectorRow) -> Result<Self, RowError> {
            Ok(Self {
                name: row.name,
                algorithm: DkimAlgorithm::from_code(row.algorithm)?,
                public_key: row.public_key,
                secret: SecretId::from_bytes(row.secret),
            })
        }
    }

    impl TryFrom<CheckRow> for Check {
        type Error = RowError;

        fn try_from(row: CheckRow) -> Result<Self, RowError> {
            Ok(Self {
                kind: check_kind(row.kind, row.selector)?,
                outcome: CheckOutcome::from_code(row.outcome)?,
                subject: row.subject,
                expected: row.expected,
                found: row.found,
                fix: row.fix,
                at: codec::policy(row.at),
                passed_at: row.passed_at.map(codec::policy),
            })
        }
    }

    fn kind_code(kind: &CheckKind) -> (u8, &str) {
        match kind {
            CheckKind::Ownership => (OWNERSHIP, ""),
            CheckKind::Mx => (MX, ""),
            CheckKind::Spf => (SPF, ""),
            CheckKind::Dkim(selector) => (DKIM, selector),
            CheckKind::Dmarc => (DMARC, ""),
            CheckKind::Ptr => (PTR, ""),
        }
    }

    fn check_kind(code: u8, selector: String) -> Result<CheckKind, RowError> {
        match code {
            OWNERSHIP => Ok(CheckKind::Ownership),
            MX => Ok(CheckKind::Mx),
            SPF => Ok(CheckKind::Spf),
            DKIM => Ok(CheckKind::Dkim(selector)),
            DMARC => Ok(CheckKind::Dmarc),
            PTR => Ok(CheckKind::Ptr),
            _ => Err(RowError::damaged(format!("{code} is no check"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::{
        DomainName,
        domain::{
            Check, CheckKind, CheckOutcome, DkimAlgorithm, DkimSelector, Domain, DomainStatus,
        },
    };
    use proptest::{collection::vec, option, prelude::*};

    use crate::records::laws::{self, some};

    fn kinds() -> impl Strategy<Value = CheckKind> {
        prop_oneof![
            Just(CheckKind::Ownership),
            Just(CheckKind::Mx),
            Just(CheckKind::Spf),
            "[a-z0-9]{1,20}".prop_map(CheckKind::Dkim),
            Just(CheckKind::Dmarc),
            Just(CheckKind::Ptr),
        ]
    }

    fn checks() -> impl Strategy<Value = Check> {
        (
            (kinds(), some::code::<CheckOutcome>(), some::host()),
            (some::text(60), some::text(60), some::text(60)),
            (some::policy(), option::of(some::policy())),
        )
            .prop_map(
                |((kind, outcome, subject), (expected, found, fix), (at, passed_at))| Check {
                    kind,
                    outcome,
                    subject,
                    expected,
                    found,
                    fix,
                    at,
                    passed_at,
                },
            )
    }

    fn selectors() -> impl Strategy<Value = DkimSelector> {
        (
            "[a-z0-9]{1,20}",
            some::code::<DkimAlgorithm>(),
            "[A-Za-z0-9+/]{40,400}",
            some::secret(),
        )
            .prop_map(|(name, algorithm, public_key, secret)| DkimSelector {
                name,
                algorithm,
                public_key,
                secret,
            })
    }

    fn domains() -> impl Strategy<Value = Domain> {
        (
            (
                some::tenant(),
                some::domain(),
                some::host(),
                some::code::<DomainStatus>(),
            ),
            (
                some::text(100),
                vec(selectors(), 0..3),
                "[a-z0-9]{32}",
                vec(some::host(), 0..3),
            ),
            (vec(checks(), 0..5), any::<u32>()),
            (
                some::policy(),
                option::of(some::policy()),
                option::of(some::policy()),
            ),
        )
            .prop_map(
                |(
                    (tenant, id, name, status),
                    (reason, selectors, ownership_token, mail_hosts),
                    (checks, inboxes_count),
                    (created_at, verified_at, checked_at),
                )| Domain {
                    id,
                    tenant,
                    name: DomainName::parse(&name).expect("it is a name"),
                    status,
                    reason,
                    selectors,
                    ownership_token,
                    mail_hosts,
                    checks,
                    created_at,
                    verified_at,
                    checked_at,
                    inboxes_count,
                },
            )
    }

    fn check(kind: CheckKind) -> Check {
        Check {
            kind,
            outcome: CheckOutcome::Fail,
            subject: "_dmarc.example.com".into(),
            expected: "v=DMARC1; p=quarantine".into(),
            found: "v=DMARC1; p=none".into(),
            fix: "Publish the expected record.".into(),
            at: some::at(3),
            passed_at: Some(some::at(2)),
        }
    }

    fn sample() -> Domain {
        Domain {
            id: some::DOMAIN,
            tenant: some::TENANT,
            name: DomainName::parse("example.com").unwrap(),
            status: DomainStatus::Degraded,
            reason: "its policy went away".into(),
            selectors: vec![DkimSelector {
                name: "grove1".into(),
                algorithm: DkimAlgorithm::Ed25519,
                public_key: "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=".into(),
                secret: some::SECRET,
            }],
            ownership_token: "k3p9".into(),
            mail_hosts: vec!["mx.example.net".into()],
            checks: vec![
                check(CheckKind::Dkim("grove1".into())),
                check(CheckKind::Dmarc),
            ],
            created_at: some::at(1),
            verified_at: Some(some::at(2)),
            checked_at: None,
            inboxes_count: 12,
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        let mut proven = sample();
        proven.checks = [
            CheckKind::Ownership,
            CheckKind::Mx,
            CheckKind::Spf,
            CheckKind::Ptr,
        ]
        .map(check)
        .to_vec();
        laws::golden(
            &[sample(), proven],
            include_str!("../../golden/domains.v1.hex"),
        );
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    #[test]
    fn what_dns_says_is_cut_to_fit() {
        let mut domain = sample();
        let label = "d".repeat(61);
        let longest = format!("{label}.{label}.{label}.{label}.ab");
        domain.name = DomainName::parse(&longest).unwrap();
        let key = "K".repeat(392);
        domain.selectors[0].public_key.clone_from(&key);
        domain.selectors.push(domain.selectors[0].clone());
        domain.mail_hosts = vec!["m".repeat(253); 3];
        domain.checks = vec![check(CheckKind::Spf); 12];
        for check in &mut domain.checks {
            check.subject.clone_from(&longest);
            check.found = "ü".repeat(2_000);
        }
        let kept = laws::round_trip(&domain);
        assert_eq!(kept.selectors, domain.selectors);
        assert!(
            kept.checks
                .iter()
                .all(|check| check.expected.starts_with("v=DMARC1;"))
        );
    }

    proptest! {
        #[test]
        fn a_domain_comes_back(domain in domains()) {
            prop_assert_eq!(laws::round_trip(&domain), domain);
        }
    }
}
