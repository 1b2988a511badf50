//! A machine that the daemon runs on: ports that die together when it loses its power.
//!
//! What ran on a dead machine still exists as tasks of the test's runtime, but nothing of it reaches the world any more:
//! its connections are cut, its sleeps never end, its questions are never answered.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use inboxgrove_mail::dkim::KeyMaker;
use inboxgrove_model::{
    PolicyTime, WallTime,
    ports::{
        Activity, Blocking, BoxFuture, BoxStream, Clock, Dns, DnsAnswer, DnsError, Http, HttpError,
        Listener, Net, Ports, RecordType,
    },
};
use inboxgrove_sim::rng::SeededRng;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Mutex as AsyncMutex, mpsc},
};

use super::hardware::{Hardware, RunClock};

/// Connections to a machine that wait to be accepted.
const BACKLOG: usize = 128;

/// A machine, until its power fails. Clones are the same machine.
#[derive(Clone)]
pub struct Machine {
    shared: Arc<Shared>,
}

/// The world as a machine reaches it.
#[derive(Clone)]
pub struct Outside {
    /// The clock on the wall.
    pub hardware: Hardware,
    /// Who makes DKIM keys.
    pub key_maker: Arc<dyn KeyMaker>,
    /// Names.
    pub dns: Arc<dyn Dns>,
    /// Wires.
    pub net: Arc<dyn Net>,
    /// Vendors.
    pub http: Arc<dyn Http>,
}

/// The one address that mail comes in at; connections go to the machine that is up, if one is.
#[derive(Clone, Default)]
pub struct FrontDoor {
    behind: Arc<Mutex<Option<mpsc::Sender<Arrival>>>>,
}

type Arrival = (BoxStream, SocketAddr);

struct Shared {
    dead: AtomicBool,
    clock: RunClock,
    outside: Outside,
    streams: Mutex<Vec<Weak<Slot>>>,
}

/// Where a connection is kept until it is cut.
type Slot = Mutex<Option<BoxStream>>;

struct MortalStream(Arc<Slot>);

struct MortalListener {
    machine: Machine,
    address: SocketAddr,
    arrivals: AsyncMutex<mpsc::Receiver<Arrival>>,
}

// === impl Machine ===

impl Machine {
    /// A machine with power, on whose disk this mark of policy time was found.
    pub fn new(outside: Outside, mark: PolicyTime) -> Self {
        Self {
            shared: Arc::new(Shared {
                dead: AtomicBool::new(false),
                clock: outside.hardware.boot(mark),
                outside,
                streams: Mutex::default(),
            }),
        }
    }

    /// What the daemon is given. Its chance is its own: another run of the daemon draws other numbers.
    pub fn ports(&self, rng: SeededRng) -> Ports {
        Ports {
            clock: Arc::new(self.clone()),
            rng: Arc::new(rng),
            dns: Arc::new(self.clone()),
            net: Arc::new(self.clone()),
            http: Arc::new(self.clone()),
            blocking: Arc::new(self.clone()),
            activity: Activity::default(),
        }
    }

    /// Its power fails: every connection is cut, and nothing of it reaches the world any more.
    pub fn lose_power(&self) {
        self.shared.dead.store(true, Ordering::Release);
        for slot in self.streams().drain(..) {
            if let Some(slot) = slot.upgrade() {
                // The far end sees the end of the stream.
                drop(slot.lock().unwrap_or_else(PoisonError::into_inner).take());
            }
        }
    }

    fn is_dead(&self) -> bool {
        self.shared.dead.load(Ordering::Acquire)
    }

    /// Hands something back, unless the power has failed meanwhile: then nobody is there to take it.
    async fn alive<T>(&self, answer: T) -> T {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
        answer
    }

    fn keep(&self, stream: BoxStream) -> BoxStream {
        let slot = Arc::new(Mutex::new(Some(stream)));
        let mut streams = self.streams();
        streams.retain(|slot| slot.strong_count() > 0);
        streams.push(Arc::downgrade(&slot));
        Box::new(MortalStream(slot))
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Slot>>> {
        self.shared
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("dead", &self.is_dead())
            .finish_non_exhaustive()
    }
}

impl Clock for Machine {
    fn policy(&self) -> PolicyTime {
        self.shared.clock.policy()
    }

    fn wall(&self) -> WallTime {
        self.shared.clock.wall()
    }

    fn sleep_until(&self, at: PolicyTime) -> BoxFuture<'static, ()> {
        let sleep = self.shared.clock.sleep_until(at);
        let machine = self.clone();
        Box::pin(async move {
            sleep.await;
            machine.alive(()).await;
        })
    }
}

impl Dns for Machine {
    fn lookup<'a>(
        &'a self,
        name: &'a str,
        kind: RecordType,
    ) -> BoxFuture<'a, Result<DnsAnswer, DnsError>> {
        Box::pin(async move {
            self.alive(self.shared.outside.dns.lookup(name, kind).await)
                .await
        })
    }

    fn lookup_at<'a>(
        &'a self,
        server: IpAddr,
        name: &'a str,
        kind: RecordType,
    ) -> BoxFuture<'a, Result<DnsAnswer, DnsError>> {
        Box::pin(async move {
            self.alive(self.shared.outside.dns.lookup_at(server, name, kind).await)
                .await
        })
    }
}

impl Net for Machine {
    fn connect(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
    ) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            self.alive(()).await;
            let stream = self.shared.outside.net.connect(from, to).await;
            self.alive(stream).await.map(|stream| self.keep(stream))
        })
    }

    /// Machines take mail in at the [`FrontDoor`] only.
    fn listen(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        let why = format!("{at}: a machine listens at its front door only");
        Box::pin(async move { Err(io::Error::new(io::ErrorKind::Unsupported, why)) })
    }
}

impl Http for Machine {
    fn send(
        &self,
        request: http::Request<Bytes>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<http::Response<Bytes>, HttpError>> {
        Box::pin(async move {
            self.alive(self.shared.outside.http.send(request, deadline).await)
                .await
        })
    }
}

impl Blocking for Machine {
    /// Inline: a paused runtime has one thread, and time stands still meanwhile.
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let machine = self.clone();
        Box::pin(async move {
            machine.alive(()).await;
            // A panic is the work's affair: whoever waits for its result learns that there is none.
            catch_unwind(AssertUnwindSafe(work)).ok();
        })
    }
}

// === impl MortalStream ===

impl MortalStream {
    /// Does something with the connection; on a dead machine nothing ever happens.
    fn poll<T>(&self, act: impl FnOnce(Pin<&mut BoxStream>) -> Poll<T>) -> Poll<T> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_mut()
            .map_or(Poll::Pending, |stream| act(Pin::new(stream)))
    }
}

impl AsyncRead for MortalStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for MortalStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_shutdown(context))
    }
}

// === impl FrontDoor ===

impl FrontDoor {
    /// Opens the door at an address of a net. Its listener stays when machines come and go.
    pub async fn open(net: &dyn Net, at: SocketAddr) -> io::Result<Self> {
        let door = Self::default();
        let listener = net.listen(at).await?;
        let behind = Arc::clone(&door.behind);
        tokio::spawn(async move {
            while let Ok(arrival) = listener.accept().await {
                let machine = behind
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                // Nobody there: the connection is closed at once.
                if let Some(machine) = machine {
                    machine.send(arrival).await.ok();
                }
            }
        });
        Ok(door)
    }

    /// From now on connections go to this machine.
    pub fn lead_to(&self, machine: &Machine, address: SocketAddr) -> Box<dyn Listener> {
        let (tell, arrivals) = mpsc::channel(BACKLOG);
        *self.behind.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
        Box::new(MortalListener {
            machine: machine.clone(),
            address,
            arrivals: AsyncMutex::new(arrivals),
        })
    }

    /// From now on connections are closed.
    pub fn lead_nowhere(&self) {
        self.behind
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

impl Listener for MortalListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let arrived = self.arrivals.lock().await.recv().await;
            let Some((stream, peer)) = self.machine.alive(arrived).await else {
                // The door leads elsewhere now.
                return std::future::pending().await;
            };
            Ok((self.machine.keep(stream), peer))
        })
    }

    fn local_addr(&self) -> SocketAddr {
        self.address
    }
}
