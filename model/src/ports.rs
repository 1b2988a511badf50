//! Ports: time, chance and the outside, passed in to whoever needs them.
//!
//! The daemon wires the real ones, the virtual world and the demo wire simulated ones. Nothing above
//! `model` may reach around them (held by `clippy.toml` and by the layer test).

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
};

use crate::{PolicyTime, WallTime};

/// A future on the heap, as object-safe ports return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// All ports, cheap to clone.
#[derive(Clone)]
pub struct Ports {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: Arc<dyn Rng>,
    /// Names.
    pub dns: Arc<dyn Dns>,
    /// Byte streams.
    pub net: Arc<dyn Net>,
    /// Requests to vendors.
    pub http: Arc<dyn Http>,
    /// Work that would hold up the runtime.
    pub blocking: Arc<dyn Blocking>,
    /// Who is still at work.
    pub activity: Activity,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

/// What time it is, for policy and for outsiders. Monotonic time is tokio's own.
pub trait Clock: Send + Sync {
    /// Policy time: never goes back.
    fn policy(&self) -> PolicyTime;

    /// Wall time: may step.
    fn wall(&self) -> WallTime;

    /// Resolves when policy time has reached `at`; at once when it already has. Cancel safe.
    fn sleep_until(&self, at: PolicyTime) -> BoxFuture<'static, ()>;
}

/// Chance. Seeded in tests, the operating system's in the daemon.
pub trait Rng: Send + Sync {
    /// Fills `bytes` with random ones, fit for keys.
    fn fill(&self, bytes: &mut [u8]);
}

impl dyn Rng + '_ {
    /// A random number over the whole range.
    pub fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Uniform in `[0, 1)`, 53 bits.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub fn unit(&self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0. The bias is below `bound / 2^64`.
    pub fn below(&self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.next_u64()) * u128::from(bound)) >> 64)
            .expect("the high half of a product fits")
    }
}

/// A kind of DNS record we ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordType {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Mail exchange.
    Mx,
    /// Text: SPF, DKIM, DMARC.
    Txt,
    /// Name server of a zone.
    Ns,
    /// Alias.
    Cname,
    /// Name of an address.
    Ptr,
    /// Start of authority: its owner name is the zone's apex.
    Soa,
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Mx => "MX",
            Self::Txt => "TXT",
            Self::Ns => "NS",
            Self::Cname => "CNAME",
            Self::Ptr => "PTR",
            Self::Soa => "SOA",
        })
    }
}

/// The data of one record. Names are lower case without a final dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordData {
    /// IPv4 address.
    A(Ipv4Addr),
    /// IPv6 address.
    Aaaa(Ipv6Addr),
    /// Mail exchange; an empty `exchange` is the null MX (RFC 7505).
    Mx {
        /// Lower is tried first.
        preference: u16,
        /// The host.
        exchange: String,
    },
    /// The strings of one TXT record, joined without a separator (RFC 7208 §3.3).
    Txt(String),
    /// Name server.
    Ns(String),
    /// Where an alias points.
    Cname(String),
    /// Name of an address.
    Ptr(String),
    /// The zone's apex (the owner name of the SOA record) and its primary name server.
    Soa {
        /// Owner name: the apex of the zone.
        zone: String,
        /// MNAME.
        primary: String,
    },
}

/// A positive answer: at least one record of the type asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsAnswer {
    /// The records, in the order of the answer.
    pub records: Vec<RecordData>,
    /// The smallest time to live among them.
    pub ttl: Duration,
    /// Whether DNSSEC validated it. False when nobody checked.
    pub authentic: bool,
}

/// Why there is no record to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// The name does not exist (NXDOMAIN).
    #[error("{name} does not exist")]
    NoSuchName {
        /// The name asked for.
        name: String,
    },
    /// The name exists without a record of this type.
    #[error("{name} has no {kind} record")]
    NoRecord {
        /// The name asked for.
        name: String,
        /// The type asked for.
        kind: RecordType,
    },
    /// Nobody could tell: SERVFAIL, REFUSED, a timeout, a garbled answer. Never means "absent".
    #[error("{kind} of {name} is unknown: {why}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The type asked for.
        kind: RecordType,
        /// What happened.
        why: String,
    },
}

impl DnsError {
    /// Whether a server said with authority that there is no such record.
    pub fn is_absence(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }
}

/// Names. Implementations set a deadline of their own on every question (5 s by default).
pub trait Dns: Send + Sync {
    /// Asks the resolver, through the single-flight cache on policy time.
    fn lookup<'a>(
        &'a self,
        name: &'a str,
        kind: RecordType,
    ) -> BoxFuture<'a, Result<DnsAnswer, DnsError>>;

    /// Asks one server directly, without recursion and without any cache.
    fn lookup_at<'a>(
        &'a self,
        server: IpAddr,
        name: &'a str,
        kind: RecordType,
    ) -> BoxFuture<'a, Result<DnsAnswer, DnsError>>;
}

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, whatever carries it.
pub type BoxStream = Box<dyn Stream>;

/// Byte streams to and from other hosts.
pub trait Net: Send + Sync {
    /// Connects `from` a source address (any when `None`) `to` a socket. The caller sets the deadline.
    fn connect(&self, from: Option<IpAddr>, to: SocketAddr)
    -> BoxFuture<'_, io::Result<BoxStream>>;

    /// Listens at an address; port 0 takes a free one.
    fn listen(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
}

/// Where connections come in.
pub trait Listener: Send + Sync {
    /// The next connection and where it comes from. Cancel safe.
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>>;

    /// The address it listens at.
    fn local_addr(&self) -> SocketAddr;
}

/// Requests to vendors. Implementations follow no redirect, cap the answer at 1 MiB, refuse private
/// addresses unless allowed, and end at the deadline.
pub trait Http: Send + Sync {
    /// Sends a request and reads the whole answer.
    fn send(
        &self,
        request: http::Request<Bytes>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<http::Response<Bytes>, HttpError>>;
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer from {host}: {why}")]
pub struct HttpError {
    /// Whom we asked.
    pub host: String,
    /// What happened.
    pub why: String,
    /// Whether the request surely never reached the host.
    pub unsent: bool,
}

/// Work that would hold up the runtime: hashing, signing, making keys. Bounded in threads and queue.
pub trait Blocking: Send + Sync {
    /// Runs `work` elsewhere; resolves when it has ended. Work that was started is never cancelled.
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
}

impl dyn Blocking + '_ {
    /// Runs `work` elsewhere and brings back what it made. `None` when it panicked.
    pub async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = tokio::sync::oneshot::channel();
        // A caller that went away no longer wants the result: nothing is lost by dropping it.
        self.run(Box::new(move || drop(tell.send(work())))).await;
        told.await.ok()
    }
}

/// Counts who is still at work, so that a drain can wait for them and a fast clock never runs past them.
#[derive(Debug, Clone, Default)]
pub struct Activity {
    shared: Arc<ActivityShared>,
}

#[derive(Debug, Default)]
struct ActivityShared {
    busy: AtomicUsize,
    idle: Notify,
}

/// Somebody at work; dropping it says that they are done.
#[derive(Debug)]
pub struct Busy {
    shared: Arc<ActivityShared>,
}

// === impl Activity ===

impl Activity {
    /// Says that work has begun, until the guard is dropped.
    #[must_use = "the work counts as done when the guard is dropped"]
    pub fn begin(&self) -> Busy {
        self.shared.busy.fetch_add(1, Ordering::AcqRel);
        Busy {
            shared: Arc::clone(&self.shared),
        }
    }

    /// How many are at work.
    pub fn busy(&self) -> usize {
        self.shared.busy.load(Ordering::Acquire)
    }

    /// Resolves at a moment when nobody is at work. Cancel safe.
    pub async fn idle(&self) {
        loop {
            let told = self.shared.idle.notified();
            if self.busy() == 0 {
                return;
            }
            told.await;
        }
    }
}

impl Clone for Busy {
    fn clone(&self) -> Self {
        self.shared.busy.fetch_add(1, Ordering::AcqRel);
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.shared.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.idle.notify_waiters();
        }
    }
}
/// Longest sleep in one piece of [`sleep_in_naps`]: a clock that is set meanwhile is noticed after it.
const NAP: Duration = Duration::from_mins(1);

/// Sleeps until a policy clock that may be set, held or stand still has reached `at`: for implementations of
/// [`Clock::sleep_until`] over such a clock. At most a minute late.
pub async fn sleep_in_naps(now: impl Fn() -> PolicyTime, at: PolicyTime) {
    loop {
        let left = at.since(now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(NAP)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use tokio::time::Instant;

    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    /// It slept for as long as was left at its beginning, whatever the clock did meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_sleeper_follows_a_clock_that_is_set() {
        for (set_to, minutes) in [(2 * HOUR_MS, 31), (-HOUR_MS, 151)] {
            let begun = Instant::now();
            let ahead = Arc::new(AtomicI64::new(0));
            let clock = Arc::clone(&ahead);
            let now = move || {
                let passed = PolicyTime::default().after(begun.elapsed()).as_millis();
                PolicyTime::from_millis(passed + clock.load(Ordering::Relaxed))
            };
            let sleeper =
                tokio::spawn(sleep_in_naps(now, PolicyTime::from_millis(HOUR_MS * 3 / 2)));
            tokio::time::sleep(Duration::from_mins(30)).await;
            ahead.store(set_to, Ordering::Relaxed);
            sleeper.await.unwrap();
            let most = Duration::from_mins(minutes);
            assert!(begun.elapsed() <= most, "{:?}", begun.elapsed());
            assert!(begun.elapsed() + NAP >= most, "{:?}", begun.elapsed());
        }
    }
}
