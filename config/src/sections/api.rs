//! The HTTP API and the admin socket: `[api]`.

use std::{net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::values::Cidr;

/// The HTTP API and the admin socket.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Where the HTTP API listens; port 0 takes a free one.
    #[schemars(extend("format" = "socket-address"))]
    pub listen: SocketAddr,
    /// The Unix socket of `inboxgrove admin`; empty means `admin.sock` in the data directory.
    #[schemars(extend("format" = "path"))]
    pub admin_socket: PathBuf,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Bounds of the API.
    pub limits: ApiLimits,
    /// What access tokens say.
    pub tokens: Tokens,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin_socket: PathBuf::new(),
            trusted_proxies: Vec::new(),
            limits: ApiLimits::default(),
            tokens: Tokens::default(),
        }
    }
}

/// Bounds of the API: beyond them requests get 413, 429 or 503.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiLimits {
    /// Largest body of a request.
    #[schemars(range(min = 1024, max = 67_108_864))]
    pub body_bytes: u32,
    /// Connections at a time.
    #[schemars(range(min = 1, max = 100_000))]
    pub connections: u32,
    /// Requests of one tenant a minute.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_minute: u32,
    /// Log-ins from one address a minute, counted before any hashing.
    #[schemars(range(min = 1, max = 10_000))]
    pub logins_per_minute: u32,
    /// How long a client may take to send its headers.
    #[schemars(range(min = 100, max = 300_000))]
    pub header_timeout_ms: u32,
    /// How long a request may take.
    #[schemars(range(min = 100, max = 600_000))]
    pub request_timeout_ms: u32,
    /// Event streams at a time.
    #[schemars(range(min = 1, max = 100_000))]
    pub event_streams: u32,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self {
            body_bytes: 1_048_576,
            connections: 1_024,
            requests_per_minute: 600,
            logins_per_minute: 10,
            header_timeout_ms: 10_000,
            request_timeout_ms: 30_000,
            event_streams: 256,
        }
    }
}

/// What access tokens say.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tokens {
    /// The `iss` of access tokens.
    #[schemars(length(min = 1, max = 200))]
    pub issuer: String,
    /// The `aud` of access tokens.
    #[schemars(length(min = 1, max = 200))]
    pub audience: String,
    /// How far clocks may differ.
    #[schemars(range(min = 0, max = 300))]
    pub leeway_seconds: u32,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            issuer: "inboxgrove".to_owned(),
            audience: "inboxgrove-api".to_owned(),
            leeway_seconds: 30,
        }
    }
}
