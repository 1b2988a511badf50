//! Ids: UUIDv7, 16 raw bytes in keys, a prefix and base32 in the API (`ten_…`, `inb_…`).
//!
//! They are made by [`IdSource`] from wall time and the [`Rng`](crate::ports::Rng) port, and are monotone
//! within a process, so that the order of keys is the order of creation.

use std::{
    fmt,
    str::FromStr,
    sync::{LazyLock, Mutex},
};

use data_encoding::{Encoding, Specification};

use crate::{WallTime, ports::Rng};

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {kind} id: expected {prefix}_ and 26 characters of base32")]
pub struct IdError {
    kind: &'static str,
    prefix: &'static str,
    found: String,
}

/// Crockford's base32 in lower case: no letter that reads like a digit.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
    spec.encoding()
        .expect("32 different symbols make an encoding")
});

/// A printed id: three letters, an underscore, 128 bits in fives.
const TEXT_LEN: usize = PREFIX_LEN + 26;
const PREFIX_LEN: usize = 4;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// What the printed form starts with.
            pub const PREFIX: &'static str = $prefix;

            /// The id with these bytes, as the store keeps them.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The bytes, in the order that keys sort by.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Whole at once: a text that grows piece by piece is allocated anew each time.
                let mut text = [0; TEXT_LEN];
                text[..PREFIX_LEN].copy_from_slice(concat!($prefix, "_").as_bytes());
                BASE32.encode_mut(&self.0, &mut text[PREFIX_LEN..]);
                f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(|rest| BASE32.decode(rest.as_bytes()).ok())
                    .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
                    .map(Self)
                    .ok_or_else(|| IdError { kind: $kind, prefix: $prefix, found: text.chars().take(64).collect() })
            }
        }
    )*};
}

ids! {
    /// An account.
    TenantId, "ten", "a tenant";
    /// A person in an account.
    UserId, "usr", "a user";
    /// A name mail is sent from.
    DomainId, "dom", "a domain";
    /// A mailbox on a domain.
    InboxId, "inb", "an inbox";
    /// A message, sent or received.
    MessageId, "msg", "a message";
    /// Long work that a person can follow.
    JobId, "job", "a job";
    /// A family of refresh tokens: one log-in.
    SessionId, "ses", "a session";
    /// A secret in the vault.
    SecretId, "sec", "a secret";
}

/// Makes ids. One per process: what it makes is monotone.
#[derive(Debug)]
pub struct IdSource {
    last: Mutex<u128>,
}

impl IdSource {
    /// A source that has made nothing yet.
    pub const fn new() -> Self {
        Self {
            last: Mutex::new(0),
        }
    }

    /// The next 16 bytes: UUIDv7 (RFC 9562 §5.7), greater than any made before by this source.
    pub fn next(&self, now: WallTime, rng: &dyn Rng) -> [u8; 16] {
        let millis = u128::from(u64::try_from(now.as_millis()).unwrap_or(0)) & 0xffff_ffff_ffff;
        let mut random = [0; 16];
        rng.fill(&mut random);
        let noise = u128::from_be_bytes(random);
        let fresh = (millis << 80)
            | (0x7 << 76)
            | ((noise >> 64) & 0xfff) << 64
            | (0b10 << 62)
            | (noise & 0x3fff_ffff_ffff_ffff);
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = if fresh > *last { fresh } else { *last + 1 };
        last.to_be_bytes()
    }
}

impl Default for IdSource {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Zeros;
    impl Rng for Zeros {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }

    #[test]
    fn an_id_survives_its_printed_form() {
        let id = InboxId::from_bytes([7; 16]);
        assert_eq!(id.to_string().parse::<InboxId>(), Ok(id));
        assert_eq!(id.to_string().len(), "inb_".len() + 26);
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let tenant = TenantId::from_bytes([7; 16]).to_string();
        let why = tenant.parse::<InboxId>().unwrap_err().to_string();
        assert!(why.contains("inb_"), "{why}");
    }

    #[test]
    fn ids_of_one_instant_still_rise() {
        let source = IdSource::new();
        let made: Vec<_> = (0..1000)
            .map(|_| source.next(WallTime::from_millis(5), &Zeros))
            .collect();
        assert!(made.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn ids_rise_when_the_wall_clock_steps_back() {
        let source = IdSource::new();
        let first = source.next(WallTime::from_millis(1_000_000), &Zeros);
        assert!(source.next(WallTime::from_millis(5), &Zeros) > first);
    }
}
