//! Reading a message that a stranger wrote.

use inboxgrove_model::{
    EmailAddress,
    limits::{MESSAGE_BYTES_MAX, SUBJECT_CHARS_MAX},
};
use mail_parser::{Address, HeaderValue, Message, MessageParser};

use super::MessageIdText;

/// Longest header section (common servers stop between 64 KiB and 1 MiB).
const HEADER_BYTES_MAX: usize = 256 * 1024;
/// Lines of the header section, folded ones counted.
const HEADER_LINES_MAX: usize = 5_000;
/// Bytes of a message that are looked at for its text.
const BODY_BYTES_LOOKED_AT: usize = 1024 * 1024;
/// Bytes kept of its text.
const TEXT_BYTES_MAX: usize = 64 * 1024;
/// Ids kept of a thread.
const REFERENCES_MAX: usize = 50;
/// Recipients read out of To.
const TO_MAX: usize = 50;

/// Why a message is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// Larger than we take.
    #[error("the message has {found} bytes; at most {MESSAGE_BYTES_MAX} are read")]
    TooLarge {
        /// How many.
        found: usize,
    },
    /// Its header section is no honest one.
    #[error(
        "the header section is too long: at most {HEADER_BYTES_MAX} bytes and {HEADER_LINES_MAX} lines are read"
    )]
    HeaderTooLong,
    /// There is nothing that could be a header.
    #[error("the message has no headers")]
    NoHeaders,
}

/// What a message says of itself. Nothing of it is proven.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspection {
    /// `Message-ID` without brackets.
    pub message_id: Option<String>,
    /// The first id of `In-Reply-To`.
    pub in_reply_to: Option<String>,
    /// The ids of `References`, oldest first, at most 50.
    pub references: Vec<String>,
    /// The first address of `From`.
    pub from: Option<EmailAddress>,
    /// The name beside it.
    pub from_name: String,
    /// The addresses of `To`, at most 50.
    pub to: Vec<EmailAddress>,
    /// `Subject`, decoded, cut at 200 characters.
    pub subject: String,
    /// The text a person would read, cut at 64 KiB, lines ended by `\n`.
    pub text: String,
    /// What a filtering gateway said (`X-Spam-Flag`, the topmost). To be believed from a trusted one only.
    pub spam_verdict: Option<SpamVerdict>,
    /// Whether a machine wrote it (RFC 3834, and what older software uses): never answer it.
    pub automatic: bool,
}

/// What a filtering gateway said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpamVerdict {
    /// `X-Spam-Flag: YES`.
    Spam,
    /// `X-Spam-Flag: NO`.
    NotSpam,
}

impl Inspection {
    /// The first message of the thread this one belongs to: its own id when it answers nothing.
    pub fn thread(&self) -> Option<&str> {
        let first = self.references.first();
        first
            .or(self.in_reply_to.as_ref())
            .or(self.message_id.as_ref())
            .map(String::as_str)
    }
}

/// Reads the headers and the text of a message. CPU work, bounded by the limits above.
pub fn inspect(message: &[u8]) -> Result<Inspection, InspectError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(InspectError::TooLarge {
            found: message.len(),
        });
    }
    let header_len = header_len(message).ok_or(InspectError::HeaderTooLong)?;
    let looked_at = message.len().min(header_len + BODY_BYTES_LOOKED_AT);
    let parsed = MessageParser::default()
        .parse(&message[..looked_at])
        .ok_or(InspectError::NoHeaders)?;
    let from = parsed.from().and_then(Address::first);
    let subject = parsed.subject().unwrap_or_default();
    Ok(Inspection {
        message_id: parsed.message_id().and_then(bare_id),
        in_reply_to: ids(parsed.in_reply_to()).into_iter().next(),
        references: ids(parsed.references()),
        from: from
            .and_then(mail_parser::Addr::address)
            .and_then(|address| EmailAddress::parse(address).ok()),
        from_name: one_line(from.and_then(mail_parser::Addr::name).unwrap_or_default()),
        to: recipients(&parsed),
        subject: one_line(subject),
        text: text(&parsed),
        spam_verdict: spam_verdict(&parsed),
        automatic: is_automatic(&parsed),
    })
}

/// Bytes before the empty line. `None` when there are too many of them, or too many lines.
fn header_len(message: &[u8]) -> Option<usize> {
    let mut len = 0;
    for (i, line) in message.split_inclusive(|b| *b == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            return Some(len);
        }
        len += line.len();
        if len > HEADER_BYTES_MAX || i >= HEADER_LINES_MAX {
            return None;
        }
    }
    Some(len)
}

fn ids(value: &HeaderValue<'_>) -> Vec<String> {
    let list = value.as_text_list().unwrap_or_default();
    let mut ids: Vec<_> = list.iter().filter_map(|id| bare_id(id)).collect();
    if ids.len() > REFERENCES_MAX {
        ids.drain(1..=ids.len() - REFERENCES_MAX);
    }
    ids
}

fn bare_id(id: &str) -> Option<String> {
    MessageIdText::new(id).ok().map(|id| id.as_str().to_owned())
}

fn recipients(parsed: &Message<'_>) -> Vec<EmailAddress> {
    let Some(to) = parsed.to() else {
        return Vec::new();
    };
    to.iter()
        .take(TO_MAX)
        .filter_map(|one| EmailAddress::parse(one.address()?).ok())
        .collect()
}

fn text(parsed: &Message<'_>) -> String {
    let body = parsed.body_text(0).unwrap_or_default();
    let mut text = body.replace("\r\n", "\n");
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    }
    text.truncate(text.trim_end().len());
    text
}

/// Decoded text on one line, cut.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(SUBJECT_CHARS_MAX)
        .collect::<String>()
        .trim()
        .to_owned()
}

/// The topmost flag counts: each hop adds above what it got.
fn spam_verdict(parsed: &Message<'_>) -> Option<SpamVerdict> {
    let (_, value) = parsed
        .headers_raw()
        .find(|(name, _)| name.eq_ignore_ascii_case("X-Spam-Flag"))?;
    match value.trim().to_ascii_uppercase().as_str() {
        "YES" => Some(SpamVerdict::Spam),
        "NO" => Some(SpamVerdict::NotSpam),
        _ => None,
    }
}

fn is_automatic(parsed: &Message<'_>) -> bool {
    parsed.headers_raw().any(|(name, value)| {
        let value = value.trim().to_ascii_lowercase();
        match name.to_ascii_lowercase().as_str() {
            // RFC 3834 §5: every value but "no".
            "auto-submitted" => value != "no",
            "precedence" => matches!(value.as_str(), "bulk" | "junk" | "list" | "auto_reply"),
            "x-auto-response-suppress" | "list-id" | "x-autoreply" => true,
            "return-path" => value == "<>",
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reply_is_understood() {
        let message = b"X-Spam-Flag: YES\r\nX-Spam-Flag: NO\r\nFrom: =?utf-8?Q?J=C3=B6rg?= <jorg@example.net>\r\nTo: Ada <ada@example.com>, <b@example.com>\r\nSubject: =?utf-8?B?UmU6IEjDqWxsbw==?=\r\nMessage-ID: <4@example.net>\r\nIn-Reply-To: <3@example.com>\r\nReferences: <1@example.com>\r\n <3@example.com>\r\n\r\nFine.\r\n\r\nThanks!\r\n";
        let seen = inspect(message).unwrap();
        assert_eq!(seen.message_id.as_deref(), Some("4@example.net"));
        assert_eq!(seen.in_reply_to.as_deref(), Some("3@example.com"));
        assert_eq!(seen.references, ["1@example.com", "3@example.com"]);
        assert_eq!(seen.thread(), Some("1@example.com"));
        assert_eq!(seen.from.unwrap().as_str(), "jorg@example.net");
        assert_eq!(seen.from_name, "Jörg");
        assert_eq!(seen.to.len(), 2);
        assert_eq!(seen.subject, "Re: Héllo");
        assert_eq!(seen.text, "Fine.\n\nThanks!");
        assert_eq!(seen.spam_verdict, Some(SpamVerdict::Spam));
        assert!(!seen.automatic);
    }

    #[test]
    fn machines_are_known_by_their_headers() {
        for (header, automatic) in [
            ("Auto-Submitted: auto-replied", true),
            ("auto-submitted: no", false),
            ("Precedence: bulk", true),
            ("List-Id: <l.example>", true),
            ("Return-Path: <>", true),
            ("Return-Path: <a@example.com>", false),
            ("Subject: auto", false),
        ] {
            let message = format!("{header}\r\nFrom: a@example.com\r\n\r\nx");
            assert_eq!(
                inspect(message.as_bytes()).unwrap().automatic,
                automatic,
                "{header}"
            );
        }
    }

    #[test]
    fn limits_hold() {
        let endless = [b"X: ".to_vec(), vec![b'a'; HEADER_BYTES_MAX + 1]].concat();
        assert_eq!(inspect(&endless), Err(InspectError::HeaderTooLong));
        let many = b"X: a\r\n".repeat(HEADER_LINES_MAX + 1);
        assert_eq!(inspect(&many), Err(InspectError::HeaderTooLong));
        let large = vec![b'a'; MESSAGE_BYTES_MAX + 1];
        assert!(matches!(
            inspect(&large),
            Err(InspectError::TooLarge { .. })
        ));
        let long = [
            b"From: a@example.com\r\n\r\n".to_vec(),
            vec![b'a'; 2_000_000],
        ]
        .concat();
        assert_eq!(inspect(&long).unwrap().text.len(), TEXT_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            // Whether it is a message at all is not the point.
            drop(inspect(&bytes));
        }

        #[test]
        fn any_mime_is_read_without_a_panic(lines in proptest::collection::vec(
            prop_oneof![
                Just("Content-Type: multipart/mixed; boundary=x"), Just("Content-Type: message/rfc822"),
                Just("Content-Transfer-Encoding: base64"), Just("--x"), Just("--x--"), Just(""), Just("AAAA"),
                Just("Subject: =?utf-8?B?"), Just("References: <<<"),
            ], 0..60)) {
            drop(inspect(lines.join("\r\n").as_bytes()));
        }
    }
}
