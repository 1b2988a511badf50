//! Wires of the simulated internet: in memory ([`MemNet`]) or over the loopback interface ([`LoopbackNet`]).

mod fault;
mod loopback;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use inboxgrove_model::ports::{BoxFuture, BoxStream, Listener, Net};
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use self::fault::Fate;
use crate::rng::SeededRng;

pub use self::{fault::Faults, loopback::LoopbackNet};

/// Bytes that a stream holds in each direction before its writer waits: a socket buffer.
const PIPE_BYTES: usize = 64 * 1024;
/// Connections that wait to be accepted; further ones wait to be established.
const BACKLOG: usize = 128;
/// The ports given out for port 0, to listeners and to clients (RFC 6335 §6).
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// An internet in memory: streams between addresses, and what may befall them. Clones share it.
#[derive(Debug, Clone)]
pub struct MemNet {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    rng: SeededRng,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    listeners: BTreeMap<SocketAddr, mpsc::Sender<Arrival>>,
    faults: BTreeMap<SocketAddr, Faults>,
    everywhere: Faults,
    dynamic: u16,
    connections: u64,
}

type Arrival = (BoxStream, SocketAddr);

/// An address of a [`MemNet`] that somebody listens at, until this is dropped.
struct MemListener {
    shared: Arc<Shared>,
    address: SocketAddr,
    arrivals: AsyncMutex<mpsc::Receiver<Arrival>>,
}

// === impl MemNet ===

impl MemNet {
    /// A net without listeners and without faults; `rng` decides what befalls whom.
    pub fn new(rng: &SeededRng) -> Self {
        Self {
            shared: Arc::new(Shared {
                rng: rng.stream("net"),
                state: Mutex::default(),
            }),
        }
    }

    /// What befalls connections to this address from now on, in the place of what befalls all.
    pub fn faults_at(&self, to: SocketAddr, faults: Faults) {
        self.shared.lock().faults.insert(to, faults);
    }

    /// Takes the special treatment of an address away.
    pub fn heal(&self, to: SocketAddr) {
        self.shared.lock().faults.remove(&to);
    }

    /// What befalls connections to all other addresses from now on.
    pub fn faults_everywhere(&self, faults: Faults) {
        self.shared.lock().everywhere = faults;
    }

    /// How many connections were asked for so far.
    pub fn connections(&self) -> u64 {
        self.shared.lock().connections
    }

    async fn dial(&self, from: Option<IpAddr>, to: SocketAddr) -> io::Result<BoxStream> {
        let (fate, listener, local) = self.shared.route(from, to)?;
        if !fate.latency.is_zero() {
            tokio::time::sleep(fate.latency).await;
        }
        if fate.refused {
            return Err(refused(to));
        }
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        if fate.stalled {
            // Nobody will ever read or write the far end, and it stays open.
            return Ok(fate.wrap_stalled(ours, theirs));
        }
        let arrival: Arrival = (Box::new(theirs), local);
        listener.send(arrival).await.map_err(|_| refused(to))?;
        Ok(fate.wrap(ours))
    }

    fn bind(&self, at: SocketAddr) -> io::Result<MemListener> {
        let (tell, arrivals) = mpsc::channel(BACKLOG);
        let mut state = self.shared.lock();
        let address = match at.port() {
            0 => state.free_address(at.ip())?,
            _ => at,
        };
        if state.listeners.contains_key(&address) {
            let why = format!("{address} is taken");
            return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
        }
        state.listeners.insert(address, tell);
        drop(state);
        Ok(MemListener {
            shared: Arc::clone(&self.shared),
            address,
            arrivals: AsyncMutex::new(arrivals),
        })
    }
}

impl Net for MemNet {
    fn connect(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
    ) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(self.dial(from, to))
    }

    fn listen(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move { Ok(Box::new(self.bind(at)?) as Box<dyn Listener>) })
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who listens there, what befalls this connection, and the address it comes from.
    fn route(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
    ) -> io::Result<(Fate, mpsc::Sender<Arrival>, SocketAddr)> {
        let mut state = self.lock();
        state.connections += 1;
        let fate = state
            .faults
            .get(&to)
            .unwrap_or(&state.everywhere)
            .draw(&self.rng);
        let listener = state.listener(to).ok_or_else(|| refused(to))?;
        let from = from.unwrap_or(match to {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
        let local = SocketAddr::new(from, state.next_dynamic());
        Ok((fate, listener, local))
    }
}

// === impl State ===

impl State {
    /// The listener at this address, or at all addresses of its port.
    fn listener(&self, to: SocketAddr) -> Option<mpsc::Sender<Arrival>> {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let found = self.listeners.get(&to);
        found
            .or_else(|| self.listeners.get(&SocketAddr::new(any, to.port())))
            .cloned()
    }

    fn next_dynamic(&mut self) -> u16 {
        let next = self.dynamic.checked_add(1).unwrap_or(0);
        self.dynamic = next.max(*DYNAMIC_PORTS.start());
        self.dynamic
    }

    fn free_address(&mut self, ip: IpAddr) -> io::Result<SocketAddr> {
        for _ in DYNAMIC_PORTS {
            let address = SocketAddr::new(ip, self.next_dynamic());
            if !self.listeners.contains_key(&address) {
                return Ok(address);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            format!("no free port at {ip}"),
        ))
    }
}

// === impl MemListener ===

impl Listener for MemListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let arrived = self.arrivals.lock().await.recv().await;
            // The sender lives in the registry until this listener is dropped.
            arrived.ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotConnected, "the listener was closed")
            })
        })
    }

    fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MemListener {
    fn drop(&mut self) {
        self.shared.lock().listeners.remove(&self.address);
    }
}

fn refused(to: SocketAddr) -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionRefused,
        format!("nobody listens at {to}"),
    )
}

/// Listens at one port on each of these addresses; port 0 takes one that is free on all of them.
pub async fn listen_on_one_port(
    net: &dyn Net,
    ips: &[IpAddr],
    port: u16,
) -> io::Result<Vec<Box<dyn Listener>>> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to listen at");
    for _ in 0..PORT_TRIES {
        match listen_once(net, ips, port).await {
            Ok(listeners) => return Ok(listeners),
            Err(error) if port == 0 && error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// How often a port is looked for that all addresses share.
const PORT_TRIES: usize = 32;

async fn listen_once(
    net: &dyn Net,
    ips: &[IpAddr],
    mut port: u16,
) -> io::Result<Vec<Box<dyn Listener>>> {
    let mut listeners = Vec::new();
    for ip in ips {
        let listener = net.listen(SocketAddr::new(*ip, port)).await?;
        port = listener.local_addr().port();
        listeners.push(listener);
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests;
