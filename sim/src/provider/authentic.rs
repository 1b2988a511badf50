//! Whether a message is what it says it is, as far as a provider's rules go: SPF and DKIM, one or both.

use inboxgrove_mail::{
    authentication::{AuthenticationResults, Envelope, Outcome, evaluate},
    smtp::server::EnvelopeIn,
};
use inboxgrove_model::ports::Dns;

use super::Rules;

/// What was found out about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authentic {
    spf: bool,
    dkim: bool,
    /// Somebody did not answer: what has not passed may pass later.
    undecided: bool,
    header: String,
}

// === impl Authentic ===

impl Authentic {
    /// Whether the message may come in; nothing when it must be asked again later.
    pub(super) fn is_enough(&self, rules: &Rules) -> Option<bool> {
        match rules.is_authentic_enough(self.spf, self.dkim) {
            false if self.undecided => None,
            enough => Some(enough),
        }
    }

    /// The whole `Authentication-Results` field (RFC 8601), CRLF included.
    pub(super) fn header(&self) -> &str {
        &self.header
    }

    fn new(results: AuthenticationResults) -> Self {
        let mut dkim = results.dkim.iter().map(|signature| signature.outcome);
        let undecided = results.spf.outcome == Outcome::TempError
            || dkim.clone().any(|outcome| outcome == Outcome::TempError);
        Self {
            spf: results.spf.outcome == Outcome::Pass,
            dkim: dkim.any(|outcome| outcome == Outcome::Pass),
            undecided,
            header: results.header_text,
        }
    }
}

/// Evaluates a message.
pub(super) async fn judge(
    envelope: &EnvelopeIn,
    message: &[u8],
    dns: &dyn Dns,
    host: &str,
) -> Authentic {
    let asked = Envelope {
        ip: envelope.peer.ip(),
        helo: envelope.helo.clone(),
        mail_from: envelope.mail_from.clone(),
    };
    Authentic::new(evaluate(&asked, message, dns, host).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_never_held_against_a_sender() {
        let found = |spf, dkim, undecided| Authentic {
            spf,
            dkim,
            undecided,
            header: String::new(),
        };
        let (one, both) = (Rules::gmail_like(), Rules::outlook_like());
        for (authentic, enough_for_one, enough_for_both) in [
            (found(true, true, false), Some(true), Some(true)),
            (found(true, false, false), Some(true), Some(false)),
            (found(false, true, true), Some(true), None),
            (found(false, false, false), Some(false), Some(false)),
            (found(false, false, true), None, None),
        ] {
            assert_eq!(authentic.is_enough(&one), enough_for_one, "{authentic:?}");
            assert_eq!(authentic.is_enough(&both), enough_for_both, "{authentic:?}");
        }
    }
}
