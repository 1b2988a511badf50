//! What a server offers in its answer to EHLO, read by smtp-proto.

use smtp_proto::{
    EXT_8BIT_MIME, EXT_PIPELINING, EXT_SIZE, EXT_SMTP_UTF8, EXT_START_TLS, EhloResponse,
};

/// What a server offers. Nothing, after HELO.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an extension of its own"
)]
pub struct Capabilities {
    /// Several commands may go out at once (RFC 2920).
    pub pipelining: bool,
    /// The size may be announced (RFC 1870).
    pub size: bool,
    /// The largest message, when the server says.
    pub size_max: Option<u64>,
    /// Octets above 127 may stand in the text (RFC 6152).
    pub eight_bit_mime: bool,
    /// Octets above 127 may stand in addresses and headers (RFC 6531).
    pub smtputf8: bool,
    /// TLS is on offer (RFC 3207).
    pub starttls: bool,
}

impl Capabilities {
    /// Reads a whole positive answer to EHLO. One that cannot be read offers nothing.
    pub(super) fn parse(raw: &[u8]) -> Self {
        let response = match EhloResponse::parse(&mut raw.iter()) {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(%error, "an answer to EHLO that offers nothing we understand");
                return Self::default();
            }
        };
        let size_max = u64::try_from(response.size).ok().filter(|size| *size > 0);
        Self {
            pipelining: response.has_capability(EXT_PIPELINING),
            size: response.has_capability(EXT_SIZE),
            size_max,
            eight_bit_mime: response.has_capability(EXT_8BIT_MIME),
            smtputf8: response.has_capability(EXT_SMTP_UTF8),
            starttls: response.has_capability(EXT_START_TLS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_answers_are_understood() {
        let raw = b"250-mx.example.net at your service\r\n250-SIZE 157286400\r\n250-8BITMIME\r\n250-STARTTLS\r\n250-ENHANCEDSTATUSCODES\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-X-ODD=YES\r\n250 SMTPUTF8\r\n";
        let found = Capabilities::parse(raw);
        assert_eq!(found.size_max, Some(157_286_400));
        assert!(found.size && found.eight_bit_mime && found.starttls);
        assert!(found.pipelining && found.smtputf8);
    }

    #[test]
    fn little_or_nothing_is_offered() {
        for raw in [
            &b"250 mx.example.net\r\n"[..],
            b"250-mx.example.net\r\n250 SIZE\r\n",
            b"250-mx.example.net\r\n250 HELP\r\n",
            b"garbage",
            b"",
        ] {
            let found = Capabilities::parse(raw);
            assert!(!found.pipelining && !found.starttls, "{raw:?}");
            assert_eq!(found.size_max, None, "{raw:?}");
        }
    }
}
