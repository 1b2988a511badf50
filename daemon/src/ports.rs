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
    ports::{Blocking, BoxFuture, BoxStream, Clock, Listener, Net, Rng},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
    time::Instant,
};

use crate::http::server::TcpAccept;

/// How long a forward jump of the wall clock is held: an operator's typo is mended within it.
const HOLD: Duration = Duration::from_mins(5);
/// The wall may run ahead of monotonic time by this much between two looks without being a jump.
const SLACK: Duration = Duration::from_secs(30);
/// Longest sleep in one piece: after it the clock is looked at again, for it may have been set.
const NAP: Duration = Duration::from_mins(1);
/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: u32 = 1024;
/// Pieces of blocking work that wait or run. Each is a hash, a signature or a key: some 10 to 200 ms.
const BLOCKING_MAX: usize = 256;

/// The machine's clock. Policy time is the larger of the mark it was started with and the wall, less a
/// jump that is being held.
pub struct SystemClock {
    state: Mutex<PolicyState>,
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

/// The pure part of the policy clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PolicyState {
    /// The latest policy time given out.
    high: i64,
    /// The wall and the monotonic time of the last look.
    wall: i64,
    mono: Duration,
    /// A forward jump that is being held: how much, and until when in monotonic time.
    held: Option<(i64, Duration)>,
    /// Where monotonic time starts.
    start: Instant,
}

// === impl SystemClock ===

impl SystemClock {
    /// A clock whose policy time starts at `mark`, the highest one that was ever committed, or later.
    pub fn new(mark: PolicyTime) -> Self {
        let wall = wall_now();
        Self {
            state: Mutex::new(PolicyState {
                high: mark.as_millis().max(wall.as_millis()),
                wall: wall.as_millis(),
                mono: Duration::ZERO,
                held: None,
                start: Instant::now(),
            }),
        }
    }
}

impl Clock for SystemClock {
    fn policy(&self) -> PolicyTime {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mono = state.start.elapsed();
        PolicyTime::from_millis(state.look(wall_now().as_millis(), mono))
    }

    fn wall(&self) -> WallTime {
        wall_now()
    }

    fn sleep_until(&self, at: PolicyTime) -> BoxFuture<'static, ()> {
        let wait = at.since(self.policy());
        // A clock that is set while we sleep is noticed by the caller's next look, a nap later at most:
        // callers treat a wake-up as a reason to look, and the clock actor naps no longer than this.
        Box::pin(async move {
            let mut left = wait;
            while !left.is_zero() {
                let nap = left.min(NAP);
                tokio::time::sleep(nap).await;
                left -= nap;
            }
        })
    }
}

// === impl PolicyState ===

impl PolicyState {
    /// Policy time at this wall and monotonic time. Never goes back; a jump of the wall that monotonic
    /// time does not explain is held for five minutes, then believed.
    fn look(&mut self, wall: i64, mono: Duration) -> i64 {
        let passed = millis(mono.saturating_sub(self.mono));
        let jump = wall - self.wall - passed;
        if jump > millis(SLACK) {
            let held = self.held.map_or(0, |(held, _)| held) + jump;
            tracing::warn!(
                jump_ms = jump,
                "the wall clock jumped forward; policy time waits five minutes before it follows"
            );
            self.held = Some((held, mono + HOLD));
        } else if jump < -millis(SLACK) && self.held.is_some() {
            // It was set back again: the jump was a mistake, and is mended.
            self.held = self
                .held
                .map(|(held, until)| (held + jump, until))
                .filter(|(held, _)| *held > 0);
        }
        if self.held.is_some_and(|(_, until)| mono >= until) {
            self.held = None;
        }
        (self.wall, self.mono) = (wall, mono);
        let believed = wall - self.held.map_or(0, |(held, _)| held);
        self.high = self.high.max(believed);
        self.high
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
    use proptest::prelude::*;

    use super::*;

    fn state(wall: i64) -> PolicyState {
        PolicyState {
            high: wall,
            wall,
            mono: Duration::ZERO,
            held: None,
            start: Instant::now(),
        }
    }

    const HOUR: i64 = 3_600_000;

    #[test]
    fn policy_time_follows_the_wall() {
        let mut clock = state(1_000);
        assert_eq!(clock.look(11_000, Duration::from_secs(10)), 11_000);
        assert_eq!(clock.look(11_500, Duration::from_secs(11)), 11_500);
    }

    #[test]
    fn it_never_goes_back() {
        let mut clock = state(HOUR);
        assert_eq!(clock.look(0, Duration::from_secs(1)), HOUR);
        assert_eq!(clock.look(1_000, Duration::from_secs(2)), HOUR);
    }

    #[test]
    fn a_forward_jump_is_held_then_believed() {
        let mut clock = state(0);
        assert_eq!(clock.look(HOUR + 1_000, Duration::from_secs(1)), 1_000);
        assert_eq!(
            clock.look(HOUR + 299_000, Duration::from_secs(299)),
            299_000
        );
        assert_eq!(
            clock.look(HOUR + 302_000, Duration::from_secs(302)),
            HOUR + 302_000
        );
    }

    #[test]
    fn a_jump_that_is_mended_in_time_never_happened() {
        let mut clock = state(0);
        assert_eq!(clock.look(HOUR + 1_000, Duration::from_secs(1)), 1_000);
        assert_eq!(clock.look(60_000, Duration::from_mins(1)), 60_000);
        assert_eq!(clock.look(400_000, Duration::from_secs(400)), 400_000);
    }

    proptest! {
        #[test]
        fn whatever_the_wall_does_policy_time_rises(steps in prop::collection::vec((-2 * HOUR..2 * HOUR, 0_u64..600_000), 1..60)) {
            let mut clock = state(HOUR);
            let (mut wall, mut mono, mut last) = (HOUR, Duration::ZERO, HOUR);
            for (jump, passed) in steps {
                wall += jump;
                mono += Duration::from_millis(passed);
                let now = clock.look(wall, mono);
                prop_assert!(now >= last);
                last = now;
            }
        }
    }

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
