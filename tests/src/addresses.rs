//! The loopback addresses of one test: every host of its world has one of its own, on ports that were free a moment ago.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    process,
};

use anyhow::{Context, Result, bail};

/// How often to look for a port that is free on all addresses.
const TRIES: usize = 50;

/// A block of 127/8 that no other test process uses at the same time.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    high: u8,
    low: u8,
}

impl Addresses {
    /// The block of this process.
    pub fn of_this_process() -> Self {
        let [.., high, low] = process::id().to_be_bytes();
        // 127.0.0.x stays free for others.
        Self {
            high: 64 | (high & 0x3f),
            low,
        }
    }

    /// Where the name server is.
    pub fn name_server(self) -> IpAddr {
        self.host(53)
    }

    /// Where the daemon takes mail in.
    pub fn inbound(self) -> IpAddr {
        self.host(25)
    }

    /// What the daemon's mail leaves from.
    pub fn source(self) -> IpAddr {
        self.host(30)
    }

    /// Where the others' mail server is.
    pub fn mail_server(self) -> IpAddr {
        self.host(20)
    }

    /// A port that is free for TCP and UDP on all these addresses.
    pub fn free_port(hosts: &[IpAddr]) -> Result<u16> {
        let first = *hosts.first().context("a port of which host?")?;
        for _ in 0..TRIES {
            let probe =
                TcpListener::bind(SocketAddr::new(first, 0)).context("loopback has ports")?;
            let port = probe
                .local_addr()
                .context("a bound socket has an address")?
                .port();
            let is_free = |host: &IpAddr| UdpSocket::bind(SocketAddr::new(*host, port)).is_ok();
            let is_free_tcp =
                |host: &IpAddr| TcpListener::bind(SocketAddr::new(*host, port)).is_ok();
            if hosts.iter().all(is_free) && hosts.iter().skip(1).all(is_free_tcp) {
                return Ok(port);
            }
        }
        bail!("no port is free on all of {hosts:?}");
    }

    fn host(self, last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, self.high, self.low, last))
    }
}
