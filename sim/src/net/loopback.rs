//! Real sockets, on the loopback interface only: the wires of the demo.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use inboxgrove_model::ports::{BoxFuture, BoxStream, Listener, Net};
use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// TCP between 127.x addresses. It reaches nothing else, whatever it is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoopbackNet;

struct LoopbackListener {
    listener: TcpListener,
    address: SocketAddr,
}

// === impl LoopbackNet ===

impl Net for LoopbackNet {
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
            let socket = socket_for(at)?;
            socket.set_reuseaddr(true)?;
            socket.bind(at)?;
            let listener = socket.listen(BACKLOG)?;
            let address = listener.local_addr()?;
            Ok(Box::new(LoopbackListener { listener, address }) as Box<dyn Listener>)
        })
    }
}

impl Listener for LoopbackListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as BoxStream, peer))
        })
    }

    fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// A socket of the address's family; none for addresses beyond this machine.
fn socket_for(address: SocketAddr) -> io::Result<TcpSocket> {
    if !address.ip().is_loopback() {
        let why = format!("{address} is not a loopback address");
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, why));
    }
    match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}
