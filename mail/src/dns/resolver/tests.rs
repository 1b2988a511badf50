//! The resolver against a server on loopback that answers by script, right and wrong.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
};

use hickory_resolver::proto::{
    op::{MessageType, OpCode},
    rr::rdata::{A, CNAME, MX, NS, PTR, SOA, TXT},
};
use inboxgrove_model::{PolicyTime, WallTime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct StillClock;

impl Clock for StillClock {
    fn policy(&self) -> PolicyTime {
        PolicyTime::from_millis(0)
    }
    fn wall(&self) -> WallTime {
        WallTime::from_millis(0)
    }
    fn sleep_until(&self, _: PolicyTime) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

struct World {
    resolver: Resolver,
    asked: Arc<AtomicUsize>,
    /// Ends the server with the test.
    _server: JoinSet<()>,
}

impl World {
    async fn new() -> Self {
        let udp = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
        let address: SocketAddr = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(address).await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (len, from) = udp.recv_from(&mut buffer).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                if let Some(answer) = answer(&buffer[..len], false) {
                    udp.send_to(&answer, from).await.unwrap();
                }
            }
        });
        server.spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                while let Ok(len) = stream.read_u16().await {
                    let mut question = vec![0; len.into()];
                    stream.read_exact(&mut question).await.unwrap();
                    let Some(answer) = answer(&question, true) else {
                        break;
                    };
                    let len = u16::try_from(answer.len()).unwrap();
                    stream.write_u16(len).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
        let options = DnsOptions {
            servers: vec![LOOPBACK],
            port: address.port(),
            timeout: Duration::from_millis(400),
        };
        Self {
            resolver: Resolver::new(&options, Arc::new(StillClock)).unwrap(),
            asked,
            _server: server,
        }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Result<DnsAnswer, DnsError> {
        self.resolver.lookup(name, kind).await
    }

    async fn ask_at(&self, name: &str, kind: RecordType) -> Result<DnsAnswer, DnsError> {
        self.resolver.lookup_at(LOOPBACK, name, kind).await
    }
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn record(owner: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(owner), ttl, data)
}

fn soa(apex: &str) -> Record {
    let data = SOA::new(name("ns.example."), name("host.example."), 1, 2, 3, 4, 20);
    record(apex, 60, RData::SOA(data))
}

fn txt(owner: &str, ttl: u32, strings: &[&str]) -> Record {
    let strings = strings.iter().map(|s| (*s).to_owned()).collect();
    record(owner, ttl, RData::TXT(TXT::new(strings)))
}

/// The script: what the server says about each name. `None` is silence.
fn answer(question: &[u8], tcp: bool) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    let mut message = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.authoritative = true;
    message.metadata.recursion_desired = question.metadata.recursion_desired;
    let owner = query.name().to_ascii();
    message.queries.push(query.clone());
    let answers = &mut message.answers;
    match owner.as_str() {
        "a.example." => {
            answers.push(record(
                &owner,
                300,
                RData::A(A(Ipv4Addr::new(192, 0, 2, 1))),
            ));
            answers.push(record(&owner, 60, RData::A(A(Ipv4Addr::new(192, 0, 2, 2)))));
        }
        "mx.example." => answers.push(record(
            &owner,
            300,
            RData::MX(MX::new(10, name("Mail.Example."))),
        )),
        "nullmx.example." => {
            answers.push(record(&owner, 300, RData::MX(MX::new(0, Name::root()))));
        }
        "txt.example." => answers.push(txt(&owner, 300, &["v=spf1 ", "-all"])),
        "1.0.0.127.in-addr.arpa." => {
            answers.push(record(&owner, 300, RData::PTR(PTR(name("out.example.")))));
        }
        "zone.example." => answers.push(soa("zone.example.")),
        "gone.example." => {
            message.metadata.response_code = ResponseCode::NXDomain;
            message.authorities.push(soa("example."));
        }
        "empty.example." => message.authorities.push(soa("example.")),
        "referred.example." => {
            let server = RData::NS(NS(name("ns.other.example.")));
            message
                .authorities
                .push(record("referred.example.", 60, server));
        }
        "failing.example." => message.metadata.response_code = ResponseCode::ServFail,
        "refused.example." => message.metadata.response_code = ResponseCode::Refused,
        "lame.example." => {
            message.metadata.authoritative = false;
            answers.push(record(
                &owner,
                300,
                RData::A(A(Ipv4Addr::new(192, 0, 2, 9))),
            ));
        }
        "large.example." if !tcp => message.metadata.truncation = true,
        "large.example." => answers.push(txt(&owner, 300, &["x".repeat(250).as_str(); 10])),
        "alias.example." | "far.example." | "dangling.example." => {
            let target = match owner.as_str() {
                "alias.example." => "txt.example.",
                "far.example." => "a.example.",
                _ => "gone.example.",
            };
            answers.push(record(&owner, 300, RData::CNAME(CNAME(name(target)))));
            if target == "txt.example." {
                answers.push(txt(target, 120, &["behind"]));
            }
        }
        _ => return None,
    }
    Some(message.to_vec().unwrap())
}

fn is_unknown(answer: &Result<DnsAnswer, DnsError>) -> bool {
    matches!(answer, Err(DnsError::Unknown { .. }))
}

#[tokio::test]
async fn records_come_back_as_what_they_are() {
    let world = World::new().await;
    let four = |last| RecordData::A(Ipv4Addr::new(192, 0, 2, last));
    let mx = |preference, exchange: &str| RecordData::Mx {
        preference,
        exchange: exchange.into(),
    };
    let soa = RecordData::Soa {
        zone: "zone.example".into(),
        primary: "ns.example".into(),
    };
    for (name, kind, records) in [
        ("A.Example.", RecordType::A, vec![four(1), four(2)]),
        ("mx.example", RecordType::Mx, vec![mx(10, "mail.example")]),
        ("nullmx.example", RecordType::Mx, vec![mx(0, "")]),
        (
            "txt.example",
            RecordType::Txt,
            vec![RecordData::Txt("v=spf1 -all".into())],
        ),
        (
            "1.0.0.127.in-addr.arpa",
            RecordType::Ptr,
            vec![RecordData::Ptr("out.example".into())],
        ),
        ("zone.example", RecordType::Soa, vec![soa]),
    ] {
        let found = world.ask(name, kind).await.unwrap();
        assert_eq!(found.records, records, "{name}");
        let found = world.ask_at(name, kind).await.unwrap();
        assert_eq!(found.records, records, "{name} directly");
    }
    let ttl = world.ask("a.example", RecordType::A).await.unwrap().ttl;
    assert_eq!(ttl, Duration::from_mins(1), "the smallest one");
}

#[tokio::test]
async fn absence_and_not_knowing_are_never_mixed() {
    let world = World::new().await;
    for (name, absent) in [("gone.example", true), ("empty.example", true)] {
        let why = world.ask(name, RecordType::A).await.unwrap_err();
        assert_eq!(why.is_absence(), absent, "{name}: {why}");
        let why = world.ask_at(name, RecordType::A).await.unwrap_err();
        assert_eq!(why.is_absence(), absent, "{name} directly: {why}");
    }
    for name in [
        "referred.example",
        "failing.example",
        "refused.example",
        "silent.example",
        "bad..name",
    ] {
        let found = world.ask(name, RecordType::A).await;
        assert!(is_unknown(&found), "{name}: {found:?}");
        let found = world.ask_at(name, RecordType::A).await;
        assert!(is_unknown(&found), "{name} directly: {found:?}");
    }
    let gone = world.ask("gone.example", RecordType::A).await;
    assert!(matches!(gone, Err(DnsError::NoSuchName { .. })), "{gone:?}");
    let empty = world.ask("empty.example", RecordType::A).await;
    assert!(matches!(empty, Err(DnsError::NoRecord { .. })), "{empty:?}");
}

#[tokio::test]
async fn a_name_below_an_apex_has_no_soa_and_that_is_known() {
    let world = World::new().await;
    let name = "empty.example".to_owned();
    let kind = RecordType::Soa;
    let below = Err(DnsError::NoRecord { name, kind });
    assert_eq!(world.ask("empty.example", kind).await, below);
    assert_eq!(world.ask_at("empty.example", kind).await, below);
    let name = "gone.example".to_owned();
    let gone = Err(DnsError::NoSuchName { name });
    assert_eq!(world.ask("gone.example", kind).await, gone);
    assert_eq!(world.ask_at("gone.example", kind).await, gone);
}

#[tokio::test]
async fn only_an_authority_is_believed_directly() {
    let world = World::new().await;
    assert!(world.ask("lame.example", RecordType::A).await.is_ok());
    assert!(is_unknown(
        &world.ask_at("lame.example", RecordType::A).await
    ));
}

#[tokio::test]
async fn aliases_are_followed_by_the_resolver_only() {
    let world = World::new().await;
    let behind = world.ask("alias.example", RecordType::Txt).await.unwrap();
    assert_eq!(behind.records, [RecordData::Txt("behind".into())]);
    let far = world.ask("far.example", RecordType::A).await.unwrap();
    assert_eq!(far.records.len(), 2, "asked again for the target");
    let dangling = world.ask("dangling.example", RecordType::A).await;
    let name = "dangling.example".to_owned();
    assert_eq!(dangling, Err(DnsError::NoSuchName { name }));
    let directly = world.ask_at("far.example", RecordType::A).await;
    assert!(is_unknown(&directly), "{directly:?}");
    let alias = world
        .ask_at("far.example", RecordType::Cname)
        .await
        .unwrap();
    assert_eq!(alias.records, [RecordData::Cname("a.example".into())]);
}

#[tokio::test]
async fn what_does_not_fit_is_asked_over_tcp() {
    let world = World::new().await;
    let found = world.ask("large.example", RecordType::Txt).await.unwrap();
    assert_eq!(found.records, [RecordData::Txt("x".repeat(2500))]);
}

#[tokio::test]
async fn the_cache_stands_before_the_resolver_and_not_before_one_server() {
    let world = World::new().await;
    for _ in 0..3 {
        world.ask("a.example", RecordType::A).await.unwrap();
    }
    assert_eq!(world.asked.load(Ordering::Relaxed), 1);
    for _ in 0..3 {
        world.ask_at("a.example", RecordType::A).await.unwrap();
    }
    assert_eq!(world.asked.load(Ordering::Relaxed), 4);
}
