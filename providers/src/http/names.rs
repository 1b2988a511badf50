//! Names to addresses, looked up through the `Dns` port and checked. What is returned is what is connected
//! to, so an answer that changes between the check and the connection (rebinding) changes nothing.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use inboxgrove_model::ports::{Dns, DnsError, RecordData, RecordType};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::{Forbidden, Reach};

/// The resolver that reqwest is given.
pub(super) struct CheckedNames {
    dns: Arc<dyn Dns>,
    reach: Arc<Reach>,
}

/// Why a name gives no address to connect to.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAddress {
    #[error("no address: {0}")]
    Unknown(#[from] DnsError),
    #[error("{name} may not be reached: {source}")]
    Forbidden { name: String, source: Forbidden },
}

// === impl CheckedNames ===

impl CheckedNames {
    pub(super) fn new(dns: Arc<dyn Dns>, reach: Arc<Reach>) -> Self {
        Self { dns, reach }
    }
}

impl Resolve for CheckedNames {
    fn resolve(&self, name: Name) -> Resolving {
        let (dns, reach) = (Arc::clone(&self.dns), Arc::clone(&self.reach));
        Box::pin(async move {
            let addresses = checked(name.as_str(), &*dns, &reach).await?;
            // Port 0: reqwest puts the URL's in its place.
            Ok(Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

// === free functions ===

/// All addresses of a name; an error when a single one of them must not be reached, for a name that mixes
/// public and private addresses is an attack or a mistake.
async fn checked(name: &str, dns: &dyn Dns, reach: &Reach) -> Result<Vec<IpAddr>, NoAddress> {
    let addresses = addresses(name, dns).await?;
    for address in &addresses {
        reach
            .check(*address)
            .map_err(|source| NoAddress::Forbidden {
                name: name.to_owned(),
                source,
            })?;
    }
    Ok(addresses)
}

async fn addresses(name: &str, dns: &dyn Dns) -> Result<Vec<IpAddr>, DnsError> {
    let name = name.trim_end_matches('.');
    // RFC 6761 §6.3: never asked of DNS.
    if name == "localhost" || name.ends_with(".localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let (v4, v6) = tokio::join!(
        biased;
        dns.lookup(name, RecordType::A),
        dns.lookup(name, RecordType::Aaaa)
    );
    let (answers, mut errors): (Vec<_>, Vec<_>) = [v4, v6].into_iter().partition(Result::is_ok);
    let found: Vec<IpAddr> = answers
        .into_iter()
        .flatten()
        .flat_map(|answer| answer.records)
        .filter_map(|record| address_of(&record))
        .collect();
    // An outage of one family matters only when the other has nothing to offer.
    if !found.is_empty() {
        return Ok(found);
    }
    errors.sort_by_key(|error| error.as_ref().is_err_and(DnsError::is_absence));
    Err(errors
        .into_iter()
        .find_map(Result::err)
        .unwrap_or_else(|| DnsError::NoRecord {
            name: name.to_owned(),
            kind: RecordType::A,
        }))
}

fn address_of(record: &RecordData) -> Option<IpAddr> {
    match record {
        RecordData::A(address) => Some((*address).into()),
        RecordData::Aaaa(address) => Some((*address).into()),
        _ => None,
    }
}
