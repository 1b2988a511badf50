//! Signing and verifying, there and back, and what must not verify.

use proptest::prelude::*;

use super::*;
use crate::{authentication::Outcome, dns::fake::FakeDns};

const MESSAGE: &[u8] = b"From: Ada <ada@example.com>\r\nTo: bob@example.net\r\nSubject: A \r\n folded  subject\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <1@example.com>\r\n\r\nHello  there \r\n\r\n\r\n";

fn domain() -> DomainName {
    DomainName::parse("example.com").unwrap()
}

fn keys() -> [PrivateKey; 2] {
    [DkimAlgorithm::Rsa2048, DkimAlgorithm::Ed25519]
        .map(|algorithm| PrivateKey::generate(algorithm).unwrap())
}

fn signer(keys: &[PrivateKey; 2]) -> Signer {
    let [rsa, ed] = keys.clone();
    Signer::new(vec![
        ("r1".into(), domain(), rsa),
        ("e1".into(), domain(), ed),
    ])
    .unwrap()
}

fn published(keys: &[PrivateKey; 2]) -> FakeDns {
    let record =
        |kind: &str, key: &PrivateKey| format!("v=DKIM1; k={kind}; p={}", key.public_key());
    FakeDns::new()
        .txt("r1._domainkey.example.com", &record("rsa", &keys[0]))
        .txt("e1._domainkey.example.com", &record("ed25519", &keys[1]))
}

fn signed(signer: &Signer, message: &[u8]) -> Vec<u8> {
    let mut whole = signer.sign(message, 1_767_225_600).unwrap();
    whole.extend_from_slice(message);
    whole
}

async fn outcomes(message: &[u8], dns: &FakeDns) -> Vec<(String, Outcome)> {
    verify(message, dns)
        .await
        .into_iter()
        .map(|v| (v.selector, v.outcome))
        .collect()
}

fn both(outcome: Outcome) -> Vec<(String, Outcome)> {
    vec![("r1".into(), outcome), ("e1".into(), outcome)]
}

#[tokio::test]
async fn what_is_signed_verifies_with_both_keys() {
    let keys = keys();
    let message = signed(&signer(&keys), MESSAGE);
    assert_eq!(
        outcomes(&message, &published(&keys)).await,
        both(Outcome::Pass)
    );
}

#[tokio::test]
async fn any_change_to_what_is_signed_is_seen() {
    let keys = keys();
    let dns = published(&keys);
    let message = String::from_utf8(signed(&signer(&keys), MESSAGE)).unwrap();
    for (from, to) in [
        ("Hello", "Hullo"),
        ("ada@example.com", "eve@example.com"),
        ("Subject: A", "Subject: B"),
        ("Date: Thu", "From: eve@example.com\r\nDate: Thu"),
        ("Date: Thu", "Reply-To: eve@example.com\r\nDate: Thu"),
        ("Date: Thu", "Subject: Another\r\nDate: Thu"),
    ] {
        let changed = message.replacen(from, to, 1);
        assert_ne!(changed, message);
        for (selector, outcome) in outcomes(changed.as_bytes(), &dns).await {
            assert_ne!(outcome, Outcome::Pass, "{selector}: {to}");
        }
    }
}

#[tokio::test]
async fn relaxed_changes_do_no_harm() {
    let keys = keys();
    let message = String::from_utf8(signed(&signer(&keys), MESSAGE)).unwrap();
    let relaid = message
        .replace("folded  subject", "folded subject")
        .replace("\r\nSubject: A", "\r\nSUBJECT:   A")
        .replace("Hello  there ", "Hello there");
    let relaid = format!("Received: from x by y\r\n{relaid}\r\n\r\n");
    assert_eq!(
        outcomes(relaid.as_bytes(), &published(&keys)).await,
        both(Outcome::Pass)
    );
}

#[tokio::test]
async fn a_missing_key_is_an_error_and_silence_is_none() {
    let keys = keys();
    let message = signed(&signer(&keys), MESSAGE);
    let missing = outcomes(&message, &FakeDns::new()).await;
    assert_eq!(missing, both(Outcome::PermError));
    let dark = FakeDns::new()
        .servfail(
            "r1._domainkey.example.com",
            inboxgrove_model::ports::RecordType::Txt,
        )
        .servfail(
            "e1._domainkey.example.com",
            inboxgrove_model::ports::RecordType::Txt,
        );
    assert_eq!(outcomes(&message, &dark).await, both(Outcome::TempError));
}

#[test]
fn the_header_says_what_it_should() {
    let headers = signer(&keys()).sign(MESSAGE, 1_767_225_600).unwrap();
    let text = String::from_utf8(headers).unwrap();
    let dense: String = text.split_whitespace().collect();
    assert_eq!(dense.matches("DKIM-Signature:v=1;").count(), 2);
    assert!(dense.contains("c=relaxed/relaxed;"), "{dense}");
    assert!(
        dense.contains("h=From:From:To:To:Cc:Subject:Subject:"),
        "{dense}"
    );
    assert!(dense.contains("t=1767225600"), "{dense}");
    assert!(!dense.contains(";l="), "{dense}");
    assert!(text.ends_with("\r\n") && !text.contains("\r\n\r\n"));
    assert!(text.lines().all(|line| line.len() <= 98), "{text}");
}

#[test]
fn keys_survive_their_stored_form_and_print_nothing() {
    for algorithm in [DkimAlgorithm::Rsa2048, DkimAlgorithm::Ed25519] {
        let key = PrivateKey::generate(algorithm).unwrap();
        let again = PrivateKey::from_pkcs8(algorithm, &key.to_pkcs8()).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert_eq!(format!("{key:?}"), format!("PrivateKey({algorithm:?}, …)"));
        assert!(PrivateKey::from_pkcs8(algorithm, b"no key").is_err());
    }
}

#[test]
fn without_from_nothing_is_signed() {
    let why = signer(&keys()).sign(b"To: a@example.com\r\n\r\n", 0);
    assert_eq!(why, Err(SignError::NoFrom));
}

#[test]
fn selectors_cannot_carry_anything_else() {
    for (text, is) in [
        ("ig1", true),
        ("ig-2026.a", true),
        ("", false),
        ("a..b", false),
        ("-a", false),
        ("a;b", false),
        ("a\r\nX", false),
        ("a b", false),
    ] {
        assert_eq!(is_selector(text), is, "{text:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_body_signs_and_verifies(body in "([ -~\\t]{0,60}(\r\n)?){0,12}", subject in "[ -~]{0,80}") {
        let ed = PrivateKey::generate(DkimAlgorithm::Ed25519).unwrap();
        let dns = FakeDns::new().txt(
            "e1._domainkey.example.com",
            &format!("v=DKIM1; k=ed25519; p={}", ed.public_key()),
        );
        let signer = Signer::new(vec![("e1".into(), domain(), ed)]).unwrap();
        let message = format!("From: ada@example.com\r\nSubject: {subject}\r\n\r\n{body}");
        let whole = signed(&signer, message.as_bytes());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let found = runtime.block_on(outcomes(&whole, &dns));
        prop_assert_eq!(found, vec![("e1".to_owned(), Outcome::Pass)]);
    }
}
