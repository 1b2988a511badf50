//! The real ports: the machine's clock, chance, network and threads. Only the daemon's wiring makes them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use inboxgrove_model::{
    PolicyTime, WallTime,
    ports::{Blocking, BoxFuture, BoxStream, Clock, Listener, Net, Rng, sleep_in_naps},
};
use inboxgrove_policy::HeldClock;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
    time::Instant,
};

use crate::http::server::TcpAccept;

/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: u32 = 1024;
/// Pieces of blocking work that wait or run. Each is a hash, a signature or a key: some 10 to 200 ms.
const BLOCKING_MAX: usize = 256;

/// The machine's clock; what it makes of a wall that is set is `policy`'s to decide.
#[derive(Clone)]
pub struct SystemClock {
    state: Arc<Mutex<HeldClock>>,
    /// Where monotonic time starts.
    start: Instant,
}

/// Chance from the operating system, by aws-lc.
#[derive(Debug, Default)]
pub struct OsRng {
    random: SystemRandom,
}

/// TCP of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokioNet;

/// The runtime's blocking pool, bounded in number.
#[derive(Debug)]
pub struct Pool {
    room: Arc<Semaphore>,
    threads: Arc<Semaphore>,
}

// === impl SystemClock ===

impl SystemClock {
    /// A clock whose policy time starts at `mark`, the highest one that was ever committed, or later; at the
    /// wall, when nothing was ever committed.
    pub fn new(mark: PolicyTime) -> Self {
        let held = HeldClock::new(mark, wall_now());
        if let Some(gap) = held.held() {
            tracing::warn!(
                ?gap,
                "the wall clock is far beyond the last policy time; policy time waits five minutes before it follows"
            );
        }
        Self {
            state: Arc::new(Mutex::new(held)),
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn policy(&self) -> PolicyTime {
        let look = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.look(wall_now(), self.start.elapsed())
        };
        if let Some(jump) = look.jumped {
            tracing::warn!(
                ?jump,
                "the wall clock jumped forward; policy time waits five minutes before it follows"
            );
        }
        if let Some(step) = look.set_back {
            tracing::warn!(
                ?step,
                "the wall clock was set back; policy time goes at half speed until the wall has caught up"
            );
        }
        look.now
    }

    fn wall(&self) -> WallTime {
        wall_now()
    }

    fn sleep_until(&self, at: PolicyTime) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        Box::pin(sleep_in_naps(move || clock.policy(), at))
    }
}

// === impl OsRng ===

impl Rng for OsRng {
    fn fill(&self, bytes: &mut [u8]) {
        self.random
            .fill(bytes)
            .expect("aws-lc aborts rather than run without entropy");
    }
}

// === impl TokioNet ===

impl Net for TokioNet {
    fn connect(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
    ) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let socket = socket_for(to)?;
            if let Some(from) = from {
                socket.bind(SocketAddr::new(from, 0))?;
            }
            let stream = socket.connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn listen(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpAccept::new(bind(at)?)?;
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }
}

// === impl Pool ===

impl Pool {
    /// A pool of as many threads as there are cores.
    pub fn new() -> Self {
        Self::of(std::thread::available_parallelism().map_or(2, usize::from))
    }

    /// A pool of so many threads.
    pub fn of(threads: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(BLOCKING_MAX)),
            threads: Arc::new(Semaphore::new(threads)),
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Blocking for Pool {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let (room, threads) = (Arc::clone(&self.room), Arc::clone(&self.threads));
        Box::pin(async move {
            let _room = room.acquire_owned().await.expect("nobody closes it");
            let thread = threads.acquire_owned().await.expect("nobody closes it");
            let done = tokio::task::spawn_blocking(move || {
                work();
                drop(thread);
            });
            if done.await.is_err() {
                tracing::error!("blocking work panicked");
            }
        })
    }
}

// === free functions ===

/// A bound and listening TCP socket that may take over the port of its dead predecessor.
pub(crate) fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket_for(at)?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

fn socket_for(at: SocketAddr) -> io::Result<TcpSocket> {
    match at {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the clock port that everybody else asks"
)]
fn wall_now() -> WallTime {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    WallTime::from_millis(millis(since))
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_comes_from_the_address_it_should() {
        let net = TokioNet;
        let listener = net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let from = IpAddr::from([127, 0, 0, 9]);
        let (connected, accepted) = tokio::join!(
            net.connect(Some(from), listener.local_addr()),
            listener.accept()
        );
        connected.unwrap();
        assert_eq!(accepted.unwrap().1.ip(), from);
    }

    #[tokio::test]
    async fn blocking_work_brings_back_what_it_made() {
        let pool: Arc<dyn Blocking> = Arc::new(Pool::new());
        assert_eq!(pool.call(|| 6 * 7).await, Some(42));
        assert_eq!(
            pool.call(|| -> u8 { panic!("work that panics") }).await,
            None
        );
        assert_eq!(pool.call(|| 1).await, Some(1));
    }
}
