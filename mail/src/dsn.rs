//! Delivery status notifications (RFC 3464): what another server says became of our message.
//!
//! Most are `multipart/report`; some servers still write prose, which is searched for addresses and codes.
//! Whoever calls must know that the notification is genuine: anybody can write one.

use inboxgrove_model::{EmailAddress, limits::MESSAGE_BYTES_MAX, limits::REPLY_CHARS_MAX};
use mail_parser::{Message, MessageParser, MessagePart, MimeHeaders};

use crate::message::MessageIdText;

/// Recipients read out of one notification: our messages have at most ten.
const RECIPIENTS_MAX: usize = 50;
/// Bytes of a notification that are looked at; the returned message behind may be cut.
const BYTES_LOOKED_AT: usize = 512 * 1024;
/// Lines of prose searched for a reason.
const PROSE_LINES_MAX: usize = 200;

/// What a notification says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dsn {
    /// Each recipient it speaks of; never empty.
    pub recipients: Vec<DsnRecipient>,
    /// `Message-ID` of the message it is about, without brackets.
    pub original_message_id: Option<String>,
    /// The server that writes it (`Reporting-MTA`); empty in prose.
    pub reporting_host: String,
}

/// What became of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DsnRecipient {
    /// The address it was to reach in the end.
    pub final_recipient: EmailAddress,
    /// The address we wrote to, when the notification names it.
    pub original_recipient: Option<EmailAddress>,
    /// What the server did.
    pub action: Action,
    /// The enhanced status code, as in `5.1.1` (RFC 3463).
    pub status: Status,
    /// The words of the server that refused, cut at 200 characters; empty when there are none.
    pub diagnostic: String,
}

/// What the server did (RFC 3464 §2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It gave up.
    Failed,
    /// It goes on trying.
    Delayed,
    /// It delivered.
    Delivered,
    /// It handed on to a server that sends no notifications.
    Relayed,
    /// It delivered to several addresses.
    Expanded,
}

/// An enhanced status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status {
    /// 2, 4 or 5.
    pub class: u8,
    /// What it is about: 1 the address, 2 the mailbox, 7 policy ….
    pub subject: u16,
    /// What exactly.
    pub detail: u16,
}

impl Status {
    /// Reads `class.subject.detail`; text behind is ignored.
    pub fn parse(text: &str) -> Option<Self> {
        let code = text.split(|c: char| c.is_whitespace() || c == '(').next()?;
        let mut parts = code.split('.');
        let class = parts.next()?;
        let subject = number(parts.next()?)?;
        let detail = number(parts.next()?)?;
        let class = match class {
            "2" => 2,
            "4" => 4,
            "5" => 5,
            _ => return None,
        };
        parts.next().is_none().then_some(Self {
            class,
            subject,
            detail,
        })
    }
}

/// RFC 3463 §2: one to three digits.
fn number(text: &str) -> Option<u16> {
    let digits = (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// Reads a notification. `None` when the message is none, or names nobody.
pub fn parse(message: &[u8]) -> Option<Dsn> {
    if message.len() > MESSAGE_BYTES_MAX {
        return None;
    }
    let looked_at = &message[..message.len().min(BYTES_LOOKED_AT)];
    let parsed = MessageParser::default().parse(looked_at)?;
    report(&parsed).or_else(|| prose(&parsed))
}

// === multipart/report ===

fn report(parsed: &Message<'_>) -> Option<Dsn> {
    let status = parsed.parts.iter().find(|part| {
        is_type(
            part,
            "message",
            &["delivery-status", "global-delivery-status"],
        )
    })?;
    let text = String::from_utf8_lossy(status.contents()).into_owned();
    let mut groups = groups(&text).into_iter();
    let whole = groups.next()?;
    let reporting_host = field(&whole, "reporting-mta")
        .map(|value| typed(value).to_owned())
        .unwrap_or_default();
    let recipients: Vec<_> = groups
        .filter_map(|group| recipient(&group))
        .take(RECIPIENTS_MAX)
        .collect();
    if recipients.is_empty() {
        return None;
    }
    Some(Dsn {
        recipients,
        original_message_id: returned_id(parsed),
        reporting_host: cut(&reporting_host),
    })
}

type Fields = Vec<(String, String)>;

/// Groups of fields, parted by empty lines (RFC 3464 §2.1); folded lines joined.
fn groups(text: &str) -> Vec<Fields> {
    let mut groups: Vec<Fields> = Vec::new();
    let mut fresh = true;
    for line in text.lines() {
        if line.trim().is_empty() {
            fresh = true;
        } else if line.starts_with([' ', '\t']) && !fresh {
            if let Some((_, value)) = groups.last_mut().and_then(|group| group.last_mut()) {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            if fresh {
                groups.push(Vec::new());
                fresh = false;
            }
            if let Some(group) = groups.last_mut() {
                group.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }
    groups
}

fn recipient(group: &Fields) -> Option<DsnRecipient> {
    let address = |name| field(group, name).and_then(|value| address(typed(value)));
    let original_recipient = address("original-recipient");
    let final_recipient = address("final-recipient").or_else(|| original_recipient.clone())?;
    let diagnostic = field(group, "diagnostic-code")
        .map(typed)
        .unwrap_or_default();
    let status = field(group, "status")
        .and_then(Status::parse)
        .or_else(|| status_in(diagnostic));
    let action = match field(group, "action")?.to_ascii_lowercase().as_str() {
        "failed" => Action::Failed,
        "delayed" => Action::Delayed,
        "delivered" => Action::Delivered,
        "relayed" => Action::Relayed,
        "expanded" => Action::Expanded,
        _ => return None,
    };
    Some(DsnRecipient {
        final_recipient,
        original_recipient,
        action,
        status: status.unwrap_or(match action {
            Action::Failed => undefined(5),
            Action::Delayed => undefined(4),
            Action::Delivered | Action::Relayed | Action::Expanded => undefined(2),
        }),
        diagnostic: cut(diagnostic),
    })
}

/// RFC 3463 §3.1: other undefined status.
fn undefined(class: u8) -> Status {
    Status {
        class,
        subject: 0,
        detail: 0,
    }
}

fn field<'a>(group: &'a Fields, name: &str) -> Option<&'a str> {
    let found = group.iter().find(|(found, _)| found == name);
    found.map(|(_, value)| value.as_str())
}

/// What stands after the type, as in `rfc822; ada@example.com`.
fn typed(value: &str) -> &str {
    value.split_once(';').map_or(value, |(_, rest)| rest).trim()
}

fn address(text: &str) -> Option<EmailAddress> {
    EmailAddress::parse(text.trim().trim_start_matches('<').trim_end_matches('>')).ok()
}

/// The id of the returned message, or of its headers.
fn returned_id(parsed: &Message<'_>) -> Option<String> {
    parsed.parts.iter().find_map(|part| {
        if let mail_parser::PartType::Message(inner) = &part.body {
            return inner.message_id().and_then(bare_id);
        }
        if is_type(part, "text", &["rfc822-headers"])
            || is_type(part, "message", &["global-headers"])
        {
            let inner = MessageParser::default().parse_headers(part.contents())?;
            return inner.message_id().and_then(bare_id);
        }
        None
    })
}

fn bare_id(id: &str) -> Option<String> {
    MessageIdText::new(id).ok().map(|id| id.as_str().to_owned())
}

fn is_type(part: &MessagePart<'_>, kind: &str, subtypes: &[&str]) -> bool {
    part.content_type().is_some_and(|found| {
        found.ctype().eq_ignore_ascii_case(kind)
            && found
                .subtype()
                .is_some_and(|s| subtypes.iter().any(|wanted| s.eq_ignore_ascii_case(wanted)))
    })
}

// === prose ===

/// Searches the text of a message that calls itself a failure notice.
fn prose(parsed: &Message<'_>) -> Option<Dsn> {
    if !is_notice(parsed) {
        return None;
    }
    let body = parsed.body_text(0)?;
    let (notice, returned) = split_returned(&body);
    let lines = || notice.lines().take(PROSE_LINES_MAX);
    let status = lines().find_map(status_in)?;
    let diagnostic = lines().find(|line| status_in(line).is_some());
    let from = parsed.from().and_then(mail_parser::Address::first);
    let own = from.and_then(|from| EmailAddress::parse(from.address()?).ok());
    let mut recipients: Vec<DsnRecipient> = Vec::new();
    for found in lines().flat_map(addresses_in) {
        let known = recipients.iter().any(|r| r.final_recipient == found);
        if known || own.as_ref() == Some(&found) || is_system(&found) {
            continue;
        }
        recipients.push(DsnRecipient {
            final_recipient: found,
            original_recipient: None,
            action: if status.class == 4 {
                Action::Delayed
            } else {
                Action::Failed
            },
            status,
            diagnostic: cut(diagnostic.unwrap_or_default()),
        });
        // Prose names the recipient first; what follows are signatures and helpdesks.
        break;
    }
    if recipients.is_empty() {
        return None;
    }
    Some(Dsn {
        recipients,
        original_message_id: returned_id(parsed).or_else(|| id_in(returned)),
        reporting_host: String::new(),
    })
}

fn is_notice(parsed: &Message<'_>) -> bool {
    let from = parsed.from().and_then(mail_parser::Address::first);
    let from = from.and_then(|from| from.address()).unwrap_or_default();
    let local = from
        .split('@')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let subject = parsed.subject().unwrap_or_default().to_ascii_lowercase();
    matches!(local.as_str(), "mailer-daemon" | "postmaster" | "")
        && [
            "undeliver",
            "failure",
            "failed",
            "returned",
            "delivery",
            "delay",
        ]
        .iter()
        .any(|word| subject.contains(word))
}

fn is_system(address: &EmailAddress) -> bool {
    let local = address.local().to_ascii_lowercase();
    matches!(
        local.as_str(),
        "mailer-daemon" | "postmaster" | "abuse" | "helpdesk" | "support"
    )
}

/// Parts the notice from the copy of our message below it.
fn split_returned(body: &str) -> (&str, &str) {
    let marks = [
        "--- Below this line is a copy",
        "Original message",
        "original message headers",
    ];
    let at = marks.iter().filter_map(|mark| body.find(mark)).min();
    body.split_at(at.unwrap_or(body.len()))
}

/// The id in a `Message-ID:` line.
fn id_in(text: &str) -> Option<String> {
    text.lines().take(PROSE_LINES_MAX).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_id = name.trim().eq_ignore_ascii_case("message-id");
        is_id.then(|| bare_id(value)).flatten()
    })
}

/// An enhanced code of class 4 or 5 in running text, or what a bare reply code comes to.
fn status_in(line: &str) -> Option<Status> {
    let clean = |word: &str| {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        bare.strip_prefix('#').unwrap_or(bare).to_owned()
    };
    let mut basic = None;
    for word in line.split(|c: char| c.is_whitespace() || c == '-' || c == '#') {
        let word = clean(word);
        if let Some(status) = Status::parse(&word)
            && status.class != 2
        {
            return Some(status);
        }
        if basic.is_none() && word.len() == 3 && word.bytes().all(|b| b.is_ascii_digit()) {
            basic = match word.as_bytes()[0] {
                b'4' => Some(undefined(4)),
                b'5' => Some(undefined(5)),
                _ => None,
            };
        }
    }
    basic
}

fn addresses_in(line: &str) -> Vec<EmailAddress> {
    line.split(|c: char| c.is_whitespace() || "<>()[],;:\"'".contains(c))
        .filter(|word| word.contains('@'))
        .filter_map(|word| EmailAddress::parse(word.trim_end_matches('.')).ok())
        .collect()
}

fn cut(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(REPLY_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests;
