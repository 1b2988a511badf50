//! What is sent, and what became of it for each recipient.

use std::fmt;

use inboxgrove_model::EmailAddress;

use crate::smtp::Reply;

/// Who sends to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeOut {
    /// The sender; `None` is the null sender of bounces.
    pub mail_from: Option<EmailAddress>,
    /// The recipients, at least one.
    pub recipients: Vec<EmailAddress>,
}

/// How far a session or a message got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The greeting.
    Greeting,
    /// EHLO or HELO.
    Hello,
    /// STARTTLS.
    Tls,
    /// Our own check of a message, before anything was sent.
    Check,
    /// RSET.
    Reset,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The text of the message, before its final dot.
    Content,
    /// The reply to the final dot.
    End,
    /// QUIT.
    Quit,
}

/// What became of one message on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendOutcome {
    /// In the order of the envelope.
    pub recipients: Vec<RecipientOutcome>,
    /// Whether any of the message's text may have gone out.
    pub content_begun: bool,
    /// Whether the session can be used again.
    pub reusable: bool,
}

/// What became of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientOutcome {
    /// Who.
    pub recipient: EmailAddress,
    /// Where it was decided.
    pub stage: Stage,
    /// What was decided.
    pub delivery: Delivery,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The server has taken the message.
    Accepted(Reply),
    /// The server, or our own check at [`Stage::Check`], has refused it.
    Refused(Reply),
    /// The connection failed before the final dot was out: the message was surely not taken. Why.
    Lost(String),
    /// The connection failed after the final dot was out: nobody knows. Why.
    Uncertain(String),
}

// === impl SendOutcome ===

impl SendOutcome {
    /// Nobody has got anything yet.
    pub(super) fn new(envelope: &EnvelopeOut) -> Self {
        let recipients = envelope
            .recipients
            .iter()
            .map(|recipient| RecipientOutcome {
                recipient: recipient.clone(),
                stage: Stage::Check,
                delivery: Delivery::Lost("not tried".to_owned()),
            });
        Self {
            recipients: recipients.collect(),
            content_begun: false,
            reusable: true,
        }
    }

    /// Whether nobody knows what became of it for some recipient.
    pub fn uncertain(&self) -> bool {
        self.recipients
            .iter()
            .any(|recipient| matches!(recipient.delivery, Delivery::Uncertain(_)))
    }

    /// Whether surely nothing of the message's text went out: no recipient can have it, what was taken
    /// for it may be given back.
    pub fn surely_unsent(&self) -> bool {
        !self.content_begun
    }
}

// === impl Delivery ===

impl Delivery {
    /// What the server said, when it said anything.
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Accepted(reply) | Self::Refused(reply) => Some(reply),
            Self::Lost(_) | Self::Uncertain(_) => None,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greeting => "the greeting",
            Self::Hello => "EHLO",
            Self::Tls => "STARTTLS",
            Self::Check => "our own check",
            Self::Reset => "RSET",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Content => "the message",
            Self::End => "the final dot",
            Self::Quit => "QUIT",
        })
    }
}
