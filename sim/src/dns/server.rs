//! The zones on the wire: DNS over UDP and TCP (RFC 1035, RFC 7766) on loopback addresses.
//!
//! A question with RD is answered as a recursive resolver would, for every zone, so that one address
//! serves as the world's resolver. A question without RD is answered as the authoritative server at
//! that address would: its own zones, REFUSED for others. Silence is really silence.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    time::Duration,
};

use hickory_server::{
    Server,
    net::runtime::Time,
    proto::{
        op::{Edns, Header, HeaderCounts, Metadata, ResponseCode},
        rr::{
            Name, RData, Record, RecordType as WireType,
            rdata::{A, AAAA, CNAME, MX, NS, PTR, SOA, TXT},
        },
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use inboxgrove_model::ports::{RecordData, RecordType};
use tokio::net::{TcpListener, UdpSocket};

use super::{Answer, Authority, TTL, Zones, kind_of};

/// How long an idle TCP connection is kept (RFC 7766 §6.2.3 asks for seconds).
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers buffered for one TCP connection.
const TCP_BUFFER: usize = 32;
/// Largest UDP answer we send (the flag day of 2020: no fragments).
const UDP_PAYLOAD: u16 = 1_232;
/// Longest string inside a TXT record (RFC 1035 §3.3).
const TXT_STRING_MAX: usize = 255;
/// How often a free port is looked for that all addresses share.
const PORT_TRIES: usize = 32;

/// Running name servers. They end when this is dropped.
pub struct NameServers {
    addresses: Vec<SocketAddr>,
    servers: Vec<Server<Face>>,
}

/// The face of the zones at one address.
struct Face {
    zones: Zones,
    address: IpAddr,
}

/// An answer with its records in wire form.
struct Reply {
    code: ResponseCode,
    answers: Vec<Record>,
    soa: Option<Record>,
    authoritative: bool,
}

type Sockets = Vec<(UdpSocket, TcpListener)>;

// === impl NameServers ===

impl NameServers {
    /// Serves `zones` at each of these addresses, all on one port; port 0 takes one that is free on all.
    pub async fn start(zones: &Zones, addresses: &[IpAddr], port: u16) -> io::Result<Self> {
        let sockets = bind_all(addresses, port).await?;
        let mut started = Self {
            addresses: Vec::new(),
            servers: Vec::new(),
        };
        for (udp, tcp) in sockets {
            let address = udp.local_addr()?;
            let mut server = Server::new(Face {
                zones: zones.clone(),
                address: address.ip(),
            });
            server.register_socket(udp);
            server.register_listener(tcp, TCP_IDLE, TCP_BUFFER);
            started.addresses.push(address);
            started.servers.push(server);
        }
        Ok(started)
    }

    /// Where they answer, in the order of the addresses given.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The port that all of them share.
    pub fn port(&self) -> u16 {
        self.addresses.first().map_or(0, SocketAddr::port)
    }
}

impl std::fmt::Debug for NameServers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NameServers")
            .field("addresses", &self.addresses)
            .field("servers", &self.servers.len())
            .finish()
    }
}

// === impl Face ===

impl RequestHandler for Face {
    // The trait was written with `async_trait`; this is the same signature without the macro.
    fn handle_request<'s, 'r, 'f, R, T>(
        &'s self,
        request: &'r Request,
        response_handle: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'f>>
    where
        R: ResponseHandler + 'f,
        T: Time + 'f,
        's: 'f,
        'r: 'f,
    {
        Box::pin(self.answer(request, response_handle))
    }
}

impl Face {
    async fn answer<R: ResponseHandler>(&self, request: &Request, mut handle: R) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let Some(reply) = self.reply(request) else {
            return silent(metadata);
        };
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD);
        let offered = request.edns.as_ref().map(|_| &edns);
        let response = MessageResponseBuilder::new(&request.queries, offered).build(
            metadata,
            &reply.answers,
            [],
            &reply.soa,
            [],
        );
        handle
            .send_response(response)
            .await
            .unwrap_or_else(|error| {
                tracing::debug!(%error, "the asker went away");
                silent(metadata)
            })
    }

    /// What to say; nothing when the server plays dead.
    fn reply(&self, request: &Request) -> Option<Reply> {
        let [query] = request.queries.queries() else {
            return Some(Reply::bare(ResponseCode::FormErr));
        };
        let name = query.name().to_string();
        let recursive = request.metadata.recursion_desired;
        // A kind we have no records of: ask for one that surely is not there, to learn about the name.
        let known = kind_from_wire(query.query_type());
        let kind = known.unwrap_or(RecordType::Txt);
        let answer = if recursive {
            self.zones.resolve(&name, kind)
        } else {
            self.zones.resolve_at(self.address, &name, kind)
        };
        let answer = match (known, answer) {
            (None, Answer::Records(_)) => {
                Answer::NoData(Vec::new(), self.zones.authority_of(&name))
            }
            (_, answer) => answer,
        };
        Reply::from_answer(answer, !recursive)
    }
}

// === impl Reply ===

impl Reply {
    fn bare(code: ResponseCode) -> Self {
        Self {
            code,
            answers: Vec::new(),
            soa: None,
            authoritative: false,
        }
    }

    fn from_answer(answer: Answer, authoritative: bool) -> Option<Self> {
        let (code, records, authority) = match answer {
            Answer::Records(records) => (ResponseCode::NoError, records, None),
            Answer::NoData(aliases, authority) => (ResponseCode::NoError, aliases, Some(authority)),
            Answer::NoSuchName(aliases, authority) => {
                (ResponseCode::NXDomain, aliases, Some(authority))
            }
            Answer::ServFail => return Some(Self::bare(ResponseCode::ServFail)),
            Answer::Refused => return Some(Self::bare(ResponseCode::Refused)),
            Answer::Silence => return None,
        };
        Some(Self {
            code,
            answers: records
                .iter()
                .filter_map(|(owner, data)| wire_record(owner, data))
                .collect(),
            soa: authority.as_ref().and_then(wire_soa),
            authoritative,
        })
    }
}

/// What the server reports of an answer that it did not send.
fn silent(metadata: Metadata) -> ResponseInfo {
    ResponseInfo::from(Header {
        metadata,
        counts: HeaderCounts::default(),
    })
}

async fn bind_all(addresses: &[IpAddr], port: u16) -> io::Result<Sockets> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to serve at");
    for _ in 0..PORT_TRIES {
        match bind_once(addresses, port).await {
            Ok(sockets) => return Ok(sockets),
            Err(error) if port == 0 && error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

async fn bind_once(addresses: &[IpAddr], mut port: u16) -> io::Result<Sockets> {
    let mut sockets = Vec::new();
    for ip in addresses {
        let tcp = TcpListener::bind((*ip, port)).await?;
        port = tcp.local_addr()?.port();
        sockets.push((UdpSocket::bind((*ip, port)).await?, tcp));
    }
    Ok(sockets)
}

fn kind_from_wire(kind: WireType) -> Option<RecordType> {
    Some(match kind {
        WireType::A => RecordType::A,
        WireType::AAAA => RecordType::Aaaa,
        WireType::MX => RecordType::Mx,
        WireType::TXT => RecordType::Txt,
        WireType::NS => RecordType::Ns,
        WireType::CNAME => RecordType::Cname,
        WireType::PTR => RecordType::Ptr,
        WireType::SOA => RecordType::Soa,
        _ => return None,
    })
}

/// A name with its final dot: without it hickory holds the name for relative.
fn wire_name(name: &str) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}

/// A record in wire form; none when it cannot be written (a name that is too long).
fn wire_record(owner: &str, data: &RecordData) -> Option<Record> {
    let wire = match data {
        RecordData::A(ip) => RData::A(A(*ip)),
        RecordData::Aaaa(ip) => RData::AAAA(AAAA(*ip)),
        RecordData::Mx {
            preference,
            exchange,
        } => RData::MX(MX::new(*preference, wire_name(exchange)?)),
        RecordData::Txt(text) => RData::TXT(TXT::from_bytes(strings(text))),
        RecordData::Ns(host) => RData::NS(NS(wire_name(host)?)),
        RecordData::Cname(target) => RData::CNAME(CNAME(wire_name(target)?)),
        RecordData::Ptr(host) => RData::PTR(PTR(wire_name(host)?)),
        RecordData::Soa { zone, primary } => {
            return wire_soa(&Authority {
                zone: zone.clone(),
                primary: primary.clone(),
            });
        }
    };
    debug_assert_ne!(kind_of(data), RecordType::Soa, "SOA was written above");
    Some(Record::from_rdata(wire_name(owner)?, ttl_secs(), wire))
}

fn wire_soa(authority: &Authority) -> Option<Record> {
    let primary = wire_name(&authority.primary)?;
    let mailbox = wire_name(&format!("hostmaster.{}", authority.primary))?;
    // Refresh, retry and expire as RIPE-203 advises; nobody transfers these zones.
    let soa = SOA::new(primary, mailbox, 1, 86_400, 7_200, 3_600_000, ttl_secs());
    Some(Record::from_rdata(
        wire_name(&authority.zone)?,
        ttl_secs(),
        RData::SOA(soa),
    ))
}

/// A text cut into strings of at most 255 octets; an empty text is one empty string.
fn strings(text: &str) -> Vec<&[u8]> {
    if text.is_empty() {
        return vec![b""];
    }
    text.as_bytes().chunks(TXT_STRING_MAX).collect()
}

fn ttl_secs() -> u32 {
    u32::try_from(TTL.as_secs()).expect("five minutes fit")
}

#[cfg(test)]
mod tests;
