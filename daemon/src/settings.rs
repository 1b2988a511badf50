//! From what the operator set to what the parts of the daemon want to know.

use std::{num::NonZeroU32, time::Duration};

use inboxgrove_config::{Config, LogFormat, Registration};

use crate::{
    http::{
        Options,
        limits::{Rate, Rates},
        server::ConnectionLimits,
        tokens::{Lifetimes, TokenRules},
    },
    logging::Format,
};

/// Requests of one address, as a multiple of those of one tenant: a proxy or an office has several.
const IP_SHARE: u32 = 10;

impl Options {
    /// The edge's options.
    pub fn of(config: &Config) -> Self {
        let (limits, accounts) = (&config.api.limits, &config.accounts);
        let minutes = |n: u32| Duration::from_secs(60 * u64::from(n));
        Self {
            tokens: TokenRules {
                issuer: config.api.tokens.issuer.clone(),
                audience: config.api.tokens.audience.clone(),
                leeway: Duration::from_secs(config.api.tokens.leeway_seconds.into()),
                lifetimes: Lifetimes {
                    access: minutes(accounts.access_token_minutes),
                    refresh: minutes(accounts.refresh_token_days * 24 * 60),
                },
            },
            rates: Rates {
                per_ip: a_minute(limits.requests_per_minute.saturating_mul(IP_SHARE)),
                per_ip_auth: a_minute(limits.logins_per_minute),
                per_ip_refresh: a_minute(limits.logins_per_minute.saturating_mul(IP_SHARE)),
                per_tenant: a_minute(limits.requests_per_minute),
            },
            registration_open: accounts.registration == Registration::Open,
            password_chars_min: accounts.password_length_min as usize,
            argon2: (
                accounts.argon2.memory_kib,
                accounts.argon2.iterations,
                accounts.argon2.parallelism,
            ),
            body_bytes_max: limits.body_bytes as usize,
            answer_wait: Duration::from_millis(limits.request_timeout_ms.into()),
            streams_max: limits.event_streams as usize,
            trusted_proxies: config.api.trusted_proxies.clone(),
            ..Self::default()
        }
    }
}

impl ConnectionLimits {
    /// The server's limits.
    pub fn of(config: &Config) -> Self {
        let limits = &config.api.limits;
        let answer = Duration::from_millis(limits.request_timeout_ms.into());
        let default = Self::default();
        Self {
            connections: limits.connections as usize,
            proxies: config.api.trusted_proxies.clone(),
            header_read: Duration::from_millis(limits.header_timeout_ms.into()),
            // A connection whose answer is being made moves no bytes: it is given longer than the answer.
            stalled: default.stalled.max(answer + Duration::from_secs(10)),
            ..default
        }
    }
}

impl From<LogFormat> for Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

fn a_minute(requests: u32) -> Rate {
    Rate {
        burst: NonZeroU32::new(requests).unwrap_or(NonZeroU32::MIN),
        per: Duration::from_mins(1),
    }
}
