//! Laws of the name servers, asked by a resolver of others.

use std::net::Ipv4Addr;

use hickory_resolver::{
    Resolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    lookup::Lookup,
    net::runtime::TokioRuntimeProvider,
};

use super::*;
use crate::dns::{Trouble, address_record, reverse_name};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// hickory's resolver does not ask for the names of 127.x: it knows better.
const DOCUMENTATION: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn zones() -> Zones {
    let zones = Zones::new();
    zones.zone("example.com", &[("ns1.example.com", HERE)]);
    zones.zone("2.0.192.in-addr.arpa", &[("ns1.example.com", HERE)]);
    zones.name_address(DOCUMENTATION, "ns1.example.com");
    zones.add(
        "www.example.com",
        RecordData::Cname("ns1.example.com".into()),
    );
    zones.add("k._domainkey.example.com", RecordData::Txt("p".repeat(600)));
    zones.add(
        "example.com",
        RecordData::Mx {
            preference: 10,
            exchange: "ns1.example.com".into(),
        },
    );
    zones
}

fn resolver(servers: &NameServers) -> Resolver<TokioRuntimeProvider> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = servers.port();
        connection
    });
    let server = NameServerConfig::new(HERE, true, connections.into());
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().cache_size = 0;
    builder.options_mut().use_hosts_file = ResolveHosts::Never;
    builder.options_mut().attempts = 0;
    builder.options_mut().timeout = Duration::from_millis(200);
    builder.build().unwrap()
}

fn data(lookup: &Lookup) -> Vec<String> {
    lookup
        .answers()
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

#[tokio::test]
async fn a_stub_resolver_is_answered_for_every_zone() {
    let zones = zones();
    let servers = NameServers::start(&zones, &[HERE], 0).await.unwrap();
    let resolver = resolver(&servers);
    let mx = resolver.mx_lookup("example.com.").await.unwrap();
    assert_eq!(data(&mx), ["10 ns1.example.com."]);
    let alias = resolver.lookup_ip("www.example.com.").await.unwrap();
    assert_eq!(alias.iter().collect::<Vec<_>>(), [HERE]);
    let long = resolver
        .txt_lookup("k._domainkey.example.com.")
        .await
        .unwrap();
    let length: usize = long
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::TXT(text) => Some(
                text.txt_data
                    .iter()
                    .map(|string| string.len())
                    .sum::<usize>(),
            ),
            _ => None,
        })
        .sum();
    assert_eq!(length, 600);
    let back = resolver
        .lookup(reverse_name(DOCUMENTATION) + ".", WireType::PTR)
        .await
        .unwrap();
    assert_eq!(data(&back), ["ns1.example.com."]);
}

#[tokio::test]
async fn absence_and_failure_are_told_apart() {
    let zones = zones();
    let servers = NameServers::start(&zones, &[HERE], 0).await.unwrap();
    let resolver = resolver(&servers);
    for (name, kind, nx) in [
        ("nobody.example.com.", WireType::A, true),
        ("no.such.zone.", WireType::TXT, true),
        ("example.com.", WireType::AAAA, false),
        ("www.example.com.", WireType::CAA, false),
    ] {
        let error = resolver.lookup(name, kind).await.unwrap_err();
        assert!(error.is_no_records_found(), "{name}: {error}");
        assert_eq!(error.is_nx_domain(), nx, "{name}: {error}");
    }
    for trouble in [Trouble::ServFail, Trouble::Timeout] {
        zones.trouble("example.com", trouble);
        let error = resolver
            .lookup("example.com.", WireType::MX)
            .await
            .unwrap_err();
        assert!(
            !error.is_no_records_found() && !error.is_nx_domain(),
            "{trouble:?}: {error}"
        );
    }
}

#[tokio::test]
async fn servers_share_a_port() {
    let addresses: Vec<IpAddr> = (1..=4)
        .map(|n| IpAddr::V4(Ipv4Addr::new(127, 0, 9, n)))
        .collect();
    let servers = NameServers::start(&Zones::new(), &addresses, 0)
        .await
        .unwrap();
    assert_eq!(servers.addresses().len(), 4);
    assert!(
        servers
            .addresses()
            .iter()
            .all(|address| address.port() == servers.port())
    );
}

#[test]
fn a_text_of_any_length_keeps_its_octets() {
    for length in [0, 1, 255, 256, 600] {
        let text = "x".repeat(length);
        assert_eq!(strings(&text).concat(), text.as_bytes());
        assert!(
            strings(&text)
                .iter()
                .all(|string| string.len() <= TXT_STRING_MAX)
        );
    }
    assert!(wire_record("a.example", &address_record(HERE)).is_some());
}
