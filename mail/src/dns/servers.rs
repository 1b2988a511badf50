//! Asking every authoritative server of a name's zone.
//!
//! A record is only published when *all* of them say so: receivers ask any one. And a record is only
//! missing when all of them are sure.

use std::net::IpAddr;

use futures_util::future::join_all;
use inboxgrove_model::{
    net,
    ports::{Dns, DnsAnswer, DnsError, RecordData, RecordType},
};

use super::{mx::addresses, plain};

/// Name servers asked of one zone (the root has 13; more than that is a mistake).
const SERVERS_MAX: usize = 13;
/// Addresses tried of one server, IPv4 first: this machine may have no route for the other kind.
const ADDRESSES_PER_SERVER: usize = 2;

/// The way to authoritative servers.
#[derive(Clone, Copy)]
pub(super) struct Servers<'a> {
    /// Finds them, and asks them.
    pub(super) dns: &'a dyn Dns,
    /// Whether those at addresses that are not public may be asked.
    pub(super) allow_private: bool,
}

/// What one server said.
#[derive(Debug, Clone)]
pub(super) struct Said {
    /// Its name.
    pub(super) server: String,
    /// Its answer. An alias has been followed.
    pub(super) answer: Result<DnsAnswer, DnsError>,
}

/// Why no server could be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoServers {
    /// The name surely lies in no zone: it is not registered or not delegated.
    NoZone(String),
    /// Nobody could tell.
    Unknown(String),
}

// === impl Servers ===

impl Servers<'_> {
    /// Asks every authoritative server of the zone that holds `name`.
    pub(super) async fn ask_all(
        self,
        name: &str,
        kind: RecordType,
    ) -> Result<Vec<Said>, NoServers> {
        let zone = zone_of(name, self.dns).await?;
        let hosts = servers_of(&zone, self.dns).await?;
        let asked = hosts.into_iter().map(|(server, addresses)| async move {
            let answer = match self.allowed(&server, addresses, name, kind) {
                Ok(addresses) => ask_server(&server, &addresses, name, kind, self.dns).await,
                Err(why) => Err(why),
            };
            Said { server, answer }
        });
        Ok(join_all(asked).await)
    }

    /// The addresses of a server that may be asked. The owner of a zone chooses them: without this guard
    /// they could make us send questions into the operator's network.
    fn allowed(
        self,
        server: &str,
        addresses: Vec<IpAddr>,
        name: &str,
        kind: RecordType,
    ) -> Result<Vec<IpAddr>, DnsError> {
        if self.allow_private || addresses.is_empty() {
            return Ok(addresses);
        }
        let first = addresses[0];
        let public: Vec<_> = addresses
            .into_iter()
            .filter(|address| net::is_public(*address))
            .collect();
        if public.is_empty() {
            let why = format!(
                "{server} has the address {first}, which is not on the public internet, and was not asked"
            );
            return Err(DnsError::Unknown {
                name: name.to_owned(),
                kind,
                why,
            });
        }
        Ok(public)
    }
}

/// The apex of the zone that holds `name`: the nearest name at or above it with an SOA record.
async fn zone_of(name: &str, dns: &dyn Dns) -> Result<String, NoServers> {
    let name = plain(name);
    let mut at = name.as_str();
    loop {
        match dns.lookup(at, RecordType::Soa).await {
            Ok(answer) => {
                // Through an alias the SOA record of another zone may come back: not ours.
                let apex = answer.records.iter().find_map(|record| match record {
                    RecordData::Soa { zone, .. } if lies_within(&name, &plain(zone)) => {
                        Some(plain(zone))
                    }
                    _ => None,
                });
                if let Some(apex) = apex {
                    return Ok(apex);
                }
            }
            Err(why) if why.is_absence() => {}
            Err(why) => return Err(NoServers::Unknown(why.to_string())),
        }
        at = match at.split_once('.') {
            Some((_, above)) if above.contains('.') => above,
            _ => return Err(NoServers::NoZone(format!("{at} is in no zone"))),
        };
    }
}

fn lies_within(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The zone's servers with their addresses. One that surely has no address can mislead nobody and is
/// left out; one whose address is unknown stays, without any.
async fn servers_of(zone: &str, dns: &dyn Dns) -> Result<Vec<(String, Vec<IpAddr>)>, NoServers> {
    let answer = match dns.lookup(zone, RecordType::Ns).await {
        Ok(answer) => answer,
        Err(why) if why.is_absence() => return Err(NoServers::NoZone(why.to_string())),
        Err(why) => return Err(NoServers::Unknown(why.to_string())),
    };
    let mut hosts: Vec<_> = answer
        .records
        .iter()
        .filter_map(|record| match record {
            RecordData::Ns(host) => Some(plain(host)),
            _ => None,
        })
        .collect();
    hosts.sort();
    hosts.dedup();
    hosts.truncate(SERVERS_MAX);
    let found = join_all(hosts.iter().map(|host| addresses(host, dns))).await;
    let mut servers = Vec::with_capacity(hosts.len());
    for (host, found) in hosts.into_iter().zip(found) {
        match found {
            Ok(mut addresses) => {
                spread(&mut addresses);
                servers.push((host, addresses));
            }
            Err(why) if why.is_absence() => {}
            Err(_) => servers.push((host, Vec::new())),
        }
    }
    if servers.is_empty() {
        let why = format!("no name server of {zone} has an address");
        return Err(NoServers::NoZone(why));
    }
    Ok(servers)
}

/// Keeps the first address of each kind.
fn spread(addresses: &mut Vec<IpAddr>) {
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses.dedup_by_key(|address| address.is_ipv6());
    addresses.truncate(ADDRESSES_PER_SERVER);
}

async fn ask_server(
    server: &str,
    addresses: &[IpAddr],
    name: &str,
    kind: RecordType,
    dns: &dyn Dns,
) -> Result<DnsAnswer, DnsError> {
    let mut last = DnsError::Unknown {
        name: name.to_owned(),
        kind,
        why: format!("the address of {server} is unknown"),
    };
    for address in addresses {
        let why = match dns.lookup_at(*address, name, kind).await {
            Ok(answer) => return Ok(answer),
            Err(why @ DnsError::NoSuchName { .. }) => return Err(why),
            Err(why) => why,
        };
        // A server that does not hold an alias's target may say "no record" or nothing useful at all.
        if let Some(target) = alias_at(*address, name, dns).await {
            return dns.lookup(&target, kind).await;
        }
        if why.is_absence() {
            return Err(why);
        }
        last = why;
    }
    Err(last)
}

/// Where `name` is an alias to, if this server says so. It need not hold the target itself.
async fn alias_at(address: IpAddr, name: &str, dns: &dyn Dns) -> Option<String> {
    let answer = dns.lookup_at(address, name, RecordType::Cname).await.ok()?;
    answer.records.iter().find_map(|record| match record {
        RecordData::Cname(target) => Some(target.clone()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::fake::FakeDns;

    fn world() -> FakeDns {
        FakeDns::new()
            .zone("example.com", &["192.0.2.1", "192.0.2.2"])
            .txt("_inboxgrove.example.com", "t0ken")
    }

    fn servers(dns: &FakeDns, allow_private: bool) -> Servers<'_> {
        Servers { dns, allow_private }
    }

    async fn said(dns: &FakeDns) -> Vec<(String, Option<usize>)> {
        servers(dns, true)
            .ask_all("_inboxgrove.example.com", RecordType::Txt)
            .await
            .unwrap()
            .into_iter()
            .map(|said| (said.server, said.answer.ok().map(|a| a.records.len())))
            .collect()
    }

    #[tokio::test]
    async fn every_server_is_asked() {
        assert_eq!(
            said(&world()).await,
            [
                ("ns0.example.com".into(), Some(1)),
                ("ns1.example.com".into(), Some(1))
            ]
        );
    }

    #[tokio::test]
    async fn a_silent_server_is_heard_of() {
        let dns = world().silent("192.0.2.2");
        assert_eq!(
            said(&dns).await,
            [
                ("ns0.example.com".into(), Some(1)),
                ("ns1.example.com".into(), None)
            ]
        );
    }

    #[tokio::test]
    async fn an_alias_out_of_the_zone_is_followed() {
        let dns = world()
            .without("_inboxgrove.example.com", RecordType::Txt)
            .cname("_inboxgrove.example.com", "proof.vendor.example")
            .txt("proof.vendor.example", "t0ken");
        assert_eq!(said(&dns).await[0].1, Some(1));
    }

    #[tokio::test]
    async fn a_name_server_without_an_address_is_left_out() {
        let dns = world().without("ns1.example.com", RecordType::A);
        assert_eq!(said(&dns).await.len(), 1);
    }

    #[tokio::test]
    async fn no_zone_and_unknown_are_two_things() {
        let none = servers(&FakeDns::new(), true)
            .ask_all("example.com", RecordType::Mx)
            .await;
        assert!(matches!(none, Err(NoServers::NoZone(_))), "{none:?}");
        let dns = world().servfail("example.com", RecordType::Soa);
        let unknown = servers(&dns, true)
            .ask_all("example.com", RecordType::Mx)
            .await;
        assert!(matches!(unknown, Err(NoServers::Unknown(_))), "{unknown:?}");
    }

    #[tokio::test]
    async fn servers_inside_the_operators_network_are_not_asked() {
        let dns = FakeDns::new()
            .zone("example.com", &["10.0.0.53", "9.9.9.9"])
            .txt("_inboxgrove.example.com", "t0ken");
        let said = servers(&dns, false)
            .ask_all("_inboxgrove.example.com", RecordType::Txt)
            .await
            .unwrap();
        let Err(DnsError::Unknown { why, .. }) = &said[0].answer else {
            panic!("{said:?}");
        };
        assert!(why.contains("10.0.0.53"), "{why}");
        assert!(said[1].answer.is_ok(), "{said:?}");
    }
}
