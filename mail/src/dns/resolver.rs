//! The real resolver: hickory's connections and message codec, our own reading of the answers.
//!
//! hickory's caching client is left out on purpose: it answers names of its own choice (`localhost`,
//! `127.in-addr.arpa`) and hides whether an absence came from somebody entitled to say so.

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures_util::StreamExt;
use hickory_resolver::{
    NameServerPool, PoolContext, TlsConfig,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverOpts},
    net::{DnsError as WireError, NetError, runtime::TokioRuntimeProvider, xfer::DnsHandle},
    proto::{
        op::{DnsRequestOptions, Message, Query, ResponseCode},
        rr::{Name, RData, Record, RecordType as WireType},
    },
    system_conf::read_system_conf,
};
use inboxgrove_model::ports::{BoxFuture, Clock, Dns, DnsAnswer, DnsError, RecordData, RecordType};

use super::{cache::Cache, plain};

/// Aliases followed in one lookup; resolvers stop at about as many.
const ALIASES_MAX: usize = 8;
/// Believed of an absence whose server named no time.
const NEGATIVE_TTL_DEFAULT: Duration = Duration::from_secs(30);

/// Whom to ask.
#[derive(Debug, Clone)]
pub struct DnsOptions {
    /// Recursive resolvers; empty means those of `/etc/resolv.conf`.
    pub servers: Vec<IpAddr>,
    /// Their port, and that of the authoritative servers asked directly.
    pub port: u16,
    /// The deadline of one question, retries included.
    pub timeout: Duration,
}

impl Default for DnsOptions {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            port: 53,
            timeout: Duration::from_secs(5),
        }
    }
}

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// The machine's own resolvers are not known.
    #[error("cannot read the name servers from /etc/resolv.conf: {0}")]
    SystemConfiguration(String),
    /// There is nobody to ask.
    #[error("no name server is configured: set dns.servers")]
    NoServers,
    /// The TLS layer that hickory wants to hold could not be made.
    #[error("cannot prepare the resolver: {0}")]
    Tls(#[from] rustls::Error),
}

/// [`Dns`] over UDP, with TCP for what does not fit. Every question ends by its deadline.
pub struct Resolver {
    asker: Arc<Asker>,
    cache: Cache,
}

type Pool = NameServerPool<TokioRuntimeProvider>;

struct Asker {
    recursive: Pool,
    context: Arc<PoolContext>,
    port: u16,
    timeout: Duration,
}

/// What came back, before aliases are followed.
enum Wire {
    Message(Box<Message>),
    Absent(DnsError, Duration),
    Unknown(String),
}

// === impl Resolver ===

impl Resolver {
    /// A resolver that has asked nothing yet.
    pub fn new(options: &DnsOptions, clock: Arc<dyn Clock>) -> Result<Self, ResolverError> {
        let servers = if options.servers.is_empty() {
            system_servers()?
        } else {
            options
                .servers
                .iter()
                .map(|ip| server(*ip, options.port))
                .collect()
        };
        if servers.is_empty() {
            return Err(ResolverError::NoServers);
        }
        let context = Arc::new(PoolContext::new(
            hickory_options(options.timeout),
            no_tls()?,
        ));
        Ok(Self {
            asker: Arc::new(Asker {
                recursive: Pool::from_config(
                    servers,
                    Arc::clone(&context),
                    TokioRuntimeProvider::default(),
                ),
                context,
                port: options.port,
                timeout: options.timeout,
            }),
            cache: Cache::new(clock),
        })
    }
}

impl Dns for Resolver {
    fn lookup<'a>(
        &'a self,
        name: &'a str,
        kind: RecordType,
    ) -> BoxFuture<'a, Result<DnsAnswer, DnsError>> {
        let asker = Arc::clone(&self.asker);
        let asked = plain(name);
        Box::pin(self.cache.get_or_ask(name, kind, move || {
            Box::pin(async move { asker.resolve(&asked, kind).await })
        }))
    }

    fn lookup_at<'a>(
        &'a self,
        server: IpAddr,
        name: &'a str,
        kind: RecordType,
    ) -> BoxFuture<'a, Result<DnsAnswer, DnsError>> {
        Box::pin(self.asker.ask_directly(server, plain(name), kind))
    }
}

// === impl Asker ===

impl Asker {
    /// Asks the recursive servers and follows aliases that they did not follow themselves.
    async fn resolve(
        &self,
        name: &str,
        kind: RecordType,
    ) -> (Result<DnsAnswer, DnsError>, Duration) {
        let whole = async {
            let mut asked = name.to_owned();
            for _ in 0..ALIASES_MAX {
                match self.exchange(&self.recursive, &asked, kind, true).await {
                    Wire::Unknown(why) => return Err(why),
                    Wire::Absent(why, ttl) => return Ok((Err(why), ttl)),
                    Wire::Message(message) => match read(&message, &asked, kind) {
                        Read::Records(answer) => {
                            let ttl = answer.ttl;
                            return Ok((Ok(answer), ttl));
                        }
                        Read::Alias(target) => asked = target,
                        Read::Nothing => return Err("the answer holds nothing asked for".into()),
                    },
                }
            }
            Err(format!("more than {ALIASES_MAX} aliases"))
        };
        let ended = tokio::time::timeout(self.timeout, whole).await;
        match ended.unwrap_or_else(|_| Err(self.silence())) {
            // An absence below an alias is an absence of the name that was asked for.
            Ok((Err(DnsError::NoRecord { .. }), ttl)) => (Err(no_record(name, kind)), ttl),
            Ok((Err(_), ttl)) => (Err(no_such_name(name)), ttl),
            Ok(found) => found,
            Err(why) => (Err(unknown(name, kind, why)), Duration::ZERO),
        }
    }

    /// Asks one server, without recursion; only what it may say with authority counts.
    async fn ask_directly(
        &self,
        at: IpAddr,
        name: String,
        kind: RecordType,
    ) -> Result<DnsAnswer, DnsError> {
        let pool = Pool::from_config(
            [server(at, self.port)],
            Arc::clone(&self.context),
            TokioRuntimeProvider::default(),
        );
        let asked = self.exchange(&pool, &name, kind, false);
        let wire = tokio::time::timeout(self.timeout, asked)
            .await
            .unwrap_or_else(|_| Wire::Unknown(self.silence()));
        let why = match wire {
            Wire::Message(message) if !message.metadata.authoritative => {
                format!("{at} is not authoritative for it")
            }
            Wire::Message(message) => match read(&message, &name, kind) {
                Read::Records(answer) => return Ok(answer),
                Read::Alias(target) => format!("it is an alias of {target}"),
                Read::Nothing => format!("the answer of {at} holds nothing asked for"),
            },
            Wire::Absent(why, _) => return Err(why),
            Wire::Unknown(why) => why,
        };
        Err(unknown(&name, kind, why))
    }

    async fn exchange(&self, pool: &Pool, name: &str, kind: RecordType, recurse: bool) -> Wire {
        let Ok(wire_name) = Name::from_ascii(format!("{name}.")) else {
            return Wire::Unknown("it is not a name".to_owned());
        };
        let mut options = DnsRequestOptions::default();
        options.use_edns = true;
        options.recursion_desired = recurse;
        let query = Query::query(wire_name, wire_type(kind));
        match pool.lookup(query, options).next().await {
            None => Wire::Unknown("the connection was closed".to_owned()),
            Some(Ok(response)) => {
                let message = response.into_message();
                if message.answers.is_empty() {
                    return empty(&message, name, kind, recurse);
                }
                Wire::Message(Box::new(message))
            }
            Some(Err(NetError::Dns(WireError::NoRecordsFound(none)))) => {
                let ttl = none
                    .negative_ttl
                    .map_or(NEGATIVE_TTL_DEFAULT, |s| Duration::from_secs(s.into()));
                // RFC 2308 §2.2: name servers without an SOA are a referral, not an absence.
                if none.ns.is_some() && none.soa.is_none() {
                    return Wire::Unknown("the server refers to others".to_owned());
                }
                match none.response_code {
                    ResponseCode::NXDomain => Wire::Absent(no_such_name(name), ttl),
                    ResponseCode::NoError if none.soa.is_some() || recurse => {
                        Wire::Absent(no_record(name, kind), ttl)
                    }
                    code => Wire::Unknown(format!("{code} without an SOA record")),
                }
            }
            Some(Err(NetError::Dns(WireError::ResponseCode(code)))) => {
                Wire::Unknown(code.to_string())
            }
            Some(Err(why)) => Wire::Unknown(why.to_string()),
        }
    }

    fn silence(&self) -> String {
        format!("no answer within {} ms", self.timeout.as_millis())
    }
}

/// What an answer without answers says. hickory takes an SOA record in the authority section for the answer
/// to a question for SOA, so that such an absence comes as a message and not as its `NoRecordsFound`.
fn empty(message: &Message, name: &str, kind: RecordType, recurse: bool) -> Wire {
    let soa = message.authorities.iter().find_map(|record| {
        let RData::SOA(soa) = &record.data else {
            return None;
        };
        // RFC 2308 §5: the lesser of the record's time to live and the zone's minimum.
        Some(Duration::from_secs(record.ttl.min(soa.minimum).into()))
    });
    let ttl = soa.unwrap_or(NEGATIVE_TTL_DEFAULT);
    match message.metadata.response_code {
        ResponseCode::NXDomain => Wire::Absent(no_such_name(name), ttl),
        ResponseCode::NoError if soa.is_some() || recurse => {
            Wire::Absent(no_record(name, kind), ttl)
        }
        code => Wire::Unknown(format!("{code} without an SOA record")),
    }
}

enum Read {
    Records(DnsAnswer),
    /// The answer ends in an alias of this name.
    Alias(String),
    Nothing,
}

/// The records of `kind` at `name`, or at the end of the aliases that start there.
fn read(message: &Message, name: &str, kind: RecordType) -> Read {
    let mut owner = name.to_owned();
    for _ in 0..=ALIASES_MAX {
        let here = || {
            message
                .answers
                .iter()
                .filter(|record| plain(&record.name.to_ascii()) == owner)
        };
        let mut ttl = u32::MAX;
        let records: Vec<_> = here()
            .filter(|record| record.record_type() == wire_type(kind))
            .filter_map(|record| {
                ttl = ttl.min(record.ttl);
                data(record)
            })
            .collect();
        if !records.is_empty() {
            return Read::Records(DnsAnswer {
                records,
                ttl: Duration::from_secs(ttl.into()),
                authentic: message.metadata.authentic_data,
            });
        }
        let target = here().find_map(|record| match &record.data {
            RData::CNAME(target) => Some(plain(&target.0.to_ascii())),
            _ => None,
        });
        match target {
            Some(target) => owner = target,
            None if owner == name => return Read::Nothing,
            None => return Read::Alias(owner),
        }
    }
    Read::Nothing
}

fn data(record: &Record) -> Option<RecordData> {
    Some(match &record.data {
        RData::A(address) => RecordData::A(address.0),
        RData::AAAA(address) => RecordData::Aaaa(address.0),
        RData::MX(mx) => RecordData::Mx {
            preference: mx.preference,
            exchange: plain(&mx.exchange.to_ascii()),
        },
        RData::TXT(text) => {
            RecordData::Txt(String::from_utf8_lossy(&text.txt_data.concat()).into_owned())
        }
        RData::NS(name) => RecordData::Ns(plain(&name.0.to_ascii())),
        RData::CNAME(name) => RecordData::Cname(plain(&name.0.to_ascii())),
        RData::PTR(name) => RecordData::Ptr(plain(&name.0.to_ascii())),
        RData::SOA(soa) => RecordData::Soa {
            zone: plain(&record.name.to_ascii()),
            primary: plain(&soa.mname.to_ascii()),
        },
        _ => return None,
    })
}

fn wire_type(kind: RecordType) -> WireType {
    match kind {
        RecordType::A => WireType::A,
        RecordType::Aaaa => WireType::AAAA,
        RecordType::Mx => WireType::MX,
        RecordType::Txt => WireType::TXT,
        RecordType::Ns => WireType::NS,
        RecordType::Cname => WireType::CNAME,
        RecordType::Ptr => WireType::PTR,
        RecordType::Soa => WireType::SOA,
    }
}

fn server(ip: IpAddr, port: u16) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()]
        .map(|mut connection| {
            connection.port = port;
            connection
        })
        .to_vec();
    NameServerConfig::new(ip, true, connections)
}

fn system_servers() -> Result<Vec<NameServerConfig>, ResolverError> {
    let (found, _) =
        read_system_conf().map_err(|why| ResolverError::SystemConfiguration(why.to_string()))?;
    Ok(found.name_servers().to_vec())
}

fn hickory_options(timeout: Duration) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = timeout;
    options.attempts = 2;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.try_tcp_on_error = true;
    options
}

/// hickory holds a TLS configuration even when nobody uses one: ours trusts nobody.
pub(crate) fn no_tls() -> Result<TlsConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Ok(TlsConfig { config })
}

fn no_such_name(name: &str) -> DnsError {
    DnsError::NoSuchName {
        name: name.to_owned(),
    }
}

fn no_record(name: &str, kind: RecordType) -> DnsError {
    DnsError::NoRecord {
        name: name.to_owned(),
        kind,
    }
}

fn unknown(name: &str, kind: RecordType, why: String) -> DnsError {
    DnsError::Unknown {
        name: name.to_owned(),
        kind,
        why,
    }
}

#[cfg(test)]
mod tests;
