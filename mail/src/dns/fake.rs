//! A DNS for the tests of this crate: zones in a map, servers that can be made to lie or to stay silent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use inboxgrove_model::ports::{BoxFuture, Dns, DnsAnswer, DnsError, RecordData, RecordType};

use super::plain;

type Records = BTreeMap<(String, RecordType), Vec<RecordData>>;

/// What the world publishes. Servers asked directly see the same, unless they are told otherwise.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeDns {
    records: Records,
    failing: BTreeSet<(String, RecordType)>,
    silent: BTreeSet<IpAddr>,
    own_view: BTreeMap<IpAddr, Records>,
}

impl FakeDns {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn add(mut self, name: &str, kind: RecordType, data: RecordData) -> Self {
        let records = self.records.entry((plain(name), kind)).or_default();
        records.push(data);
        self
    }

    pub(crate) fn a(self, name: &str, ip: &str) -> Self {
        self.add(name, RecordType::A, RecordData::A(ip.parse().unwrap()))
    }

    pub(crate) fn aaaa(self, name: &str, ip: &str) -> Self {
        self.add(
            name,
            RecordType::Aaaa,
            RecordData::Aaaa(ip.parse().unwrap()),
        )
    }

    pub(crate) fn mx(self, name: &str, preference: u16, exchange: &str) -> Self {
        let exchange = plain(exchange);
        let data = RecordData::Mx {
            preference,
            exchange,
        };
        self.add(name, RecordType::Mx, data)
    }

    pub(crate) fn txt(self, name: &str, text: &str) -> Self {
        self.add(name, RecordType::Txt, RecordData::Txt(text.to_owned()))
    }

    pub(crate) fn cname(self, name: &str, target: &str) -> Self {
        self.add(name, RecordType::Cname, RecordData::Cname(plain(target)))
    }

    pub(crate) fn ptr(self, ip: &str, host: &str) -> Self {
        let name = super::reverse_name(ip.parse().unwrap());
        self.add(&name, RecordType::Ptr, RecordData::Ptr(plain(host)))
    }

    /// A zone with one name server per address: `ns0.<apex>`, `ns1.<apex>` ….
    pub(crate) fn zone(mut self, apex: &str, servers: &[&str]) -> Self {
        let soa = RecordData::Soa {
            zone: plain(apex),
            primary: format!("ns0.{apex}"),
        };
        self = self.add(apex, RecordType::Soa, soa);
        for (i, ip) in servers.iter().enumerate() {
            let host = format!("ns{i}.{apex}");
            self = self
                .add(apex, RecordType::Ns, RecordData::Ns(host.clone()))
                .a(&host, ip);
        }
        self
    }

    pub(crate) fn without(mut self, name: &str, kind: RecordType) -> Self {
        self.records.remove(&(plain(name), kind));
        self
    }

    pub(crate) fn servfail(mut self, name: &str, kind: RecordType) -> Self {
        self.failing.insert((plain(name), kind));
        self
    }

    pub(crate) fn silent(mut self, server: &str) -> Self {
        self.silent.insert(server.parse().unwrap());
        self
    }

    /// From now on `server` publishes what the world publishes at this point.
    pub(crate) fn frozen_at(mut self, server: &str) -> Self {
        let view = self.records.clone();
        self.own_view.insert(server.parse().unwrap(), view);
        self
    }

    fn answer(
        &self,
        records: &Records,
        name: &str,
        kind: RecordType,
        follow: bool,
    ) -> Result<DnsAnswer, DnsError> {
        let name = plain(name);
        if self.failing.contains(&(name.clone(), kind)) {
            return Err(unknown(&name, kind, "SERVFAIL"));
        }
        if let Some(found) = records.get(&(name.clone(), kind)) {
            return Ok(DnsAnswer {
                records: found.clone(),
                ttl: Duration::from_mins(5),
                authentic: false,
            });
        }
        let alias = records.get(&(name.clone(), RecordType::Cname));
        if let Some([RecordData::Cname(target)]) = alias.map(Vec::as_slice) {
            return if follow {
                self.answer(records, target, kind, follow)
            } else {
                Err(unknown(&name, kind, "it is an alias"))
            };
        }
        let below = format!(".{name}");
        let exists = |(owner, _): &(String, RecordType)| *owner == name || owner.ends_with(&below);
        if records.keys().any(exists) {
            Err(DnsError::NoRecord { name, kind })
        } else {
            Err(DnsError::NoSuchName { name })
        }
    }
}

fn unknown(name: &str, kind: RecordType, why: &str) -> DnsError {
    DnsError::Unknown {
        name: name.to_owned(),
        kind,
        why: why.to_owned(),
    }
}

impl Dns for FakeDns {
    fn lookup<'a>(
        &'a self,
        name: &'a str,
        kind: RecordType,
    ) -> BoxFuture<'a, Result<DnsAnswer, DnsError>> {
        Box::pin(async move { self.answer(&self.records, name, kind, true) })
    }

    fn lookup_at<'a>(
        &'a self,
        server: IpAddr,
        name: &'a str,
        kind: RecordType,
    ) -> BoxFuture<'a, Result<DnsAnswer, DnsError>> {
        Box::pin(async move {
            if self.silent.contains(&server) {
                return Err(unknown(name, kind, "no answer within 5000 ms"));
            }
            let view = self.own_view.get(&server).unwrap_or(&self.records);
            self.answer(view, name, kind, false)
        })
    }
}
