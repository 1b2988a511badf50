//! How often somebody may ask: token buckets per address and per tenant, in bounded memory.
//!
//! Addresses and tenants are hashed with a secret into a fixed number of buckets. Strangers who fall into
//! one bucket share it, which is rare; in return no flood of addresses can grow the table.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    Quota, RateLimiter, clock::Clock, middleware::NoOpMiddleware, nanos::Nanos,
    state::keyed::HashMapStateStore,
};
use inboxgrove_model::{TenantId, ports::Rng};
use tokio::time::Instant;

use super::problem::{ApiError, Code};

/// Buckets of a table: 65,536 of some 40 bytes are 2.6 MB at most.
type Bucket = u16;

/// How often one may ask.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Requests that may come at once.
    pub burst: NonZeroU32,
    /// The time in which that many are allowed again.
    pub per: Duration,
}

/// How often anybody may ask.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// One address, all requests.
    pub per_ip: Rate,
    /// One address, log-ins and registrations.
    pub per_ip_auth: Rate,
    /// One address, refreshes: no guess succeeds there, and an office has many sessions.
    pub per_ip_refresh: Rate,
    /// One account, all requests with a token.
    pub per_tenant: Rate,
}

/// Counts who asked.
pub(crate) struct RateLimits {
    seed: u64,
    clock: TokioClock,
    ips: Table,
    auth: Table,
    refreshes: Table,
    tenants: Table,
}

type Table = RateLimiter<Bucket, HashMapStateStore<Bucket>, TokioClock, NoOpMiddleware<Nanos>>;

/// tokio's own clock, which a test can pause.
#[derive(Debug, Clone, Copy)]
struct TokioClock {
    start: Instant,
}

// === impl Rates ===

impl Default for Rates {
    fn default() -> Self {
        let rate = |burst, secs| Rate {
            burst: NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN),
            per: Duration::from_secs(secs),
        };
        Self {
            per_ip: rate(2000, 10),
            per_ip_auth: rate(60, 60),
            per_ip_refresh: rate(600, 60),
            per_tenant: rate(2000, 10),
        }
    }
}

// === impl RateLimits ===

impl RateLimits {
    pub(crate) fn new(rates: &Rates, rng: &(dyn Rng + 'static)) -> Self {
        let clock = TokioClock {
            start: Instant::now(),
        };
        let table = |rate: &Rate| {
            let quota = Quota::with_period(rate.per / rate.burst.get()).map_or_else(
                || Quota::per_second(rate.burst),
                |quota| quota.allow_burst(rate.burst),
            );
            RateLimiter::hashmap_with_clock(quota, clock)
        };
        Self {
            seed: rng.next_u64(),
            clock,
            ips: table(&rates.per_ip),
            auth: table(&rates.per_ip_auth),
            refreshes: table(&rates.per_ip_refresh),
            tenants: table(&rates.per_tenant),
        }
    }

    /// Counts a request of this address.
    pub(crate) fn ip(&self, ip: IpAddr) -> Result<(), ApiError> {
        self.check(&self.ips, ip)
    }

    /// Counts an attempt to log in from this address.
    pub(crate) fn auth(&self, ip: IpAddr) -> Result<(), ApiError> {
        self.check(&self.auth, ip)
    }

    /// Counts a refresh of a session from this address.
    pub(crate) fn refresh(&self, ip: IpAddr) -> Result<(), ApiError> {
        self.check(&self.refreshes, ip)
    }

    /// Counts a request of this account.
    pub(crate) fn tenant(&self, tenant: TenantId) -> Result<(), ApiError> {
        self.check(&self.tenants, tenant.as_bytes())
    }

    fn check(&self, table: &Table, who: impl Hash) -> Result<(), ApiError> {
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        who.hash(&mut hasher);
        let bucket = Bucket::try_from(hasher.finish() >> 48).expect("16 bits are left");
        table.check_key(&bucket).map_err(|until| {
            let wait = until.wait_time_from(self.clock.now());
            ApiError::new(Code::RateLimited, "Come back later.").retry_after(wait)
        })
    }
}

// === impl TokioClock ===

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Instant::now().duration_since(self.start).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ones;
    impl Rng for Ones {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_allowed_then_the_rate() {
        let rate = Rate {
            burst: NonZeroU32::new(3).unwrap(),
            per: Duration::from_secs(3),
        };
        let rates = Rates {
            per_ip: rate,
            ..Rates::default()
        };
        let limits = RateLimits::new(&rates, &Ones);
        let (one, two) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        for _ in 0..3 {
            assert!(limits.ip(one).is_ok());
        }
        assert_eq!(limits.ip(one).unwrap_err().code(), Code::RateLimited);
        assert!(limits.ip(two).is_ok());
        tokio::time::advance(Duration::from_millis(1001)).await;
        assert!(limits.ip(one).is_ok());
        assert!(limits.ip(one).is_err());
    }
}
