//! Writing a message (RFC 5322, MIME). The same draft always becomes the same bytes.

use std::{fmt, fmt::Write};

use inboxgrove_model::{
    DomainName, EmailAddress, MessageId as Id, WallTime,
    limits::{MESSAGE_BYTES_MAX, RECIPIENTS_MAX},
};
use mail_auth::common::crypto::HashAlgorithm;
use mail_builder::{
    MessageBuilder,
    headers::{
        address::Address, content_type::ContentType, date::Date, message_id::MessageId, raw::Raw,
        text::Text, url::URL,
    },
    mime::{BodyPart, MimePart},
};

/// Longest text of one header before encoding: it becomes at most 4 KiB on the wire.
const HEADER_TEXT_CHARS_MAX: usize = 1000;
/// Longest message id that other software is known to keep whole (RFC 5322 §2.1.1: a line of 998).
const MESSAGE_ID_LEN_MAX: usize = 300;
/// References kept of a thread: the first and the newest (RFC 5322 §3.6.4 sets no limit, lines do).
const REFERENCES_MAX: usize = 20;
/// Longest unsubscribe link.
const URL_LEN_MAX: usize = 900;

/// Why a text does not fit into a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {kind}: {why}")]
pub struct TextError {
    kind: &'static str,
    why: &'static str,
}

/// Why a draft is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// Nobody to send it to.
    #[error("the message has no recipient")]
    NoRecipient,
    /// More than an envelope takes.
    #[error("the message has {found} recipients; at most {RECIPIENTS_MAX} are allowed")]
    TooManyRecipients {
        /// How many.
        found: usize,
    },
    /// Larger than servers take.
    #[error("the message has {found} bytes; at most {MESSAGE_BYTES_MAX} are allowed")]
    TooLarge {
        /// How many.
        found: usize,
    },
    /// The writer failed.
    #[error("the message was not written: {0}")]
    NotWritten(String),
}

/// Text for a header: a subject, a name. Without control characters, so it cannot end its line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderText(String);

/// A message id without its brackets: `left@right` (RFC 5322 §3.6.4).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageIdText(String);

/// An address with the name that people see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// The name.
    pub name: Option<HeaderText>,
    /// The address.
    pub address: EmailAddress,
}

/// How to leave a list with one click (RFC 8058): an https link that takes a POST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    url: String,
    mailto: Option<EmailAddress>,
}

/// A message before it is bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Who writes.
    pub from: Mailbox,
    /// To whom.
    pub to: Vec<Mailbox>,
    /// About what.
    pub subject: HeaderText,
    /// What, for readers without HTML. Any line ends.
    pub text: String,
    /// What, for readers with HTML.
    pub html: Option<String>,
    /// The message this one answers.
    pub in_reply_to: Option<MessageIdText>,
    /// The thread so far, oldest first.
    pub references: Vec<MessageIdText>,
    /// How to leave the list.
    pub list_unsubscribe: Option<Unsubscribe>,
    /// When it was written.
    pub date: WallTime,
    /// Its own id.
    pub message_id: MessageIdText,
    /// RFC 3834: whether a machine wrote it, so that other machines stay silent.
    pub auto_submitted: bool,
}

// === impl HeaderText ===

impl HeaderText {
    /// Takes text of at most 1000 characters, none of them a control character (RFC 5322 §2.2).
    pub fn new(text: &str) -> Result<Self, TextError> {
        let bad = |why| TextError {
            kind: "text for a header",
            why,
        };
        if text.chars().count() > HEADER_TEXT_CHARS_MAX {
            return Err(bad("it is longer than 1000 characters"));
        }
        if text.chars().any(ends_or_hides) {
            return Err(bad("it holds a line end or another control character"));
        }
        Ok(Self(text.to_owned()))
    }

    /// Makes any text fit: control characters become spaces, the rest is cut.
    pub fn lossy(text: &str) -> Self {
        let fit = |c| if ends_or_hides(c) { ' ' } else { c };
        Self(text.chars().map(fit).take(HEADER_TEXT_CHARS_MAX).collect())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Controls, and the separators that some software takes for line ends.
fn ends_or_hides(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

impl fmt::Debug for HeaderText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

// === impl MessageIdText ===

impl MessageIdText {
    /// Takes `left@right` with or without brackets: printable ASCII without blanks, brackets, commas.
    pub fn new(text: &str) -> Result<Self, TextError> {
        let bad = |why| TextError {
            kind: "a message id",
            why,
        };
        let bare = text.trim();
        let bare = bare
            .strip_prefix('<')
            .and_then(|rest| rest.strip_suffix('>'))
            .unwrap_or(bare);
        if bare.len() > MESSAGE_ID_LEN_MAX {
            return Err(bad("it is longer than 300 characters"));
        }
        let fits = |c: char| c.is_ascii_graphic() && !"<>(),;:\\\"".contains(c);
        let parts = bare.split_once('@');
        match parts {
            Some((left, right)) if !left.is_empty() && !right.is_empty() => {}
            _ => return Err(bad("expected left@right")),
        }
        if !bare.chars().all(fits) || bare.matches('@').count() != 1 {
            return Err(bad("expected printable ASCII without blanks and brackets"));
        }
        Ok(Self(bare.to_owned()))
    }

    /// The id of one of our own messages.
    pub fn of(id: Id, domain: &DomainName) -> Self {
        // Both halves are of the alphabet, and 30 and 253 characters are few enough for any line.
        Self(format!("{id}@{domain}"))
    }

    /// The id without its brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for MessageIdText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for MessageIdText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Mailbox, Unsubscribe ===

impl From<EmailAddress> for Mailbox {
    fn from(address: EmailAddress) -> Self {
        Self {
            name: None,
            address,
        }
    }
}

impl Mailbox {
    fn to_header(&self) -> Address<'_> {
        let name = self.name.as_ref().map(HeaderText::as_str);
        Address::new_address(name, self.address.as_str())
    }
}

impl Unsubscribe {
    /// Takes an https link (RFC 8058 §3.1) and, for older software, an address.
    pub fn new(url: &str, mailto: Option<EmailAddress>) -> Result<Self, TextError> {
        let bad = |why| TextError {
            kind: "an unsubscribe link",
            why,
        };
        let rest = url
            .strip_prefix("https://")
            .ok_or_else(|| bad("expected https://"))?;
        if rest.is_empty() || url.len() > URL_LEN_MAX {
            return Err(bad("expected a link of at most 900 characters"));
        }
        if !url
            .chars()
            .all(|c| c.is_ascii_graphic() && !"<>\",".contains(c))
        {
            return Err(bad(
                "expected printable ASCII without blanks, brackets and commas",
            ));
        }
        Ok(Self {
            url: url.to_owned(),
            mailto,
        })
    }
}

// === impl Draft ===

impl Draft {
    /// A message that starts a thread: plain text, written by a person.
    pub fn new(
        from: Mailbox,
        to: Vec<Mailbox>,
        subject: HeaderText,
        text: String,
        date: WallTime,
        message_id: MessageIdText,
    ) -> Self {
        Self {
            from,
            to,
            subject,
            text,
            html: None,
            in_reply_to: None,
            references: Vec::new(),
            list_unsubscribe: None,
            date,
            message_id,
            auto_submitted: false,
        }
    }

    /// The bytes of the message, lines ended by CRLF. Not signed yet.
    pub fn compose(&self) -> Result<Vec<u8>, ComposeError> {
        if self.to.is_empty() {
            return Err(ComposeError::NoRecipient);
        }
        if self.to.len() > RECIPIENTS_MAX {
            return Err(ComposeError::TooManyRecipients {
                found: self.to.len(),
            });
        }
        let rough = self.text.len() + self.html.as_ref().map_or(0, String::len);
        if rough > MESSAGE_BYTES_MAX {
            return Err(ComposeError::TooLarge { found: rough });
        }
        let to = self.to.iter().map(Mailbox::to_header).collect();
        let mut message = MessageBuilder::new()
            .from(self.from.to_header())
            .to(Address::new_list(to))
            .subject(Text::new(self.subject.as_str()))
            .date(Date::new(self.date.as_secs()))
            .message_id(MessageId::new(self.message_id.as_str()));
        if let Some(answered) = &self.in_reply_to {
            message = message.in_reply_to(MessageId::new(answered.as_str()));
        }
        let references = self.thread();
        if !references.is_empty() {
            message = message.references(MessageId::new_list(references.into_iter()));
        }
        if let Some(unsubscribe) = &self.list_unsubscribe {
            let mailto = unsubscribe.mailto.as_ref().map(|a| format!("mailto:{a}"));
            let links = std::iter::once(unsubscribe.url.clone()).chain(mailto);
            message = message
                .header("List-Unsubscribe", URL::new_list(links))
                .header(
                    "List-Unsubscribe-Post",
                    Raw::new("List-Unsubscribe=One-Click"),
                );
        }
        if self.auto_submitted {
            message = message.header("Auto-Submitted", Raw::new("auto-generated"));
        }
        let bytes = message
            .body(self.body())
            .write_to_vec()
            .map_err(|why| ComposeError::NotWritten(why.to_string()))?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(ComposeError::TooLarge { found: bytes.len() });
        }
        Ok(bytes)
    }

    /// The thread with the answered message at its end; a long one keeps its first and its newest ids.
    fn thread(&self) -> Vec<&str> {
        let mut ids: Vec<_> = self.references.iter().map(MessageIdText::as_str).collect();
        if let Some(answered) = &self.in_reply_to {
            ids.retain(|id| *id != answered.as_str());
            ids.push(answered.as_str());
        }
        if ids.len() > REFERENCES_MAX {
            ids.drain(1..=ids.len() - REFERENCES_MAX);
        }
        ids
    }

    fn body(&self) -> MimePart<'_> {
        let text = MimePart::new("text/plain", unix_lines(&self.text));
        match &self.html {
            None => text,
            Some(html) => {
                let html = MimePart::new("text/html", unix_lines(html));
                let kind = ContentType::new("multipart/alternative")
                    .attribute("boundary", self.boundary());
                MimePart::new(kind, BodyPart::Multipart(vec![text, html]))
            }
        }
    }

    /// The library would make one from the time and the thread. A hash over everything is the same each time
    /// and cannot stand in the text it is made from.
    fn boundary(&self) -> String {
        let html = self.html.as_deref().unwrap_or_default();
        let whole = format!("{}\0{}\0{html}", self.message_id, self.text);
        let hash = HashAlgorithm::Sha256.hash(whole.as_bytes());
        let mut boundary = String::from("=_");
        for byte in &hash.as_ref()[..20] {
            write!(boundary, "{byte:02x}").expect("a String takes what is written to it");
        }
        boundary
    }
}

/// The encoder wants one kind of line end and writes CRLF.
fn unix_lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

#[cfg(test)]
mod tests;
