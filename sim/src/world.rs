//! A whole small internet: zones, three mailbox providers, and a place for the domains under test.
//!
//! Everybody has addresses of their own in 127.0.0.0/8 ([`addresses`]). On [`MemNet`](crate::net::MemNet)
//! they exist in memory only, on [`LoopbackNet`](crate::net::LoopbackNet) they are real sockets.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use inboxgrove_model::{
    DomainName, EmailAddress,
    domain::RecordToPublish,
    ports::{Activity, Clock, Net, RecordData, RecordType},
};

use crate::{
    dns::{Zones, address_record, server::NameServers},
    net::listen_on_one_port,
    provider::{Around, Delivery, Host, Provider, Rules, Serving},
    rng::SeededRng,
};

/// Who lives where.
pub mod addresses {
    use std::net::{IpAddr, Ipv4Addr};

    /// The resolver of the world: answers for every zone.
    pub const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 9, 53));
    /// The name servers of all zones.
    pub const NAME_SERVERS: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(127, 0, 9, 1)),
        IpAddr::V4(Ipv4Addr::new(127, 0, 9, 2)),
    ];
    /// Where the daemon under test takes mail in: a good choice, nobody else lives there.
    pub const INBOUND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));

    /// The n-th address the daemon under test sends from.
    pub const fn source(n: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, 0, 2, n))
    }

    /// The m-th host of the n-th provider, both counted from 0.
    pub const fn provider_host(provider: u8, host: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, 0, 10 + provider, 1 + host))
    }
}

/// The zone of the world's name servers, and their names in it.
const SERVERS_ZONE: &str = "nameservers.example";
const SERVER_NAMES: [&str; 2] = ["ns1.nameservers.example", "ns2.nameservers.example"];
/// The zone of the names of all loopback addresses.
const REVERSE_ZONE: &str = "127.in-addr.arpa";

/// What a world is made of.
#[derive(Clone)]
pub struct Plan {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The wires.
    pub net: Arc<dyn Net>,
    /// Who is at work.
    pub activity: Activity,
    /// Where chance begins.
    pub seed: u64,
    /// The port that all MX hosts listen at; 0 takes a free one.
    pub smtp_port: u16,
    /// The port of real name servers, 0 for a free one; `None`: names are asked for in memory only.
    pub dns_port: Option<u16>,
    /// The providers, the first at 127.0.10.x, the next at 127.0.11.x ….
    pub providers: Vec<Rules>,
}

/// A running world, until it is dropped.
pub struct World {
    zones: Zones,
    rng: SeededRng,
    providers: Vec<Neighbour>,
    name_servers: Option<NameServers>,
    smtp_port: u16,
}

/// A provider and where it is.
struct Neighbour {
    provider: Provider,
    serving: Serving,
}

// === impl Plan ===

impl Plan {
    /// A world with the three presets, in memory, MX hosts at port 25.
    pub fn new(clock: Arc<dyn Clock>, net: Arc<dyn Net>, activity: Activity, seed: u64) -> Self {
        Self {
            clock,
            net,
            activity,
            seed,
            smtp_port: 25,
            dns_port: None,
            providers: vec![
                Rules::gmail_like(),
                Rules::outlook_like(),
                Rules::yahoo_like(),
            ],
        }
    }

    /// The same with free ports, for real sockets.
    #[must_use]
    pub fn on_free_ports(self) -> Self {
        Self {
            smtp_port: 0,
            dns_port: Some(0),
            ..self
        }
    }

    /// Brings it to life.
    pub async fn start(self) -> io::Result<World> {
        let zones = Zones::new();
        let servers: Vec<_> = SERVER_NAMES
            .into_iter()
            .zip(addresses::NAME_SERVERS)
            .collect();
        zones.zone(SERVERS_ZONE, &servers);
        zones.zone(REVERSE_ZONE, &servers);
        let name_servers = match self.dns_port {
            Some(port) => {
                let [first, second] = addresses::NAME_SERVERS;
                Some(NameServers::start(&zones, &[addresses::RESOLVER, first, second], port).await?)
            }
            None => None,
        };
        let mut world = World {
            zones,
            rng: SeededRng::new(self.seed),
            providers: Vec::new(),
            name_servers,
            smtp_port: self.smtp_port,
        };
        world.settle(&self).await?;
        Ok(world)
    }

    fn around(&self, zones: &Zones) -> Around {
        Around {
            clock: Arc::clone(&self.clock),
            dns: Arc::new(zones.clone()),
            net: Arc::clone(&self.net),
            activity: self.activity.clone(),
        }
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

// === impl World ===

impl World {
    /// The names of the world; a `Dns` port for whoever lives in memory.
    pub fn zones(&self) -> &Zones {
        &self.zones
    }

    /// Chance of the world: take a stream of it.
    pub fn rng(&self) -> &SeededRng {
        &self.rng
    }

    /// The port that MX hosts listen at (`outbound.mx_port`).
    pub fn smtp_port(&self) -> u16 {
        self.smtp_port
    }

    /// Where the resolver answers, when it does so over sockets (`dns.servers`, `dns.port`).
    pub fn resolver(&self) -> Option<SocketAddr> {
        self.name_servers
            .as_ref()
            .and_then(|servers| servers.addresses().first().copied())
    }

    /// All providers.
    pub fn providers(&self) -> impl Iterator<Item = &Provider> {
        self.providers.iter().map(|neighbour| &neighbour.provider)
    }

    /// The provider of this name.
    pub fn provider(&self, name: &str) -> Option<&Provider> {
        self.providers().find(|provider| provider.name() == name)
    }

    /// The MX hosts of the provider of this name; none when there is no such provider.
    pub fn mx_hosts(&self, name: &str) -> &[Host] {
        let found = self
            .providers
            .iter()
            .find(|neighbour| neighbour.provider.name() == name);
        found.map_or(&[], |neighbour| neighbour.serving.hosts())
    }

    /// Makes the zone of a domain whose mail a provider takes, and says where that provider delivers it.
    /// False when there is no such provider.
    pub fn add_domain(&self, domain: &DomainName, provider: &str, delivery: Delivery) -> bool {
        let Some(found) = self.provider(provider) else {
            return false;
        };
        found.host(domain, delivery);
        self.add_zone(domain.as_str());
        for (host, preference) in self.mx_hosts(provider).iter().zip((10_u16..).step_by(10)) {
            let exchange = host.name.to_string();
            self.zones.add(
                domain.as_str(),
                RecordData::Mx {
                    preference,
                    exchange,
                },
            );
        }
        true
    }

    /// Lets all sessions come to their ends, and resolves when they have.
    pub async fn stop(self) {
        for neighbour in self.providers {
            neighbour.serving.stop().await;
        }
    }

    /// Makes an empty zone on the world's name servers.
    pub fn add_zone(&self, apex: &str) {
        let servers: Vec<_> = SERVER_NAMES
            .into_iter()
            .zip(addresses::NAME_SERVERS)
            .collect();
        self.zones.zone(apex, &servers);
    }

    /// Names an address and lets the name lead back to it, as a sender needs it (FCrDNS). The name's zone
    /// is made when it is in none.
    pub fn add_host(&self, host: &DomainName, ip: IpAddr) {
        if !self.zones.add(host.as_str(), address_record(ip)) {
            let parent = host.parents().next().unwrap_or_else(|| host.clone());
            self.add_zone(parent.as_str());
            self.zones.add(host.as_str(), address_record(ip));
        }
        self.zones.name_address(ip, host.as_str());
    }

    /// Publishes what a domain's owner is told to publish. A policy that is there already, as told by its
    /// first word (`v=spf1`), gives way. True when all of it lies in zones of this world.
    pub fn publish(&self, records: &[RecordToPublish]) -> bool {
        records.iter().all(|record| match parse_record(record) {
            Some(RecordData::Txt(text)) => self.publish_text(&record.name, text),
            Some(data) => self.zones.add(&record.name, data),
            None => false,
        })
    }

    /// Names a user at whichever provider takes mail for the address's domain; see [`Provider::add_user`].
    pub fn add_user(&self, address: &EmailAddress) {
        for provider in self
            .providers()
            .filter(|provider| provider.hosts(&address.domain()))
        {
            provider.add_user(address);
        }
    }

    fn publish_text(&self, name: &str, text: String) -> bool {
        let word = |text: &str| text.split([' ', ';']).next().map(str::to_owned);
        let is_policy = text.starts_with("v=");
        let mut texts = self.zones.records(name, RecordType::Txt);
        texts.retain(|data| !matches!(data, RecordData::Txt(old) if is_policy && word(old) == word(&text) || *old == text));
        texts.push(RecordData::Txt(text));
        self.zones.set(name, RecordType::Txt, texts)
    }

    /// Lets the providers move in.
    async fn settle(&mut self, plan: &Plan) -> io::Result<()> {
        let mut ips = Vec::new();
        for (n, rules) in (0_u8..).zip(&plan.providers) {
            ips.push(
                (0_u8..)
                    .zip(rules.hosts)
                    .map(|(m, _)| addresses::provider_host(n, m))
                    .collect::<Vec<_>>(),
            );
        }
        let all: Vec<IpAddr> = ips.concat();
        let mut listeners = listen_on_one_port(&*plan.net, &all, plan.smtp_port)
            .await?
            .into_iter();
        if let Some(first) = listeners.as_slice().first() {
            self.smtp_port = first.local_addr().port();
        }
        for (rules, ips) in plan.providers.iter().zip(ips) {
            self.add_zone(rules.zone);
            let provider = Provider::new(rules.clone(), plan.around(&self.zones), &self.rng);
            let serving = provider.serve(listeners.by_ref().take(ips.len()).collect())?;
            for host in serving.hosts() {
                self.add_host(&host.name, host.address.ip());
            }
            self.providers.push(Neighbour { provider, serving });
        }
        Ok(())
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("smtp_port", &self.smtp_port)
            .field("resolver", &self.resolver())
            .finish_non_exhaustive()
    }
}

/// The record that a zone file's last field says.
fn parse_record(record: &RecordToPublish) -> Option<RecordData> {
    let value = record.value.trim();
    let name = || value.trim_end_matches('.').to_ascii_lowercase();
    Some(match record.kind {
        RecordType::A => RecordData::A(value.parse::<Ipv4Addr>().ok()?),
        RecordType::Aaaa => RecordData::Aaaa(value.parse().ok()?),
        RecordType::Mx => {
            let (preference, exchange) = value.split_once(' ')?;
            RecordData::Mx {
                preference: preference.parse().ok()?,
                exchange: exchange.trim().trim_end_matches('.').to_ascii_lowercase(),
            }
        }
        RecordType::Txt => RecordData::Txt(record.value.clone()),
        RecordType::Ns => RecordData::Ns(name()),
        RecordType::Cname => RecordData::Cname(name()),
        RecordType::Ptr => RecordData::Ptr(name()),
        RecordType::Soa => return None,
    })
}

#[cfg(test)]
mod tests;
