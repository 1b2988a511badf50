//! What all rows share: the version byte, checked rkyv, cutting to the limit of a row, and the shapes
//! of addresses, times and texts.
//!
//! A row is one version byte and the rkyv archive of that version's frozen `Row`. The `unaligned`
//! feature lets the archive start anywhere, so that the leading byte needs no copy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use inboxgrove_model::{DomainName, EmailAddress, PolicyTime, WallTime};
use rkyv::{
    Archive, Deserialize, Serialize,
    api::high::{HighDeserializer, HighSerializer, HighValidator, to_bytes_in},
    bytecheck::CheckBytes,
    rancor,
    ser::allocator::ArenaHandle,
};

use crate::table::RowError;

/// Most bytes of a row: sled puts what is above 4 KiB, key included, into files that it never syncs.
/// The 200 bytes are for the key, the frame and the seal. A record that cannot be cut to this is
/// refused by the commit.
pub const ROW_BYTES_MAX: usize = 4096 - 200;

/// An IP address in a row: the family, then the address, zeros behind a short one.
pub(crate) type IpBytes = [u8; 17];

/// What texts for people are cut to, in this order, until their row fits. 24 bytes still hold a
/// reply's code and enhanced code.
const CUTS: [Cut; 8] = [
    Cut::NONE,
    Cut(400),
    Cut(200),
    Cut(120),
    Cut(80),
    Cut(48),
    Cut(24),
    Cut(0),
];

/// How many bytes texts for people may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut(usize);

// === impl Cut ===

impl Cut {
    /// Nothing is cut.
    pub(crate) const NONE: Self = Self(usize::MAX);

    /// As much of `text` as may stay, ending between characters.
    pub(crate) fn apply(self, text: &str) -> String {
        text[..text.floor_char_boundary(self.0)].to_owned()
    }
}

// === rows ===

/// A row: the version byte and the archive.
pub(crate) fn write<R>(version: u8, row: &R) -> Vec<u8>
where
    R: for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, rancor::Error>>,
{
    to_bytes_in::<_, rancor::Error>(row, vec![version])
        .expect("rows are plain fields and a vector takes all bytes")
}

/// As [`write()`], for rows with texts for people: all of these are cut to one length until the row fits.
///
/// Cutting what was cut before changes nothing, so a record that was read back makes the same bytes.
/// A row whose other fields alone are too long is returned as it is: the commit refuses it.
pub(crate) fn write_cut<R>(version: u8, row: impl Fn(Cut) -> R) -> Vec<u8>
where
    R: for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, rancor::Error>>,
{
    let mut bytes = Vec::new();
    for cut in CUTS {
        bytes = write(version, &row(cut));
        if bytes.len() <= ROW_BYTES_MAX {
            break;
        }
    }
    bytes
}

/// The version byte and the archive.
pub(crate) fn split(bytes: &[u8]) -> Result<(u8, &[u8]), RowError> {
    bytes
        .split_first()
        .map(|(version, archive)| (*version, archive))
        .ok_or(RowError::Empty)
}

/// The frozen row in an archive, checked.
pub(crate) fn read<R>(archive: &[u8]) -> Result<R, RowError>
where
    R: Archive,
    R::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>>
        + Deserialize<R, HighDeserializer<rancor::Error>>,
{
    let row = rkyv::access::<R::Archived, rancor::Error>(archive).map_err(|why| damaged(&why))?;
    rkyv::deserialize::<R, rancor::Error>(row).map_err(|why| damaged(&why))
}

/// Only the first line: what follows may hold a backtrace.
fn damaged(why: &rancor::Error) -> RowError {
    RowError::damaged(why.to_string().lines().next().unwrap_or_default())
}

// === shapes ===

/// An IP address as rows keep it.
pub(crate) fn ip_bytes(ip: IpAddr) -> IpBytes {
    let mut bytes = [0; 17];
    match ip {
        IpAddr::V4(v4) => {
            bytes[0] = 4;
            bytes[1..5].copy_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            bytes[0] = 6;
            bytes[1..].copy_from_slice(&v6.octets());
        }
    }
    bytes
}

/// The IP address in a row.
pub(crate) fn ip(bytes: IpBytes) -> Result<IpAddr, RowError> {
    let [family, address @ ..] = bytes;
    let [a, b, c, d, ..] = address;
    match family {
        4 => Ok(IpAddr::V4(Ipv4Addr::new(a, b, c, d))),
        6 => Ok(IpAddr::V6(Ipv6Addr::from(address))),
        _ => Err(RowError::damaged(format!("{family} is no address family"))),
    }
}

/// An e-mail address as rows keep it.
pub(crate) fn address_text(address: &EmailAddress) -> String {
    address.as_str().to_owned()
}

/// The e-mail address in a row. The error does not show it.
pub(crate) fn address(text: &str) -> Result<EmailAddress, RowError> {
    EmailAddress::parse(text)
        .map_err(|why| RowError::damaged(format!("an e-mail address: {}", why.why())))
}

/// The domain name in a row. The error does not show it.
pub(crate) fn domain_name(text: &str) -> Result<DomainName, RowError> {
    DomainName::parse(text)
        .map_err(|why| RowError::damaged(format!("a domain name: {}", why.why())))
}

/// A policy time that may be missing, as rows keep it.
pub(crate) fn policy_millis(at: Option<PolicyTime>) -> Option<i64> {
    at.map(PolicyTime::as_millis)
}

/// The policy time in a row.
pub(crate) fn policy(millis: i64) -> PolicyTime {
    PolicyTime::from_millis(millis)
}

/// A wall time that may be missing, as rows keep it.
pub(crate) fn wall_millis(at: Option<WallTime>) -> Option<i64> {
    at.map(WallTime::as_millis)
}

/// The wall time in a row.
pub(crate) fn wall(millis: i64) -> WallTime {
    WallTime::from_millis(millis)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cut_ends_between_characters() {
        assert_eq!(Cut(4).apply("a€€"), "a€");
        assert_eq!(Cut(0).apply("a"), "");
        assert_eq!(Cut::NONE.apply("a€"), "a€");
    }

    #[test]
    fn what_cannot_be_cut_comes_back_too_long() {
        let long = "x".repeat(ROW_BYTES_MAX);
        assert!(write_cut(1, |_| long.clone()).len() > ROW_BYTES_MAX);
    }

    #[test]
    fn errors_never_show_a_name() {
        for why in [
            address("ada lovelace@example.com").unwrap_err().to_string(),
            domain_name("ada lovelace").unwrap_err().to_string(),
        ] {
            assert!(!why.contains("lovelace"), "{why}");
        }
    }

    proptest! {
        #[test]
        fn an_ip_comes_back(octets: [u8; 16], v4: bool) {
            let given = if v4 {
                IpAddr::from([octets[0], octets[1], octets[2], octets[3]])
            } else {
                IpAddr::from(octets)
            };
            prop_assert_eq!(ip(ip_bytes(given)), Ok(given));
        }

        #[test]
        fn reading_noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // Either answer will do: what is tried is that there is one.
            drop(read::<Vec<String>>(&bytes));
        }
    }
}
