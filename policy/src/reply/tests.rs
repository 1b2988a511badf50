//! Replies of real servers, and what each means.

use proptest::prelude::*;

use super::*;

const RECIPIENT: Outcome = Outcome::Bounced(BounceClass::Recipient);
const OURS: Outcome = Outcome::Bounced(BounceClass::Infrastructure);
const CONTENT: Outcome = Outcome::Bounced(BounceClass::Content);

#[derive(Debug, PartialEq)]
enum Pace {
    Same,
    Slow,
    Suspend,
}

fn pace(verdict: &Verdict) -> Pace {
    match verdict.pace {
        None => Pace::Same,
        Some(PaceAction::Slow { .. }) => Pace::Slow,
        Some(PaceAction::Suspend { .. }) => Pace::Suspend,
    }
}

/// Answers in the providers' manner, and what each means.
#[test]
#[expect(clippy::too_many_lines, reason = "one flat table")]
fn transcripts_are_understood() {
    use Pace::{Same, Slow, Suspend};
    use Stage::{Data, End, Greeting, MailFrom, RcptTo};
    let packs = RulePack::builtin();
    let table = [
        (
            "google",
            550,
            "5.1.1 The email account that you tried to reach does not exist.",
            RcptTo,
            RECIPIENT,
            Same,
        ),
        (
            "google",
            552,
            "5.2.2 The recipient's inbox is out of storage space.",
            RcptTo,
            RECIPIENT,
            Same,
        ),
        (
            "google",
            452,
            "4.2.2 The email account that you tried to reach is over quota.",
            RcptTo,
            Outcome::Deferred,
            Same,
        ),
        (
            "google",
            421,
            "4.7.28 Gmail has detected an unusual rate of mail originating from your IP address.",
            End,
            Outcome::Deferred,
            Slow,
        ),
        (
            "google",
            550,
            "5.7.26 This mail has been blocked because the sender is unauthenticated.",
            End,
            OURS,
            Same,
        ),
        (
            "google",
            421,
            "4.7.0 Our system has detected that this message is suspicious due to the very low reputation of the sending IP.",
            End,
            Outcome::Deferred,
            Suspend,
        ),
        (
            "google",
            550,
            "5.7.1 Our system has detected that this message is likely unsolicited mail.",
            End,
            CONTENT,
            Slow,
        ),
        (
            "google",
            421,
            "4.7.0 Try again later, closing connection.",
            Greeting,
            Outcome::Deferred,
            Slow,
        ),
        (
            "microsoft",
            550,
            "5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3140).",
            MailFrom,
            OURS,
            Suspend,
        ),
        (
            "microsoft",
            451,
            "4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation.",
            MailFrom,
            Outcome::Deferred,
            Slow,
        ),
        (
            "microsoft",
            550,
            "5.7.606 Access denied, banned sending IP [192.0.2.1].",
            RcptTo,
            OURS,
            Suspend,
        ),
        (
            "microsoft",
            550,
            "5.7.515 Access denied, sending domain example.com does not meet the required authentication level.",
            End,
            OURS,
            Suspend,
        ),
        (
            "microsoft",
            550,
            "5.5.0 Requested action not taken: mailbox unavailable.",
            RcptTo,
            RECIPIENT,
            Same,
        ),
        (
            "microsoft",
            451,
            "4.7.500 Server busy. Please try again later from [192.0.2.1].",
            RcptTo,
            Outcome::Deferred,
            Slow,
        ),
        (
            "microsoft",
            550,
            "5.4.1 Recipient address rejected: Access denied.",
            RcptTo,
            RECIPIENT,
            Same,
        ),
        (
            "yahoo",
            421,
            "4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints",
            Greeting,
            Outcome::Deferred,
            Suspend,
        ),
        (
            "yahoo",
            421,
            "4.7.0 [TS02] Messages temporarily deferred",
            MailFrom,
            Outcome::Deferred,
            Slow,
        ),
        (
            "yahoo",
            554,
            "delivery error: dd This user doesn't have a yahoo.com account",
            RcptTo,
            RECIPIENT,
            Same,
        ),
        (
            "yahoo",
            553,
            "5.7.1 [BL21] Connections will not be accepted from 192.0.2.1, because the ip is in Spamhaus's list",
            Greeting,
            Outcome::Deferred,
            Suspend,
        ),
        (
            "apple",
            554,
            "5.7.1 [HM08] Message rejected due to local policy.",
            End,
            CONTENT,
            Slow,
        ),
        (
            "apple",
            550,
            "5.1.1 unknown or illegal alias",
            RcptTo,
            RECIPIENT,
            Same,
        ),
        (
            "apple",
            450,
            "4.7.0 [BS02] Message temporarily blocked",
            MailFrom,
            Outcome::Deferred,
            Suspend,
        ),
        (
            "mx.example.net",
            450,
            "4.2.0 Greylisted, please try again in 300 seconds",
            RcptTo,
            Outcome::Deferred,
            Same,
        ),
        (
            "mx.example.net",
            554,
            "5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
            RcptTo,
            OURS,
            Suspend,
        ),
        (
            "mx.example.net",
            550,
            "No such user here",
            RcptTo,
            RECIPIENT,
            Same,
        ),
        ("mx.example.net", 550, "go away", RcptTo, RECIPIENT, Same),
        ("mx.example.net", 550, "go away", MailFrom, OURS, Same),
        (
            "mx.example.net",
            554,
            "Transaction failed",
            End,
            CONTENT,
            Same,
        ),
        (
            "mx.example.net",
            552,
            "5.3.4 Message too big",
            Data,
            CONTENT,
            Same,
        ),
        (
            "mx.example.net",
            421,
            "Too many connections",
            Greeting,
            Outcome::Deferred,
            Slow,
        ),
        (
            "mx.example.net",
            451,
            "Requested action aborted: local error in processing",
            End,
            Outcome::Deferred,
            Same,
        ),
        (
            "mx.example.net",
            554,
            "No SMTP service here",
            Greeting,
            Outcome::Deferred,
            Slow,
        ),
        (
            "mx.example.net",
            250,
            "2.0.0 OK spamhaus",
            End,
            Outcome::Delivered,
            Same,
        ),
    ];
    for (provider, code, text, stage, outcome, expected) in table {
        let verdict = packs.classify(provider, &ReplyText::new(code, text), stage);
        assert_eq!(
            (verdict.outcome, pace(&verdict)),
            (outcome, expected),
            "{provider} {code} {text}: {}",
            verdict.rule
        );
    }
}

#[test]
fn greylisting_is_told_from_other_deferrals() {
    let packs = RulePack::builtin();
    let smells = |code, text| {
        packs
            .classify("x.test", &ReplyText::new(code, text), Stage::RcptTo)
            .greylisted
    };
    assert!(smells(
        451,
        "4.7.1 Greylisting in action, please come back later"
    ));
    assert!(smells(450, "4.7.1 Postgrey: please try again"));
    assert!(!smells(451, "4.3.0 Temporary lookup failure"));
    assert!(!smells(550, "5.7.1 Greylisting database is broken"));
}

#[test]
fn every_rule_is_dated_lower_case_and_has_its_own_name() {
    for (name, text) in PROVIDERS.iter().chain(&[("generic", GENERIC)]) {
        let pack = parse(name, text).expect("a file of this version");
        assert_eq!(pack.provider, *name);
        assert!(
            pack.written.parse::<jiff::civil::Date>().is_ok(),
            "{name}: written"
        );
        let mut ids: Vec<_> = pack.rules.iter().map(|rule| rule.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), pack.rules.len(), "{name}: the same id twice");
        for rule in &pack.rules {
            assert!(rule.since.starts_with("20"), "{name}/{}", rule.id);
            assert!(
                rule.text.iter().all(|part| *part == part.to_lowercase()),
                "{name}/{}",
                rule.id
            );
            assert!(
                !rule.text.is_empty() || !rule.enhanced.is_empty(),
                "{name}/{} matches anything",
                rule.id
            );
            assert!(rule.why.ends_with('.'), "{name}/{}", rule.id);
            let permanent = rule.outcome != OutcomeWord::Deferred;
            assert!(
                !permanent
                    || rule.class == Some(5)
                    || rule.codes.iter().all(|code| code / 100 == 5),
                "{name}/{} bounces what may be temporary",
                rule.id
            );
        }
    }
}

#[test]
fn an_operators_pack_takes_the_place_of_ours() {
    let mut packs = RulePack::builtin();
    let own = r#"
        provider = "google"
        written = "2026-11-01"
        limits = { connections = 1, messages_per_connection = 2, per_minute = 3 }
    "#;
    packs.replace("own.toml", own).unwrap();
    assert_eq!(packs.limits("google").per_minute, 3);
    let why = packs.replace("own.toml", "provider = 3").unwrap_err();
    assert!(why.to_string().contains("own.toml"));
}

proptest! {
    #[test]
    fn no_answer_is_lost(code in 0_u16..1000, text in ".{0,120}", stage in 0_usize..7) {
        let stage = [Stage::Greeting, Stage::Hello, Stage::Tls, Stage::MailFrom, Stage::RcptTo, Stage::Data, Stage::End][stage];
        let verdict = RulePack::builtin().classify("google", &ReplyText::new(code, &text), stage);
        if (400..500).contains(&code) {
            prop_assert_eq!(verdict.outcome, Outcome::Deferred);
        }
        prop_assert_eq!(verdict.outcome == Outcome::Delivered, (200..300).contains(&code));
    }
}
