//! What slow, greedy and lying peers get: in memory, under a paused clock.

use std::{fmt::Write, io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    routing::{get, post},
};
use inboxgrove_model::ports::{BoxFuture, BoxStream, Listener};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    time::Instant,
};

use super::{ConnectionLimits, LAST_REQUEST_WAIT, Listening, Peer, Server};

/// The plainest request.
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A listener whose peers are in this test.
struct Door {
    coming: tokio::sync::Mutex<mpsc::Receiver<(BoxStream, SocketAddr)>>,
}

impl Listener for Door {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            match self.coming.lock().await.recv().await {
                Some(next) => Ok(next),
                None => std::future::pending().await,
            }
        })
    }

    fn local_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 80))
    }
}

struct World {
    server: Server,
    knock: mpsc::Sender<(BoxStream, SocketAddr)>,
}

impl World {
    fn new(limits: ConnectionLimits) -> Self {
        let (knock, coming) = mpsc::channel(16);
        let server = Server::new(limits);
        let app = Router::new()
            .route("/", get(async || "hello"))
            .route("/echo", post(async |body: String| body))
            .route(
                "/slow",
                get(async || {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    "late"
                }),
            );
        let door = Door {
            coming: tokio::sync::Mutex::new(coming),
        };
        server.serve(Listening::Net(Box::new(door)), app, None);
        Self { server, knock }
    }

    async fn connect(&self, last: u8) -> DuplexStream {
        let (ours, theirs) = duplex(64 * 1024);
        let from = SocketAddr::from(([192, 0, 2, last], 40_000));
        self.knock.send((Box::new(theirs), from)).await.unwrap();
        ours
    }
}

/// All that comes until the end.
async fn rest(mut stream: DuplexStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_silent_or_slow_peer_is_cut_off_after_ten_seconds() {
    let world = World::new(ConnectionLimits::default());
    for begins in ["", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let began = Instant::now();
        let mut peer = world.connect(1).await;
        peer.write_all(begins.as_bytes()).await.unwrap();
        rest(peer).await;
        let took = began.elapsed();
        assert!(
            (10..=11).contains(&took.as_secs()),
            "{begins:?} took {took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_byte_by_byte_is_cut_off_too() {
    let world = World::new(ConnectionLimits::default());
    for begins in ["PRI * HTTP/2.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: "] {
        let began = Instant::now();
        let (mut reads, mut writes) = tokio::io::split(world.connect(1).await);
        let drip = async {
            for byte in begins.bytes().chain(std::iter::repeat(b'x')) {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if writes.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
        };
        let mut text = Vec::new();
        let (read, ()) = tokio::join!(reads.read_to_end(&mut text), drip);
        read.unwrap();
        let took = began.elapsed().as_secs();
        assert!(took <= 14, "{begins:?} took {took}");
    }
}

#[tokio::test(start_paused = true)]
async fn http_2_in_clear_is_refused_at_once() {
    let world = World::new(ConnectionLimits::default());
    let mut peer = world.connect(1).await;
    peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let began = Instant::now();
    let text = rest(peer).await;
    assert!(!text.contains(" 200 "), "{text}");
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_connections_of_a_proxy_are_those_of_many() {
    let limits = ConnectionLimits {
        connections_per_ip: 2,
        proxies: vec!["192.0.2.7/32".parse().unwrap()],
        ..ConnectionLimits::default()
    };
    let world = World::new(limits);
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(world.connect(7).await);
    }
    let mut last = held.pop().unwrap();
    last.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(rest(last).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(start_paused = true)]
async fn two_framings_are_refused_and_the_connection_closed() {
    let world = World::new(ConnectionLimits::default());
    let mut peer = world.connect(1).await;
    let both = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
                0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    peer.write_all(both.as_bytes()).await.unwrap();
    let text = rest(peer).await;
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    assert!(text.contains("connection: close"), "{text}");
    assert_eq!(text.matches("HTTP/1.1").count(), 1, "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_chunked_request_is_answered_and_the_connection_closed() {
    let world = World::new(ConnectionLimits::default());
    let mut peer = world.connect(1).await;
    let chunked =
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    peer.write_all(chunked.as_bytes()).await.unwrap();
    let text = rest(peer).await;
    assert!(
        text.starts_with("HTTP/1.1 200 ") && text.ends_with("hi"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_address_gets_no_more_than_its_share() {
    let limits = ConnectionLimits {
        connections_per_ip: 2,
        ..ConnectionLimits::default()
    };
    let world = World::new(limits);
    let (first, _second) = (world.connect(1).await, world.connect(1).await);
    let third = rest(world.connect(1).await).await;
    assert!(third.starts_with("HTTP/1.1 503 "), "{third}");
    let mut other = world.connect(2).await;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    other.write_all(request).await.unwrap();
    assert!(rest(other).await.starts_with("HTTP/1.1 200 "));

    drop(first);
    tokio::task::yield_now().await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut again = world.connect(1).await;
    again.write_all(request).await.unwrap();
    assert!(rest(again).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_too_large_is_refused() {
    let world = World::new(ConnectionLimits::default());
    let mut peer = world.connect(1).await;
    let mut head = "GET / HTTP/1.1\r\nHost: a\r\n".to_owned();
    for n in 0..70 {
        write!(head, "X-{n}: y\r\n").unwrap();
    }
    head.push_str("\r\n");
    peer.write_all(head.as_bytes()).await.unwrap();
    assert!(rest(peer).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_requests_end_and_closes_idle_connections() {
    let world = World::new(ConnectionLimits::default());
    let (mut busy, idle) = (world.connect(1).await, world.connect(2).await);
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    let (calm, answer, nothing) = tokio::join!(
        world.server.drain(Duration::from_secs(25)),
        rest(busy),
        rest(idle)
    );
    assert!(calm);
    assert!(
        answer.ends_with("late") && answer.contains("connection: close"),
        "{answer}"
    );
    assert!(nothing.is_empty());
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_drain_answers_a_request_that_was_on_its_way() {
    let world = World::new(ConnectionLimits::default());
    let (mut fresh, mut kept) = (world.connect(1).await, world.connect(2).await);
    kept.write_all(GET).await.unwrap();
    let mut head = [0; 12];
    kept.read_exact(&mut head).await.unwrap();
    let talk = async {
        tokio::time::sleep(LAST_REQUEST_WAIT / 2).await;
        fresh.write_all(GET).await.unwrap();
        kept.write_all(GET).await.unwrap();
        tokio::join!(rest(fresh), rest(kept))
    };
    let (calm, (first, second)) = tokio::join!(world.server.drain(Duration::from_secs(25)), talk);
    assert!(calm);
    for answer in [first, second] {
        assert!(answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_cuts_off_what_does_not_end() {
    let world = World::new(ConnectionLimits::default());
    let mut busy = world.connect(1).await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!world.server.drain(Duration::from_secs(2)).await);
    assert!(rest(busy).await.is_empty());
}

#[test]
fn an_address_is_limited_with_its_network() {
    let of = |text: &str| {
        Peer::Net(text.parse().unwrap())
            .limited_by()
            .unwrap()
            .to_string()
    };
    assert_eq!(of("192.0.2.1:1"), "192.0.2.1");
    assert_eq!(of("[::ffff:192.0.2.1]:1"), "192.0.2.1");
    assert_eq!(of("[2001:db8:1:2:3:4:5:6]:1"), "2001:db8:1:2::");
}
