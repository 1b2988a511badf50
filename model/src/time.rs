//! The times of the daemon, as types that cannot be mixed.
//!
//! *Policy* time drives ramps, caps, due rows, retries and decay; it never goes back and may run fast.
//! *Wall* time is what outsiders check: tokens, DKIM `t=`/`x=`, certificates, idempotency keys.
//! *Monotonic* time (I/O deadlines) is `tokio::time::Instant` and needs no type of ours.

use std::{fmt, time::Duration};

macro_rules! times {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(i64);

        impl $name {
            /// Milliseconds since the Unix epoch.
            pub const fn from_millis(millis: i64) -> Self {
                Self(millis)
            }

            /// Milliseconds since the Unix epoch.
            pub const fn as_millis(self) -> i64 {
                self.0
            }

            /// Whole seconds since the Unix epoch, rounded down.
            pub const fn as_secs(self) -> i64 {
                self.0.div_euclid(1000)
            }

            /// How long after `earlier` this is; zero when it is not after it.
            pub fn since(self, earlier: Self) -> Duration {
                Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
            }

            /// This much later; stops at the end of time instead of wrapping.
            #[must_use]
            pub fn after(self, wait: Duration) -> Self {
                Self(self.0.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)))
            }

            /// This much earlier; stops at the beginning of time instead of wrapping.
            #[must_use]
            pub fn before(self, span: Duration) -> Self {
                Self(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
            }

            /// Days since the Unix epoch, in UTC.
            pub const fn utc_day(self) -> i64 {
                self.0.div_euclid(86_400_000)
            }

            /// Hours since the Unix epoch.
            pub const fn utc_hour(self) -> i64 {
                self.0.div_euclid(3_600_000)
            }
        }

        /// RFC 3339 in UTC with milliseconds.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match jiff::Timestamp::from_millisecond(self.0) {
                    Ok(at) => write!(f, "{at:.3}"),
                    Err(_) => write!(f, "{} ms", self.0),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

times! {
    /// When something happens as far as policy goes: never earlier than any policy time seen before,
    /// also across restarts.
    PolicyTime;
    /// What the wall clock says, as outsiders see it. May step.
    WallTime;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_rfc_3339() {
        assert_eq!(
            PolicyTime::from_millis(0).to_string(),
            "1970-01-01T00:00:00.000Z"
        );
        assert_eq!(
            WallTime::from_millis(1_794_000_000_123).to_string(),
            "2026-11-06T21:20:00.123Z"
        );
    }

    #[test]
    fn arithmetic_stops_at_the_ends() {
        let end = PolicyTime::from_millis(i64::MAX);
        assert_eq!(end.after(Duration::MAX), end);
        assert_eq!(
            PolicyTime::from_millis(5).since(PolicyTime::from_millis(9)),
            Duration::ZERO
        );
    }
}
