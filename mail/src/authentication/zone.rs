//! What mail-auth is told about DNS: a cache that notes what it was asked in vain, and a resolver behind it
//! that has no name servers.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use hickory_resolver::{
    Hosts, TokioResolver,
    config::{ResolveHosts, ResolverConfig},
    lookup::Lookup,
    net::runtime::TokioRuntimeProvider,
    proto::{
        op::{Query, ResponseCode},
        rr::{Name, RecordType as WireType},
    },
};
use inboxgrove_model::ports::{Dns, DnsAnswer, DnsError, RecordData, RecordType};
use mail_auth::{
    DnsError as AuthDnsError, DnssecStatus, Error, MX, MessageAuthenticator, Parameters, RecordSet,
    ResolverCache, Txt,
    common::{parse::TxtRecordParser, verify::DomainKey},
    dkim::{Atps, DomainKeyReport},
    dmarc::Dmarc,
    spf::Spf,
};

use crate::dns::{is_spf, no_tls, plain, reverse_name};

/// Time for all questions of one message (RFC 7208 §4.6.4: at least 20 seconds).
const TIME_MAX: Duration = Duration::from_secs(20);
/// Questions asked for one message: SPF may need 10 lookups with 10 hosts each, but honest mail needs some
/// fifteen in all.
const QUESTIONS_MAX: usize = 40;

type Question = (String, RecordType);
type Texts = Shelf<Txt>;
type Fours = Shelf<RecordSet<Ipv4Addr>>;
type Sixes = Shelf<RecordSet<Ipv6Addr>>;
type Mxs = Shelf<RecordSet<MX>>;

/// What is known so far.
pub(super) struct Zone {
    address: IpAddr,
    deadline: tokio::time::Instant,
    asker: MessageAuthenticator,
    asked: BTreeSet<Question>,
    /// Names that surely have no address of a kind. `exists:` must hear "none" and not "unknown", and the
    /// hosts table of the resolver is the only place that can say so.
    absent: BTreeSet<Question>,
    texts: Texts,
    fours: Fours,
    sixes: Sixes,
    mxs: Mxs,
    names: Names,
}

/// The answers of one kind, by name.
pub(super) struct Shelf<V> {
    state: Mutex<(BTreeMap<String, V>, BTreeSet<String>)>,
}

/// The names of the one address that is ever asked for.
#[derive(Default)]
pub(super) struct Names {
    state: Mutex<(Option<RecordSet<Box<str>>>, bool)>,
}

/// Collects the bytes that a string hashes: mail-auth shows its cache a key of a type that can only be
/// hashed and compared.
#[derive(Default)]
struct Spelling(Vec<u8>);

// === impl Zone ===

impl Zone {
    pub(super) fn new(address: IpAddr) -> Self {
        Self {
            address,
            deadline: tokio::time::Instant::now() + TIME_MAX,
            asker: MessageAuthenticator(deaf_resolver()),
            asked: BTreeSet::new(),
            absent: BTreeSet::new(),
            texts: Shelf::default(),
            fours: Shelf::default(),
            sixes: Shelf::default(),
            mxs: Shelf::default(),
            names: Names::default(),
        }
    }

    /// The evaluator. It can only see what this zone holds.
    pub(super) fn asker(&self) -> &MessageAuthenticator {
        &self.asker
    }

    /// `params` with this zone as the cache.
    pub(super) fn with<P>(&self, params: P) -> Parameters<'_, P, Texts, Mxs, Fours, Sixes, Names> {
        Parameters {
            params,
            cache_txt: Some(&self.texts),
            cache_mx: Some(&self.mxs),
            cache_ptr: Some(&self.names),
            cache_ipv4: Some(&self.fours),
            cache_ipv6: Some(&self.sixes),
        }
    }

    /// Fetches what the last run missed. False when there is nothing new to be had.
    pub(super) async fn fetch_missed(&mut self, dns: &dyn Dns) -> bool {
        let mut missed: Vec<Question> = Vec::new();
        for (names, kind) in [
            (self.texts.take_missed(), RecordType::Txt),
            (self.fours.take_missed(), RecordType::A),
            (self.sixes.take_missed(), RecordType::Aaaa),
            (self.mxs.take_missed(), RecordType::Mx),
        ] {
            missed.extend(names.into_iter().map(|name| (name, kind)));
        }
        if self.names.take_missed() {
            missed.push((reverse_name(self.address), RecordType::Ptr));
        }
        missed.retain(|question| !self.asked.contains(question));
        missed.truncate(QUESTIONS_MAX.saturating_sub(self.asked.len()));
        if missed.is_empty() {
            return false;
        }
        let asked = join_all(missed.iter().map(|(name, kind)| dns.lookup(name, *kind)));
        let Ok(answers) = tokio::time::timeout_at(self.deadline, asked).await else {
            return false;
        };
        for (question, answer) in missed.into_iter().zip(answers) {
            self.learn(question, answer);
        }
        self.asker.0.set_hosts(Arc::new(self.nobody()));
        true
    }

    /// Fetches one text record ahead of a run.
    pub(super) async fn fetch_text(&mut self, name: &str, dns: &dyn Dns) {
        let question = (plain(name), RecordType::Txt);
        if self.asked.len() < QUESTIONS_MAX && !self.asked.contains(&question) {
            let asked = dns.lookup(&question.0, RecordType::Txt);
            if let Ok(answer) = tokio::time::timeout_at(self.deadline, asked).await {
                self.learn(question, answer);
            }
        }
    }

    /// What is unknown is left out: the run then hears of a failure and says "temporary".
    fn learn(&mut self, question: Question, answer: Result<DnsAnswer, DnsError>) {
        self.asked.insert(question.clone());
        let (name, kind) = question;
        let (records, missing) = match answer {
            Ok(answer) => (answer.records, None),
            Err(DnsError::NoSuchName { .. }) => (Vec::new(), Some(ResponseCode::NXDomain)),
            Err(DnsError::NoRecord { .. }) => (Vec::new(), Some(ResponseCode::NoError)),
            Err(DnsError::Unknown { why, .. }) => {
                if kind == RecordType::Txt {
                    let error = Error::Dns(AuthDnsError::Resolver(why));
                    self.texts.put(name, Txt::Error(error));
                }
                return;
            }
        };
        match (kind, missing) {
            (RecordType::Txt, Some(code)) => {
                let error = Error::Dns(AuthDnsError::RecordNotFound(code));
                self.texts.put(name, Txt::Error(error));
            }
            (RecordType::Txt, None) => {
                let text = read_text(&name, &records);
                self.texts.put(name, text);
            }
            (RecordType::A | RecordType::Aaaa, Some(code)) => {
                if code == ResponseCode::NXDomain {
                    self.has_no_name(&name);
                }
                self.absent.insert((name, kind));
            }
            (RecordType::A, None) => self.fours.put(
                name,
                set(&records, |r| match r {
                    RecordData::A(address) => Some(*address),
                    _ => None,
                }),
            ),
            (RecordType::Aaaa, None) => self.sixes.put(
                name,
                set(&records, |r| match r {
                    RecordData::Aaaa(address) => Some(*address),
                    _ => None,
                }),
            ),
            (RecordType::Mx, _) => self.mxs.put(
                name,
                set(&records, |r| match r {
                    RecordData::Mx {
                        preference,
                        exchange,
                    } if !exchange.is_empty() => Some(MX {
                        preference: *preference,
                        exchanges: Box::new([exchange.clone().into_boxed_str()]),
                    }),
                    _ => None,
                }),
            ),
            (RecordType::Ptr, _) => self.names.put(set(&records, |r| match r {
                RecordData::Ptr(name) => Some(name.clone().into_boxed_str()),
                _ => None,
            })),
            (RecordType::Ns | RecordType::Cname | RecordType::Soa, _) => {}
        }
    }

    /// An author domain that does not exist gets the `np` policy of the record above it (RFC 9989 §4.7).
    /// mail-auth can hear of that from its own resolver only, so the record is bent to say it.
    fn has_no_name(&self, name: &str) {
        let mut state = self.texts.lock();
        for (owner, text) in &mut state.0 {
            let above = owner.strip_prefix("_dmarc.");
            let is_above = above.is_some_and(|above| name != above && name.ends_with(above));
            if let (true, Txt::Dmarc(record)) = (is_above, &mut *text) {
                let mut bent = Dmarc::clone(record);
                bent.sp = bent.np;
                *text = Txt::Dmarc(Arc::new(bent));
            }
        }
    }

    /// A hosts table in which the absent names have no address.
    fn nobody(&self) -> Hosts {
        let mut hosts = Hosts::default();
        for (name, kind) in &self.absent {
            let kind = match kind {
                RecordType::Aaaa => WireType::AAAA,
                _ => WireType::A,
            };
            if let Ok(name) = Name::from_ascii(format!("{name}.")) {
                let nothing = Lookup::new_with_max_ttl(Query::query(name.clone(), kind), []);
                hosts.insert(name, kind, nothing);
            }
        }
        hosts
    }
}

// === impl Shelf ===

impl<V> Default for Shelf<V> {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
        }
    }
}

impl<V> Shelf<V> {
    fn lock(&self) -> MutexGuard<'_, (BTreeMap<String, V>, BTreeSet<String>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, name: String, value: V) {
        self.lock().0.insert(name, value);
    }

    fn take_missed(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.lock().1)
    }
}

impl<V: Clone> ResolverCache<Box<str>, V> for Shelf<V> {
    fn get<Q>(&self, name: &Q) -> Option<V>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let name = spelled(name);
        let mut state = self.lock();
        let found = state.0.get(&name).cloned();
        if found.is_none() {
            state.1.insert(name);
        }
        found
    }

    fn remove<Q>(&self, name: &Q) -> Option<V>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.lock().0.remove(&spelled(name))
    }

    /// Never called: the resolver behind finds nothing. What we know comes in through [`Zone::learn`].
    fn insert(&self, _: Box<str>, _: V, _: Instant) {}
}

// === impl Names ===

impl Names {
    fn lock(&self) -> MutexGuard<'_, (Option<RecordSet<Box<str>>>, bool)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, names: RecordSet<Box<str>>) {
        self.lock().0 = Some(names);
    }

    fn take_missed(&self) -> bool {
        std::mem::take(&mut self.lock().1)
    }
}

impl ResolverCache<IpAddr, RecordSet<Box<str>>> for Names {
    fn get<Q>(&self, _: &Q) -> Option<RecordSet<Box<str>>>
    where
        IpAddr: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut state = self.lock();
        if state.0.is_none() {
            state.1 = true;
        }
        state.0.clone()
    }

    fn remove<Q>(&self, _: &Q) -> Option<RecordSet<Box<str>>>
    where
        IpAddr: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.lock().0.take()
    }

    fn insert(&self, _: IpAddr, _: RecordSet<Box<str>>, _: Instant) {}
}

impl Hasher for Spelling {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

/// The name behind a key. A string hashes its bytes and then 0xff, which no UTF-8 text holds.
fn spelled<Q: Hash + ?Sized>(key: &Q) -> String {
    let mut spelling = Spelling::default();
    key.hash(&mut spelling);
    let bytes = spelling.0.strip_suffix(&[0xff]).unwrap_or(&spelling.0);
    plain(&String::from_utf8_lossy(bytes))
}

fn set<T>(records: &[RecordData], pick: impl Fn(&RecordData) -> Option<T>) -> RecordSet<T> {
    RecordSet {
        rrset: records.iter().filter_map(pick).collect(),
        dnssec_status: DnssecStatus::Indeterminate,
    }
}

/// The one record of a name that matters, by what the name is for.
fn read_text(name: &str, records: &[RecordData]) -> Txt {
    let texts: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            RecordData::Txt(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let nothing = || Txt::Error(Error::Dns(AuthDnsError::InvalidRecordType));
    let first = texts.first().copied().unwrap_or_default().as_bytes();
    if name.starts_with("_dmarc.") {
        // RFC 9989 §4.10: more than one record is none.
        let mut found = texts.iter().filter_map(|t| Dmarc::parse(t.as_bytes()).ok());
        match (found.next(), found.next()) {
            (Some(one), None) => Txt::from(one),
            _ => nothing(),
        }
    } else if name.starts_with("_report._domainkey.") {
        Txt::from(DomainKeyReport::parse(first))
    } else if name.contains("._domainkey.") {
        Txt::from(DomainKey::parse(first))
    } else if name.contains("._atps.") {
        Txt::from(Atps::parse(first))
    } else {
        let records: Vec<_> = texts.into_iter().filter(|text| is_spf(text)).collect();
        match records.as_slice() {
            [] => nothing(),
            [one] => Txt::from(Spf::parse(one.as_bytes())),
            // RFC 7208 §4.5.
            _ => Txt::Error(Error::ParseError),
        }
    }
}

/// A resolver that can ask nobody.
fn deaf_resolver() -> TokioResolver {
    let config = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
    let tls = no_tls().expect("the built-in crypto supports the built-in protocol versions");
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_tls_config(tls.config);
    let options = builder.options_mut();
    options.cache_size = 0;
    options.attempts = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder
        .build()
        .expect("a resolver without name servers and with its own TLS needs nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_from_its_hash() {
        assert_eq!(spelled("Example.COM."), "example.com");
        assert_eq!(spelled(&Box::<str>::from("a.example")), "a.example");
    }
}
