//! A DNS record as a DNS host should hold it.

use inboxgrove_model::{
    domain::RecordToPublish,
    ports::{RecordData, RecordType},
};

/// Longest name in its text form, final dot left out (RFC 1035 §2.3.4).
const NAME_LEN_MAX: usize = 253;

/// A record to be held by a zone: parsed once, then trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    name: String,
    data: RecordData,
}

/// Why a record cannot be put into a zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record {name:?} {kind}: {why}")]
pub struct RecordError {
    name: String,
    kind: RecordType,
    why: &'static str,
}

// === impl Record ===

impl Record {
    /// A record of a full owner name, A-labels, any case, a final dot allowed.
    pub fn new(name: &str, data: RecordData) -> Result<Self, RecordError> {
        let kind = kind_of(&data);
        let bad = |why| RecordError {
            name: name.chars().take(80).collect(),
            kind,
            why,
        };
        let owner = folded(name);
        if !is_name(&owner) {
            return Err(bad(
                "its owner is no name of letters, digits, hyphens and underscores",
            ));
        }
        let data = match data {
            RecordData::Mx {
                preference,
                exchange,
            } => RecordData::Mx {
                preference,
                exchange: folded(&exchange),
            },
            RecordData::Cname(target) => RecordData::Cname(folded(&target)),
            RecordData::Ns(host) => RecordData::Ns(folded(&host)),
            RecordData::Txt(text) if text.is_empty() || !text.is_ascii() => {
                return Err(bad("expected ASCII text"));
            }
            RecordData::Ptr(_) | RecordData::Soa { .. } => {
                return Err(bad(
                    "only A, AAAA, MX, TXT, NS and CNAME are put into zones",
                ));
            }
            other => other,
        };
        let target = match &data {
            RecordData::Mx { exchange: name, .. }
            | RecordData::Cname(name)
            | RecordData::Ns(name) => name,
            _ => &owner,
        };
        if !is_name(target) {
            return Err(bad("its target is no name"));
        }
        Ok(Self { name: owner, data })
    }

    /// The full owner name, lower case, without a final dot.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The data.
    pub fn data(&self) -> &RecordData {
        &self.data
    }

    /// Its type.
    pub fn kind(&self) -> RecordType {
        kind_of(&self.data)
    }
}

impl TryFrom<&RecordToPublish> for Record {
    type Error = RecordError;

    fn try_from(wanted: &RecordToPublish) -> Result<Self, RecordError> {
        let bad = |why| RecordError {
            name: wanted.name.chars().take(80).collect(),
            kind: wanted.kind,
            why,
        };
        let value = wanted.value.as_str();
        let data = match wanted.kind {
            RecordType::A => {
                RecordData::A(value.parse().map_err(|_| bad("expected an IPv4 address"))?)
            }
            RecordType::Aaaa => {
                RecordData::Aaaa(value.parse().map_err(|_| bad("expected an IPv6 address"))?)
            }
            RecordType::Mx => {
                let parts = value.split_once(' ').and_then(|(preference, host)| {
                    Some((preference.parse().ok()?, host.trim().to_owned()))
                });
                let (preference, exchange) =
                    parts.ok_or_else(|| bad("expected a preference and a host"))?;
                RecordData::Mx {
                    preference,
                    exchange,
                }
            }
            RecordType::Txt => RecordData::Txt(value.to_owned()),
            RecordType::Ns => RecordData::Ns(value.to_owned()),
            RecordType::Cname => RecordData::Cname(value.to_owned()),
            RecordType::Ptr | RecordType::Soa => {
                return Err(bad(
                    "only A, AAAA, MX, TXT, NS and CNAME are put into zones",
                ));
            }
        };
        Self::new(&wanted.name, data)
    }
}

// === free functions ===

fn folded(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Whether it is a name as hosts take it: labels of 1 to 63 (RFC 1035 §2.3.4), underscores allowed for
/// `_domainkey` and its like (RFC 8552). Such a name needs no escaping in a query.
fn is_name(name: &str) -> bool {
    name.len() <= NAME_LEN_MAX
        && name.contains('.')
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

fn kind_of(data: &RecordData) -> RecordType {
    match data {
        RecordData::A(_) => RecordType::A,
        RecordData::Aaaa(_) => RecordType::Aaaa,
        RecordData::Mx { .. } => RecordType::Mx,
        RecordData::Txt(_) => RecordType::Txt,
        RecordData::Ns(_) => RecordType::Ns,
        RecordData::Cname(_) => RecordType::Cname,
        RecordData::Ptr(_) => RecordType::Ptr,
        RecordData::Soa { .. } => RecordType::Soa,
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::domain::CheckKind;
    use proptest::prelude::*;

    use super::*;

    fn published(kind: RecordType, name: &str, value: &str) -> Result<Record, RecordError> {
        Record::try_from(&RecordToPublish {
            purpose: CheckKind::Mx,
            name: name.into(),
            kind,
            value: value.into(),
            required: true,
        })
    }

    #[test]
    fn what_is_to_be_published_can_be_put_into_a_zone() {
        let mx = published(RecordType::Mx, "Acme.Example.", "10 MX.Grove.example.").unwrap();
        assert_eq!(mx.name(), "acme.example");
        assert_eq!(
            mx.data(),
            &RecordData::Mx {
                preference: 10,
                exchange: "mx.grove.example".into()
            }
        );
        let txt = published(
            RecordType::Txt,
            "s1._domainkey.acme.example",
            "v=DKIM1; p=Ab",
        )
        .unwrap();
        assert_eq!(txt.data(), &RecordData::Txt("v=DKIM1; p=Ab".into()));
    }

    #[test]
    fn what_no_zone_can_hold_is_refused() {
        for (kind, name, value) in [
            (RecordType::Mx, "acme.example", "mx.grove.example"),
            (RecordType::Mx, "acme.example", "70000 mx.grove.example"),
            (RecordType::Mx, "acme.example", "10 mx grove"),
            (RecordType::A, "acme.example", "::1"),
            (RecordType::Aaaa, "acme.example", "1.2.3.4"),
            (RecordType::Txt, "acme.example", ""),
            (RecordType::Txt, "acme.example", "é"),
            (RecordType::Txt, "acme.example&name=x", "v"),
            (RecordType::Txt, "acme..example", "v"),
            (RecordType::Cname, "www.acme.example", "a b.example"),
            (RecordType::Soa, "acme.example", "x"),
        ] {
            assert!(
                published(kind, name, value).is_err(),
                "{kind} {name} {value}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_records_name_needs_no_escaping(name in "\\PC{0,40}\\.[a-z]{1,8}") {
            if let Ok(record) = published(RecordType::Txt, &name, "v") {
                prop_assert!(record.name().bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
            }
        }
    }
}
