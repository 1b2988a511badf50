//! Replies of a server (RFC 5321 §4.2) with enhanced status codes (RFC 3463, RFC 2034).
//!
//! A reply of ours can hold any text: what would break out of its line is replaced when it is made.
//! A reply of others is parsed here and not by smtp-proto, whose enhanced codes end at 255, where
//! large receivers tell their reasons by codes such as 4.7.650.

use std::fmt;

/// Longest line of a reply with its CRLF (RFC 5321 §4.5.3.1.5).
const REPLY_LINE_MAX: usize = 512;
/// Room for text in a line of ours: less CRLF, code, separator and an enhanced code with its space.
const TEXT_LEN_MAX: usize = REPLY_LINE_MAX - 2 - 4 - 10;
/// Most lines kept of one text: more says nothing a person would read.
const TEXT_LINES_MAX: usize = 100;
/// The code that stands in for one that is none: a fault of ours, so try again later.
const CODE_OF_OURS: u16 = 451;

/// What a reply's first digit says (RFC 5321 §4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Done, or go on (2yz, 3yz).
    Positive,
    /// Not now (4yz).
    Transient,
    /// Not like this (5yz).
    Permanent,
}

/// An enhanced status code, as in 5.1.1 (RFC 3463).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnhancedStatus {
    /// 2, 4 or 5.
    pub class: u8,
    /// What it is about, up to 999.
    pub subject: u16,
    /// What about it, up to 999.
    pub detail: u16,
}

/// What a server said to one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    enhanced: Option<EnhancedStatus>,
    lines: Vec<String>,
}

/// Why bytes are no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A line does not begin with a code from 200 to 599 and a separator.
    #[error("expected a reply code, found {found:?}")]
    NoCode {
        /// The line, at most 80 characters of it.
        found: String,
    },
    /// The lines of one reply differ in their code.
    #[error("a reply of code {first} went on with code {then}")]
    CodeChanged {
        /// The code of the first line.
        first: u16,
        /// The other code.
        then: u16,
    },
    /// The last line says that another follows, or a line follows the last.
    #[error("a reply of code {code} does not end where it should")]
    Unfinished {
        /// Its code.
        code: u16,
    },
    /// There is no line at all.
    #[error("an empty reply")]
    Empty,
}

/// One line of a reply, taken apart.
struct ReplyLine<'a> {
    code: u16,
    last: bool,
    text: &'a str,
}

// === impl EnhancedStatus ===

impl EnhancedStatus {
    /// The code `class.subject.detail`.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self {
            class,
            subject,
            detail,
        }
    }

    /// Reads a code at the head of `text`, and what follows it.
    fn strip(text: &str) -> Option<(Self, &str)> {
        let (head, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut numbers = head.split('.');
        let class = numbers.next().and_then(small_number)?;
        let subject = numbers.next().and_then(small_number)?;
        let detail = numbers.next().and_then(small_number)?;
        if numbers.next().is_some() || !matches!(class, 2 | 4 | 5) {
            return None;
        }
        let class = u8::try_from(class).ok()?;
        Some((Self::new(class, subject, detail), rest))
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

// === impl Reply ===

impl Reply {
    /// A reply with an enhanced code. A code outside 200 to 599 is a mistake of ours and becomes 451.
    pub fn new(code: u16, enhanced: EnhancedStatus, text: &str) -> Self {
        Self {
            enhanced: Some(enhanced),
            ..Self::plain(code, text)
        }
    }

    /// A reply without an enhanced code: greetings, 354 and answers to EHLO have none (RFC 2034 §4).
    pub fn plain(code: u16, text: &str) -> Self {
        Self {
            code: if (200..600).contains(&code) {
                code
            } else {
                CODE_OF_OURS
            },
            enhanced: None,
            lines: printable_lines(text),
        }
    }

    /// 250 2.0.0.
    pub fn ok(text: &str) -> Self {
        Self::new(250, EnhancedStatus::new(2, 0, 0), text)
    }

    /// The three digits.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced code, when there is one that agrees with the code.
    pub fn enhanced(&self) -> Option<EnhancedStatus> {
        self.enhanced
    }

    /// The text, its lines joined by a space, without codes and without control characters.
    pub fn text(&self) -> String {
        self.lines.join(" ")
    }

    /// The text, line by line.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// What its first digit says.
    pub fn severity(&self) -> Severity {
        match self.code {
            0..400 => Severity::Positive,
            400..500 => Severity::Transient,
            _ => Severity::Permanent,
        }
    }

    /// Whether the command is done: 2yz.
    pub fn is_done(&self) -> bool {
        self.code < 300
    }

    /// Parses one whole reply, its lines ended by CRLF (a bare LF is forgiven).
    pub fn parse(bytes: &[u8]) -> Result<Self, ReplyError> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.lines().map(ReplyLine::parse).peekable();
        let mut reply: Option<Self> = None;
        while let Some(line) = lines.next().transpose()? {
            if line.last == lines.peek().is_some() {
                return Err(ReplyError::Unfinished { code: line.code });
            }
            match &mut reply {
                None => reply = Some(line.begin()),
                Some(reply) => reply.go_on(&line)?,
            }
        }
        reply.ok_or(ReplyError::Empty)
    }

    /// The bytes to send, never more than one reply.
    pub fn render(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            let separator = if at + 1 == self.lines.len() { ' ' } else { '-' };
            bytes.extend(format!("{:03}{separator}", self.code).bytes());
            if let Some(enhanced) = self.enhanced {
                bytes.extend(format!("{enhanced} ").bytes());
            }
            bytes.extend(line.bytes());
            bytes.extend(b"\r\n");
        }
        bytes
    }

    fn go_on(&mut self, line: &ReplyLine<'_>) -> Result<(), ReplyError> {
        if line.code != self.code {
            return Err(ReplyError::CodeChanged {
                first: self.code,
                then: line.code,
            });
        }
        let (_, text) = line.split();
        if self.lines.len() < TEXT_LINES_MAX {
            self.lines.push(shown(text));
        }
        Ok(())
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        write!(f, " {}", self.text())
    }
}

// === impl ReplyLine ===

impl<'a> ReplyLine<'a> {
    fn parse(line: &'a str) -> Result<Self, ReplyError> {
        let no_code = || ReplyError::NoCode {
            found: line.chars().take(80).collect(),
        };
        let code = line
            .get(..3)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse::<u16>().ok())
            .filter(|code| (200..600).contains(code))
            .ok_or_else(no_code)?;
        let rest = &line[3..];
        let (last, text) = match rest.chars().next() {
            None => (true, ""),
            Some(' ') => (true, &rest[1..]),
            Some('-') => (false, &rest[1..]),
            Some(_) => return Err(no_code()),
        };
        Ok(Self { code, last, text })
    }

    fn begin(&self) -> Reply {
        let (enhanced, text) = self.split();
        Reply {
            code: self.code,
            enhanced,
            lines: vec![shown(text)],
        }
    }

    /// The enhanced code, if its class agrees with the code, and the text after it.
    fn split(&self) -> (Option<EnhancedStatus>, &'a str) {
        EnhancedStatus::strip(self.text)
            .filter(|(enhanced, _)| u16::from(enhanced.class) == self.code / 100)
            .map_or((None, self.text), |(enhanced, text)| (Some(enhanced), text))
    }
}

/// A number of one to three digits.
fn small_number(text: &str) -> Option<u16> {
    (1..=3).contains(&text.len()).then_some(())?;
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(())?;
    text.parse().ok()
}

/// Text of others as it may be shown and stored: no control characters.
fn shown(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    clean.trim().to_owned()
}

/// Text of ours as lines that fit: printable ASCII only (RFC 5321 §4.2), at least one line.
fn printable_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.lines().take(TEXT_LINES_MAX) {
        let clean: Vec<u8> = line
            .chars()
            .map(|c| match c {
                c if c.is_control() => b' ',
                c => u8::try_from(c).ok().filter(u8::is_ascii).unwrap_or(b'?'),
            })
            .collect();
        for part in clean.chunks(TEXT_LEN_MAX) {
            lines.push(String::from_utf8_lossy(part).into_owned());
        }
    }
    if lines.is_empty() {
        lines.push(String::new());
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn replies_of_others_are_understood() {
        let cases = [
            ("250 ok\r\n", 250, None, "ok"),
            ("250\r\n", 250, None, ""),
            ("250 2.1.5 Ok\r\n", 250, Some((2, 1, 5)), "Ok"),
            (
                "450 4.7.650 throttled\r\n",
                450,
                Some((4, 7, 650)),
                "throttled",
            ),
            (
                "550-5.1.1 No such\r\n550 5.1.1 user. gsmtp\r\n",
                550,
                Some((5, 1, 1)),
                "No such user. gsmtp",
            ),
            ("550 2.1.5 mismatch\r\n", 550, None, "2.1.5 mismatch"),
            ("550 5.1 short\r\n", 550, None, "5.1 short"),
            ("550 5.7.1\r\n", 550, Some((5, 7, 1)), ""),
            ("421 a\u{7}b\n", 421, None, "a b"),
        ];
        for (bytes, code, enhanced, text) in cases {
            let reply = Reply::parse(bytes.as_bytes()).unwrap();
            assert_eq!(reply.code(), code, "{bytes:?}");
            let found = reply.enhanced().map(|e| (e.class, e.subject, e.detail));
            assert_eq!(found, enhanced, "{bytes:?}");
            assert_eq!(reply.text(), text, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bytes in [
            "",
            "hello\r\n",
            "25 ok\r\n",
            "199 ok\r\n",
            "600 ok\r\n",
            "250_ok\r\n",
            "250-a\r\n251 b\r\n",
            "250-a\r\n",
            "250 a\r\n250 b\r\n",
            "\u{e9}50 ok\r\n",
        ] {
            assert!(Reply::parse(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_code_that_is_none_becomes_a_fault_of_ours() {
        assert_eq!(Reply::plain(0, "x").code(), 451);
        assert_eq!(Reply::plain(700, "x").severity(), Severity::Transient);
    }

    proptest! {
        #[test]
        fn a_rendered_reply_is_one_reply(code in 200_u16..600, text in "(\\PC|[\\x00-\\x1f]){0,1200}") {
            let class = u8::try_from(code / 100).unwrap();
            let reply = Reply::new(code, EnhancedStatus::new(class, 7, 1), &text);
            let bytes = reply.render();
            prop_assert!(bytes.ends_with(b"\r\n"));
            for line in bytes.strip_suffix(b"\r\n").unwrap().split(|byte| *byte == b'\n') {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                prop_assert!(line.iter().all(|byte| (b' '..=b'~').contains(byte)));
                prop_assert!(line.len() + 2 <= REPLY_LINE_MAX);
            }
            prop_assert_eq!(Reply::parse(&bytes).unwrap().code(), code);
        }

        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Reply::parse(&bytes));
        }
    }
}
