//! The client against a Cloudflare in memory: what it does, and above all what it leaves alone.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    error::Verdict,
    fake::{FakeCloudflare, Fate},
};

const TOKEN: &str = "canary-token-0123456789012345678901234567";

struct World {
    vendor: Arc<FakeCloudflare>,
    client: Cloudflare,
    zone: Zone,
}

fn client(
    vendor: &Arc<FakeCloudflare>,
    token: &str,
    owner: &str,
) -> Result<Cloudflare, ProviderError> {
    let settings = Settings {
        base: vendor.base(),
        token: token.into(),
        owner: owner.into(),
    };
    Cloudflare::new(Arc::clone(vendor) as Arc<dyn Http>, &settings)
}

async fn world() -> World {
    let vendor = Arc::new(FakeCloudflare::new(TOKEN));
    vendor.add_zone("acme.example");
    let client = client(&vendor, TOKEN, "dom_1").unwrap();
    let zone = client
        .find_zone(&"acme.example".parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    vendor.take_seen();
    World {
        vendor,
        client,
        zone,
    }
}

fn txt(name: &str, text: &str) -> Record {
    Record::new(name, RecordData::Txt(text.into())).unwrap()
}

fn mx(preference: u16, host: &str) -> Record {
    let data = RecordData::Mx {
        preference,
        exchange: host.into(),
    };
    Record::new("acme.example", data).unwrap()
}

fn cname(name: &str, target: &str) -> Record {
    Record::new(name, RecordData::Cname(target.into())).unwrap()
}

#[tokio::test]
async fn a_token_is_verified_and_a_wrong_one_is_the_owners_to_mend() {
    let world = world().await;
    assert_eq!(
        world.client.verify_token().await.unwrap(),
        TokenStatus::Active
    );
    let stranger = client(&world.vendor, "wrong", "dom_1").unwrap();
    let error = stranger.verify_token().await.unwrap_err();
    assert_eq!(error.verdict(), Verdict::GiveUp);
    assert!(error.is_about_credentials(), "{error}");
    let world_debug = format!("{:?} {error} {error:?}", world.client);
    assert!(!world_debug.contains("canary"), "{world_debug}");
}

#[tokio::test]
async fn the_nearest_zone_above_a_domain_holds_it() {
    let world = world().await;
    let find = async |name: &str| {
        world
            .client
            .find_zone(&name.parse().unwrap())
            .await
            .unwrap()
    };
    assert_eq!(find("mail.eu.acme.example").await, Some(world.zone.clone()));
    assert_eq!(find("badacme.example").await, None);
    assert!(world.zone.active);
}

#[tokio::test]
async fn what_is_ensured_is_there_and_twice_changes_nothing() {
    let world = world().await;
    let key = format!("v=DKIM1; k=rsa; p={}", "A".repeat(392));
    for record in [
        txt("s1._domainkey.acme.example", &key),
        txt("acme.example", "v=spf1 include:grove.example -all"),
        mx(10, "mx.grove.example"),
        cname("bounce.acme.example", "bounce.grove.example"),
    ] {
        let first = world.client.ensure(&world.zone, &record).await.unwrap();
        let Applied::Created(id) = first else {
            panic!("{first:?}")
        };
        let before = world.vendor.records();
        let again = world.client.ensure(&world.zone, &record).await.unwrap();
        assert_eq!(again, Applied::Unchanged(id));
        assert_eq!(world.vendor.records(), before);
    }
    let stored = world.vendor.records();
    assert_eq!(
        stored[0]["content"].as_str().unwrap().matches('"').count(),
        4,
        "two strings"
    );
    assert!(stored.iter().all(|record| record["proxied"] == false));
    assert!(
        stored
            .iter()
            .all(|record| record["comment"] == "inboxgrove:dom_1")
    );
}

#[tokio::test]
async fn our_own_policy_is_replaced_by_its_successor() {
    let world = world().await;
    for (name, old, new) in [
        (
            "_dmarc.acme.example",
            "v=DMARC1; p=none",
            "v=DMARC1; p=reject",
        ),
        ("acme.example", "v=spf1 ?all", "v=spf1 -all"),
        ("s1._domainkey.acme.example", "p=AAAA", "v=DKIM1; p=BBBB"),
    ] {
        world
            .client
            .ensure(&world.zone, &txt(name, old))
            .await
            .unwrap();
        let applied = world
            .client
            .ensure(&world.zone, &txt(name, new))
            .await
            .unwrap();
        assert!(matches!(applied, Applied::Changed(_)), "{applied:?}");
    }
    assert_eq!(world.vendor.records().len(), 3);
}

#[tokio::test]
async fn two_of_our_mail_hosts_stand_side_by_side() {
    let world = world().await;
    for record in [mx(10, "mx1.grove.example"), mx(20, "mx2.grove.example")] {
        let applied = world.client.ensure(&world.zone, &record).await.unwrap();
        assert!(matches!(applied, Applied::Created(_)), "{applied:?}");
    }
}

#[tokio::test]
async fn what_others_have_put_in_the_way_is_a_conflict_and_stays() {
    let world = world().await;
    for (there, wanted) in [
        (
            json!({ "type": "TXT", "name": "acme.example", "content": "\"v=spf1 include:other.example ~all\"" }),
            txt("acme.example", "v=spf1 -all"),
        ),
        (
            json!({ "type": "TXT", "name": "acme.example", "content": "v=spf1 ~all" }),
            txt("acme.example", "v=spf1 -all"),
        ),
        (
            json!({ "type": "MX", "name": "acme.example", "content": "mx.other.example", "priority": 10 }),
            mx(10, "mx.grove.example"),
        ),
        (
            json!({ "type": "MX", "name": "acme.example", "content": "mx.grove.example", "priority": 5 }),
            mx(10, "mx.grove.example"),
        ),
        (
            json!({ "type": "CNAME", "name": "b.acme.example", "content": "x.example" }),
            cname("b.acme.example", "y.example"),
        ),
        (
            json!({ "type": "CNAME", "name": "b.acme.example", "content": "x.example" }),
            txt("b.acme.example", "hello"),
        ),
        (
            json!({ "type": "TXT", "name": "b.acme.example", "content": "hello" }),
            cname("b.acme.example", "y.example"),
        ),
        (
            json!({ "type": "CAA", "name": "b.acme.example", "data": { "tag": "issue" } }),
            cname("b.acme.example", "y.example"),
        ),
        (
            json!({ "type": "TXT", "name": "s._domainkey.acme.example", "content": "p=X", "comment": "inboxgrove:dom_2" }),
            txt("s._domainkey.acme.example", "p=Y"),
        ),
        (
            json!({ "type": "A", "name": "m.acme.example", "content": "8.8.8.8", "proxied": true }),
            Record::new("m.acme.example", RecordData::A([8, 8, 8, 8].into())).unwrap(),
        ),
    ] {
        let vendor = Arc::new(FakeCloudflare::new(TOKEN));
        let zone = Zone {
            id: vendor.add_zone("acme.example"),
            ..world.zone.clone()
        };
        vendor.add_record(&zone.id, there);
        let before = vendor.records();
        let error = client(&vendor, TOKEN, "dom_1")
            .unwrap()
            .ensure(&zone, &wanted)
            .await
            .unwrap_err();
        assert!(
            error.is_conflict() && error.verdict() == Verdict::GiveUp,
            "{error}"
        );
        assert_eq!(vendor.records(), before);
    }
}

#[tokio::test]
async fn a_record_of_others_that_says_the_same_is_enough_and_is_never_removed() {
    let world = world().await;
    let spf = txt("acme.example", "v=spf1 -all");
    world.vendor.add_record(
        &world.zone.id,
        json!({ "type": "TXT", "name": "acme.example", "content": "\"v=spf1\" \" -all\"" }),
    );
    let applied = world.client.ensure(&world.zone, &spf).await.unwrap();
    assert!(matches!(applied, Applied::Unchanged(_)), "{applied:?}");
    assert_eq!(
        world.client.remove(&world.zone, &spf).await.unwrap(),
        Removed::NotOurs
    );
    assert_eq!(world.vendor.records().len(), 1);
}

#[tokio::test]
async fn texts_that_do_not_concern_us_stand_beside_ours() {
    let world = world().await;
    world.vendor.add_record(
        &world.zone.id,
        json!({ "type": "TXT", "name": "acme.example", "content": "\"site-verification=1\"" }),
    );
    let spf = txt("acme.example", "v=spf1 -all");
    world.client.ensure(&world.zone, &spf).await.unwrap();
    assert_eq!(
        world.client.remove(&world.zone, &spf).await.unwrap(),
        Removed::Done
    );
    assert_eq!(
        world.client.remove(&world.zone, &spf).await.unwrap(),
        Removed::Absent
    );
    assert_eq!(world.vendor.records().len(), 1);
}

#[tokio::test]
async fn an_effect_whose_answer_was_lost_is_found_by_the_next_call() {
    let world = world().await;
    let spf = txt("acme.example", "v=spf1 -all");
    world.vendor.befall([Fate::None, Fate::Unanswered]);
    let error = world.client.ensure(&world.zone, &spf).await.unwrap_err();
    assert_eq!(error.verdict(), Verdict::RetryWithBackoff);
    let applied = world.client.ensure(&world.zone, &spf).await.unwrap();
    assert!(matches!(applied, Applied::Unchanged(_)), "{applied:?}");
    assert_eq!(world.vendor.records().len(), 1);
}

#[tokio::test]
async fn a_race_that_another_won_ends_well_when_they_wanted_the_same() {
    let world = world().await;
    let empty = json!({ "success": true, "errors": [], "messages": [], "result": [],
        "result_info": { "page": 1, "per_page": 100, "count": 0, "total_count": 0, "total_pages": 0 } });
    let stale = || Fate::Answer {
        status: 200,
        retry_after: None,
        body: empty.to_string(),
    };
    let wanted = mx(10, "mx.grove.example");
    world.client.ensure(&world.zone, &wanted).await.unwrap();
    world.vendor.befall([stale()]);
    let applied = world.client.ensure(&world.zone, &wanted).await.unwrap();
    assert!(matches!(applied, Applied::Unchanged(_)), "{applied:?}");
}

#[tokio::test]
async fn each_failure_of_the_vendor_has_its_verdict() {
    let refused = r#"{"success":false,"errors":[{"code":1004,"message":"DNS Validation Error","error_chain":[{"code":9021,"message":"Invalid TTL."}]}],"result":null}"#;
    let headers = r#"{"success":false,"errors":[{"code":6003,"message":"Invalid request headers"}],"result":null}"#;
    for (status, retry_after, body, verdict, credentials) in [
        (400, None, refused, Verdict::GiveUp, false),
        (200, None, refused, Verdict::GiveUp, false),
        (400, None, headers, Verdict::GiveUp, true),
        (403, None, "<html>", Verdict::GiveUp, true),
        (200, None, "<html>", Verdict::GiveUp, false),
        (
            200,
            None,
            r#"{"success":true,"result":{"status":"odd"}}"#,
            Verdict::GiveUp,
            false,
        ),
        (
            429,
            Some(120),
            "",
            Verdict::RetryAfter(Duration::from_mins(2)),
            false,
        ),
        (
            429,
            Some(u64::MAX),
            "",
            Verdict::RetryAfter(Duration::from_hours(1)),
            false,
        ),
        (429, None, "", Verdict::RetryWithBackoff, false),
        (502, None, "<html>", Verdict::RetryWithBackoff, false),
    ] {
        let world = world().await;
        let body = body.to_owned();
        world.vendor.befall([Fate::Answer {
            status,
            retry_after,
            body,
        }]);
        let error = world.client.verify_token().await.unwrap_err();
        assert_eq!(error.verdict(), verdict, "{error}");
        assert_eq!(error.is_about_credentials(), credentials, "{error}");
    }
    let world = world().await;
    world.vendor.befall([Fate::Lost]);
    let error = world.client.verify_token().await.unwrap_err();
    assert_eq!(error.verdict(), Verdict::RetryWithBackoff);
}

#[tokio::test]
async fn all_pages_of_a_zone_are_read() {
    let world = world().await;
    for number in 0..250 {
        let name = format!("host-{number}.acme.example");
        world.vendor.add_record(
            &world.zone.id,
            json!({ "type": "A", "name": name, "content": "8.8.8.8", "proxied": true }),
        );
    }
    let records = world.client.records(&world.zone).await.unwrap();
    assert_eq!(records.len(), 250);
    assert_eq!(world.vendor.take_seen().len(), 3);
}

#[tokio::test]
async fn an_id_that_would_change_the_path_is_garbled() {
    let world = world().await;
    let body = json!({ "success": true, "result": [{ "id": "../../user", "name": "acme.example", "status": "active" }] });
    world.vendor.befall([Fate::Answer {
        status: 200,
        retry_after: None,
        body: body.to_string(),
    }]);
    let error = world
        .client
        .find_zone(&"acme.example".parse().unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.verdict(), Verdict::GiveUp);
}

#[tokio::test]
async fn a_record_outside_of_the_zone_is_never_sent() {
    let world = world().await;
    let error = world
        .client
        .ensure(&world.zone, &txt("badacme.example", "x"))
        .await
        .unwrap_err();
    assert_eq!(error.verdict(), Verdict::GiveUp);
    assert!(world.vendor.take_seen().is_empty());
}

#[test]
fn settings_that_make_no_client_are_refused_without_showing_the_token() {
    let vendor = Arc::new(FakeCloudflare::new(TOKEN));
    for (token, owner) in [
        ("canary\n", "dom_1"),
        (TOKEN, ""),
        (TOKEN, "a b"),
        (TOKEN, &"x".repeat(81)),
    ] {
        let error = client(&vendor, token, owner).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
}

/// One of few names, types and contents, so that they meet.
fn any_record() -> impl Strategy<Value = Record> {
    let name = prop::sample::select(vec![
        "acme.example",
        "a.acme.example",
        "s._domainkey.acme.example",
    ]);
    let data = prop::sample::select(vec![
        RecordData::Txt("v=spf1 -all".into()),
        RecordData::Txt("v=spf1 ~all".into()),
        RecordData::Txt("hello".into()),
        RecordData::Mx {
            preference: 10,
            exchange: "mx1.example".into(),
        },
        RecordData::Mx {
            preference: 20,
            exchange: "mx2.example".into(),
        },
        RecordData::Cname("target.example".into()),
        RecordData::A([8, 8, 8, 8].into()),
    ]);
    (name, data).prop_map(|(name, data)| Record::new(name, data).unwrap())
}

fn foreign(vendor: &FakeCloudflare) -> Vec<Value> {
    let records = vendor.records().into_iter();
    records
        .filter(|record| record["comment"] != "inboxgrove:dom_1")
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is asked for, and whatever gets lost: others' records stay as they were, an `ensure` that
    /// succeeded holds, and a second one writes nothing.
    #[test]
    fn others_records_are_left_alone_and_ensure_is_idempotent(
        theirs in prop::collection::vec(any_record(), 0..4),
        asked in prop::collection::vec((any_record(), any::<bool>(), 0_u8..4), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let world = world().await;
            for record in &theirs {
                let body = serde_json::to_value(wire::Wanted::new(record, "by hand")).unwrap();
                world.vendor.add_record(&world.zone.id, body);
            }
            let before = foreign(&world.vendor);
            for (record, remove, luck) in asked {
                world.vendor.befall(match luck {
                    0 => vec![Fate::None, Fate::Unanswered],
                    1 => vec![Fate::None, Fate::Lost],
                    _ => vec![],
                });
                if remove {
                    drop(world.client.remove(&world.zone, &record).await);
                } else if world.client.ensure(&world.zone, &record).await.is_ok() {
                    world.vendor.take_seen();
                    let again = world.client.ensure(&world.zone, &record).await;
                    if let Ok(applied) = again {
                        assert!(matches!(applied, Applied::Unchanged(_)), "{applied:?}");
                    }
                    let seen = world.vendor.take_seen();
                    assert!(seen.iter().all(|request| request.starts_with("GET ")), "{seen:?}");
                }
            }
            assert_eq!(foreign(&world.vendor), before);
        });
    }
}
