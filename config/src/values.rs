//! Values that need more than a number or a text.

use std::{borrow::Cow, fmt, net::IpAddr, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// What stands in the place of a secret that is set.
pub const HIDDEN: &str = "(hidden)";

/// A text that is never printed. Empty means that it is not set.
#[derive(Clone, Default)]
pub struct Secret(SecretString);

/// A range of addresses, as in `192.0.2.0/24`. A plain address is a range of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a range of addresses: {why}")]
pub struct CidrError {
    found: String,
    why: &'static str,
}

// === impl Secret ===

impl Secret {
    /// A secret of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        !self.0.expose_secret().is_empty()
    }

    /// The text, for whoever uses it; `None` when it is not set. Not to be kept or printed.
    pub fn expose(&self) -> Option<&str> {
        Some(self.0.expose_secret()).filter(|text| !text.is_empty())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() { HIDDEN } else { "(not set)" })
    }
}

/// Hidden: a serialized configuration may be shown.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_set() { HIDDEN } else { "" })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "writeOnly": true})
    }
}

// === impl Cidr ===

impl Cidr {
    /// Whether an address lies in it. IPv4 addresses in their IPv6 form (RFC 4291 §2.5.5.2) count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => same_head(
                own.to_bits().into(),
                other.to_bits().into(),
                32 - self.prefix,
            ),
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                same_head(own.to_bits(), other.to_bits(), 128 - self.prefix)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits all its addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }
}

/// Whether two numbers are the same but for their last `tail` bits.
fn same_head(one: u128, other: u128, tail: u8) -> bool {
    (one ^ other).checked_shr(tail.into()).unwrap_or(0) == 0
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let bad = |why| CidrError {
            found: text.chars().take(80).collect(),
            why,
        };
        let (address, prefix) = text
            .split_once('/')
            .map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address
            .parse()
            .map_err(|_| bad("expected an address, as in 192.0.2.0/24"))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), |prefix| {
            prefix
                .parse()
                .ok()
                .filter(|n| *n <= bits)
                .ok_or_else(|| bad("the number after the slash is too large, or none"))
        })?;
        let range = Self { address, prefix };
        let host_bits = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let tail = bits - prefix;
        let mask = 1_u128
            .checked_shl(tail.into())
            .map_or(u128::MAX, |over| over - 1);
        if host_bits & mask != 0 {
            return Err(bad(
                "bits are set behind the prefix: give the range's first address",
            ));
        }
        Ok(range)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

impl JsonSchema for Cidr {
    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "cidr"})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_hold_their_addresses() {
        let table = [
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.0/8", "::ffff:127.9.9.9", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("::/0", "192.0.2.1", false),
        ];
        for (range, address, expected) in table {
            let found = range
                .parse::<Cidr>()
                .unwrap()
                .contains(address.parse().unwrap());
            assert_eq!(found, expected, "{range} {address}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in [
            "",
            "192.0.2.0/33",
            "192.0.2.1/24",
            "example.com",
            "192.0.2.0/-1",
            "192.0.2.0/24/8",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");
        let printed = format!("{secret:?} {}", serde_json::to_string(&secret).unwrap());
        assert!(!printed.contains("hunter2"), "{printed}");
        assert_eq!(secret.expose(), Some("hunter2"));
        assert_eq!(Secret::default().expose(), None);
    }

    proptest! {
        #[test]
        fn a_range_survives_its_printed_form(bits: u128, prefix in 0_u8..=128) {
            let mask = 1_u128.checked_shl(u32::from(128 - prefix)).map_or(u128::MAX, |over| over - 1);
            let address = std::net::Ipv6Addr::from_bits(bits & !mask);
            let range: Cidr = format!("{address}/{prefix}").parse().unwrap();
            prop_assert_eq!(range.to_string().parse::<Cidr>().unwrap(), range);
            prop_assert!(range.contains(IpAddr::V6(address)) || address.to_ipv4_mapped().is_some());
        }
    }
}
