//! What `ensure` should do, decided from what is there: pure.

use inboxgrove_model::ports::{RecordData, RecordType};

use super::Held;
use crate::record::Record;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// It is there, under this id.
    Keep(String),
    /// Nothing is in the way.
    Create,
    /// Ours, under this id, says something else.
    Replace(String),
    /// Somebody else's record is in the way; what it is, for people.
    Refuse(String),
}

/// Decides. `held` is what the zone holds at the record's name, of any type.
pub(super) fn plan(wanted: &Record, held: &[Held]) -> Plan {
    let at_name = || held.iter().filter(|held| held.name == wanted.name());
    if let Some(same) = at_name().find(|held| held.data.as_ref() == Some(wanted.data())) {
        return if same.proxied {
            Plan::Refuse(format!("{} (proxied by Cloudflare)", shown(same)))
        } else {
            Plan::Keep(same.id.clone())
        };
    }
    let rivals = || at_name().filter(|held| is_rival(wanted, held));
    if let Some(foreign) = rivals().find(|held| !held.ours || !may_give_way(wanted, held)) {
        return Plan::Refuse(shown(foreign));
    }
    match rivals().next() {
        Some(ours) if is_alone(wanted.kind()) => Plan::Replace(ours.id.clone()),
        _ => Plan::Create,
    }
}

/// Whether both at one name would change each other's meaning.
fn is_rival(wanted: &Record, held: &Held) -> bool {
    // RFC 1034 §3.6.2: nothing stands beside an alias.
    if held.kind == "CNAME" || wanted.kind() == RecordType::Cname {
        return true;
    }
    match (wanted.data(), &held.data) {
        (RecordData::Txt(wanted_text), Some(RecordData::Txt(text))) => {
            // One key a selector (RFC 6376 §3.6.2.2); one policy of a kind (RFC 7208 §3.2, RFC 7489 §6.6.3).
            wanted.name().split('.').any(|label| label == "_domainkey")
                || version(wanted_text)
                    .is_some_and(|version_wanted| version(text) == Some(version_wanted))
        }
        _ => held.kind == wanted.kind().to_string() && held.kind != "TXT",
    }
}

/// Whether our own rival may be replaced, or may have another beside it.
fn may_give_way(wanted: &Record, held: &Held) -> bool {
    held.kind == wanted.kind().to_string()
}

/// Whether there is only one of its sort at a name, so that a new one takes the place of the old.
fn is_alone(kind: RecordType) -> bool {
    matches!(kind, RecordType::Txt | RecordType::Cname)
}

/// The version tag that a policy record starts with, as in `v=spf1`.
fn version(text: &str) -> Option<String> {
    let tag = text.split([' ', ';']).next().unwrap_or_default();
    let folded = tag.trim().to_ascii_lowercase();
    folded.starts_with("v=").then_some(folded)
}

/// The record in a few words. Long texts are cut: enough to recognise them by.
fn shown(held: &Held) -> String {
    let data = match &held.data {
        Some(RecordData::A(address)) => address.to_string(),
        Some(RecordData::Aaaa(address)) => address.to_string(),
        Some(RecordData::Mx {
            preference,
            exchange,
        }) => format!("{preference} {exchange}"),
        Some(RecordData::Txt(text)) => format!("{:?}", text.chars().take(80).collect::<String>()),
        Some(RecordData::Cname(name) | RecordData::Ns(name)) => name.clone(),
        _ => String::new(),
    };
    format!("{} {data}", held.kind).trim_end().to_owned()
}
