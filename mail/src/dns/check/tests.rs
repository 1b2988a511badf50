//! What the checks say in a good world and in every bad one.

use inboxgrove_model::{DomainName, SecretId, domain::DkimAlgorithm};

use super::*;
use crate::dns::fake::FakeDns;

fn selector(name: &str) -> DkimSelector {
    DkimSelector {
        name: name.into(),
        algorithm: DkimAlgorithm::Ed25519,
        public_key: "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=".into(),
        secret: SecretId::from_bytes([1; 16]),
    }
}

fn input() -> CheckInput {
    CheckInput {
        wanted: Wanted {
            domain: DomainName::parse("example.com").unwrap(),
            ownership_token: "t0ken".into(),
            mail_hosts: vec!["mx.grove.example".into()],
            selectors: vec![selector("ig1")],
            sources: vec![Source {
                address: "192.0.2.25".parse().unwrap(),
                ehlo_name: "out.grove.example".into(),
            }],
            dmarc_reports: None,
        },
        before: Vec::new(),
        at: PolicyTime::from_millis(5_000),
        allow_private: true,
    }
}

fn bare() -> FakeDns {
    FakeDns::new()
        .zone("example.com", &["192.0.2.1", "192.0.2.2"])
        .ptr("192.0.2.25", "out.grove.example")
        .a("out.grove.example", "192.0.2.25")
}

fn good() -> FakeDns {
    let mut dns = bare();
    for record in crate::dns::records_to_publish(&input().wanted) {
        dns = match record.kind {
            RecordType::Mx => dns.mx(&record.name, 10, "mx.grove.example"),
            _ => dns.txt(&record.name, &record.value),
        };
    }
    dns
}

async fn outcomes(dns: &FakeDns) -> Vec<(CheckKind, CheckOutcome)> {
    let checks = check_domain(&input(), dns).await;
    checks.into_iter().map(|c| (c.kind, c.outcome)).collect()
}

async fn check(kind: CheckKind, dns: &FakeDns) -> Check {
    let checks = check_domain(&input(), dns).await;
    checks.into_iter().find(|c| c.kind == kind).unwrap()
}

#[tokio::test]
async fn publishing_what_we_ask_for_passes_every_check() {
    let checks = check_domain(&input(), &good()).await;
    assert_eq!(checks.len(), 6);
    for check in checks {
        assert_eq!(check.outcome, CheckOutcome::Pass, "{check:?}");
        assert_eq!(check.passed_at, Some(input().at));
        assert!(check.fix.is_empty(), "{check:?}");
    }
}

#[tokio::test]
async fn an_empty_zone_fails_with_a_fix_for_everything_but_ptr() {
    for check in check_domain(&input(), &bare()).await {
        if check.kind == CheckKind::Ptr {
            assert_eq!(check.outcome, CheckOutcome::Pass);
        } else {
            assert_eq!(check.outcome, CheckOutcome::Fail, "{check:?}");
            assert!(check.fix.starts_with("Add "), "{check:?}");
        }
    }
}

#[tokio::test]
async fn an_unregistered_domain_fails() {
    for (kind, outcome) in outcomes(&FakeDns::new()).await {
        assert_eq!(outcome, CheckOutcome::Fail, "{kind:?}");
    }
}

#[tokio::test]
async fn one_silent_server_makes_it_unknown_and_is_named() {
    let dns = good().silent("192.0.2.2");
    let check = check(CheckKind::Ownership, &dns).await;
    assert_eq!(check.outcome, CheckOutcome::Unknown);
    assert!(check.found.is_empty());
    assert!(
        check.fix.contains("ns1.example.com did not say"),
        "{check:?}"
    );
}

#[tokio::test]
async fn servers_that_disagree_make_it_unknown() {
    let dns = bare()
        .frozen_at("192.0.2.2")
        .txt("_inboxgrove.example.com", "t0ken");
    let check = check(CheckKind::Ownership, &dns).await;
    assert_eq!(check.outcome, CheckOutcome::Unknown);
    assert!(
        check.fix.contains("ns0.example.com has the right record"),
        "{check:?}"
    );
    assert!(
        check.fix.contains("ns1.example.com says no record"),
        "{check:?}"
    );
}

#[tokio::test]
async fn an_outage_of_the_resolver_fails_nothing() {
    let dns = good()
        .servfail("example.com", RecordType::Soa)
        .servfail("25.2.0.192.in-addr.arpa", RecordType::Ptr);
    for (kind, outcome) in outcomes(&dns).await {
        assert_eq!(outcome, CheckOutcome::Unknown, "{kind:?}");
    }
}

#[tokio::test]
async fn a_check_remembers_when_it_last_passed() {
    let mut later = input();
    later.before = check_domain(&input(), &good()).await;
    later.at = PolicyTime::from_millis(9_000);
    for check in check_domain(&later, &bare()).await {
        let passed = if check.kind == CheckKind::Ptr {
            9_000
        } else {
            5_000
        };
        assert_eq!(check.passed_at, Some(PolicyTime::from_millis(passed)));
        assert_eq!(check.at, later.at);
    }
}

#[tokio::test]
async fn mail_hosts_must_be_ours_alone() {
    for (hosts, outcome, fix) in [
        (&["MX.Grove.example."][..], CheckOutcome::Pass, ""),
        (&["other.example"][..], CheckOutcome::Fail, "Replace"),
        (
            &["mx.grove.example", "other.example"][..],
            CheckOutcome::Fail,
            "Remove",
        ),
        (&["."][..], CheckOutcome::Fail, "Replace"),
    ] {
        let mut dns = good().without("example.com", RecordType::Mx);
        for host in hosts {
            dns = dns.mx("example.com", 10, host);
        }
        let check = check(CheckKind::Mx, &dns).await;
        assert_eq!(check.outcome, outcome, "{hosts:?} {check:?}");
        assert!(check.fix.starts_with(fix), "{hosts:?} {check:?}");
    }
}

#[tokio::test]
async fn spf_must_be_one_record_that_permits_our_address() {
    for (texts, outcome, fix) in [
        (
            &["v=spf1 ip4:192.0.2.0/24 ~all"][..],
            CheckOutcome::Pass,
            "",
        ),
        (
            &["v=spf1 include:i.example ~all", "site-proof=1"][..],
            CheckOutcome::Pass,
            "",
        ),
        (
            &["v=spf1 -all"][..],
            CheckOutcome::Fail,
            "Add ip4:192.0.2.25",
        ),
        (&["v=spf1 +all"][..], CheckOutcome::Fail, "End"),
        (
            &["v=spf1 ip4:192.0.2.25 ~all", "v=spf1 -all"][..],
            CheckOutcome::Fail,
            "Merge",
        ),
        (
            &["v=spf1 include:gone.example ~all"][..],
            CheckOutcome::Fail,
            "Correct",
        ),
        (
            &["v=spf1 include:dark.example ~all"][..],
            CheckOutcome::Unknown,
            "Nothing",
        ),
    ] {
        let mut dns = good()
            .without("example.com", RecordType::Txt)
            .txt("i.example", "v=spf1 ip4:192.0.2.25 -all")
            .servfail("dark.example", RecordType::Txt);
        for text in texts {
            dns = dns.txt("example.com", text);
        }
        let check = check(CheckKind::Spf, &dns).await;
        assert_eq!(check.outcome, outcome, "{texts:?} {check:?}");
        assert!(check.fix.starts_with(fix), "{texts:?} {check:?}");
    }
}

#[tokio::test]
async fn a_dkim_key_is_compared_not_just_present() {
    let key = selector("ig1").public_key;
    let (head, tail) = key.split_at(20);
    for (texts, outcome) in [
        (
            vec![format!("v=DKIM1; k=ed25519; p={key}")],
            CheckOutcome::Pass,
        ),
        (
            vec![format!("k=ed25519;p={head} {tail};")],
            CheckOutcome::Pass,
        ),
        (
            vec![format!(
                "v=DKIM1; k=ed25519; s=email; h=sha1:sha256; p={key}"
            )],
            CheckOutcome::Pass,
        ),
        (vec![format!("v=DKIM1; p={key}")], CheckOutcome::Fail),
        (
            vec![format!("v=DKIM2; k=ed25519; p={key}")],
            CheckOutcome::Fail,
        ),
        (
            vec![format!("v=DKIM1; k=ed25519; h=sha1; p={key}")],
            CheckOutcome::Fail,
        ),
        (
            vec![format!("v=DKIM1; k=ed25519; s=tls; p={key}")],
            CheckOutcome::Fail,
        ),
        (
            vec!["v=DKIM1; k=ed25519; p=".to_owned()],
            CheckOutcome::Fail,
        ),
        (
            vec!["v=DKIM1; k=ed25519; p=AAAA".to_owned()],
            CheckOutcome::Fail,
        ),
        (vec!["v=DKIM1; k=ed25519".to_owned()], CheckOutcome::Fail),
        (
            vec![format!("v=DKIM1; k=ed25519; p={key}"), "x".to_owned()],
            CheckOutcome::Fail,
        ),
    ] {
        let mut dns = good().without("ig1._domainkey.example.com", RecordType::Txt);
        for text in &texts {
            dns = dns.txt("ig1._domainkey.example.com", text);
        }
        let check = check(CheckKind::Dkim("ig1".into()), &dns).await;
        assert_eq!(check.outcome, outcome, "{texts:?} {check:?}");
    }
}

#[tokio::test]
async fn a_dkim_key_may_stand_behind_an_alias() {
    let key = selector("ig1").public_key;
    let dns = good()
        .without("ig1._domainkey.example.com", RecordType::Txt)
        .cname("ig1._domainkey.example.com", "ig1.keys.grove.example")
        .txt(
            "ig1.keys.grove.example",
            &format!("v=DKIM1; k=ed25519; p={key}"),
        );
    let check = check(CheckKind::Dkim("ig1".into()), &dns).await;
    assert_eq!(check.outcome, CheckOutcome::Pass, "{check:?}");
}

#[tokio::test]
async fn dmarc_needs_one_record_with_a_policy() {
    for (texts, outcome) in [
        (&["v=DMARC1; p=none"][..], CheckOutcome::Pass),
        (
            &["v=DMARC1; p=reject; sp=quarantine; np=reject; psd=n; t=y"][..],
            CheckOutcome::Pass,
        ),
        (
            &["v=DMARC1;p=quarantine;rua=mailto:a@example.com", "other"][..],
            CheckOutcome::Pass,
        ),
        (
            &["v=DMARC1; rua=mailto:a@example.com"][..],
            CheckOutcome::Fail,
        ),
        (&["p=none; v=DMARC1"][..], CheckOutcome::Fail),
        (
            &["v=DMARC1; p=none", "v=DMARC1; p=reject"][..],
            CheckOutcome::Fail,
        ),
        (&["v=DMARC1; p=none; aspf=x"][..], CheckOutcome::Fail),
    ] {
        let mut dns = good().without("_dmarc.example.com", RecordType::Txt);
        for text in texts {
            dns = dns.txt("_dmarc.example.com", text);
        }
        let check = check(CheckKind::Dmarc, &dns).await;
        assert_eq!(check.outcome, outcome, "{texts:?} {check:?}");
    }
}

#[tokio::test]
async fn a_subdomain_inherits_the_policy_above() {
    let mut input = input();
    input.wanted.domain = DomainName::parse("mail.example.com").unwrap();
    let checks = check_domain(&input, &good()).await;
    let dmarc = checks.iter().find(|c| c.kind == CheckKind::Dmarc).unwrap();
    assert_eq!(dmarc.outcome, CheckOutcome::Pass, "{dmarc:?}");
    assert!(dmarc.found.starts_with("inherited from _dmarc.example.com"));
}

#[tokio::test]
async fn an_address_must_be_named_and_confirmed() {
    let renamed = good()
        .without("25.2.0.192.in-addr.arpa", RecordType::Ptr)
        .ptr("192.0.2.25", "host25.isp.example")
        .a("host25.isp.example", "192.0.2.25");
    let check_renamed = check(CheckKind::Ptr, &renamed).await;
    assert_eq!(check_renamed.outcome, CheckOutcome::Pass);
    assert!(
        check_renamed
            .found
            .contains("while we greet as out.grove.example")
    );
    let nameless = good().without("25.2.0.192.in-addr.arpa", RecordType::Ptr);
    for (dns, outcome, fix) in [
        (good(), CheckOutcome::Pass, ""),
        (
            nameless.clone(),
            CheckOutcome::Fail,
            "Ask whoever runs the network to name 192.0.2.25 out.grove.example",
        ),
        (
            nameless.ptr("192.0.2.25", "a.other.example"),
            CheckOutcome::Fail,
            "Ask whoever runs the network to change",
        ),
        (
            good().without("out.grove.example", RecordType::A),
            CheckOutcome::Fail,
            "Give out.grove.example",
        ),
        (
            good()
                .servfail("out.grove.example", RecordType::A)
                .without("out.grove.example", RecordType::A),
            CheckOutcome::Unknown,
            "",
        ),
    ] {
        let check = check(CheckKind::Ptr, &dns).await;
        assert_eq!(check.outcome, outcome, "{check:?}");
        assert!(check.fix.contains(fix), "{check:?}");
    }
}

#[test]
fn a_check_can_move_between_threads() {
    fn is_send<T: Send>(_: T) {}
    let (input, dns) = (input(), good());
    is_send(check_domain(&input, &dns));
    is_send(crate::dns::mx_hosts(&input.wanted.domain, &dns));
}
