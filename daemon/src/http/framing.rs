//! Watches the bytes of an HTTP/1 connection for the one thing hyper hides: a request with both
//! `Content-Length` and `Transfer-Encoding` (RFC 9112 §6.1), the root of request smuggling.
//!
//! hyper drops the length silently, so nothing above it can tell. The watcher reads along: heads whole,
//! bodies by their length. After a chunked request it stops, because the server closes the connection
//! after answering one; so it never has to know where a chunked body ends.

use memchr::memchr;

/// Most bytes of a head that are looked at; hyper refuses longer ones with 431.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What a connection's bytes have shown so far.
#[derive(Debug)]
pub(crate) struct Framing {
    state: State,
}

/// What a piece of input showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing wrong.
    Fine,
    /// A request with both headers.
    Ambiguous,
}

#[derive(Debug)]
enum State {
    /// Collecting a head.
    Head(Vec<u8>),
    /// Passing a body of this many more bytes.
    Body(u64),
    /// Nothing more to tell: a chunked request, or a head that hyper will refuse.
    Done,
}

/// The two headers of a head.
#[derive(Debug, Default)]
struct Lengths {
    content_length: Option<Length>,
    transfer_encoding: bool,
}

/// What a `Content-Length` says.
#[derive(Debug)]
enum Length {
    Bytes(u64),
    /// No number: hyper refuses the request.
    Unreadable,
}

impl Framing {
    /// At the start of a connection.
    pub(crate) fn new() -> Self {
        Self {
            state: State::Head(Vec::new()),
        }
    }

    /// Looks at the next bytes that came in.
    pub(crate) fn see(&mut self, mut bytes: &[u8]) -> Seen {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Done => return Seen::Fine,
                State::Body(left) => {
                    let here = bytes
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= here as u64;
                    bytes = &bytes[here..];
                    if *left == 0 {
                        self.state = State::Head(Vec::new());
                    }
                }
                State::Head(head) => {
                    let known = head.len();
                    // A head nearly always comes in one piece: then nothing is copied.
                    let at_once = if known == 0 { head_end(bytes, 0) } else { None };
                    let (lengths, used) = if let Some(end) = at_once {
                        (Lengths::of(&bytes[..end]), end)
                    } else {
                        head.extend_from_slice(bytes);
                        let Some(end) = head_end(head, known) else {
                            if head.len() > HEAD_BYTES_MAX {
                                self.state = State::Done;
                            }
                            return Seen::Fine;
                        };
                        (Lengths::of(&head[..end]), end - known)
                    };
                    bytes = &bytes[used..];
                    self.state = lengths.body();
                    if lengths.ambiguous() {
                        return Seen::Ambiguous;
                    }
                }
            }
        }
        Seen::Fine
    }
}

impl Lengths {
    fn of(head: &[u8]) -> Self {
        let mut found = Self::default();
        let mut rest = head;
        while !rest.is_empty() {
            let end = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            let line;
            (line, rest) = rest.split_at(end);
            let Some(colon) = memchr(b':', line) else {
                continue;
            };
            let name = line[..colon].trim_ascii();
            let value = line[colon + 1..].trim_ascii();
            if name.eq_ignore_ascii_case(b"transfer-encoding") {
                found.transfer_encoding = true;
            } else if name.eq_ignore_ascii_case(b"content-length") {
                let length = std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse().ok());
                found.content_length = Some(length.map_or(Length::Unreadable, Length::Bytes));
            }
        }
        found
    }

    fn ambiguous(&self) -> bool {
        self.transfer_encoding && self.content_length.is_some()
    }

    /// What comes after the head.
    fn body(&self) -> State {
        match self.content_length {
            // The server closes the connection after a chunked request.
            _ if self.transfer_encoding => State::Done,
            Some(Length::Unreadable) => State::Done,
            Some(Length::Bytes(length)) if length > 0 => State::Body(length),
            Some(Length::Bytes(_)) | None => State::Head(Vec::new()),
        }
    }
}

/// Where the head ends, looking no further back than the bytes that are new. Leading empty lines are
/// part of it, as hyper skips them.
fn head_end(head: &[u8], known: usize) -> Option<usize> {
    let start = head
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let mut at = known.saturating_sub(3).max(start);
    while let Some(line) = memchr(b'\n', &head[at..]) {
        at += line + 1;
        match &head[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: &[u8] =
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    const PLAIN: &[u8] = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello";

    #[test]
    fn both_headers_are_seen_in_either_order() {
        assert_eq!(Framing::new().see(BOTH), Seen::Ambiguous);
        let other = b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nCONTENT-LENGTH : 1\r\n\r\n";
        assert_eq!(Framing::new().see(other), Seen::Ambiguous);
        let bare = b"GET / HTTP/1.1\nTransfer-Encoding: chunked\nContent-Length: 1\n\n";
        assert_eq!(Framing::new().see(bare), Seen::Ambiguous);
    }

    #[test]
    fn ordinary_requests_are_fine() {
        for bytes in [
            PLAIN,
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            assert_eq!(Framing::new().see(bytes), Seen::Fine, "{bytes:?}");
        }
    }

    #[test]
    fn a_body_that_looks_like_a_head_is_not_one() {
        let mut framing = Framing::new();
        let inner = BOTH.len();
        let outer = format!("POST / HTTP/1.1\r\nContent-Length: {inner}\r\n\r\n");
        assert_eq!(framing.see(outer.as_bytes()), Seen::Fine);
        assert_eq!(framing.see(BOTH), Seen::Fine);
        assert_eq!(framing.see(BOTH), Seen::Ambiguous);
    }

    proptest! {
        #[test]
        fn it_is_seen_however_the_bytes_are_cut(cuts in prop::collection::vec(1_usize..40, 1..60), before in 0_usize..4) {
            let mut input = PLAIN.repeat(before);
            input.extend_from_slice(BOTH);
            let mut framing = Framing::new();
            let mut rest = input.as_slice();
            let mut seen = Seen::Fine;
            for cut in cuts.iter().cycle() {
                if rest.is_empty() || seen == Seen::Ambiguous { break; }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                seen = framing.see(now);
                rest = later;
            }
            prop_assert_eq!(seen, Seen::Ambiguous);
        }

        #[test]
        fn no_input_breaks_it(input in prop::collection::vec(any::<u8>(), 0..4096)) {
            Framing::new().see(&input);
        }
    }
}
