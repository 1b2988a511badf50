//! Mail that goes out: `[outbound]`.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Mail that goes out.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Outbound {
    /// The port of other hosts' mail exchangers. Anything but 25 is for trials.
    #[schemars(range(min = 1, max = 65_535))]
    pub mx_port: u16,
    /// Addresses that mail leaves from; empty means whatever address the system picks, as one source.
    pub sources: Vec<SourceAddress>,
    /// Whether connections are encrypted.
    pub tls: TlsPolicy,
    /// Most recipients in an hour and a day, over all tenants. No crash exceeds them.
    pub caps: Caps,
    /// How long other hosts may take (RFC 5321 §4.5.3.2).
    pub timeouts: Timeouts,
    /// How much happens at a time.
    pub concurrency: Concurrency,
    /// When a message is tried again.
    pub retry: Retry,
    /// How the pace of a destination falls and recovers.
    pub pace: Pace,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            mx_port: 25,
            sources: Vec::new(),
            tls: TlsPolicy::default(),
            caps: Caps::default(),
            timeouts: Timeouts::default(),
            concurrency: Concurrency::default(),
            retry: Retry::default(),
            pace: Pace::default(),
        }
    }
}

/// One address that mail leaves from.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceAddress {
    /// The address; it must be one of this machine's.
    pub address: IpAddr,
    /// Its share of the mail, relative to the others.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub weight: u32,
    /// What it says in EHLO; empty means `server.hostname`. Its PTR record should name the same.
    #[serde(default)]
    #[schemars(extend("format" = "domain-name", "x-optional" = true))]
    pub ehlo_name: String,
}

fn one() -> u32 {
    1
}

/// Whether outbound connections are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TlsPolicy {
    /// With STARTTLS where it is offered, whatever the certificate; plain otherwise (RFC 7435).
    #[default]
    Opportunistic,
    /// Only with STARTTLS and a certificate that holds; other mail waits and expires.
    Required,
    /// Never. For trials only.
    Off,
}

/// Most recipients in a UTC hour and day, over all tenants.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Caps {
    /// All that leaves, an hour.
    #[schemars(range(min = 0, max = u32::MAX))]
    pub global_per_hour: u32,
    /// All that leaves, a day.
    #[schemars(range(min = 0, max = u32::MAX))]
    pub global_per_day: u32,
    /// One source address, an hour.
    #[schemars(range(min = 0, max = u32::MAX))]
    pub source_per_hour: u32,
    /// One source address, a day.
    #[schemars(range(min = 0, max = u32::MAX))]
    pub source_per_day: u32,
    /// One source address towards one site, an hour.
    #[schemars(range(min = 0, max = u32::MAX))]
    pub source_site_per_hour: u32,
    /// One source address towards one site, a day. A cold address should begin far lower.
    #[schemars(range(min = 0, max = u32::MAX))]
    pub source_site_per_day: u32,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            global_per_hour: 20_000,
            global_per_day: 100_000,
            source_per_hour: 2_000,
            source_per_day: 10_000,
            source_site_per_hour: 500,
            source_site_per_day: 2_000,
        }
    }
}

/// How long other hosts may take.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// To accept a connection.
    #[schemars(range(min = 1, max = 600))]
    pub connect_seconds: u32,
    /// To greet.
    #[schemars(range(min = 1, max = 3600))]
    pub greeting_seconds: u32,
    /// To answer a command.
    #[schemars(range(min = 1, max = 3600))]
    pub command_seconds: u32,
    /// To answer the final dot.
    #[schemars(range(min = 1, max = 7200))]
    pub data_seconds: u32,
    /// How long an idle connection is kept for the next message.
    #[schemars(range(min = 1, max = 3600))]
    pub idle_seconds: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect_seconds: 30,
            greeting_seconds: 300,
            command_seconds: 300,
            data_seconds: 600,
            idle_seconds: 30,
        }
    }
}

/// How much happens at a time.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Concurrency {
    /// Connections over all sites.
    #[schemars(range(min = 1, max = 10_000))]
    pub connections: u32,
    /// Connections from one source address to one site; a provider's rule pack may allow less.
    #[schemars(range(min = 1, max = 1000))]
    pub connections_per_site: u32,
    /// Messages that are worked on at a time; the others wait on disk.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queue_messages: u32,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            connections: 200,
            connections_per_site: 5,
            queue_messages: 10_000,
        }
    }
}

/// When a message is tried again.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Wait after the first attempt; it doubles with each further one.
    #[schemars(range(min = 1, max = 1440))]
    pub unit_minutes: u32,
    /// Longest wait.
    #[schemars(range(min = 1, max = 48))]
    pub longest_hours: u32,
    /// Wait after a first answer that smells of greylisting.
    #[schemars(range(min = 1, max = 1440))]
    pub greylisted_minutes: u32,
    /// Wait after an attempt of which nobody knows how it ended.
    #[schemars(range(min = 1, max = 1440))]
    pub uncertain_minutes: u32,
    /// Age at which a message is given up (RFC 5321 §4.5.4.1: at least 4 to 5 days).
    #[schemars(range(min = 1, max = 30))]
    pub age_max_days: u32,
    /// Waits vary by this share up and down.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub jitter: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            unit_minutes: 20,
            longest_hours: 8,
            greylisted_minutes: 6,
            uncertain_minutes: 5,
            age_max_days: 5,
            jitter: 0.1,
        }
    }
}

/// How the pace of a destination falls and recovers.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pace {
    /// What a refusal leaves of the pace.
    #[schemars(range(min = 0.05, max = 0.95))]
    pub slow_factor: f64,
    /// Lowest pace, as a share of the full one.
    #[schemars(range(min = 0.001, max = 1.0))]
    pub factor_min: f64,
    /// Answers so soon after the last change count as the same refusal.
    #[schemars(range(min = 0, max = 3600))]
    pub cohort_seconds: u32,
    /// How long a slowed pace is held before it recovers.
    #[schemars(range(min = 1, max = 1440))]
    pub hold_minutes: u32,
    /// One quiet interval.
    #[schemars(range(min = 1, max = 1440))]
    pub quiet_minutes: u32,
    /// What each quiet interval gives back, as a share of the full pace.
    #[schemars(range(min = 0.01, max = 1.0))]
    pub recovery_step: f64,
    /// The first suspension after a block; it doubles with each one in a row.
    #[schemars(range(min = 1, max = 48))]
    pub suspend_first_hours: u32,
    /// The longest suspension.
    #[schemars(range(min = 1, max = 168))]
    pub suspend_longest_hours: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            slow_factor: 0.5,
            factor_min: 0.015_625,
            cohort_seconds: 60,
            hold_minutes: 30,
            quiet_minutes: 30,
            recovery_step: 0.1,
            suspend_first_hours: 2,
            suspend_longest_hours: 24,
        }
    }
}
