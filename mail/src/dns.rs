//! Names: asking for them, what a domain must publish, and whether it does.
//!
//! An answer is one of three things and they are never mixed: records, a sure absence (NXDOMAIN or NODATA
//! from a server that may say so), or *unknown* (silence, SERVFAIL, REFUSED, a referral, a garbled answer).
//! Nothing that is merely unknown ever counts against a domain.

mod cache;
mod check;
#[cfg(test)]
pub(crate) mod fake;
mod mx;
mod publish;
mod resolver;
mod servers;
mod spf;

pub use check::{CheckInput, check_domain};
pub use mx::{MxHost, mx_hosts};
pub use publish::{Source, Wanted, dkim_record, records_to_publish, spf_record};
pub(crate) use resolver::no_tls;
pub use resolver::{DnsOptions, Resolver, ResolverError};
pub(crate) use spf::is_spf;

use std::{fmt::Write, net::IpAddr};

/// Where the ownership token stands, below the domain.
pub const OWNERSHIP_LABEL: &str = "_inboxgrove";

/// The name whose PTR record names `address` (RFC 1035 §3.5, RFC 3596 §2.5).
pub fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let mut name = String::with_capacity(72);
            for octet in address.octets().iter().rev() {
                write!(name, "{:x}.{:x}.", octet & 0xf, octet >> 4)
                    .expect("a String takes what is written to it");
            }
            name + "ip6.arpa"
        }
    }
}

/// A name as answers carry it: lower case, without a final dot.
pub(crate) fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_named_backwards() {
        for (address, name) in [
            ("192.0.2.1", "1.2.0.192.in-addr.arpa"),
            (
                "2001:db8::1",
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
            ),
        ] {
            assert_eq!(reverse_name(address.parse().unwrap()), name);
        }
    }
}
