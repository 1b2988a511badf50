//! What a provider writes on a message it has taken: its verdict, its findings, and that it was here.

use std::net::IpAddr;

use inboxgrove_model::WallTime;

/// Header fields that only the provider itself may write: what comes with the message is taken off.
const OWN_FIELDS: [&[u8]; 2] = [b"x-spam-flag:", b"x-spam-score:"];

/// What is written on a message.
#[derive(Debug, Clone)]
pub(super) struct Stamp<'a> {
    /// Whether it belongs into the spam folder.
    pub(super) spam: bool,
    /// `Authentication-Results`, as a whole field ended by CRLF; empty when nothing was evaluated.
    pub(super) authentication: &'a str,
    /// What the client called itself.
    pub(super) helo: &'a str,
    /// Where it came from.
    pub(super) from: IpAddr,
    /// The host that took it.
    pub(super) by: &'a str,
    /// When.
    pub(super) at: WallTime,
}

// === impl Stamp ===

impl Stamp<'_> {
    /// The message with our fields on top and without forged ones.
    pub(super) fn put_on(&self, message: &[u8]) -> Vec<u8> {
        let mut stamped = Vec::with_capacity(message.len() + 512);
        stamped.extend(self.fields().bytes());
        let (header, body) = message.split_at(header_len(message));
        let mut forged = false;
        for line in header.split_inclusive(|byte| *byte == b'\n') {
            let folded = matches!(line.first(), Some(b' ' | b'\t'));
            if !folded {
                forged = OWN_FIELDS.iter().any(|name| starts_with_field(line, name));
            }
            if !forged {
                stamped.extend(line);
            }
        }
        stamped.extend(body);
        stamped
    }

    fn fields(&self) -> String {
        let verdict = if self.spam { "YES" } else { "NO" };
        let Self {
            authentication,
            helo,
            from,
            by,
            at,
            ..
        } = self;
        format!(
            "X-Spam-Flag: {verdict}\r\n{authentication}Received: from {helo} ([{from}])\r\n\tby {by} with ESMTP;\r\n\t{}\r\n",
            mail_date(*at),
        )
    }
}

/// Where the empty line begins that ends the header section (RFC 5322 §2.1); the whole length without one.
fn header_len(message: &[u8]) -> usize {
    if message.starts_with(b"\r\n") {
        return 0;
    }
    message
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .map_or(message.len(), |at| at + 2)
}

fn starts_with_field(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(name))
}

/// The date of a header field (RFC 5322 §3.3). A time that no calendar holds is the epoch.
fn mail_date(at: WallTime) -> String {
    let at = jiff::Timestamp::from_millisecond(at.as_millis()).unwrap_or_default();
    at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp(spam: bool) -> Stamp<'static> {
        Stamp {
            spam,
            authentication: "Authentication-Results: mx.example; spf=pass\r\n",
            helo: "client.example",
            from: IpAddr::from([127, 0, 2, 1]),
            by: "mx.example",
            at: WallTime::from_millis(1_794_000_000_123),
        }
    }

    fn flags(message: &str) -> Vec<&str> {
        let header = message.split("\r\n\r\n").next().unwrap();
        header
            .lines()
            .filter(|line| line.to_ascii_lowercase().starts_with("x-spam-flag"))
            .collect()
    }

    #[test]
    fn a_forged_verdict_is_taken_off() {
        let message = b"From: a@example.org\r\nx-spam-flag: NO\r\n folded\r\nX-Spam-Flag:NO\r\nSubject: hi\r\n\r\nX-Spam-Flag: NO in the text\r\n";
        let stamped = String::from_utf8(stamp(true).put_on(message)).unwrap();
        assert_eq!(flags(&stamped), ["X-Spam-Flag: YES"]);
        assert!(!stamped.contains("folded"));
        assert!(stamped.contains(
            "\r\nFrom: a@example.org\r\nSubject: hi\r\n\r\nX-Spam-Flag: NO in the text\r\n"
        ));
        assert!(
            stamped.contains("\tFri, 06 Nov 2026 21:20:00 +0000\r\n"),
            "{stamped}"
        );
    }

    #[test]
    fn a_message_without_header_or_body_is_stamped_too() {
        for message in ["\r\nbody\r\n", "Subject: only\r\n", ""] {
            let stamped = String::from_utf8(stamp(false).put_on(message.as_bytes())).unwrap();
            assert_eq!(flags(&stamped), ["X-Spam-Flag: NO"]);
            assert!(stamped.ends_with(message));
        }
    }

    proptest! {
        #[test]
        fn the_body_and_other_fields_stay_as_they_are(fields in prop::collection::vec("[A-W][a-z]{0,8}: [ -~]{0,40}", 1..6), body in "([ -~]{0,60}\r\n){0,5}") {
            let message = format!("{}\r\n\r\n{body}", fields.join("\r\n"));
            let stamped = stamp(false).put_on(message.as_bytes());
            prop_assert!(stamped.ends_with(message.as_bytes()));
        }
    }
}
