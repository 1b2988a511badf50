//! Why a session with a server ended early.

use std::{io, time::Duration};

use super::Stage;
use crate::smtp::{Reply, ReplyError};

/// Why a session cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server closed the connection.
    #[error("{server} closed the connection at {stage}")]
    Closed {
        /// Which server.
        server: String,
        /// When.
        stage: Stage,
    },
    /// The connection broke.
    #[error("the connection to {server} broke at {stage}")]
    Broken {
        /// Which server.
        server: String,
        /// When.
        stage: Stage,
        /// How.
        #[source]
        source: io::Error,
    },
    /// The server did not answer in time.
    #[error("{server} did not answer within {} s at {stage}", .waited.as_secs())]
    Timeout {
        /// Which server.
        server: String,
        /// When.
        stage: Stage,
        /// How long we waited.
        waited: Duration,
    },
    /// The server does not speak SMTP.
    #[error("{server} sent no SMTP reply at {stage}")]
    Garbled {
        /// Which server.
        server: String,
        /// When.
        stage: Stage,
        /// What is wrong with it.
        #[source]
        source: ReplyError,
    },
    /// A reply longer than any honest one.
    #[error("{server} sent an endless reply at {stage}")]
    Endless {
        /// Which server.
        server: String,
        /// When.
        stage: Stage,
    },
    /// The server refused.
    #[error("{server} refused at {stage}: {reply}")]
    Refused {
        /// Which server.
        server: String,
        /// What.
        stage: Stage,
        /// Its words.
        reply: Reply,
    },
    /// TLS is required and not offered.
    #[error("{server} offers no STARTTLS, which is required")]
    NoTls {
        /// Which server.
        server: String,
    },
    /// Bytes came in the clear behind the reply to STARTTLS: somebody in between injects commands.
    #[error("{server} sent bytes in the clear behind its reply to STARTTLS")]
    Injected {
        /// Which server.
        server: String,
    },
    /// The handshake failed.
    #[error("TLS with {server} failed")]
    Handshake {
        /// Which server.
        server: String,
        /// How.
        #[source]
        source: io::Error,
    },
    /// An earlier failure has ended this session.
    #[error("the session with {server} has ended")]
    Ended {
        /// Which server.
        server: String,
    },
}

// === impl ClientError ===

impl ClientError {
    /// What the server said, when it said anything.
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Refused { reply, .. } => Some(reply),
            _ => None,
        }
    }

    /// Whether encryption failed or was tampered with, so that an opportunistic caller may think about
    /// a session without it.
    pub fn is_tls(&self) -> bool {
        matches!(
            self,
            Self::Handshake { .. }
                | Self::Injected { .. }
                | Self::Timeout {
                    stage: Stage::Tls,
                    ..
                }
        )
    }
}
