//! The way from a filtering provider to the domain's own host: one SMTP session for each message, before
//! the provider's own 250, so that the duty for a message is always with somebody.

use std::{net::SocketAddr, time::Duration};

use inboxgrove_mail::smtp::{
    EnhancedStatus, Reply, Severity,
    client::{Delivery, EnvelopeOut, Options, SendOutcome, Session, Timeouts},
};
use inboxgrove_model::{DomainName, ports::Net};
use tokio::time::timeout;

/// Longest wait for a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// Longest wait for any one reply, but for the last: the host is near, and the sender waits.
const REPLY_WAIT: Duration = Duration::from_secs(20);
/// Longest wait for the reply to the final dot, behind which the host's commit stands.
const END_WAIT: Duration = Duration::from_mins(1);

/// Where a message goes on to, and in whose name.
pub(super) struct Relay<'a> {
    pub(super) net: &'a dyn Net,
    /// The host that relays.
    pub(super) from: SocketAddr,
    pub(super) own_name: &'a DomainName,
    /// The domain's own host.
    pub(super) to: SocketAddr,
}

/// How the domain's own host took a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Relayed {
    /// It has the duty for the message; so many recipients were taken.
    Taken(usize),
    /// It knows none of the recipients.
    UnknownUsers,
    /// It refused, and this is passed on.
    Refused(Reply),
}

// === impl Relay ===

impl Relay<'_> {
    /// Hands a message over.
    pub(super) async fn hand_over(&self, envelope: &EnvelopeOut, message: &[u8]) -> Relayed {
        let connected = timeout(
            CONNECT_WAIT,
            self.net.connect(Some(self.from.ip()), self.to),
        )
        .await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return unreachable_host(&error),
            Err(elapsed) => return unreachable_host(&elapsed),
        };
        let mut session = match Session::open(stream, self.options()).await {
            Ok(session) => session,
            Err(error) => return unreachable_host(&error),
        };
        let outcome = session.send(envelope, message).await;
        let relayed = judge(&outcome);
        session.quit().await;
        relayed
    }

    fn options(&self) -> Options {
        Options {
            timeouts: Timeouts {
                greeting: REPLY_WAIT,
                command: REPLY_WAIT,
                data: REPLY_WAIT,
                end: END_WAIT,
                ..Timeouts::default()
            },
            ..Options::new(self.own_name.clone(), self.to.ip().to_string())
        }
    }
}

/// One answer for all recipients: taken when anybody was (nobody writes a bounce for the rest, as a
/// modelled provider has no duty to), otherwise the first answer, the mildest first.
fn judge(outcome: &SendOutcome) -> Relayed {
    let replies = || {
        outcome
            .recipients
            .iter()
            .map(|recipient| recipient.delivery.reply())
    };
    let taken = outcome
        .recipients
        .iter()
        .filter(|recipient| matches!(recipient.delivery, Delivery::Accepted(_)))
        .count();
    if taken > 0 {
        return Relayed::Taken(taken);
    }
    let permanent =
        |reply: Option<&Reply>| reply.is_some_and(|reply| reply.severity() == Severity::Permanent);
    if !replies().all(permanent) {
        return Relayed::Refused(later("the recipient's own host put it off"));
    }
    let is_unknown = |reply: Option<&Reply>| {
        reply
            .and_then(Reply::enhanced)
            .is_some_and(|enhanced| (enhanced.subject, enhanced.detail) == (1, 1))
    };
    if replies().all(is_unknown) {
        return Relayed::UnknownUsers;
    }
    let first = replies().flatten().next().cloned();
    Relayed::Refused(first.unwrap_or_else(|| later("the recipient's own host said nothing")))
}

fn unreachable_host(error: &dyn std::error::Error) -> Relayed {
    tracing::debug!(%error, "the domain's own host cannot be reached");
    Relayed::Refused(later("the recipient's own host cannot be reached"))
}

fn later(text: &str) -> Reply {
    Reply::new(451, EnhancedStatus::new(4, 4, 1), text)
}

#[cfg(test)]
mod tests {
    use inboxgrove_mail::smtp::client::{RecipientOutcome, Stage};
    use inboxgrove_model::EmailAddress;

    use super::*;

    #[test]
    fn many_answers_become_one() {
        let yes = Delivery::Accepted(Reply::ok("queued"));
        let unknown = Delivery::Refused(Reply::new(
            550,
            EnhancedStatus::new(5, 1, 1),
            "no such user",
        ));
        let policy = Delivery::Refused(Reply::new(
            550,
            EnhancedStatus::new(5, 7, 1),
            "not from you",
        ));
        let busy = Delivery::Refused(Reply::new(452, EnhancedStatus::new(4, 3, 1), "disk full"));
        let lost = Delivery::Lost("broke".into());
        let uncertain = Delivery::Uncertain("broke".into());
        for (deliveries, expected) in [
            (vec![yes.clone()], Ok(1)),
            (vec![unknown.clone(), yes.clone(), yes], Ok(2)),
            (vec![unknown.clone(), busy], Err(Some(451))),
            (vec![unknown.clone(), lost], Err(Some(451))),
            (vec![uncertain], Err(Some(451))),
            (vec![unknown.clone(), unknown.clone()], Err(None)),
            (vec![policy, unknown], Err(Some(550))),
        ] {
            let recipients = deliveries.into_iter().map(|delivery| RecipientOutcome {
                recipient: EmailAddress::parse("ada@example.com").expect("an address"),
                stage: Stage::End,
                delivery,
            });
            let outcome = SendOutcome {
                recipients: recipients.collect(),
                content_begun: true,
                reusable: true,
            };
            let got = match judge(&outcome) {
                Relayed::Taken(taken) => Ok(taken),
                Relayed::UnknownUsers => Err(None),
                Relayed::Refused(reply) => Err(Some(reply.code())),
            };
            assert_eq!(got, expected);
        }
    }
}
