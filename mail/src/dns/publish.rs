//! What a domain's owner has to publish for mail to be sent and believed.

use std::net::IpAddr;

use inboxgrove_model::{
    DomainName, EmailAddress,
    domain::{CheckKind, DkimAlgorithm, DkimSelector, RecordToPublish},
    ports::RecordType,
};

use super::OWNERSHIP_LABEL;

/// Preference of the first mail host; the next ones follow in tens.
const MX_PREFERENCE_STEP: usize = 10;

/// An address that mail leaves from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The address.
    pub address: IpAddr,
    /// The name it greets with: its PTR record should say the same.
    pub ehlo_name: String,
}

/// What should stand in a domain's zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The domain.
    pub domain: DomainName,
    /// The text that proves ownership.
    pub ownership_token: String,
    /// Hosts that take its mail, best first.
    pub mail_hosts: Vec<String>,
    /// Its DKIM keys.
    pub selectors: Vec<DkimSelector>,
    /// Where its mail comes from.
    pub sources: Vec<Source>,
    /// Where DMARC reports should go, when somebody reads them.
    pub dmarc_reports: Option<EmailAddress>,
}

/// The records that `wanted` asks for, in the order in which people should add them.
pub fn records_to_publish(wanted: &Wanted) -> Vec<RecordToPublish> {
    let domain = &wanted.domain;
    let mut records = vec![RecordToPublish {
        purpose: CheckKind::Ownership,
        name: format!("{OWNERSHIP_LABEL}.{domain}"),
        kind: RecordType::Txt,
        value: wanted.ownership_token.clone(),
        required: true,
    }];
    for (i, host) in wanted.mail_hosts.iter().enumerate() {
        records.push(RecordToPublish {
            purpose: CheckKind::Mx,
            name: domain.to_string(),
            kind: RecordType::Mx,
            value: format!("{} {}", (i + 1) * MX_PREFERENCE_STEP, super::plain(host)),
            required: true,
        });
    }
    records.push(RecordToPublish {
        purpose: CheckKind::Spf,
        name: domain.to_string(),
        kind: RecordType::Txt,
        value: spf_record(&wanted.sources),
        required: true,
    });
    for selector in &wanted.selectors {
        records.push(RecordToPublish {
            purpose: CheckKind::Dkim(selector.name.clone()),
            name: dkim_name(&selector.name, domain),
            kind: RecordType::Txt,
            value: dkim_record(selector),
            required: true,
        });
    }
    records.push(RecordToPublish {
        purpose: CheckKind::Dmarc,
        name: dmarc_name(domain.as_str()),
        kind: RecordType::Txt,
        value: dmarc_record(wanted.dmarc_reports.as_ref()),
        required: true,
    });
    records
}

/// An SPF record that permits `sources` and, softly, nobody else: receivers that look at DMARC treat `~all`
/// and `-all` alike, and forwarded mail survives the first (RFC 7208 §8.5, RFC 9989 §8.1).
pub fn spf_record(sources: &[Source]) -> String {
    let mut text = "v=spf1".to_owned();
    for source in sources {
        text.push(' ');
        text.push_str(&spf_term(source.address));
    }
    text + " ~all"
}

/// The term of an SPF record that permits one address.
pub(super) fn spf_term(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("ip4:{address}"),
        IpAddr::V6(address) => format!("ip6:{address}"),
    }
}

/// The key record of a selector (RFC 6376 §3.6.1, RFC 8463 §4).
pub fn dkim_record(selector: &DkimSelector) -> String {
    let kind = key_type(selector.algorithm);
    format!("v=DKIM1; k={kind}; p={}", selector.public_key)
}

pub(super) fn key_type(algorithm: DkimAlgorithm) -> &'static str {
    match algorithm {
        DkimAlgorithm::Rsa2048 => "rsa",
        DkimAlgorithm::Ed25519 => "ed25519",
    }
}

pub(super) fn dkim_name(selector: &str, domain: &DomainName) -> String {
    format!("{selector}._domainkey.{domain}")
}

pub(super) fn dmarc_name(domain: &str) -> String {
    format!("_dmarc.{domain}")
}

/// Asks for no action yet: an owner tightens it once the reports are clean (RFC 9989 §4.7).
pub(super) fn dmarc_record(reports: Option<&EmailAddress>) -> String {
    match reports {
        Some(address) => format!("v=DMARC1; p=none; rua=mailto:{address}"),
        None => "v=DMARC1; p=none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::SecretId;

    use super::*;

    #[test]
    fn a_domain_is_told_everything_it_needs() {
        let wanted = Wanted {
            domain: DomainName::parse("example.com").unwrap(),
            ownership_token: "t0ken".into(),
            mail_hosts: vec!["mx.grove.example.".into()],
            selectors: vec![DkimSelector {
                name: "ig1".into(),
                algorithm: DkimAlgorithm::Ed25519,
                public_key: "AAAA".into(),
                secret: SecretId::from_bytes([1; 16]),
            }],
            sources: vec![
                Source {
                    address: "192.0.2.1".parse().unwrap(),
                    ehlo_name: "out.grove.example".into(),
                },
                Source {
                    address: "2001:db8::1".parse().unwrap(),
                    ehlo_name: "out.grove.example".into(),
                },
            ],
            dmarc_reports: Some(EmailAddress::parse("dmarc@grove.example").unwrap()),
        };
        let lines: Vec<_> = records_to_publish(&wanted)
            .iter()
            .map(|r| format!("{} {} {}", r.name, r.kind, r.value))
            .collect();
        assert_eq!(
            lines,
            [
                "_inboxgrove.example.com TXT t0ken",
                "example.com MX 10 mx.grove.example",
                "example.com TXT v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 ~all",
                "ig1._domainkey.example.com TXT v=DKIM1; k=ed25519; p=AAAA",
                "_dmarc.example.com TXT v=DMARC1; p=none; rua=mailto:dmarc@grove.example",
            ]
        );
    }
}
