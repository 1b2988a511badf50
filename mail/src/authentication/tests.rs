//! Verdicts over a small world, and what happens when it goes dark.

use inboxgrove_model::{DomainName, domain::DkimAlgorithm, ports::RecordType};
use proptest::prelude::*;

use super::*;
use crate::{
    dkim::{PrivateKey, Signer},
    dns::fake::FakeDns,
};

const MESSAGE: &[u8] =
    b"From: ada@example.com\r\nTo: bob@example.net\r\nSubject: Hello\r\n\r\nHi\r\n";

fn envelope(ip: &str, from: Option<&str>) -> Envelope {
    Envelope {
        ip: ip.parse().unwrap(),
        helo: "out.example.com".into(),
        mail_from: from.map(|from| EmailAddress::parse(from).unwrap()),
    }
}

fn world() -> FakeDns {
    FakeDns::new()
        .txt("example.com", "site-proof=1")
        .txt(
            "example.com",
            "v=spf1 a:out.example.com include:spf.example.net -all",
        )
        .txt(
            "spf.example.net",
            "v=spf1 mx exists:%{i}.ok.example.net ?all",
        )
        .mx("spf.example.net", 10, "mx.example.net")
        .a("mx.example.net", "192.0.2.20")
        .a("out.example.com", "192.0.2.10")
        .a("192.0.2.30.ok.example.net", "127.0.0.2")
        .txt("out.example.com", "v=spf1 a -all")
        .txt(
            "_dmarc.example.com",
            "v=DMARC1; p=reject; sp=quarantine; np=none",
        )
}

async fn run(ip: &str, from: Option<&str>, message: &[u8], dns: &FakeDns) -> AuthenticationResults {
    evaluate(&envelope(ip, from), message, dns, "mx.grove.example").await
}

#[tokio::test]
async fn spf_is_evaluated_through_includes_hosts_and_macros() {
    let dns = world();
    for (ip, outcome) in [
        ("192.0.2.10", Outcome::Pass),
        ("192.0.2.20", Outcome::Pass),
        ("192.0.2.30", Outcome::Pass),
        ("192.0.2.99", Outcome::Fail),
        ("2001:db8::1", Outcome::Fail),
    ] {
        let found = run(ip, Some("ada@example.com"), MESSAGE, &dns).await;
        assert_eq!(found.spf.outcome, outcome, "{ip} {found:?}");
        assert_eq!(found.spf.domain, "example.com");
    }
}

#[tokio::test]
async fn the_null_sender_is_judged_by_its_greeting() {
    let found = run("192.0.2.10", None, MESSAGE, &world()).await;
    assert_eq!(found.spf.outcome, Outcome::Pass, "{found:?}");
    assert_eq!(found.spf.domain, "out.example.com");
}

#[tokio::test]
async fn darkness_is_temporary_and_absence_is_none() {
    for (dns, outcome) in [
        (
            world().servfail("example.com", RecordType::Txt),
            Outcome::TempError,
        ),
        (
            world().servfail("out.example.com", RecordType::A),
            Outcome::TempError,
        ),
        (
            world().servfail("spf.example.net", RecordType::Txt),
            Outcome::TempError,
        ),
        (
            world().servfail("mx.example.net", RecordType::A),
            Outcome::TempError,
        ),
        (
            world().without("example.com", RecordType::Txt),
            Outcome::None,
        ),
        (
            world().without("spf.example.net", RecordType::Txt),
            Outcome::PermError,
        ),
        (
            world().txt("example.com", "v=spf1 -all"),
            Outcome::PermError,
        ),
    ] {
        let found = run("192.0.2.99", Some("ada@example.com"), MESSAGE, &dns).await;
        assert_eq!(found.spf.outcome, outcome, "{found:?}");
    }
}

#[tokio::test]
async fn dmarc_passes_by_either_and_only_in_line() {
    let aligned = run("192.0.2.10", Some("ada@example.com"), MESSAGE, &world()).await;
    assert_eq!(aligned.dmarc.outcome, Outcome::Pass, "{aligned:?}");
    let stranger = world().txt("other.example", "v=spf1 ip4:192.0.2.10 -all");
    let astray = run("192.0.2.10", Some("eve@other.example"), MESSAGE, &stranger).await;
    assert_eq!(astray.spf.outcome, Outcome::Pass);
    assert_eq!(astray.dmarc.outcome, Outcome::Fail, "{astray:?}");
    assert_eq!(astray.dmarc.policy, DmarcPolicy::Reject);
    let dark = world().servfail("_dmarc.example.com", RecordType::Txt);
    let unsure = run("192.0.2.10", Some("ada@example.com"), MESSAGE, &dark).await;
    assert_eq!(unsure.dmarc.outcome, Outcome::TempError, "{unsure:?}");
    let none = world().without("_dmarc.example.com", RecordType::Txt);
    let nothing = run("192.0.2.10", Some("ada@example.com"), MESSAGE, &none).await;
    assert_eq!(nothing.dmarc.outcome, Outcome::None, "{nothing:?}");
}

#[tokio::test]
async fn subdomains_get_their_own_policy() {
    let dns = world().a("real.example.com", "192.0.2.50");
    for (from, policy) in [
        ("real.example.com", DmarcPolicy::Quarantine),
        ("made-up.example.com", DmarcPolicy::None),
    ] {
        let message = format!("From: x@{from}\r\n\r\nHi\r\n");
        let found = run(
            "192.0.2.99",
            Some("x@other.example"),
            message.as_bytes(),
            &dns,
        )
        .await;
        assert_eq!(found.dmarc.outcome, Outcome::Fail, "{found:?}");
        assert_eq!(found.dmarc.policy, policy, "{from}");
    }
}

#[tokio::test]
async fn a_signature_carries_dmarc_where_spf_fails() {
    let key = PrivateKey::generate(DkimAlgorithm::Ed25519).unwrap();
    let record = format!("v=DKIM1; k=ed25519; p={}", key.public_key());
    let dns = world().txt("e1._domainkey.example.com", &record);
    let domain = DomainName::parse("example.com").unwrap();
    let signer = Signer::new(vec![("e1".into(), domain, key)]).unwrap();
    let mut message = signer.sign(MESSAGE, 1_767_225_600).unwrap();
    message.extend_from_slice(MESSAGE);
    let found = run("192.0.2.99", Some("ada@example.com"), &message, &dns).await;
    assert_eq!(found.spf.outcome, Outcome::Fail);
    assert_eq!(found.dkim[0].outcome, Outcome::Pass, "{found:?}");
    assert_eq!(found.dkim[0].domain, "example.com");
    assert_eq!(found.dmarc.outcome, Outcome::Pass);
    let header = &found.header_text;
    assert!(
        header.starts_with("Authentication-Results: mx.grove.example;"),
        "{header}"
    );
    for part in ["spf=fail", "dkim=pass", "header.s=e1", "dmarc=pass"] {
        assert!(header.contains(part), "{header}");
    }
    assert!(header.ends_with("\r\n") && !header.contains("\r\n\r\n"));
}

#[tokio::test]
async fn nonsense_is_judged_without_a_panic() {
    for message in [
        &b""[..],
        b"\r\n",
        b"\r\n\r\n",
        b"From:\r\n\r\n",
        b"\xff\xfe\x00",
        b"DKIM-Signature: v=1; a=b\r\n\r\n",
    ] {
        let found = run("192.0.2.10", Some("ada@example.com"), message, &world()).await;
        assert_ne!(found.dmarc.outcome, Outcome::Pass, "{message:?}");
    }
}

#[tokio::test]
async fn a_greeting_cannot_break_the_header() {
    let mut envelope = envelope("192.0.2.10", None);
    envelope.helo = "a\r\nX-Evil: 1".into();
    let found = evaluate(&envelope, MESSAGE, &world(), "mx.grove.example").await;
    assert!(
        !found.header_text.contains("\nX-Evil"),
        "{}",
        found.header_text
    );
}

#[test]
fn an_evaluation_can_move_between_threads() {
    fn is_send<T: Send>(_: T) {}
    let (envelope, dns) = (envelope("192.0.2.10", None), FakeDns::new());
    is_send(evaluate(&envelope, MESSAGE, &dns, "mx.grove.example"));
    is_send(verify_dkim(MESSAGE, &dns));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_bytes_and_any_record_are_judged_without_a_panic(
        lines in proptest::collection::vec(prop_oneof![
            "[ -~]{0,40}",
            Just("From: a@example.com".to_owned()),
            Just("DKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=x; c=relaxed/simple; h=From; bh=AAAA; b=AAAA".to_owned()),
            Just(String::new()),
        ], 0..20),
        record in "v=spf1( [-+~?]?(a|mx|ptr|all|include|exists|redirect=|ip4|ip6)([:/=]{0,1}[-a-z0-9.%{}/:]{0,20}))*",
        helo in "\\PC{0,40}",
    ) {
        let dns = world()
            .without("example.com", RecordType::Txt)
            .txt("example.com", &record)
            .txt("x._domainkey.example.com", &record);
        let mut envelope = envelope("192.0.2.10", Some("a@example.com"));
        envelope.helo = helo;
        let message = lines.join("\r\n");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let found = runtime.block_on(evaluate(&envelope, message.as_bytes(), &dns, "mx.grove.example"));
        let header = &found.header_text;
        prop_assert!(header.ends_with("\r\n"));
        for line in header.split("\r\n").skip(1).filter(|line| !line.is_empty()) {
            prop_assert!(line.starts_with(['\t', ' ']), "{}", header);
        }
    }
}
