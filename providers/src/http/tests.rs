//! What the client does on the wire, against a server of a few lines; and what it refuses to reach.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
};

use inboxgrove_model::ports::{DnsAnswer, DnsError, RecordData, RecordType};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

const SOON: Duration = Duration::from_secs(5);

/// A zone in which every name has the addresses given, a new set at each question; the last one stays.
struct Zone {
    sets: Vec<Vec<IpAddr>>,
    asked: AtomicUsize,
}

impl Zone {
    fn of(sets: &[&[&str]]) -> Arc<Self> {
        let parse = |set: &&[&str]| set.iter().map(|ip| ip.parse().unwrap()).collect();
        Arc::new(Self {
            sets: sets.iter().map(parse).collect(),
            asked: AtomicUsize::new(0),
        })
    }
}

impl Dns for Zone {
    fn lookup<'a>(
        &'a self,
        name: &'a str,
        kind: RecordType,
    ) -> BoxFuture<'a, Result<DnsAnswer, DnsError>> {
        Box::pin(async move {
            let asked = self.asked.load(Ordering::SeqCst);
            if kind == RecordType::Aaaa {
                self.asked.fetch_add(1, Ordering::SeqCst);
            }
            let set = self.sets.get(asked).or(self.sets.last());
            let records: Vec<_> = set
                .into_iter()
                .flatten()
                .filter_map(|ip| match (ip, kind) {
                    (IpAddr::V4(v4), RecordType::A) => Some(RecordData::A(*v4)),
                    (IpAddr::V6(v6), RecordType::Aaaa) => Some(RecordData::Aaaa(*v6)),
                    _ => None,
                })
                .collect();
            if records.is_empty() {
                return Err(DnsError::NoRecord {
                    name: name.to_owned(),
                    kind,
                });
            }
            Ok(DnsAnswer {
                records,
                ttl: Duration::ZERO,
                authentic: false,
            })
        })
    }

    fn lookup_at<'a>(
        &'a self,
        _: IpAddr,
        name: &'a str,
        kind: RecordType,
    ) -> BoxFuture<'a, Result<DnsAnswer, DnsError>> {
        self.lookup(name, kind)
    }
}

/// A server that answers every connection's first request with these bytes and closes; what it read.
async fn server(answer: Vec<u8>) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0);
        }
        // A client that has read enough closes: that is no failure of the server.
        stream.write_all(&answer).await.unwrap_or_default();
        stream.shutdown().await.unwrap_or_default();
        String::from_utf8(heard).unwrap()
    });
    (at, served)
}

fn open(zone: Arc<Zone>) -> Client {
    Client::new(
        zone,
        Reach {
            allow_private: true,
            own: Vec::new(),
        },
    )
}

fn get(url: &str) -> http::Request<Bytes> {
    http::Request::get(url).body(Bytes::new()).unwrap()
}

#[tokio::test]
async fn a_request_reaches_the_address_that_dns_gave() {
    let (at, served) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".to_vec()).await;
    let client = open(Zone::of(&[&["127.0.0.1"]]));
    let url = format!("http://api.vendor.example:{}/a?b=c", at.port());
    let answer = client.send(get(&url), SOON).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.body()[..]),
        (200, &b"hi"[..])
    );
    let heard = served.await.unwrap();
    assert!(heard.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{heard}");
    assert!(
        heard.contains(&format!("host: api.vendor.example:{}", at.port())),
        "{heard}"
    );
    assert!(heard.contains("user-agent: inboxgrove/"), "{heard}");
}

#[tokio::test]
async fn a_redirect_is_an_answer_like_any_other() {
    let wire = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n";
    let (at, _served) = server(wire.to_vec()).await;
    let client = open(Zone::of(&[]));
    let answer = client
        .send(get(&format!("http://{at}/")), SOON)
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 302);
}

#[tokio::test]
async fn an_answer_may_be_a_mebibyte_and_no_longer() {
    for (bytes, fits) in [(ANSWER_BYTES_MAX, true), (ANSWER_BYTES_MAX + 1, false)] {
        for length in [format!("content-length: {bytes}\r\n"), String::new()] {
            let mut wire = format!("HTTP/1.1 200 OK\r\n{length}\r\n").into_bytes();
            wire.resize(wire.len() + bytes, b'x');
            let (at, _served) = server(wire).await;
            let client = open(Zone::of(&[]));
            let answer = client.send(get(&format!("http://{at}/")), SOON).await;
            match answer {
                Ok(answer) => assert!(fits && answer.body().len() == bytes),
                Err(error) => assert!(!fits && !error.unsent, "{error}"),
            }
        }
    }
}

#[tokio::test]
async fn a_silent_host_ends_at_the_deadline_and_may_have_been_reached() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let client = open(Zone::of(&[]));
    let error = client
        .send(get(&url), Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(!error.unsent, "{error}");
}

#[tokio::test]
async fn a_refused_connection_is_known_to_be_unsent() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let error = open(Zone::of(&[])).send(get(&url), SOON).await.unwrap_err();
    assert!(error.unsent, "{error}");
}

#[tokio::test]
async fn private_addresses_are_never_connected_to_however_they_are_written() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = Client::new(Zone::of(&[&["127.0.0.1"]]), Reach::default());
    for host in [
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "a.localhost",
        "inner.example",
        "169.254.169.254",
    ] {
        let error = client
            .send(get(&format!("https://{host}:{port}/")), SOON)
            .await
            .unwrap_err();
        assert!(error.unsent, "{host}: {error}");
        assert!(error.why.contains("public internet"), "{host}: {error}");
    }
    let connected = timeout(Duration::from_millis(20), listener.accept()).await;
    assert!(connected.is_err(), "somebody connected");
}

#[tokio::test]
async fn a_name_with_one_private_address_among_public_ones_is_refused() {
    let client = Client::new(Zone::of(&[&["8.8.8.8", "10.0.0.1"]]), Reach::default());
    let error = client
        .send(get("https://mixed.example/"), SOON)
        .await
        .unwrap_err();
    assert!(error.unsent && error.why.contains("10.0.0.1"), "{error}");
}

#[tokio::test]
async fn a_name_is_looked_up_once_so_rebinding_has_nothing_to_change() {
    let (at, _served) = server(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).await;
    let zone = Zone::of(&[&["127.0.0.1"], &["127.0.0.99"]]);
    let client = open(Arc::clone(&zone));
    let url = format!("http://moving.example:{}/", at.port());
    assert!(client.send(get(&url), SOON).await.is_ok());
    assert_eq!(zone.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_installation_does_not_talk_to_itself() {
    let reach = Reach {
        allow_private: true,
        own: vec![Ipv4Addr::LOCALHOST.into()],
    };
    let client = Client::new(Zone::of(&[]), reach);
    let error = client
        .send(get("http://[::ffff:127.0.0.1]:1/"), SOON)
        .await
        .unwrap_err();
    assert!(
        error.unsent && error.why.contains("this installation"),
        "{error}"
    );
}

#[tokio::test]
async fn plain_http_and_credentials_in_a_url_are_refused() {
    let client = Client::new(Zone::of(&[]), Reach::default());
    for url in [
        "http://vendor.example/",
        "https://user:secret@vendor.example/",
    ] {
        let error = client.send(get(url), SOON).await.unwrap_err();
        assert!(
            error.unsent && !error.to_string().contains("secret"),
            "{error}"
        );
    }
}
