//! What the checks of a domain come to.

use super::*;

fn domain(status: DomainStatus) -> Domain {
    Domain {
        id: DomainId::from_bytes([1; 16]),
        tenant: TenantId::from_bytes([2; 16]),
        name: DomainName::parse("acme.test").expect("a name"),
        status,
        reason: "as it was".into(),
        selectors: Vec::new(),
        ownership_token: "token".into(),
        mail_hosts: Vec::new(),
        checks: Vec::new(),
        created_at: PolicyTime::from_millis(0),
        verified_at: None,
        checked_at: None,
        inboxes_count: 0,
    }
}

fn check(kind: CheckKind, outcome: CheckOutcome) -> Check {
    Check {
        kind,
        outcome,
        subject: "acme.test".into(),
        expected: String::new(),
        found: String::new(),
        fix: "publish it".into(),
        at: PolicyTime::from_millis(1),
        passed_at: None,
    }
}

fn looks(outcome: CheckOutcome) -> Vec<Check> {
    let dkim = CheckKind::Dkim("ig1".into());
    let required = [CheckKind::Ownership, CheckKind::Mx, CheckKind::Spf];
    let mut checks: Vec<_> = required.map(|kind| check(kind, CheckOutcome::Pass)).into();
    checks.push(check(dkim, outcome));
    checks.push(check(CheckKind::Dmarc, CheckOutcome::Fail));
    checks
}

#[test]
fn the_standing_moves_as_the_table_says() {
    use CheckOutcome::{Fail, Pass, Unknown};
    use DomainStatus::{Active, Degraded, PendingDns, Suspended};
    for (was, found, becomes) in [
        (PendingDns, Pass, Active),
        (PendingDns, Fail, PendingDns),
        (PendingDns, Unknown, PendingDns),
        (Active, Pass, Active),
        (Active, Fail, Degraded),
        (Active, Unknown, Active),
        (Degraded, Pass, Active),
        (Degraded, Fail, Degraded),
        (Degraded, Unknown, Degraded),
        (Suspended, Fail, Suspended),
    ] {
        let next = next_standing(&domain(was), looks(found), PolicyTime::from_millis(2));
        assert_eq!(next.status, becomes, "{was:?} and {found:?}");
    }
}

#[test]
fn an_unproven_domain_gives_its_name_back_after_a_week() {
    let now = PolicyTime::from_millis(0).after(UNPROVEN_FOR);
    let next = next_standing(
        &domain(DomainStatus::PendingDns),
        looks(CheckOutcome::Fail),
        now,
    );
    assert_eq!(next.status, DomainStatus::Expired);
    let proven_late = next_standing(
        &domain(DomainStatus::PendingDns),
        looks(CheckOutcome::Pass),
        now,
    );
    assert_eq!(proven_late.status, DomainStatus::Active);
}

#[test]
fn a_name_that_another_has_proven_waits_and_then_expires() {
    let was = domain(DomainStatus::PendingDns);
    for (now, becomes) in [
        (PolicyTime::from_millis(2), DomainStatus::PendingDns),
        (
            PolicyTime::from_millis(0).after(UNPROVEN_FOR),
            DomainStatus::Expired,
        ),
    ] {
        let found = next_standing(&was, looks(CheckOutcome::Pass), now);
        let lost = unproven(&was, found, now);
        assert_eq!(lost.status, becomes);
        assert_eq!(lost.verified_at, None);
        assert_eq!(lost.checks.len(), 5);
        assert!(lost.reason.contains("another account"), "{}", lost.reason);
    }
}

#[test]
fn a_refused_record_is_named_with_its_cure() {
    let next = next_standing(
        &domain(DomainStatus::Active),
        looks(CheckOutcome::Fail),
        PolicyTime::from_millis(2),
    );
    assert_eq!(next.reason, "DKIM ig1 acme.test: publish it");
}
