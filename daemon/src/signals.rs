//! The signals that the daemon listens to: TERM and INT drain, HUP reloads.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Finish what is in flight and end.
    Drain,
    /// Read the configuration again.
    Reload,
}

/// Listens from its making on.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

// === impl Signals ===

impl Signals {
    /// Starts to listen.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one. Cancel safe.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            biased;
            _ = self.term.recv() => Asked::Drain,
            _ = self.int.recv() => Asked::Drain,
            _ = self.hup.recv() => Asked::Reload,
        }
    }
}
