//! The daemon itself, its DNS, network, notices and log: `[server]`, `[dns]`, `[network]`, `[notifier]`, `[log]`.

use std::{net::IpAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::values::Secret;

/// The daemon itself.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Where everything is kept. Without it systemd's `$STATE_DIRECTORY` is taken, if there is one.
    #[schemars(extend("format" = "path"))]
    pub data_dir: PathBuf,
    /// The name of this host in mail: what it says in EHLO, in its greeting, in Message-ID and in Received.
    #[schemars(extend("format" = "domain-name"))]
    pub hostname: String,
    /// IANA name of the time zone of new tenants and inboxes that name none.
    #[schemars(extend("format" = "time-zone"))]
    pub time_zone: String,
    /// How long work in flight may take to end after a request to stop.
    #[schemars(range(min = 1, max = 600))]
    pub shutdown_seconds: u32,
    /// Memory that the process may have, in MiB. At 70 % of it actors sleep early, at 90 % no new work is taken:
    /// 503 and 452, until it is back. 0 takes the limit of the control group, or else half of the machine's memory.
    #[schemars(range(min = 0, max = 16_777_216))]
    pub memory_mib_max: u32,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            data_dir: "data".into(),
            hostname: "inboxgrove.localhost".to_owned(),
            time_zone: "UTC".to_owned(),
            shutdown_seconds: 20,
            memory_mib_max: 0,
        }
    }
}

/// Questions to the DNS.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// Addresses of recursive resolvers; empty means the system's own.
    pub servers: Vec<IpAddr>,
    /// The port they listen at.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u16,
    /// How long one question may take, all its tries included.
    #[schemars(range(min = 100, max = 60_000))]
    pub timeout_ms: u32,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            port: 53,
            timeout_ms: 5_000,
        }
    }
}

/// What the daemon may talk to.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Whether mail and calls may go to private, loopback and link-local addresses. For trials only: it opens
    /// the machine's own network to what tenants enter.
    pub allow_private: bool,
}

/// What the system tells its operator.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Notifier {
    /// Where notices are sent as signed POST requests; empty keeps them in the list only.
    #[schemars(extend("format" = "url", "x-optional" = true))]
    pub webhook_url: String,
    /// Key of the HMAC-SHA-256 that signs them; at least 16 characters. Needed with a URL.
    pub webhook_secret: Secret,
    /// How long one call may take.
    #[schemars(range(min = 100, max = 60_000))]
    pub timeout_ms: u32,
    /// Calls that may fail before a notice becomes a dead letter.
    #[schemars(range(min = 1, max = 100))]
    pub attempts_max: u32,
}

impl Default for Notifier {
    fn default() -> Self {
        Self {
            webhook_url: String::new(),
            webhook_secret: Secret::default(),
            timeout_ms: 10_000,
            attempts_max: 12,
        }
    }
}

/// What the daemon writes about itself, to standard error.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// What is written: `error`, `warn`, `info`, `debug`, `trace`, or directives by module, as in
    /// `info,inboxgrove_actors=debug`.
    #[schemars(length(min = 1, max = 400))]
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            level: "info".to_owned(),
        }
    }
}

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}
