//! Names of the simulated internet: zones that anybody may edit, and the ways in which they may fail.
//!
//! One [`Zones`] is the whole tree. The virtual world asks it directly (it is a [`Dns`] port); the demo
//! asks it over UDP and TCP through [`server`].

pub mod server;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use inboxgrove_model::ports::{BoxFuture, Dns, DnsAnswer, DnsError, RecordData, RecordType};

/// Time to live of every record, and of absences (RFC 2308).
pub const TTL: Duration = Duration::from_mins(5);
/// How long a question to a silent server hangs: the deadline the port promises.
const SILENCE: Duration = Duration::from_secs(5);
/// Aliases followed for one question.
const ALIASES_MAX: usize = 8;

/// All zones. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Zones {
    shared: Arc<Mutex<State>>,
}

/// How a zone or a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trouble {
    /// As it should.
    #[default]
    None,
    /// SERVFAIL to everything.
    ServFail,
    /// Not at all.
    Timeout,
}

/// What a server says to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Records with their owner names: aliases first, then what was asked for, if the alias leads there.
    Records(Vec<(String, RecordData)>),
    /// The name exists without such a record. Aliases that led there, and the zone.
    NoData(Vec<(String, RecordData)>, Authority),
    /// No such name. Aliases that led there, and the zone.
    NoSuchName(Vec<(String, RecordData)>, Authority),
    /// SERVFAIL.
    ServFail,
    /// The server does not serve this zone.
    Refused,
    /// Nothing comes back.
    Silence,
}

/// Who says that something is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The apex of the zone; empty for the root.
    pub zone: String,
    /// Its primary name server.
    pub primary: String,
}

#[derive(Debug, Default)]
struct State {
    zones: Tree,
    servers: BTreeMap<IpAddr, Trouble>,
    /// Servers that have not heard of any change since they were frozen.
    frozen: BTreeMap<IpAddr, Tree>,
    /// What the resolver has been made to believe.
    poisoned: BTreeMap<(String, RecordType), Vec<RecordData>>,
}

/// Zones by apex.
type Tree = BTreeMap<String, Zone>;

#[derive(Debug, Clone, Default)]
struct Zone {
    servers: Vec<(String, IpAddr)>,
    records: BTreeMap<(String, RecordType), Vec<RecordData>>,
    trouble: Trouble,
}

// === impl Zones ===

impl Zones {
    /// A tree without zones: every name is absent.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a zone, or makes it anew, with its name servers; writes its SOA and NS records, and the
    /// servers' addresses into the zones they lie in.
    pub fn zone(&self, apex: &str, servers: &[(&str, IpAddr)]) {
        let apex = normal(apex);
        let servers: Vec<_> = servers
            .iter()
            .map(|(host, ip)| (normal(host), *ip))
            .collect();
        let mut zone = Zone {
            servers: servers.clone(),
            ..Zone::default()
        };
        let primary = servers
            .first()
            .map_or_else(|| format!("ns.{apex}"), |(host, _)| host.clone());
        zone.put(
            &apex,
            RecordData::Soa {
                zone: apex.clone(),
                primary,
            },
        );
        for (host, _) in &servers {
            zone.put(&apex, RecordData::Ns(host.clone()));
        }
        self.lock().zones.insert(apex, zone);
        for (host, ip) in servers {
            self.add(&host, address_record(ip));
        }
    }

    /// Takes a whole zone away.
    pub fn drop_zone(&self, apex: &str) {
        self.lock().zones.remove(&normal(apex));
    }

    /// The apexes of all zones.
    pub fn apexes(&self) -> Vec<String> {
        self.lock().zones.keys().cloned().collect()
    }

    /// Adds a record to the zone that holds `owner`. False when there is no such zone.
    pub fn add(&self, owner: &str, data: RecordData) -> bool {
        let owner = normal(owner);
        let mut state = self.lock();
        match holder_mut(&mut state.zones, &owner) {
            Some(zone) => {
                zone.put(&owner, data);
                true
            }
            None => false,
        }
    }

    /// Puts these records in the place of all others of their kind at `owner`; none takes them away.
    pub fn set(&self, owner: &str, kind: RecordType, records: Vec<RecordData>) -> bool {
        self.remove(owner, kind);
        records.into_iter().all(|data| self.add(owner, data))
    }

    /// Takes all records of a kind away. True when there were any.
    pub fn remove(&self, owner: &str, kind: RecordType) -> bool {
        let owner = normal(owner);
        let mut state = self.lock();
        holder_mut(&mut state.zones, &owner)
            .is_some_and(|zone| zone.records.remove(&(owner, kind)).is_some())
    }

    /// The records of a kind at a name, aliases not followed.
    pub fn records(&self, owner: &str, kind: RecordType) -> Vec<RecordData> {
        let owner = normal(owner);
        let state = self.lock();
        holder(&state.zones, &owner)
            .and_then(|(_, zone)| zone.records.get(&(owner, kind)).cloned())
            .unwrap_or_default()
    }

    /// Names the host of an address, in the reverse tree. The zone must be there.
    pub fn name_address(&self, ip: IpAddr, host: &str) -> bool {
        self.set(
            &reverse_name(ip),
            RecordType::Ptr,
            vec![RecordData::Ptr(normal(host))],
        )
    }

    /// Makes a zone fail, or heals it.
    pub fn trouble(&self, apex: &str, trouble: Trouble) {
        if let Some(zone) = self.lock().zones.get_mut(&normal(apex)) {
            zone.trouble = trouble;
        }
    }

    /// Makes a server fail for questions that are put to it directly, or heals it.
    pub fn server_trouble(&self, server: IpAddr, trouble: Trouble) {
        self.lock().servers.insert(server, trouble);
    }

    /// From now on this server answers direct questions as of now, as a secondary that missed a transfer does.
    pub fn freeze(&self, server: IpAddr) {
        let mut state = self.lock();
        let tree = state.zones.clone();
        state.frozen.insert(server, tree);
    }

    /// Lets a frozen server catch up.
    pub fn thaw(&self, server: IpAddr) {
        self.lock().frozen.remove(&server);
    }

    /// Somebody has forged an answer that the recursive resolver took: these records, whatever the zones say.
    pub fn poison(&self, name: &str, records: Vec<RecordData>) {
        let mut state = self.lock();
        for data in records {
            let forged = state.poisoned.entry((normal(name), kind_of(&data)));
            forged.or_default().push(data);
        }
    }

    /// The resolver forgets what was forged for a name.
    pub fn cure(&self, name: &str) {
        let name = normal(name);
        self.lock().poisoned.retain(|(owner, _), _| *owner != name);
    }

    /// What a recursive resolver says.
    pub fn resolve(&self, name: &str, kind: RecordType) -> Answer {
        let (state, name) = (self.lock(), normal(name));
        match state.poisoned.get(&(name.clone(), kind)) {
            Some(forged) => {
                let records = forged.iter().map(|data| (name.clone(), data.clone()));
                Answer::Records(records.collect())
            }
            None => resolve(&state.zones, &name, kind, None),
        }
    }

    /// What one server says of the zones it serves.
    pub fn resolve_at(&self, server: IpAddr, name: &str, kind: RecordType) -> Answer {
        let name = normal(name);
        let state = self.lock();
        match state.servers.get(&server).copied().unwrap_or_default() {
            Trouble::None => {}
            Trouble::ServFail => return Answer::ServFail,
            Trouble::Timeout => return Answer::Silence,
        }
        let tree = state.frozen.get(&server).unwrap_or(&state.zones);
        resolve(tree, &name, kind, Some(server))
    }

    /// Who would say that something at this name is absent.
    fn authority_of(&self, name: &str) -> Authority {
        let name = normal(name);
        holder(&self.lock().zones, &name).map_or_else(root, |(apex, zone)| authority(apex, zone))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dns for Zones {
    fn lookup<'a>(
        &'a self,
        name: &'a str,
        kind: RecordType,
    ) -> BoxFuture<'a, Result<DnsAnswer, DnsError>> {
        Box::pin(async move { told(self.resolve(name, kind), name, kind).await })
    }

    fn lookup_at<'a>(
        &'a self,
        server: IpAddr,
        name: &'a str,
        kind: RecordType,
    ) -> BoxFuture<'a, Result<DnsAnswer, DnsError>> {
        Box::pin(async move { told(self.resolve_at(server, name, kind), name, kind).await })
    }
}

// === impl Zone ===

impl Zone {
    fn put(&mut self, owner: &str, data: RecordData) {
        let of_kind = self
            .records
            .entry((owner.to_owned(), kind_of(&data)))
            .or_default();
        if !of_kind.contains(&data) {
            of_kind.push(data);
        }
    }

    fn is_served_by(&self, server: IpAddr) -> bool {
        self.servers.iter().any(|(_, ip)| *ip == server)
    }

    fn alias(&self, name: &str) -> Option<String> {
        let aliases = self.records.get(&(name.to_owned(), RecordType::Cname))?;
        aliases.iter().find_map(|data| match data {
            RecordData::Cname(target) => Some(normal(target)),
            _ => None,
        })
    }

    /// Whether there is a record at this name or below it (RFC 8020).
    fn has_name(&self, name: &str) -> bool {
        self.records
            .keys()
            .any(|(owner, _)| owner == name || is_below(owner, name))
    }
}

/// The form in which names are kept: lower case, without a final dot.
pub(crate) fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// The name at which the PTR record of an address stands (RFC 1035 §3.5, RFC 3596 §2.5).
pub fn reverse_name(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let nibbles = ip
                .octets()
                .into_iter()
                .rev()
                .flat_map(|byte| [byte & 15, byte >> 4]);
            let labels = nibbles.filter_map(|nibble| char::from_digit(u32::from(nibble), 16));
            labels.flat_map(|digit| [digit, '.']).collect::<String>() + "ip6.arpa"
        }
    }
}

/// The address as a record.
pub fn address_record(ip: IpAddr) -> RecordData {
    match ip {
        IpAddr::V4(ip) => RecordData::A(ip),
        IpAddr::V6(ip) => RecordData::Aaaa(ip),
    }
}

/// The kind that a record is of.
pub fn kind_of(data: &RecordData) -> RecordType {
    match data {
        RecordData::A(_) => RecordType::A,
        RecordData::Aaaa(_) => RecordType::Aaaa,
        RecordData::Mx { .. } => RecordType::Mx,
        RecordData::Txt(_) => RecordType::Txt,
        RecordData::Ns(_) => RecordType::Ns,
        RecordData::Cname(_) => RecordType::Cname,
        RecordData::Ptr(_) => RecordType::Ptr,
        RecordData::Soa { .. } => RecordType::Soa,
    }
}

fn is_below(name: &str, above: &str) -> bool {
    name.strip_suffix(above)
        .is_some_and(|rest| rest.ends_with('.'))
}

/// The names from `name` upwards, itself first.
fn upwards(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| {
        name.split_once('.').map(|(_, above)| above)
    })
}

/// The zone that holds a name: the one with the longest apex.
fn holder<'a>(zones: &'a Tree, name: &str) -> Option<(&'a str, &'a Zone)> {
    upwards(name)
        .find_map(|apex| zones.get_key_value(apex))
        .map(|(apex, zone)| (apex.as_str(), zone))
}

fn holder_mut<'a>(zones: &'a mut Tree, name: &str) -> Option<&'a mut Zone> {
    let apex = upwards(name).find(|apex| zones.contains_key(*apex))?;
    zones.get_mut(apex)
}

/// Answers from these zones; `server` alone answers from those it serves, and leaves it to the asker to
/// follow an alias out of them.
fn resolve(zones: &Tree, name: &str, kind: RecordType, server: Option<IpAddr>) -> Answer {
    let mut chain = Vec::new();
    let mut name = name.to_owned();
    for _ in 0..ALIASES_MAX {
        let Some((apex, zone)) = holder(zones, &name) else {
            return match server {
                None => Answer::NoSuchName(chain, root()),
                Some(_) => not_served(chain),
            };
        };
        if server.is_some_and(|ip| !zone.is_served_by(ip)) {
            return not_served(chain);
        }
        match zone.trouble {
            Trouble::None => {}
            Trouble::ServFail => return Answer::ServFail,
            Trouble::Timeout => return Answer::Silence,
        }
        if let Some(found) = zone.records.get(&(name.clone(), kind)) {
            chain.extend(found.iter().map(|data| (name.clone(), data.clone())));
            return Answer::Records(chain);
        }
        match zone.alias(&name) {
            Some(target) => {
                chain.push((name, RecordData::Cname(target.clone())));
                name = target;
            }
            None if zone.has_name(&name) => return Answer::NoData(chain, authority(apex, zone)),
            None => return Answer::NoSuchName(chain, authority(apex, zone)),
        }
    }
    Answer::ServFail
}

/// What a server says of a name in a zone of others: nothing, or the alias that led out.
fn not_served(chain: Vec<(String, RecordData)>) -> Answer {
    if chain.is_empty() {
        Answer::Refused
    } else {
        Answer::Records(chain)
    }
}

fn root() -> Authority {
    Authority {
        zone: String::new(),
        primary: "a.root-servers.net".to_owned(),
    }
}

fn authority(apex: &str, zone: &Zone) -> Authority {
    Authority {
        zone: apex.to_owned(),
        primary: zone
            .servers
            .first()
            .map_or_else(|| format!("ns.{apex}"), |(host, _)| host.clone()),
    }
}

/// An answer as the port gives it.
async fn told(answer: Answer, name: &str, kind: RecordType) -> Result<DnsAnswer, DnsError> {
    let unknown = |why: &str| DnsError::Unknown {
        name: normal(name),
        kind,
        why: why.to_owned(),
    };
    match answer {
        Answer::Records(records) => {
            let data = records.into_iter().map(|(_, data)| data);
            let records: Vec<_> = data.filter(|data| kind_of(data) == kind).collect();
            if records.is_empty() {
                return Err(unknown("it is an alias into a zone of other servers"));
            }
            Ok(DnsAnswer {
                records,
                ttl: TTL,
                authentic: false,
            })
        }
        Answer::NoData(..) => Err(DnsError::NoRecord {
            name: normal(name),
            kind,
        }),
        Answer::NoSuchName(..) => Err(DnsError::NoSuchName { name: normal(name) }),
        Answer::ServFail => Err(unknown("the server failed (SERVFAIL)")),
        Answer::Refused => Err(unknown("the server refused to answer (REFUSED)")),
        Answer::Silence => {
            tokio::time::sleep(SILENCE).await;
            Err(unknown("no answer within 5 s"))
        }
    }
}

#[cfg(test)]
mod tests;
