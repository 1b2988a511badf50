//! What records say and cost, over a small world.

use super::*;
use crate::dns::fake::FakeDns;

fn world() -> FakeDns {
    FakeDns::new()
        .a("example.com", "192.0.2.1")
        .aaaa("example.com", "2001:db8::1")
        .mx("example.com", 10, "mx.example.com")
        .a("mx.example.com", "192.0.2.7")
        .txt("one.example", "v=spf1 ip4:198.51.100.0/24 -all")
        .txt("two.example", "v=spf1 include:one.example ?all")
        .txt("twice.example", "v=spf1 -all")
        .txt("twice.example", "v=spf1 +all")
        .txt("loop.example", "v=spf1 include:loop.example -all")
}

#[tokio::test]
async fn the_first_match_decides() {
    for (text, address, says, lookups) in [
        ("v=spf1 ip4:192.0.2.0/24 -all", "192.0.2.200", Says::Pass, 0),
        ("v=spf1 ip4:192.0.2.0/24 -all", "192.0.3.1", Says::Fail, 0),
        ("v=spf1 -ip4:192.0.2.1 +all", "192.0.2.1", Says::Fail, 0),
        (
            "v=spf1 ip6:2001:db8::/32 ~all",
            "2001:db8:1::1",
            Says::Pass,
            0,
        ),
        (
            "v=spf1 ip6:2001:db8::/32 ~all",
            "192.0.2.1",
            Says::SoftFail,
            0,
        ),
        ("v=spf1 a ~all", "192.0.2.1", Says::Pass, 1),
        ("v=spf1 a ~all", "2001:db8::1", Says::Pass, 1),
        ("v=spf1 a/24 ~all", "192.0.2.99", Says::Pass, 1),
        ("v=spf1 mx ~all", "192.0.2.7", Says::Pass, 1),
        ("v=spf1 mx:example.com ~all", "192.0.2.8", Says::SoftFail, 1),
        (
            "v=spf1 include:two.example ~all",
            "198.51.100.9",
            Says::Pass,
            2,
        ),
        (
            "v=spf1 include:two.example ~all",
            "192.0.2.1",
            Says::SoftFail,
            2,
        ),
        ("v=spf1 redirect=two.example", "198.51.100.9", Says::Pass, 2),
        ("v=spf1 redirect=one.example", "192.0.2.9", Says::Fail, 1),
        (
            "v=spf1 exists:%{i}.x.example ptr ?all",
            "192.0.2.9",
            Says::Neutral,
            2,
        ),
        ("v=spf1", "192.0.2.9", Says::Neutral, 0),
        ("V=SPF1 -ALL a", "192.0.2.9", Says::Fail, 0),
    ] {
        let (walked, cost) = walk(text, "example.com", &world()).await.unwrap();
        assert_eq!(
            walked.says(address.parse().unwrap()),
            says,
            "{text} {address}"
        );
        assert_eq!(cost.lookups, lookups, "{text}");
    }
}

#[tokio::test]
async fn broken_records_are_told_apart_from_silence() {
    let dns = world().servfail("dark.example", RecordType::Txt);
    for (text, unknown) in [
        ("v=spf1 ip4:999.0.0.1 -all", false),
        ("v=spf1 include:nowhere.example -all", false),
        ("v=spf1 include:twice.example -all", false),
        ("v=spf1 include:loop.example -all", false),
        ("v=spf1 a:x1.example a:x2.example a:x3.example -all", false),
        ("v=spf1 a a a a a a a a a a a -all", false),
        ("v=spf1 include:dark.example -all", true),
    ] {
        let why = walk(text, "example.com", &dns).await.unwrap_err();
        assert_eq!(
            matches!(why, SpfError::Unknown(_)),
            unknown,
            "{text}: {why}"
        );
    }
}

#[tokio::test]
async fn ten_lookups_and_two_voids_are_still_fine() {
    let text = "v=spf1 a a a a a a a a a:x1.example a:x2.example -all";
    let (_, cost) = walk(text, "example.com", &world()).await.unwrap();
    let ten = Cost {
        lookups: 10,
        voids: 2,
    };
    assert_eq!(cost, ten);
}

#[test]
fn only_the_exact_version_makes_an_spf_record() {
    for (text, is) in [
        ("v=spf1", true),
        ("v=spf1 -all", true),
        ("V=SPF1 -all", true),
        ("v=spf10 -all", false),
        (" v=spf1 -all", false),
        ("spf1", false),
        ("v=spf", false),
        ("", false),
    ] {
        assert_eq!(is_spf(text), is, "{text:?}");
    }
}

#[tokio::test]
async fn a_record_for_everybody_is_seen() {
    for (text, everybody) in [
        ("v=spf1 +all", true),
        ("v=spf1 ip4:0.0.0.0/0 -all", true),
        ("v=spf1 ~all", false),
        ("v=spf1 a", false),
    ] {
        let (walked, _) = walk(text, "example.com", &world()).await.unwrap();
        assert_eq!(walked.permits_everybody(), everybody, "{text}");
    }
}
