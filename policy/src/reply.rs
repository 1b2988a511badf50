//! What a server's answer means: dated rule packs, one for each provider and a generic one.
//!
//! A pack is a TOML file of rules, tried in order; the provider's own come first, then the generic ones,
//! then what the reply code itself says (RFC 5321 §4.2, RFC 3463). Matching looks at code, enhanced status,
//! stage and lower-cased text only, never at who the recipient was.

use std::{collections::BTreeMap, time::Duration};

use inboxgrove_model::message::BounceClass;
use serde::Deserialize;

use crate::pace::{PaceAction, ProviderLimits};

/// A server's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyText<'a> {
    /// Its three digits.
    pub code: u16,
    /// Its enhanced status (RFC 3463), when it had one.
    pub enhanced: Option<(u8, u16, u16)>,
    /// Its text, lines joined by blanks or line ends.
    pub text: &'a str,
}

/// What we had just sent when the answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Nothing: the connection itself.
    Greeting,
    /// EHLO or HELO.
    Hello,
    /// STARTTLS.
    Tls,
    /// MAIL FROM.
    MailFrom,
    /// RCPT TO.
    RcptTo,
    /// DATA, before the content.
    Data,
    /// The content and its final dot.
    End,
}

/// How an attempt ended, as far as the answer tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The server took it.
    Delivered,
    /// Not now.
    Deferred,
    /// Not ever.
    Bounced(BounceClass),
}

/// What to do after an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// With the recipient.
    pub outcome: Outcome,
    /// With the site's pace.
    pub pace: Option<PaceAction>,
    /// Whether it smells of greylisting: the same source should try again soon.
    pub greylisted: bool,
    /// The rule that said so, as in `google/unusual-rate`; `code` when only the code did.
    pub rule: String,
    /// What it means, in a sentence; empty when only the code spoke.
    pub why: String,
}

/// All packs.
#[derive(Debug, Clone, PartialEq)]
pub struct RulePack {
    providers: BTreeMap<String, PackFile>,
    generic: PackFile,
}

/// Why a pack cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the rule pack {name} cannot be read: {why}")]
pub struct PackError {
    /// Which.
    pub name: String,
    #[source]
    why: toml::de::Error,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct PackFile {
    /// Whose answers.
    provider: String,
    /// The day it was last worked over.
    written: String,
    limits: LimitsRow,
    #[serde(default, rename = "rule")]
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsRow {
    connections: u32,
    messages_per_connection: u32,
    per_minute: u32,
}

/// One rule: every condition that is given must hold.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    id: String,
    /// About since when the provider answers so (a year and month, or a year).
    since: String,
    /// First digit of the code: 4 or 5.
    class: Option<u16>,
    #[serde(default)]
    codes: Vec<u16>,
    /// Enhanced statuses; `4.7` stands for all that begin so.
    #[serde(default)]
    enhanced: Vec<String>,
    /// Any of these is in the text; lower case.
    #[serde(default)]
    text: Vec<String>,
    #[serde(default)]
    stages: Vec<Stage>,
    outcome: OutcomeWord,
    pace: Option<PaceWord>,
    /// Shortest hold or suspension.
    pace_minutes: Option<u64>,
    #[serde(default)]
    greylisted: bool,
    why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutcomeWord {
    Deferred,
    Recipient,
    Infrastructure,
    Content,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PaceWord {
    Slow,
    Suspend,
}

const GENERIC: &str = include_str!("../rules/generic.toml");
const PROVIDERS: [(&str, &str); 4] = [
    ("apple", include_str!("../rules/apple.toml")),
    ("google", include_str!("../rules/google.toml")),
    ("microsoft", include_str!("../rules/microsoft.toml")),
    ("yahoo", include_str!("../rules/yahoo.toml")),
];

// === impl RulePack ===

impl RulePack {
    /// The packs of this version.
    pub fn builtin() -> Self {
        let file = |name: &str, text: &str| parse(name, text).expect("a test reads every file");
        Self {
            providers: PROVIDERS
                .map(|(name, text)| (name.to_owned(), file(name, text)))
                .into(),
            generic: file("generic", GENERIC),
        }
    }

    /// Puts an operator's own pack, in the same format, in place of one of these or beside them.
    pub fn replace(&mut self, name: &str, text: &str) -> Result<(), PackError> {
        let pack = parse(name, text)?;
        if pack.provider == self.generic.provider {
            self.generic = pack;
        } else {
            self.providers.insert(pack.provider.clone(), pack);
        }
        Ok(())
    }

    /// What an answer of a provider's host means.
    pub fn classify(&self, provider: &str, reply: &ReplyText<'_>, stage: Stage) -> Verdict {
        if reply.code / 100 == 2 {
            return by_code(reply, stage);
        }
        let text = reply.text.to_lowercase();
        let packs = self
            .providers
            .get(provider)
            .into_iter()
            .chain([&self.generic]);
        packs
            .flat_map(|pack| pack.rules.iter().map(move |rule| (pack, rule)))
            .find(|(_, rule)| rule.matches(reply, &text, stage))
            .map_or_else(
                || by_code(reply, stage),
                |(pack, rule)| rule.verdict(&pack.provider),
            )
    }

    /// The limits of one source address towards a provider's site at full pace.
    pub fn limits(&self, provider: &str) -> ProviderLimits {
        let row = self.providers.get(provider).unwrap_or(&self.generic).limits;
        ProviderLimits {
            connections: row.connections,
            messages_per_connection: row.messages_per_connection,
            per_minute: row.per_minute,
        }
    }

    /// The packs and the day each was last worked over: the older, the less it should be trusted.
    pub fn written(&self) -> Vec<(&str, &str)> {
        let packs = self.providers.values().chain([&self.generic]);
        packs
            .map(|pack| (pack.provider.as_str(), pack.written.as_str()))
            .collect()
    }
}

// === impl ReplyText ===

impl<'a> ReplyText<'a> {
    /// An answer whose enhanced status, if any, still begins its text, as in `5.1.1 no such user`.
    pub fn new(code: u16, text: &'a str) -> Self {
        let first = text.split_whitespace().next().unwrap_or("");
        let enhanced = enhanced_of(first).filter(|status| u16::from(status.0) == code / 100);
        Self {
            code,
            enhanced,
            text,
        }
    }
}

/// Reads `5.7.1` (RFC 3463 §2); `None` when it is not one.
pub fn enhanced_of(text: &str) -> Option<(u8, u16, u16)> {
    let mut parts = text.split('.');
    let class = parts
        .next()?
        .parse()
        .ok()
        .filter(|class| matches!(class, 2 | 4 | 5))?;
    let mut number = || parts.next()?.parse().ok().filter(|n: &u16| *n <= 999);
    let status = (class, number()?, number()?);
    parts.next().is_none().then_some(status)
}

// === impl Rule ===

impl Rule {
    fn matches(&self, reply: &ReplyText<'_>, text: &str, stage: Stage) -> bool {
        self.class.is_none_or(|class| reply.code / 100 == class)
            && (self.codes.is_empty() || self.codes.contains(&reply.code))
            && (self.enhanced.is_empty() || self.matches_enhanced(reply.enhanced))
            && (self.text.is_empty() || self.text.iter().any(|part| text.contains(part)))
            && (self.stages.is_empty() || self.stages.contains(&stage))
    }

    fn matches_enhanced(&self, found: Option<(u8, u16, u16)>) -> bool {
        found.is_some_and(|(class, subject, detail)| {
            let found = format!("{class}.{subject}.{detail}");
            self.enhanced.iter().any(|status| {
                found
                    .strip_prefix(status)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        })
    }

    fn verdict(&self, provider: &str) -> Verdict {
        let least = Duration::from_secs(60 * self.pace_minutes.unwrap_or(0));
        Verdict {
            outcome: match self.outcome {
                OutcomeWord::Deferred => Outcome::Deferred,
                OutcomeWord::Recipient => Outcome::Bounced(BounceClass::Recipient),
                OutcomeWord::Infrastructure => Outcome::Bounced(BounceClass::Infrastructure),
                OutcomeWord::Content => Outcome::Bounced(BounceClass::Content),
            },
            pace: self.pace.map(|word| match word {
                PaceWord::Slow => PaceAction::Slow { at_least: least },
                PaceWord::Suspend => PaceAction::Suspend { at_least: least },
            }),
            greylisted: self.greylisted,
            rule: format!("{provider}/{}", self.id),
            why: self.why.clone(),
        }
    }
}

fn parse(name: &str, text: &str) -> Result<PackFile, PackError> {
    toml::from_str(text).map_err(|why| PackError {
        name: name.to_owned(),
        why,
    })
}

/// What the code itself says.
fn by_code(reply: &ReplyText<'_>, stage: Stage) -> Verdict {
    let (outcome, pace) = match reply.code {
        200..=299 => (Outcome::Delivered, None),
        // RFC 7504: this host takes no mail at all.
        521 | 556 => (Outcome::Bounced(BounceClass::Recipient), None),
        421 => (
            Outcome::Deferred,
            Some(PaceAction::Slow {
                at_least: Duration::ZERO,
            }),
        ),
        // A refusal before any envelope is about the connection: another host or hour may differ.
        500..=599 if stage <= Stage::Tls => (
            Outcome::Deferred,
            Some(PaceAction::Slow {
                at_least: Duration::ZERO,
            }),
        ),
        500..=599 => (Outcome::Bounced(blamed(reply, stage)), None),
        _ => (Outcome::Deferred, None),
    };
    Verdict {
        outcome,
        pace,
        greylisted: false,
        rule: "code".into(),
        why: String::new(),
    }
}

/// Whom a permanent refusal blames, by its enhanced status, else by its stage.
fn blamed(reply: &ReplyText<'_>, stage: Stage) -> BounceClass {
    match (reply.enhanced, reply.code, stage) {
        // A bad sender's address (RFC 3463 §3.2: x.1.7 and x.1.8) is ours.
        (Some((_, 1, 7 | 8)), _, _) => BounceClass::Infrastructure,
        (Some((_, 1 | 2, _)), _, _) => BounceClass::Recipient,
        (Some((_, 6, _) | (_, 3, 4)), _, _) | (_, 552, Stage::Data | Stage::End) => {
            BounceClass::Content
        }
        (Some((_, 3 | 4 | 5 | 7, _)), _, _) | (_, _, Stage::MailFrom) => {
            BounceClass::Infrastructure
        }
        (_, _, Stage::RcptTo) => BounceClass::Recipient,
        (_, _, Stage::Data | Stage::End) => BounceClass::Content,
        _ => BounceClass::Infrastructure,
    }
}

#[cfg(test)]
mod tests;
