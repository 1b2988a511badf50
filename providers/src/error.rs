//! What vendors' clients fail with, and what the caller should do then.

use std::time::Duration;

use inboxgrove_model::ports::HttpError;

/// Longest text of a vendor's that is kept: enough for a sentence, too little to fill a log.
const MESSAGE_CHARS_MAX: usize = 300;

/// A call to a vendor that did not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("{provider}: {call}: {kind}")]
pub struct ProviderError {
    provider: &'static str,
    call: &'static str,
    #[source]
    kind: Kind,
}

/// What the caller should do next; the only thing that actors match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The same call will fail again: somebody has to change something first.
    GiveUp,
    /// Call again after this long, not sooner.
    RetryAfter(Duration),
    /// Call again, later each time.
    RetryWithBackoff,
}

/// How it failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Kind {
    /// The vendor understood and said no. Code 0: it gave none.
    #[error("refused with status {status}, code {code}: {message}")]
    Refused {
        status: u16,
        code: u32,
        message: String,
        /// Whether our credentials are what it does not like.
        credentials: bool,
    },
    /// Something that is not ours stands where the record should go.
    #[error("{name} already has {found}, which we did not put there")]
    Conflict { name: String, found: String },
    /// What was asked for cannot be said to this vendor.
    #[error("{0}")]
    Unfit(String),
    /// The vendor wants fewer calls.
    #[error("too many calls")]
    Busy { retry_after: Option<Duration> },
    /// The vendor has trouble of its own.
    #[error("unavailable, status {status}")]
    Unavailable { status: u16 },
    /// There was no answer.
    #[error("{0}")]
    Unanswered(#[source] HttpError),
    /// The answer is not what the vendor documents.
    #[error("an answer we cannot read: {0}")]
    Garbled(String),
}

// === impl ProviderError ===

impl ProviderError {
    pub(crate) fn new(provider: &'static str, call: &'static str, kind: Kind) -> Self {
        Self {
            provider,
            call,
            kind,
        }
    }

    /// What the caller should do next.
    pub fn verdict(&self) -> Verdict {
        match &self.kind {
            Kind::Refused { .. } | Kind::Conflict { .. } | Kind::Unfit(_) | Kind::Garbled(_) => {
                Verdict::GiveUp
            }
            Kind::Busy {
                retry_after: Some(wait),
            } => Verdict::RetryAfter(*wait),
            Kind::Busy { retry_after: None } | Kind::Unavailable { .. } | Kind::Unanswered(_) => {
                Verdict::RetryWithBackoff
            }
        }
    }

    /// Whether the vendor refused our credentials, or their rights do not suffice: the owner must give others.
    pub fn is_about_credentials(&self) -> bool {
        matches!(
            self.kind,
            Kind::Refused {
                credentials: true,
                ..
            }
        )
    }

    /// Whether a record that is not ours is in the way: the owner must decide.
    pub fn is_conflict(&self) -> bool {
        matches!(self.kind, Kind::Conflict { .. })
    }

    pub(crate) fn code(&self) -> Option<u32> {
        match self.kind {
            Kind::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}

// === free functions ===

/// A vendor's text, fit to be shown: one line, not too long.
pub(crate) fn quoted(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MESSAGE_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_verdict() {
        let wait = Duration::from_secs(7);
        let unanswered = || HttpError {
            host: "vendor.example".into(),
            why: "timed out".into(),
            unsent: false,
        };
        let refused = |credentials| Kind::Refused {
            status: 400,
            code: 1004,
            message: "no".into(),
            credentials,
        };
        for (kind, verdict, credentials) in [
            (refused(false), Verdict::GiveUp, false),
            (refused(true), Verdict::GiveUp, true),
            (Kind::Garbled("x".into()), Verdict::GiveUp, false),
            (Kind::Unfit("x".into()), Verdict::GiveUp, false),
            (
                Kind::Busy {
                    retry_after: Some(wait),
                },
                Verdict::RetryAfter(wait),
                false,
            ),
            (
                Kind::Busy { retry_after: None },
                Verdict::RetryWithBackoff,
                false,
            ),
            (
                Kind::Unavailable { status: 502 },
                Verdict::RetryWithBackoff,
                false,
            ),
            (
                Kind::Unanswered(unanswered()),
                Verdict::RetryWithBackoff,
                false,
            ),
        ] {
            let error = ProviderError::new("vendor", "call", kind);
            assert_eq!(error.verdict(), verdict, "{error}");
            assert_eq!(error.is_about_credentials(), credentials, "{error}");
        }
    }

    #[test]
    fn a_vendors_text_cannot_break_a_log_line() {
        assert_eq!(quoted("a\r\nb\u{7}"), "a  b ");
        assert_eq!(quoted(&"x".repeat(1000)).len(), MESSAGE_CHARS_MAX);
    }
}
