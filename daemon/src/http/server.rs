//! Serves HTTP connections: hyper 1 itself, so that header timeouts, caps, drain and Unix sockets are ours.
//!
//! Each listener has a task that accepts; each connection has a task that ends when the peer is slow,
//! when nothing moves, or when the drain says so. It is HTTP/1.1 only: a proxy speaks HTTP/2 to browsers,
//! and to guess the version from the first bytes would give slow peers time. Nothing here knows a route: it serves any
//! [`axum::Router`].

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::TokioIo;
use inboxgrove_config::Cidr;
use inboxgrove_model::ports::{BoxStream, Listener};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{
    problem::{ApiError, Code},
    stream::{HeadTimer, Pulse, Watched},
};

/// Most headers of a request; a browser sends about 20.
const HEADERS_MAX: usize = 64;
/// Most bytes of a head. hyper takes no less than 8 KiB.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A TLS handshake takes two round trips; ten seconds is a very slow phone.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// A refused peer gets this long to take its refusal: a fresh socket's buffer is empty.
const REFUSAL_WAIT: Duration = Duration::from_millis(200);
/// After an accept that failed for want of descriptors, others need time to close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// In a drain an open connection may still bring one request for so long: one that was on its way would be lost without
/// an answer, and its answer says `Connection: close`. Busy clients come back within it; the rest are idle.
const LAST_REQUEST_WAIT: Duration = Duration::from_secs(1);
/// What a peer beyond the cap per address reads.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 10\r\nConnection: close\r\n\r\n";

/// What connections may cost.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Connections in all; the next ones wait in the kernel's queue.
    pub connections: usize,
    /// Connections of one address (IPv6: of one /64); the next one is refused.
    pub connections_per_ip: usize,
    /// Proxies, whose connections are those of many.
    pub proxies: Vec<Cidr>,
    /// From the end of a request, or the start of the connection, to the end of the next head.
    pub header_read: Duration,
    /// No byte moved either way for this long: the connection ends.
    pub stalled: Duration,
}

/// Where connections come in.
pub enum Listening {
    /// TCP, or whatever the net port makes of it.
    Net(Box<dyn Listener>),
    /// A Unix socket: the kernel vouches for its peers.
    Unix(UnixListener),
}

/// A TCP listener of tokio's, as the port wants it. For sockets that systemd passed in.
pub struct TcpAccept {
    inner: TcpListener,
    local: SocketAddr,
}

/// Who is at the other end. Found in the extensions of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Somebody at this address.
    Net(SocketAddr),
    /// A process on this machine.
    Unix {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its id, when the kernel tells.
        pid: Option<i32>,
    },
}

/// Serves connections until it is drained. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    limits: ConnectionLimits,
    room: Arc<Semaphore>,
    per_ip: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    draining: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
}

/// A connection's place under the caps.
struct Place {
    _room: OwnedSemaphorePermit,
    ip: Option<IpAddr>,
    per_ip: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

// === impl ConnectionLimits ===

impl ConnectionLimits {
    /// For the admin socket: few connections, and patience with a verification of a large store.
    pub(crate) fn admin() -> Self {
        Self {
            connections: 32,
            stalled: Duration::from_hours(1),
            ..Self::default()
        }
    }

    /// The address that counts for the cap per address, if one does.
    fn counts(&self, peer: &Peer) -> Option<IpAddr> {
        let is_proxy = |at: &SocketAddr| {
            let ip = at.ip().to_canonical();
            self.proxies.iter().any(|range| range.contains(ip))
        };
        match peer {
            Peer::Net(at) if is_proxy(at) => None,
            _ => peer.limited_by(),
        }
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_ip: 128,
            proxies: Vec::new(),
            header_read: Duration::from_secs(10),
            stalled: Duration::from_mins(1),
        }
    }
}

// === impl TcpAccept ===

impl TcpAccept {
    /// Takes over a bound socket.
    pub fn new(inner: TcpListener) -> io::Result<Self> {
        let local = inner.local_addr()?;
        Ok(Self { inner, local })
    }
}

impl Listener for TcpAccept {
    fn accept(
        &self,
    ) -> inboxgrove_model::ports::BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.inner.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as BoxStream, peer))
        })
    }

    fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

// === impl Listening ===

impl Listening {
    async fn accept(&self) -> io::Result<(BoxStream, Peer)> {
        match self {
            Self::Net(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((stream, Peer::Net(peer)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let who = stream.peer_cred()?;
                let peer = Peer::Unix {
                    uid: who.uid(),
                    gid: who.gid(),
                    pid: who.pid(),
                };
                Ok((Box::new(stream), peer))
            }
        }
    }
}

// === impl Peer ===

impl Peer {
    /// The address that limits are counted by.
    pub fn limited_by(&self) -> Option<IpAddr> {
        match self {
            Self::Net(at) => Some(customer_of(at.ip())),
            Self::Unix { .. } => None,
        }
    }
}

/// What all addresses of one customer have in common: of IPv6 the /64, for each has that many.
pub(crate) fn customer_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

// === impl Server ===

impl Server {
    /// A server that listens nowhere yet.
    pub fn new(limits: ConnectionLimits) -> Self {
        let shared = Shared {
            room: Arc::new(Semaphore::new(limits.connections)),
            limits,
            per_ip: Arc::default(),
            draining: CancellationToken::new(),
            abort: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Serves `app` to whoever comes in at `listening`, with TLS when given. Returns at once.
    pub fn serve(&self, listening: Listening, app: Router, tls: Option<Arc<rustls::ServerConfig>>) {
        let shared = Arc::clone(&self.shared);
        let tls = tls.map(TlsAcceptor::from);
        self.shared.tasks.spawn(accept(shared, listening, app, tls));
    }

    /// Ends when the drain begins: endless responses listen to it.
    pub fn draining(&self) -> CancellationToken {
        self.shared.draining.clone()
    }

    /// Stops accepting, answers what is in flight and what open connections bring within a second, and cuts
    /// off what is left after `patience`. Returns whether all ended by themselves.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.shared.draining.cancel();
        self.shared.tasks.close();
        let calm = timeout(patience, self.shared.tasks.wait()).await.is_ok();
        self.shared.abort.cancel();
        self.shared.tasks.wait().await;
        calm
    }
}

// === impl Place ===

impl Place {
    /// A place for this peer, or none when its address has too many.
    fn take(shared: &Shared, room: OwnedSemaphorePermit, peer: &Peer) -> Option<Self> {
        let ip = shared.limits.counts(peer);
        let per_ip = Arc::clone(&shared.per_ip);
        if let Some(ip) = ip {
            let mut counts = lock(&per_ip);
            let count = counts.entry(ip).or_default();
            if *count >= shared.limits.connections_per_ip {
                return None;
            }
            *count += 1;
        }
        Some(Self {
            _room: room,
            ip,
            per_ip,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(ip) = self.ip else { return };
        let mut counts = lock(&self.per_ip);
        if let Some(count) = counts.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&ip);
            }
        }
    }
}

// === free functions ===

fn lock(
    counts: &Mutex<BTreeMap<IpAddr, usize>>,
) -> std::sync::MutexGuard<'_, BTreeMap<IpAddr, usize>> {
    counts
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The accept loop. Room is taken before a connection is, so that a flood waits in the kernel.
async fn accept(shared: Arc<Shared>, listening: Listening, app: Router, tls: Option<TlsAcceptor>) {
    loop {
        let room = tokio::select! {
            biased;
            () = shared.draining.cancelled() => return,
            room = Arc::clone(&shared.room).acquire_owned() => room.expect("nobody closes the semaphore"),
        };
        let accepted = tokio::select! {
            biased;
            () = shared.draining.cancelled() => return,
            accepted = listening.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit(&shared, room, stream, peer, &app, tls.as_ref()).await,
            Err(why) => {
                tracing::warn!(%why, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn admit(
    shared: &Arc<Shared>,
    room: OwnedSemaphorePermit,
    mut stream: BoxStream,
    peer: Peer,
    app: &Router,
    tls: Option<&TlsAcceptor>,
) {
    let Some(place) = Place::take(shared, room, &peer) else {
        tracing::info!(?peer, "refused a connection: its address has too many");
        if tls.is_none() {
            // A peer that does not even take its refusal has lost nothing.
            drop(timeout(REFUSAL_WAIT, stream.write_all(REFUSAL)).await);
        }
        return;
    };
    let connection = connection(Arc::clone(shared), stream, peer, app.clone(), tls.cloned());
    shared.tasks.spawn(async move {
        connection.await;
        drop(place);
    });
}

/// One connection, from its first byte to its end.
async fn connection(
    shared: Arc<Shared>,
    stream: BoxStream,
    peer: Peer,
    app: Router,
    tls: Option<TlsAcceptor>,
) {
    let stream: BoxStream = match tls {
        None => stream,
        Some(tls) => match timeout(HANDSHAKE_WAIT, tls.accept(stream)).await {
            Ok(Ok(stream)) => Box::new(stream),
            Ok(Err(why)) => return tracing::debug!(?peer, %why, "TLS failed"),
            Err(_) => return tracing::debug!(?peer, "TLS took too long"),
        },
    };
    let (stream, pulse) = Watched::new(stream);
    let mut builder = http1::Builder::new();
    builder
        .timer(HeadTimer::new(&pulse))
        .header_read_timeout(shared.limits.header_read)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    let service = {
        let (shared, pulse) = (Arc::clone(&shared), Arc::clone(&pulse));
        hyper::service::service_fn(move |request| {
            let (shared, pulse) = (Arc::clone(&shared), Arc::clone(&pulse));
            answer(shared, app.clone(), request, peer, pulse)
        })
    };
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    run(&shared, &pulse, serving).await;
}

/// Drives a connection until it ends, stalls, or is cut off.
async fn run<C>(shared: &Shared, pulse: &Pulse, serving: C)
where
    C: hyper_util::server::graceful::GracefulConnection,
{
    let mut serving = std::pin::pin!(serving);
    let mut asked = false;
    let mut last_request = std::pin::pin!(async {
        shared.draining.cancelled().await;
        tokio::time::sleep(LAST_REQUEST_WAIT).await;
    });
    loop {
        // Nobody is told when hyper begins to wait for a head: one looks again before that wait can be over.
        let look = (Instant::now() + shared.limits.header_read).min(deadline(shared, pulse));
        tokio::select! {
            biased;
            _ended = &mut serving => return, // How a peer ends its connection concerns nobody else.
            // Nothing is cut off before the drain has begun; till then there is one thing less to ask at each turn.
            () = shared.abort.cancelled(), if asked => return,
            () = &mut last_request, if !asked => {
                asked = true;
                serving.as_mut().graceful_shutdown();
            }
            () = sleep_until(look) => {
                if Instant::now() >= deadline(shared, pulse) {
                    return;
                }
            }
        }
    }
}

/// When the patience with a peer ends: nothing has moved for too long, or its head is still not there.
fn deadline(shared: &Shared, pulse: &Pulse) -> Instant {
    let patience = if pulse.begun() {
        shared.limits.stalled
    } else {
        shared.limits.header_read
    };
    let stalled = pulse.moved() + patience;
    pulse.head_by().map_or(stalled, |by| by.min(stalled))
}

/// One request. Closes the connection where keeping it would be unsafe or pointless.
async fn answer(
    shared: Arc<Shared>,
    app: Router,
    request: Request<Incoming>,
    peer: Peer,
    pulse: Arc<Pulse>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer);
    let mut response = if pulse.ambiguous() {
        ApiError::new(
            Code::MalformedRequest,
            "Content-Length and Transfer-Encoding must not come together (RFC 9112 section 6.1).",
        )
        .render("none")
    } else {
        match app.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    };
    let closes = chunked || pulse.ambiguous() || shared.draining.is_cancelled();
    if closes {
        debug_assert_ne!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests;
