//! Mail that comes in: `[inbound]`.

use std::{net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::values::Cidr;

/// Mail that comes in.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Inbound {
    /// Where mail for hosted inboxes comes in. In production `0.0.0.0:25`.
    #[schemars(extend("format" = "socket-address"))]
    pub listen: SocketAddr,
    /// The name in its greeting; empty means `server.hostname`.
    #[schemars(extend("format" = "domain-name", "x-optional" = true))]
    pub hostname: String,
    /// Filtering gateways in front of this host whose `X-Spam-Flag` is believed. From all others it is ignored.
    pub trusted_gateways: Vec<Cidr>,
    /// PEM file of the certificate chain for STARTTLS; empty means that STARTTLS is not offered.
    #[schemars(extend("format" = "path"))]
    pub tls_certificate: PathBuf,
    /// PEM file of its private key.
    #[schemars(extend("format" = "path"))]
    pub tls_key: PathBuf,
    /// Bounds of the sessions.
    pub limits: InboundLimits,
}

impl Default for Inbound {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 2525)),
            hostname: String::new(),
            trusted_gateways: Vec::new(),
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            limits: InboundLimits::default(),
        }
    }
}

/// Bounds of inbound sessions: beyond them a client gets 421, 452 or 552.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InboundLimits {
    /// Sessions at a time.
    #[schemars(range(min = 1, max = 100_000))]
    pub connections: u32,
    /// Sessions at a time from one IPv4 address or IPv6 /64.
    #[schemars(range(min = 1, max = 10_000))]
    pub connections_per_address: u32,
    /// Messages in one session.
    #[schemars(range(min = 1, max = 10_000))]
    pub messages_per_connection: u32,
    /// Recipients of one message (RFC 5321 §4.5.3.1.8: at least 100).
    #[schemars(range(min = 100, max = 1000))]
    pub recipients: u32,
    /// Largest message, announced with SIZE.
    #[schemars(range(min = 65_536, max = 134_217_728))]
    pub message_bytes: u32,
    /// What one inbox may receive in a UTC day, in MiB: the next message is told to come again (452 4.2.2), so that
    /// no stranger fills the disk.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub inbox_mib_per_day: u32,
    /// Wrong commands after which a session is closed.
    #[schemars(range(min = 1, max = 1000))]
    pub errors: u32,
    /// How long a client may take for a command (RFC 5321 §4.5.3.2.7: 5 minutes).
    #[schemars(range(min = 1, max = 3600))]
    pub command_timeout_seconds: u32,
    /// How long a client may take for a message.
    #[schemars(range(min = 1, max = 7200))]
    pub data_timeout_seconds: u32,
    /// How long a session may last.
    #[schemars(range(min = 10, max = 86_400))]
    pub session_seconds: u32,
}

impl Default for InboundLimits {
    fn default() -> Self {
        Self {
            connections: 512,
            connections_per_address: 20,
            messages_per_connection: 100,
            recipients: 100,
            message_bytes: 26_214_400,
            inbox_mib_per_day: 256,
            errors: 10,
            command_timeout_seconds: 300,
            data_timeout_seconds: 600,
            session_seconds: 1_800,
        }
    }
}
