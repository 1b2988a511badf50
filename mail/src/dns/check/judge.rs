//! The judgements: what a server's records mean for a domain, and what all servers' judgements come to.

use std::net::IpAddr;

use inboxgrove_model::{
    DomainName,
    domain::{CheckOutcome, DkimSelector},
    ports::{Dns, DnsError, RecordData, RecordType},
};
use mail_auth::{
    common::parse::TxtRecordParser,
    dmarc::{Dmarc, Policy},
};

use crate::dns::{
    mx::addresses,
    plain,
    publish::{Source, dkim_record, dmarc_name, key_type, spf_term},
    reverse_name,
    spf::{LOOKUPS_MAX, Says, SpfError, is_spf, walk},
};

/// Characters shown of what was found.
const FOUND_CHARS_MAX: usize = 500;
/// Names asked on the way up to the policy that applies (RFC 9989 §4.10).
const TREE_WALK_MAX: usize = 8;

/// What one server's records mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// What should be there is there.
    Match { found: String },
    /// Something else is.
    Wrong { found: String, fix: String },
    /// It did not say.
    Unsure(String),
}

/// What all servers' verdicts come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) outcome: CheckOutcome,
    pub(super) found: String,
    pub(super) fix: String,
}

/// The DMARC policy of the names above a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Above {
    Nothing,
    Policy { name: String, text: String },
    Unsure(String),
}

impl Verdict {
    pub(super) fn wrong(found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Wrong {
            found: found.into(),
            fix: fix.into(),
        }
    }

    fn matches(found: impl Into<String>) -> Self {
        Self::Match {
            found: found.into(),
        }
    }

    /// One line for "who said what".
    fn said(&self) -> String {
        match self {
            Self::Match { .. } => "has the right record".to_owned(),
            Self::Wrong { found, .. } => format!("says {}", shown(found)),
            Self::Unsure(why) => format!("did not say ({why})"),
        }
    }
}

/// All right is a pass, all surely wrong a failure, anything else unknown.
pub(super) fn conclude(verdicts: Vec<(String, Verdict)>) -> Finding {
    let all = |is: fn(&Verdict) -> bool| verdicts.iter().all(|(_, verdict)| is(verdict));
    let outcome = if verdicts.is_empty() {
        CheckOutcome::Unknown
    } else if all(|v| matches!(v, Verdict::Match { .. })) {
        CheckOutcome::Pass
    } else if all(|v| matches!(v, Verdict::Wrong { .. })) {
        CheckOutcome::Fail
    } else {
        CheckOutcome::Unknown
    };
    let who: Vec<_> = verdicts
        .iter()
        .map(|(server, verdict)| format!("{server} {}", verdict.said()))
        .collect();
    let first = verdicts.into_iter().next().map(|(_, verdict)| verdict);
    match (outcome, first) {
        (CheckOutcome::Pass, Some(Verdict::Match { found })) => Finding {
            outcome,
            found: shown(&found),
            fix: String::new(),
        },
        (CheckOutcome::Fail, Some(Verdict::Wrong { found, fix })) => Finding {
            outcome,
            found: shown(&found),
            fix,
        },
        _ => Finding {
            outcome: CheckOutcome::Unknown,
            found: String::new(),
            fix: format!(
                "Nothing to do yet: the name servers do not agree or do not all answer. {}.",
                who.join("; ")
            ),
        },
    }
}

pub(super) fn ownership(found: &[&str], name: &str, token: &str) -> Verdict {
    if found.iter().any(|text| text.trim() == token) {
        return Verdict::matches(token);
    }
    Verdict::wrong(
        listed(found),
        format!("Add a TXT record at {name} with the text {token}"),
    )
}

pub(super) fn mx(found: &[RecordData], domain: &str, wanted: &[String]) -> Verdict {
    let mut exchanges: Vec<_> = found
        .iter()
        .filter_map(|record| match record {
            RecordData::Mx {
                preference,
                exchange,
            } => Some((*preference, plain(exchange))),
            _ => None,
        })
        .collect();
    exchanges.sort();
    let lines: Vec<_> = exchanges
        .iter()
        .map(|(preference, host)| format!("{preference} {host}."))
        .collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let strangers: Vec<_> = exchanges
        .iter()
        .filter(|(_, host)| !wanted.contains(host))
        .map(|(_, host)| format!("{host}."))
        .collect();
    if exchanges.is_empty() {
        let host = wanted.first().map_or("", String::as_str);
        let fix = format!("Add an MX record at {domain} with preference 10 and the host {host}");
        return Verdict::wrong("no MX record", fix);
    }
    if strangers.is_empty() {
        return Verdict::matches(listed(&lines));
    }
    let fix = if strangers.len() == exchanges.len() {
        format!(
            "Replace the MX records at {domain}: mail for it should go to {} only",
            wanted.join(", ")
        )
    } else {
        format!(
            "Remove the MX records at {domain} that point to {}: mail sent there is lost to us",
            strangers.join(", ")
        )
    };
    Verdict::wrong(listed(&lines), fix)
}

pub(super) async fn spf(
    found: &[&str],
    domain: &str,
    sources: &[IpAddr],
    dns: &dyn Dns,
) -> Verdict {
    let terms: Vec<_> = sources.iter().map(|ip| spf_term(*ip)).collect();
    let records: Vec<_> = found.iter().copied().filter(|t| is_spf(t)).collect();
    let text = match records.as_slice() {
        [] => {
            let fix = format!(
                "Add a TXT record at {domain} with the text v=spf1 {} ~all",
                terms.join(" ")
            );
            return Verdict::wrong("no SPF record", fix);
        }
        [one] => *one,
        more => {
            let fix = format!(
                "Merge the {} SPF records at {domain} into one: with more than one, receivers believe none",
                more.len()
            );
            return Verdict::wrong(listed(more), fix);
        }
    };
    let walked = match walk(text, domain, dns).await {
        Ok((walked, _)) => walked,
        Err(SpfError::Unknown(why)) => return Verdict::Unsure(why),
        Err(SpfError::Permanent(why)) => {
            let fix = format!(
                "Correct the SPF record at {domain}: {why}. At most {LOOKUPS_MAX} terms may look something up; ip4: and ip6: cost nothing"
            );
            return Verdict::wrong(text, fix);
        }
    };
    if walked.permits_everybody() {
        let fix = format!("End the SPF record at {domain} with ~all: it permits everybody to send");
        return Verdict::wrong(text, fix);
    }
    let missing: Vec<_> = sources
        .iter()
        .filter(|ip| walked.says(**ip) != Says::Pass)
        .map(|ip| spf_term(*ip))
        .collect();
    if missing.is_empty() {
        return Verdict::matches(text);
    }
    let fix = format!(
        "Add {} to the SPF record at {domain}, right after v=spf1",
        missing.join(" ")
    );
    Verdict::wrong(text, fix)
}

pub(super) fn dkim(found: &[&str], name: &str, selector: &DkimSelector) -> Verdict {
    let publish = || {
        format!(
            "Add a TXT record at {name} with the text {}",
            dkim_record(selector)
        )
    };
    let text = match found {
        [] => return Verdict::wrong("no record", publish()),
        [one] => *one,
        more => {
            let fix = format!(
                "Keep only one TXT record at {name}: {}",
                dkim_record(selector)
            );
            return Verdict::wrong(listed(more), fix);
        }
    };
    let replace = |why: &str| {
        let fix = format!(
            "Replace the TXT record at {name} ({why}) by {}",
            dkim_record(selector)
        );
        Verdict::wrong(text, fix)
    };
    let tags = tags(text);
    let tag = |name: &str| {
        let found = tags.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    // RFC 6376 §3.6.1: the version comes first or not at all, k= defaults to rsa.
    if tag("v").is_some_and(|version| version != "DKIM1") {
        return replace("its version is not DKIM1");
    }
    if tag("k").unwrap_or("rsa") != key_type(selector.algorithm) {
        return replace("its k= is of another kind");
    }
    if tag("h").is_some_and(|hashes| !hashes.split(':').any(|hash| hash == "sha256")) {
        return replace("its h= leaves out sha256");
    }
    if tag("s").is_some_and(|uses| !uses.split(':').any(|u| u == "*" || u == "email")) {
        return replace("its s= leaves out email");
    }
    match tag("p") {
        Some("") => replace("its p= is empty, which revokes the key"),
        Some(key) if key == selector.public_key => Verdict::matches(text),
        Some(_) => replace("it holds another key"),
        None => replace("it has no p="),
    }
}

pub(super) fn dmarc(found: &[&str], name: &str, expected: &str, above: &Above) -> Verdict {
    let records: Vec<_> = found.iter().copied().filter(|t| is_dmarc(t)).collect();
    match records.as_slice() {
        [] => match above {
            Above::Policy { name, text } => {
                Verdict::matches(format!("inherited from {name}: {text}"))
            }
            Above::Unsure(why) => Verdict::Unsure(why.clone()),
            Above::Nothing => {
                let fix = format!("Add a TXT record at {name} with the text {expected}");
                Verdict::wrong(listed(found), fix)
            }
        },
        [one] => match Dmarc::parse(one.as_bytes()) {
            Ok(record) if record.p != Policy::Unspecified => Verdict::matches(*one),
            Ok(_) => {
                let fix = format!("Give the DMARC record at {name} a policy, as in p=none");
                Verdict::wrong(*one, fix)
            }
            Err(_) => {
                let fix = format!("Correct the DMARC record at {name}; {expected} is enough");
                Verdict::wrong(*one, fix)
            }
        },
        more => {
            let fix = format!(
                "Keep only one DMARC record at {name}: with more than one, receivers believe none"
            );
            Verdict::wrong(listed(more), fix)
        }
    }
}

/// The tree walk above a domain (RFC 9989 §4.10): what applies when it has no record of its own.
pub(super) async fn dmarc_above(domain: &DomainName, dns: &dyn Dns) -> Above {
    for parent in domain.parents().take(TREE_WALK_MAX) {
        let name = dmarc_name(parent.as_str());
        match dns.lookup(&name, RecordType::Txt).await {
            Ok(answer) => {
                let texts = super::texts(&answer.records);
                let records: Vec<_> = texts.into_iter().filter(|t| is_dmarc(t)).collect();
                if let [one] = records.as_slice()
                    && Dmarc::parse(one.as_bytes()).is_ok_and(|r| r.p != Policy::Unspecified)
                {
                    let text = (*one).to_owned();
                    return Above::Policy { name, text };
                }
            }
            Err(why) if why.is_absence() => {}
            Err(why) => return Above::Unsure(why.to_string()),
        }
    }
    Above::Nothing
}

/// Forward-confirmed reverse DNS: a name of the address has that address.
pub(super) async fn ptr(source: &Source, dns: &dyn Dns) -> Verdict {
    let address = source.address;
    let ehlo = plain(&source.ehlo_name);
    let names = match dns.lookup(&reverse_name(address), RecordType::Ptr).await {
        Ok(answer) => names(&answer.records),
        Err(DnsError::Unknown { why, .. }) => return Verdict::Unsure(why),
        Err(_) => Vec::new(),
    };
    if names.is_empty() {
        let fix = format!("Ask whoever runs the network to name {address} {ehlo} (its PTR record)");
        return Verdict::wrong("no PTR record", fix);
    }
    let mut unsure = None;
    for name in &names {
        match addresses(name, dns).await {
            Ok(found) if found.contains(&address) && *name == ehlo => {
                return Verdict::matches(name);
            }
            // Receivers want any name that leads back; ours is only the tidiest.
            Ok(found) if found.contains(&address) => {
                return Verdict::matches(format!("{name}, while we greet as {ehlo}"));
            }
            Err(why) if !why.is_absence() => unsure = Some(why.to_string()),
            _ => {}
        }
    }
    if let Some(why) = unsure {
        return Verdict::Unsure(why);
    }
    let fix = if names.contains(&ehlo) {
        format!(
            "Give {ehlo} an address record with {address}: the name must lead back to the address"
        )
    } else {
        format!(
            "Ask whoever runs the network to change the name of {address} to {ehlo} (its PTR record)"
        )
    };
    Verdict::wrong(names.join(", "), fix)
}

fn names(records: &[RecordData]) -> Vec<String> {
    let names = records.iter().filter_map(|record| match record {
        RecordData::Ptr(name) => Some(plain(name)),
        _ => None,
    });
    // RFC 7208 §5.5 looks at ten; so do receivers.
    names.take(10).collect()
}

fn is_dmarc(text: &str) -> bool {
    let version: String = text
        .split(';')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect();
    version == "v=DMARC1"
}

/// `name=value` pairs of a DKIM tag list (RFC 6376 §3.2), all whitespace dropped.
fn tags(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
    let dense = |part: &str| part.split_whitespace().collect::<String>();
    pairs
        .map(|(name, value)| (dense(name), dense(value)))
        .collect()
}

fn listed(found: &[&str]) -> String {
    if found.is_empty() {
        "no record".to_owned()
    } else {
        found.join(" | ")
    }
}

/// Cut to what fits a page, without control characters: strangers wrote it.
fn shown(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(FOUND_CHARS_MAX)
        .collect()
}
