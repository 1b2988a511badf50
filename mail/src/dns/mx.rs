//! Where mail for a domain goes (RFC 5321 §5.1).

use std::net::IpAddr;

use inboxgrove_model::{
    DomainName,
    ports::{Dns, DnsAnswer, DnsError, RecordData, RecordType},
};

/// Hosts tried for one domain; the rest of a longer list is never reached in practice.
const HOSTS_MAX: usize = 10;
/// Addresses kept of one host.
const ADDRESSES_MAX: usize = 8;

/// A host that takes mail for a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MxHost {
    /// Its name.
    pub host: String,
    /// Lower is tried first.
    pub preference: u16,
    /// Its addresses, IPv4 first. Empty when its name has none or nobody could tell.
    pub addresses: Vec<IpAddr>,
}

/// The hosts that take mail for `domain`, best first.
///
/// Without an MX record the domain's own address counts (the implicit MX). An empty list is the null MX
/// (RFC 7505): the domain takes no mail at all, for good. When the addresses of *every* host are unknown
/// the answer is unknown.
pub async fn mx_hosts(domain: &DomainName, dns: &dyn Dns) -> Result<Vec<MxHost>, DnsError> {
    let answer = match dns.lookup(domain.as_str(), RecordType::Mx).await {
        Ok(answer) => answer,
        Err(DnsError::NoRecord { .. }) => return implicit(domain, dns).await,
        Err(why) => return Err(why),
    };
    let mut found = exchanges(&answer);
    if found.iter().any(|(_, host)| host.is_empty()) {
        return Ok(Vec::new());
    }
    found.sort();
    found.dedup();
    found.truncate(HOSTS_MAX);
    let asked = found.iter().map(|(_, host)| addresses(host, dns));
    let asked = futures_util::future::join_all(asked).await;
    let mut hosts = Vec::with_capacity(found.len());
    let mut unsure = None;
    for ((preference, host), addresses) in found.into_iter().zip(asked) {
        let addresses = addresses.unwrap_or_else(|why| {
            if !why.is_absence() {
                unsure = Some(why);
            }
            Vec::new()
        });
        hosts.push(MxHost {
            host,
            preference,
            addresses,
        });
    }
    match unsure {
        Some(why) if hosts.iter().all(|host| host.addresses.is_empty()) => Err(why),
        _ => Ok(hosts),
    }
}

async fn implicit(domain: &DomainName, dns: &dyn Dns) -> Result<Vec<MxHost>, DnsError> {
    Ok(vec![MxHost {
        host: domain.to_string(),
        preference: 0,
        addresses: addresses(domain.as_str(), dns).await?,
    }])
}

fn exchanges(answer: &DnsAnswer) -> Vec<(u16, String)> {
    let found = answer.records.iter().filter_map(|record| match record {
        RecordData::Mx {
            preference,
            exchange,
        } => Some((*preference, super::plain(exchange))),
        _ => None,
    });
    found.collect()
}

/// The addresses of `host`, IPv4 first. An absence only when both kinds are surely absent.
pub(super) async fn addresses(host: &str, dns: &dyn Dns) -> Result<Vec<IpAddr>, DnsError> {
    let (four, six) = futures_util::future::join(
        dns.lookup(host, RecordType::A),
        dns.lookup(host, RecordType::Aaaa),
    )
    .await;
    let mut found = Vec::new();
    let mut failed = Vec::new();
    for answer in [four, six] {
        match answer {
            Ok(answer) => found.extend(answer.records.iter().filter_map(|record| match record {
                RecordData::A(address) => Some(IpAddr::V4(*address)),
                RecordData::Aaaa(address) => Some(IpAddr::V6(*address)),
                _ => None,
            })),
            Err(why) => failed.push(why),
        }
    }
    found.truncate(ADDRESSES_MAX);
    if !found.is_empty() {
        return Ok(found);
    }
    failed.sort_by_key(DnsError::is_absence);
    match failed.into_iter().next() {
        Some(why) => Err(why),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::fake::FakeDns;

    fn name() -> DomainName {
        DomainName::parse("example.com").unwrap()
    }

    #[tokio::test]
    async fn the_best_host_comes_first_with_its_addresses() {
        let dns = FakeDns::new()
            .mx("example.com", 20, "b.example.net")
            .mx("example.com", 10, "A.example.net.")
            .a("a.example.net", "192.0.2.1")
            .aaaa("a.example.net", "2001:db8::1")
            .a("b.example.net", "192.0.2.2");
        let hosts = mx_hosts(&name(), &dns).await.unwrap();
        let shown: Vec<_> = hosts
            .iter()
            .map(|h| (h.preference, h.host.as_str(), h.addresses.len()))
            .collect();
        assert_eq!(shown, [(10, "a.example.net", 2), (20, "b.example.net", 1)]);
    }

    #[tokio::test]
    async fn a_null_mx_takes_nothing() {
        let dns = FakeDns::new()
            .mx("example.com", 0, ".")
            .a("example.com", "192.0.2.1");
        assert_eq!(mx_hosts(&name(), &dns).await, Ok(vec![]));
    }

    #[tokio::test]
    async fn without_mx_the_domain_itself_takes_mail() {
        let dns = FakeDns::new().a("example.com", "192.0.2.1");
        let hosts = mx_hosts(&name(), &dns).await.unwrap();
        assert_eq!(hosts[0].host, "example.com");
        assert_eq!(hosts[0].addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    }

    #[tokio::test]
    async fn an_outage_is_never_an_implicit_mx() {
        let dns = FakeDns::new()
            .a("example.com", "192.0.2.1")
            .servfail("example.com", RecordType::Mx);
        let why = mx_hosts(&name(), &dns).await.unwrap_err();
        assert!(!why.is_absence(), "{why}");
    }

    #[tokio::test]
    async fn a_missing_name_is_a_sure_absence() {
        let why = mx_hosts(&name(), &FakeDns::new()).await.unwrap_err();
        assert!(why.is_absence(), "{why}");
    }

    #[tokio::test]
    async fn hosts_without_known_addresses_are_unknown_only_together() {
        let dns = FakeDns::new()
            .mx("example.com", 10, "a.example.net")
            .mx("example.com", 20, "b.example.net")
            .servfail("a.example.net", RecordType::A)
            .a("b.example.net", "192.0.2.2");
        assert_eq!(mx_hosts(&name(), &dns).await.unwrap().len(), 2);
        let dns = dns.servfail("b.example.net", RecordType::A);
        assert!(!mx_hosts(&name(), &dns).await.unwrap_err().is_absence());
    }
}
