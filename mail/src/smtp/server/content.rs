//! Reads the text of a message up to CRLF.CRLF, byte by byte in its meaning, so that no segmentation
//! and no odd line ending can move the end (RFC 5321 §4.1.1.4, §4.5.2).
//!
//! smtp-proto's receiver is not used: it lets bare CR and LF through, takes CRLF.CR CRLF for the end
//! and does not see an end right behind DATA.

use crate::smtp::{EnhancedStatus, Reply};

use super::Limits;

/// By at least so much a message's memory grows: a page or two of text.
const GROWTH_BYTES_MIN: usize = 8 * 1024;

/// The text of one message while it comes in.
pub(super) struct Content {
    at: At,
    message: Vec<u8>,
    received: u64,
    fault: Option<Fault>,
    line_len: usize,
    line_start: usize,
    header: Option<Header>,
}

/// Why a message is refused at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A CR or LF outside of CRLF, or a NUL.
    Broken,
    /// Larger than announced in EHLO.
    TooBig,
    /// A line longer than allowed.
    LineTooLong,
    /// A header section with too many bytes or lines.
    HeaderTooBig,
    /// Too many `Received` fields.
    Loop,
    /// We have no memory for it now.
    NoRoom,
}

/// Where in a line we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// At its start; a dot here is stuffing or the end.
    Start,
    /// Behind a dot at its start.
    Dot,
    /// Behind a dot at its start and a CR.
    DotCr,
    /// Within it.
    Within,
    /// Behind a CR.
    Cr,
}

/// What was seen of the header section.
#[derive(Default)]
struct Header {
    bytes: usize,
    lines: usize,
    hops: usize,
}

// === impl Content ===

impl Content {
    pub(super) fn new() -> Self {
        Self {
            at: At::Start,
            message: Vec::new(),
            received: 0,
            fault: None,
            line_len: 0,
            line_start: 0,
            header: Some(Header::default()),
        }
    }

    /// Memory that it takes.
    pub(super) fn held(&self) -> u64 {
        self.message.capacity() as u64
    }

    /// Drops it: there is no memory for it. What is still to come is read to its end, and not kept.
    pub(super) fn give_up(&mut self) {
        self.refuse(Fault::NoRoom);
    }

    /// Bytes read so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Takes what it can of `input`: how many bytes it used, and whether the message has ended.
    pub(super) fn feed(&mut self, input: &[u8], limits: &Limits) -> (usize, bool) {
        let mut used = 0;
        while let Some(byte) = input.get(used) {
            if self.at == At::Within || self.at == At::Start {
                let run = plain_run(&input[used..], self.at);
                if run > 0 {
                    self.at = At::Within;
                    self.push(&input[used..used + run], limits);
                    used += run;
                    continue;
                }
            }
            used += 1;
            if self.step(*byte, limits) {
                self.count(used, limits);
                return (used, true);
            }
        }
        self.count(used, limits);
        (used, false)
    }

    /// The message, or why it is refused.
    pub(super) fn finish(self) -> Result<Vec<u8>, Fault> {
        match self.fault {
            None => Ok(self.message),
            Some(fault) => Err(fault),
        }
    }

    /// One byte that is not plain text where it stands; whether it ended the message.
    fn step(&mut self, byte: u8, limits: &Limits) -> bool {
        self.at = match (self.at, byte) {
            (At::DotCr, b'\n') => return true,
            (At::Cr, b'\n') => {
                self.end_line(limits);
                At::Start
            }
            (At::Start, b'.') => At::Dot,
            (At::Dot, b'\r') => At::DotCr,
            (At::Start | At::Within, b'\r') => At::Cr,
            (At::Cr | At::DotCr, b'\r') => {
                self.refuse(Fault::Broken);
                At::Cr
            }
            (At::Cr | At::DotCr, _) | (_, b'\n' | 0) => {
                self.refuse(Fault::Broken);
                At::Within
            }
            (At::Start | At::Dot | At::Within, _) => {
                self.push(&[byte], limits);
                At::Within
            }
        };
        false
    }

    fn push(&mut self, text: &[u8], limits: &Limits) {
        self.line_len += text.len();
        if self.line_len > limits.text_line_bytes {
            self.refuse(Fault::LineTooLong);
        }
        if self.fault.is_none() {
            self.grow(text.len() + 2);
            self.message.extend_from_slice(text);
        }
    }

    /// Makes room by a quarter at a time: a vector by itself doubles, which for a large message is much more
    /// than anybody was asked for.
    fn grow(&mut self, more: usize) {
        let len = self.message.len();
        if self.message.capacity() - len < more {
            self.message
                .reserve_exact(more.max(len / 4).max(GROWTH_BYTES_MIN));
        }
    }

    fn end_line(&mut self, limits: &Limits) {
        if self.fault.is_none() {
            self.grow(2);
            self.message.extend_from_slice(b"\r\n");
        }
        if let Some(header) = &mut self.header {
            header.bytes += self.line_len + 2;
            header.lines += 1;
            let line = self.message.get(self.line_start..).unwrap_or_default();
            header.hops += usize::from(is_received(line));
            let (big, looping) = (header.is_over(limits), header.hops > limits.hops);
            if self.line_len == 0 {
                self.header = None;
            } else if big {
                self.refuse(Fault::HeaderTooBig);
            } else if looping {
                self.refuse(Fault::Loop);
            }
        }
        self.line_start = self.message.len();
        self.line_len = 0;
    }

    fn count(&mut self, used: usize, limits: &Limits) {
        self.received += used as u64;
        // What the stuffing adds is forgiven by counting the message itself as long as we keep it.
        if self.message.len() as u64 > limits.message_bytes {
            self.refuse(Fault::TooBig);
        }
    }

    /// The first fault stays, but a broken line, which ends the session, comes before all others.
    fn refuse(&mut self, fault: Fault) {
        if fault == Fault::Broken {
            self.fault = Some(fault);
        } else {
            self.fault.get_or_insert(fault);
        }
        self.message = Vec::new();
    }
}

// === impl Header ===

impl Header {
    fn is_over(&self, limits: &Limits) -> bool {
        self.bytes > limits.header_bytes || self.lines > limits.header_lines
    }
}

// === impl Fault ===

impl Fault {
    /// What the client is told.
    pub(super) fn reply(self) -> Reply {
        let permanent = |code, subject, detail, text| {
            Reply::new(code, EnhancedStatus::new(5, subject, detail), text)
        };
        match self {
            Self::Broken => permanent(550, 6, 11, "bare CR, bare LF or NUL in the message"),
            Self::TooBig => permanent(552, 3, 4, "message too big"),
            Self::LineTooLong => permanent(550, 6, 0, "line longer than 998 octets"),
            Self::HeaderTooBig => permanent(550, 6, 0, "header section too big"),
            Self::Loop => permanent(554, 4, 6, "too many hops"),
            Self::NoRoom => Reply::new(
                452,
                EnhancedStatus::new(4, 3, 1),
                "too much mail at once, come again",
            ),
        }
    }
}

/// How many bytes at the head of `input` are text wherever a segment ends.
fn plain_run(input: &[u8], at: At) -> usize {
    if at == At::Start && input.first() == Some(&b'.') {
        return 0;
    }
    input
        .iter()
        .position(|byte| matches!(byte, b'\r' | b'\n' | 0))
        .unwrap_or(input.len())
}

fn is_received(line: &[u8]) -> bool {
    line.get(..9)
        .is_some_and(|name| name.eq_ignore_ascii_case(b"received:"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a receiver makes of `wire` in segments of `size`: the message or fault, and what is left.
    fn read(wire: &[u8], size: usize, limits: &Limits) -> Option<(Result<Vec<u8>, Fault>, usize)> {
        let mut content = Content::new();
        let mut used_before = 0;
        for segment in wire.chunks(size.max(1)) {
            let (used, done) = content.feed(segment, limits);
            if done {
                return Some((content.finish(), wire.len() - used_before - used));
            }
            used_before += segment.len();
        }
        None
    }

    fn check(wire: &str, limits: &Limits, expected: Option<(Result<&str, Fault>, usize)>) {
        for size in [1, 2, 3, 5, 7, 4096] {
            let found = read(wire.as_bytes(), size, limits);
            let found = found.map(|(message, rest)| {
                (message.map(|bytes| String::from_utf8(bytes).unwrap()), rest)
            });
            let expected = expected.map(|(message, rest)| (message.map(str::to_owned), rest));
            assert_eq!(found, expected, "{wire:?} by {size}");
        }
    }

    #[test]
    fn only_crlf_dot_crlf_ends_a_message() {
        let limits = Limits::default();
        check(".\r\n", &limits, Some((Ok(""), 0)));
        check("a\r\n.\r\nQUIT", &limits, Some((Ok("a\r\n"), 4)));
        check("..a\r\n.\r\n", &limits, Some((Ok(".a\r\n"), 0)));
        check("a\r\n..\r\n.\r\n", &limits, Some((Ok("a\r\n.\r\n"), 0)));
        check(".a\r\n.\r\n", &limits, Some((Ok("a\r\n"), 0)));
        check("a\r\n.", &limits, None);
        check("a\r\n.\r", &limits, None);
        for odd in [
            "\n.\n",
            "\n.\r\n",
            "\r\n.\n",
            "\r.\r",
            "\r.\r\n",
            "\r\n.\r",
            "\n.\r",
            "\r\n\0.\r\n",
            "\r\n.\0\r\n",
            "\r\0\n.\r\n",
            "\r\r\n.\r\r\n",
            "\r\n.\r\r\n",
            "\n\r.\r\n",
            "\r\n.\n\r",
        ] {
            let wire = format!("a{odd}b\r\n.\r\nQUIT");
            let found = read(wire.as_bytes(), 4096, &limits);
            let Some((Err(Fault::Broken), rest)) = found else {
                panic!("{wire:?} gave {found:?}");
            };
            assert_eq!(rest, 4, "{wire:?}");
        }
    }

    #[test]
    fn limits_hold() {
        let limits = Limits {
            text_line_bytes: 10,
            message_bytes: 30,
            header_bytes: 25,
            header_lines: 3,
            hops: 1,
            ..Limits::default()
        };
        let err = |fault| Some((Err(fault), 0));
        check("a: b\r\n\r\n0123456789\r\n.\r\n", &limits, {
            Some((Ok("a: b\r\n\r\n0123456789\r\n"), 0))
        });
        check("\r\n01234567890\r\n.\r\n", &limits, err(Fault::LineTooLong));
        check(
            "\r\n0123456789\r\n0123456789\r\n0123456789\r\n.\r\n",
            &limits,
            err(Fault::TooBig),
        );
        check("a:b\r\na:b\r\na:b\r\na:b\r\n\r\n.\r\n", &limits, {
            err(Fault::HeaderTooBig)
        });
        check("Received:\r\nreceived:\r\n\r\n.\r\n", &limits, {
            err(Fault::Loop)
        });
    }

    proptest! {
        #[test]
        fn segmentation_changes_nothing(wire in "[ab.\\r\\n\\x00]{0,40}", size in 1_usize..12) {
            let limits = Limits::default();
            let wire = format!("{wire}\r\n.\r\n");
            prop_assert_eq!(read(wire.as_bytes(), size, &limits), read(wire.as_bytes(), 4096, &limits));
        }
    }
}
