//! Whether an SPF record permits an address, and what it costs receivers to find out (RFC 7208).
//!
//! Unlike a receiver, who stops at the first match, this walks the whole record once: the limits of
//! §4.6.4 must hold for every address, not only for ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::future::join_all;
use inboxgrove_model::ports::{BoxFuture, Dns, DnsError, RecordData, RecordType};
use mail_auth::{
    common::parse::TxtRecordParser,
    spf::{Macro, Mechanism, Qualifier, Spf},
};

use super::plain;

/// Terms that ask DNS (RFC 7208 §4.6.4).
pub(super) const LOOKUPS_MAX: usize = 10;
/// Of those, terms that find nothing (§4.6.4).
pub(super) const VOID_LOOKUPS_MAX: usize = 2;
/// MX hosts whose addresses are asked for (§4.6.4).
const MX_HOSTS_MAX: usize = 10;

/// A record with everything it refers to fetched.
#[derive(Debug, Default)]
pub(super) struct Walked {
    terms: Vec<(Qualifier, Term)>,
    redirect: Option<Box<Walked>>,
}

/// What the walk cost.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    /// Terms that asked DNS, includes counted through.
    pub(super) lookups: usize,
    /// Of those, the ones that found nothing.
    pub(super) voids: usize,
}

/// Why a record cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SpfError {
    /// Receivers will call it an error for good.
    #[error("{0}")]
    Permanent(String),
    /// Somebody did not answer.
    #[error("{0}")]
    Unknown(String),
}

#[derive(Debug)]
enum Term {
    All,
    Network {
        network: IpAddr,
        mask: u128,
    },
    Hosts {
        addresses: Vec<IpAddr>,
        mask4: u32,
        mask6: u128,
    },
    Include(Walked),
    /// `exists`, `ptr` and macros depend on the message: they never count for us.
    DependsOnMessage,
}

/// What a record says about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    Pass,
    Fail,
    SoftFail,
    Neutral,
}

/// Whether a TXT record is an SPF record at all (§4.5): the version, then a space or the end.
pub(crate) fn is_spf(text: &str) -> bool {
    text.get(..6)
        .is_some_and(|version| version.eq_ignore_ascii_case("v=spf1"))
        && matches!(text.as_bytes().get(6), None | Some(b' '))
}

/// Fetches everything that the record `text` of `domain` refers to.
pub(super) async fn walk(
    text: &str,
    domain: &str,
    dns: &dyn Dns,
) -> Result<(Walked, Cost), SpfError> {
    let mut cost = Cost::default();
    let walked = walk_record(text, domain, dns, &mut cost).await?;
    if cost.voids > VOID_LOOKUPS_MAX {
        return Err(SpfError::Permanent(format!(
            "{} of its lookups find nothing; receivers stop after {VOID_LOOKUPS_MAX}",
            cost.voids
        )));
    }
    Ok((walked, cost))
}

impl Walked {
    /// The first matching term decides (§4.6.2); then the redirect; else neutral (§4.7).
    pub(super) fn says(&self, address: IpAddr) -> Says {
        for (qualifier, term) in &self.terms {
            if term.matches(address) {
                return match qualifier {
                    Qualifier::Pass => Says::Pass,
                    Qualifier::Fail => Says::Fail,
                    Qualifier::SoftFail => Says::SoftFail,
                    Qualifier::Neutral => Says::Neutral,
                };
            }
        }
        self.redirect
            .as_ref()
            .map_or(Says::Neutral, |target| target.says(address))
    }

    /// Whether it permits everybody (`+all`): worse than none.
    pub(super) fn permits_everybody(&self) -> bool {
        let all = self.terms.iter().find(|(_, term)| match term {
            Term::All => true,
            Term::Network { mask, .. } => *mask == 0,
            _ => false,
        });
        match all {
            Some((qualifier, _)) => matches!(qualifier, Qualifier::Pass),
            None => self
                .redirect
                .as_ref()
                .is_some_and(|target| target.permits_everybody()),
        }
    }
}

impl Term {
    fn matches(&self, address: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Network { network, mask } => within(address, *network, *mask, *mask),
            Self::Hosts {
                addresses,
                mask4,
                mask6,
            } => addresses
                .iter()
                .any(|host| within(address, *host, u128::from(*mask4), *mask6)),
            Self::Include(included) => included.says(address) == Says::Pass,
            Self::DependsOnMessage => false,
        }
    }
}

fn within(address: IpAddr, network: IpAddr, mask4: u128, mask6: u128) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let differ = u128::from(address.to_bits() ^ network.to_bits());
            differ & mask4 == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            (address.to_bits() ^ network.to_bits()) & mask6 == 0
        }
        _ => false,
    }
}

/// Boxed: records include records. The lookup limit bounds the depth.
fn walk_record<'a>(
    text: &'a str,
    domain: &'a str,
    dns: &'a dyn Dns,
    cost: &'a mut Cost,
) -> BoxFuture<'a, Result<Walked, SpfError>> {
    Box::pin(async move {
        if let Some(term) = wrong_address(text) {
            return Err(SpfError::Permanent(format!("{term} is no address")));
        }
        let record = Spf::parse(text.as_bytes()).map_err(|_| {
            SpfError::Permanent(format!("the SPF record of {domain} has a mistake"))
        })?;
        let mut walked = Walked::default();
        for directive in &record.directives {
            let term = walk_term(&directive.mechanism, domain, dns, cost).await?;
            let ends = matches!(term, Term::All);
            walked.terms.push((directive.qualifier.clone(), term));
            if ends {
                // §5.1: what follows `all` is never reached, nor is a redirect.
                return Ok(walked);
            }
        }
        if let Some(target) = &record.redirect {
            cost.lookup()?;
            if let Some(target) = literal(target, domain) {
                let target = included(&target, dns, cost).await?;
                walked.redirect = Some(Box::new(target));
            }
        }
        Ok(walked)
    })
}

/// The first `ip4:` or `ip6:` term without a proper address: the parser lets numbers above 255 through.
fn wrong_address(text: &str) -> Option<&str> {
    text.split_ascii_whitespace().find(|term| {
        let bare = term.trim_start_matches(['+', '-', '~', '?']);
        let Some((kind, value)) = bare.split_once(':') else {
            return false;
        };
        let address = value.split('/').next().unwrap_or_default();
        (kind.eq_ignore_ascii_case("ip4") && address.parse::<Ipv4Addr>().is_err())
            || (kind.eq_ignore_ascii_case("ip6") && address.parse::<Ipv6Addr>().is_err())
    })
}

async fn walk_term(
    mechanism: &Mechanism,
    domain: &str,
    dns: &dyn Dns,
    cost: &mut Cost,
) -> Result<Term, SpfError> {
    Ok(match mechanism {
        Mechanism::All => Term::All,
        Mechanism::Ip4 { addr, mask } => Term::Network {
            network: IpAddr::V4(*addr),
            mask: u128::from(*mask),
        },
        Mechanism::Ip6 { addr, mask } => Term::Network {
            network: IpAddr::V6(*addr),
            mask: *mask,
        },
        Mechanism::Include { macro_string } => {
            cost.lookup()?;
            match literal(macro_string, domain) {
                Some(target) => Term::Include(included(&target, dns, cost).await?),
                None => Term::DependsOnMessage,
            }
        }
        Mechanism::A {
            macro_string,
            ip4_mask,
            ip6_mask,
        } => {
            cost.lookup()?;
            let Some(host) = literal(macro_string, domain) else {
                return Ok(Term::DependsOnMessage);
            };
            let addresses = addresses(&host, dns).await?;
            cost.found(!addresses.is_empty());
            hosts(addresses, *ip4_mask, *ip6_mask)
        }
        Mechanism::Mx {
            macro_string,
            ip4_mask,
            ip6_mask,
        } => {
            cost.lookup()?;
            let Some(host) = literal(macro_string, domain) else {
                return Ok(Term::DependsOnMessage);
            };
            let addresses = mx_addresses(&host, dns, cost).await?;
            hosts(addresses, *ip4_mask, *ip6_mask)
        }
        Mechanism::Ptr { .. } | Mechanism::Exists { .. } => {
            cost.lookup()?;
            Term::DependsOnMessage
        }
    })
}

fn hosts(addresses: Vec<IpAddr>, mask4: u32, mask6: u128) -> Term {
    Term::Hosts {
        addresses,
        mask4,
        mask6,
    }
}

impl Cost {
    fn lookup(&mut self) -> Result<(), SpfError> {
        self.lookups += 1;
        if self.lookups > LOOKUPS_MAX {
            return Err(SpfError::Permanent(format!(
                "it needs more than {LOOKUPS_MAX} DNS lookups; receivers stop there and treat it as broken"
            )));
        }
        Ok(())
    }

    fn found(&mut self, something: bool) {
        if !something {
            self.voids += 1;
        }
    }
}

/// The record that an include or a redirect names. None, or more than one, is an error (§5.2, §6.1).
async fn included(target: &str, dns: &dyn Dns, cost: &mut Cost) -> Result<Walked, SpfError> {
    let found = match dns.lookup(target, RecordType::Txt).await {
        Ok(answer) => answer.records,
        Err(why) if why.is_absence() => Vec::new(),
        Err(why) => return Err(SpfError::Unknown(why.to_string())),
    };
    let records: Vec<_> = found
        .iter()
        .filter_map(|record| match record {
            RecordData::Txt(text) if is_spf(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    match records.as_slice() {
        [one] => walk_record(one, target, dns, cost).await,
        [] => Err(SpfError::Permanent(format!(
            "it includes {target}, which has no SPF record"
        ))),
        _ => Err(SpfError::Permanent(format!(
            "it includes {target}, which has more than one SPF record"
        ))),
    }
}

async fn mx_addresses(
    domain: &str,
    dns: &dyn Dns,
    cost: &mut Cost,
) -> Result<Vec<IpAddr>, SpfError> {
    let exchanges: Vec<_> = match dns.lookup(domain, RecordType::Mx).await {
        Ok(answer) => answer
            .records
            .iter()
            .filter_map(|record| match record {
                RecordData::Mx { exchange, .. } if !exchange.is_empty() => Some(plain(exchange)),
                _ => None,
            })
            .collect(),
        Err(why) if why.is_absence() => Vec::new(),
        Err(why) => return Err(SpfError::Unknown(why.to_string())),
    };
    cost.found(!exchanges.is_empty());
    if exchanges.len() > MX_HOSTS_MAX {
        return Err(SpfError::Permanent(format!(
            "its mx term names {domain}, which has more than {MX_HOSTS_MAX} mail hosts"
        )));
    }
    let found = join_all(exchanges.iter().map(|host| addresses(host, dns))).await;
    let found: Result<Vec<_>, _> = found.into_iter().collect();
    Ok(found?.concat())
}

async fn addresses(host: &str, dns: &dyn Dns) -> Result<Vec<IpAddr>, SpfError> {
    match super::mx::addresses(host, dns).await {
        Ok(found) => Ok(found),
        Err(why @ DnsError::Unknown { .. }) => Err(SpfError::Unknown(why.to_string())),
        Err(_) => Ok(Vec::new()),
    }
}

/// The name a term means when no macro stands in it; the domain itself when it names none.
fn literal(text: &Macro, domain: &str) -> Option<String> {
    match text {
        Macro::None => Some(domain.to_owned()),
        Macro::Literal(name) => Some(plain(&String::from_utf8_lossy(name))),
        Macro::Variable { .. } | Macro::List(_) => None,
    }
}

#[cfg(test)]
mod tests;
