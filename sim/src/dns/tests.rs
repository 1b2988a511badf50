//! Laws of the zones, asked in memory.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const NS1: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 9, 1));
const NS2: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 9, 2));

fn zones() -> Zones {
    let zones = Zones::new();
    zones.zone(
        "example.com",
        &[("ns1.example.com", NS1), ("ns2.example.com", NS2)],
    );
    zones.add(
        "www.example.com",
        RecordData::Cname("host.example.com".into()),
    );
    zones.add("host.example.com", address_record(NS1));
    zones.add("a.b.example.com", RecordData::Txt("deep".into()));
    zones.add(
        "loop.example.com",
        RecordData::Cname("loop.example.com".into()),
    );
    zones
}

#[tokio::test(start_paused = true)]
async fn questions_and_their_answers() {
    let zones = zones();
    let absent = |name: &str| Err(DnsError::NoSuchName { name: name.into() });
    let none = |name: &str, kind| {
        Err(DnsError::NoRecord {
            name: name.into(),
            kind,
        })
    };
    for (name, kind, answer) in [
        (
            "HOST.example.com.",
            RecordType::A,
            Ok(vec![address_record(NS1)]),
        ),
        (
            "www.example.com",
            RecordType::A,
            Ok(vec![address_record(NS1)]),
        ),
        (
            "www.example.com",
            RecordType::Mx,
            none("www.example.com", RecordType::Mx),
        ),
        (
            "b.example.com",
            RecordType::Txt,
            none("b.example.com", RecordType::Txt),
        ),
        (
            "nobody.example.com",
            RecordType::A,
            absent("nobody.example.com"),
        ),
        ("other.org", RecordType::A, absent("other.org")),
        (
            "example.com",
            RecordType::Ns,
            Ok(vec![
                RecordData::Ns("ns1.example.com".into()),
                RecordData::Ns("ns2.example.com".into()),
            ]),
        ),
    ] {
        let got = zones.lookup(name, kind).await.map(|answer| answer.records);
        assert_eq!(got, answer, "{kind} of {name}");
    }
    let lookup = zones.lookup("loop.example.com", RecordType::A).await;
    assert!(
        !lookup.unwrap_err().is_absence(),
        "an endless alias says nothing about the name"
    );
}

#[tokio::test(start_paused = true)]
async fn trouble_is_never_an_absence() {
    let zones = zones();
    for trouble in [Trouble::ServFail, Trouble::Timeout] {
        zones.trouble("example.com", trouble);
        let error = zones
            .lookup("nobody.example.com", RecordType::A)
            .await
            .unwrap_err();
        assert!(!error.is_absence());
        zones.trouble("example.com", Trouble::None);
        zones.server_trouble(NS1, trouble);
        let error = zones
            .lookup_at(NS1, "host.example.com", RecordType::A)
            .await
            .unwrap_err();
        assert!(!error.is_absence());
        assert!(
            zones
                .lookup_at(NS2, "host.example.com", RecordType::A)
                .await
                .is_ok()
        );
    }
    let stranger = IpAddr::V4(Ipv4Addr::new(127, 0, 9, 9));
    let error = zones
        .lookup_at(stranger, "host.example.com", RecordType::A)
        .await
        .unwrap_err();
    assert!(!error.is_absence());
}

#[tokio::test(start_paused = true)]
async fn a_server_follows_no_alias_into_zones_of_others() {
    let zones = zones();
    zones.zone("other.org", &[("ns.other.org", NS2)]);
    zones.add("other.org", RecordData::Txt("theirs".into()));
    zones.add("alias.example.com", RecordData::Cname("other.org".into()));
    let found = zones.lookup("alias.example.com", RecordType::Txt).await;
    assert_eq!(found.unwrap().records, [RecordData::Txt("theirs".into())]);
    for (server, known) in [(NS1, false), (NS2, true)] {
        let found = zones
            .lookup_at(server, "alias.example.com", RecordType::Txt)
            .await;
        assert_eq!(found.is_ok(), known);
        assert!(found.err().is_none_or(|error| !error.is_absence()));
    }
}

#[test]
fn a_forged_answer_is_the_resolvers_alone() {
    let zones = zones();
    let (host, forged) = ("host.example.com", address_record(NS2));
    zones.poison(host, vec![forged.clone()]);
    let records = vec![(host.to_owned(), forged)];
    assert_eq!(zones.resolve(host, RecordType::A), Answer::Records(records));
    let told =
        |answer: Answer| matches!(answer, Answer::Records(it) if it[0].1 == address_record(NS1));
    assert!(told(zones.resolve_at(NS1, host, RecordType::A)));
    zones.cure("HOST.example.com");
    assert!(told(zones.resolve(host, RecordType::A)));
}

#[tokio::test(start_paused = true)]
async fn a_frozen_server_answers_as_of_then() {
    let zones = zones();
    zones.freeze(NS2);
    zones.add("new.example.com", RecordData::Txt("fresh".into()));
    assert!(
        zones
            .lookup_at(NS1, "new.example.com", RecordType::Txt)
            .await
            .is_ok()
    );
    assert!(
        zones
            .lookup_at(NS2, "new.example.com", RecordType::Txt)
            .await
            .is_err()
    );
    zones.thaw(NS2);
    assert!(
        zones
            .lookup_at(NS2, "new.example.com", RecordType::Txt)
            .await
            .is_ok()
    );
}

#[test]
fn reverse_names_follow_the_rfcs() {
    assert_eq!(reverse_name(NS1), "1.9.0.127.in-addr.arpa");
    let six = reverse_name("2001:db8::1".parse().unwrap());
    assert!(
        six.starts_with("1.0.0.0.") && six.ends_with("8.b.d.0.1.0.0.2.ip6.arpa"),
        "{six}"
    );
}

proptest! {
    #[test]
    fn what_was_added_is_found_until_it_is_removed(labels in prop::collection::vec("[a-z0-9_]{1,8}", 1..4), text in "[ -~]{0,300}") {
        let zones = zones();
        let name = format!("{}.example.com", labels.join("."));
        let data = RecordData::Txt(text);
        prop_assert!(zones.add(&name, data.clone()));
        prop_assert!(zones.records(&name.to_uppercase(), RecordType::Txt).contains(&data));
        prop_assert!(zones.remove(&name, RecordType::Txt));
        prop_assert!(zones.records(&name, RecordType::Txt).is_empty());
    }
}
