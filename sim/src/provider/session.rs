//! One SMTP session at a provider: the order in which it makes up its mind.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use inboxgrove_mail::smtp::{
    EnhancedStatus, Reply,
    client::EnvelopeOut,
    server::{EnvelopeIn, Handler, Verdict},
};
use inboxgrove_model::{DomainName, EmailAddress, ports::Busy};

use super::{
    Delivery, Host, Kept, Mood, Shared, authentic,
    days::Count,
    relay::{Relay, Relayed},
    rules::{Blanks, Text},
    stamp::Stamp,
};

/// The sender domain under which bounces are booked.
pub(super) const NO_DOMAIN: &str = "";

/// One connection to one host of a provider.
pub(super) struct Session {
    shared: Arc<Shared>,
    host: Host,
    peer: SocketAddr,
    /// Held from the connection's beginning, and while a transaction may come to something. A connection
    /// that is kept open for the next message is no work: a fast clock need not wait for it.
    busy: Option<Busy>,
    from: String,
    domain: String,
    /// Where this transaction's recipients are delivered: all to one place.
    delivery: Option<Delivery>,
}

// === impl Session ===

impl Session {
    pub(super) fn new(shared: Arc<Shared>, host: Host, peer: SocketAddr, busy: Busy) -> Self {
        Self {
            shared,
            host,
            peer,
            busy: Some(busy),
            from: String::new(),
            domain: NO_DOMAIN.to_owned(),
            delivery: None,
        }
    }

    fn say(&self, text: Text, to: Option<&EmailAddress>) -> Reply {
        text.fill(Blanks {
            ip: self.peer.ip(),
            domain: &self.domain,
            to,
        })
    }

    fn count(&self, what: Count, n: usize) {
        self.shared
            .count(what, u32::try_from(n).unwrap_or(u32::MAX));
    }

    fn defer(&self, reply: Reply) -> Reply {
        self.count(Count::Deferred, 1);
        reply
    }

    fn bounce(&self, reply: Reply) -> Reply {
        self.count(Count::Bounced, 1);
        reply
    }

    /// Whether anything may come from this sender now.
    fn admit(&self) -> Verdict {
        let rules = &self.shared.rules;
        match self.shared.mood() {
            Mood::Normal => {}
            Mood::Deferring => return self.defer(self.say(rules.texts.slow_down, None)),
            Mood::Refusing => return self.bounce(self.say(rules.texts.blocked, None)),
        }
        let (blocked, over) = self
            .shared
            .with_standing(self.peer.ip(), &self.domain, |standing| {
                let over = standing.is_over(rules);
                if over {
                    standing.pressed_on(rules);
                }
                (standing.score < rules.block_below, over)
            });
        if blocked {
            return self.bounce(self.say(rules.texts.blocked, None));
        }
        if over {
            return self.defer(self.say(rules.texts.slow_down, None));
        }
        Reply::new(250, EnhancedStatus::new(2, 1, 0), "OK")
    }

    fn take_recipient(&mut self, to: &EmailAddress) -> Verdict {
        let rules = &self.shared.rules;
        let Some(delivery) = self.shared.delivery(&to.domain()) else {
            let text = format!("Relaying to {} is not permitted", to.domain());
            return self.bounce(Reply::new(550, EnhancedStatus::new(5, 7, 1), &text));
        };
        if !self.shared.knows(to) {
            return self.unknown_user(Some(to), 1);
        }
        if self
            .delivery
            .as_ref()
            .is_some_and(|other| *other != delivery)
        {
            let text = "One destination for each message, please";
            return self.defer(Reply::new(452, EnhancedStatus::new(4, 5, 3), text));
        }
        if !self
            .shared
            .has_waited(self.peer.ip(), &self.domain, &self.from, to)
        {
            return self.defer(self.say(rules.texts.greylisted, Some(to)));
        }
        self.delivery = Some(delivery);
        Reply::new(250, EnhancedStatus::new(2, 1, 5), "OK")
    }

    fn unknown_user(&self, to: Option<&EmailAddress>, n: usize) -> Reply {
        let rules = &self.shared.rules;
        self.shared
            .with_standing(self.peer.ip(), &self.domain, |standing| {
                standing.unknown_user(rules);
            });
        self.count(Count::Bounced, n);
        self.say(rules.texts.unknown_user, to)
    }

    async fn take_message(&mut self, envelope: &EnvelopeIn, message: &Bytes) -> Verdict {
        let rules = &self.shared.rules;
        let dns = &*self.shared.around.dns;
        let authentic = authentic::judge(envelope, message, dns, self.host.name.as_str()).await;
        match authentic.is_enough(rules) {
            Some(true) => {}
            Some(false) => return self.bounce(self.say(rules.texts.unauthenticated, None)),
            None => {
                let text = "Temporary failure while checking the sender";
                return self.defer(Reply::new(451, EnhancedStatus::new(4, 7, 0), text));
            }
        }
        let spam = self.shared.is_spam(self.peer.ip(), &self.domain);
        let stamped = Stamp {
            spam,
            authentication: authentic.header(),
            helo: &envelope.helo,
            from: self.peer.ip(),
            by: self.host.name.as_str(),
            at: self.shared.around.clock.wall(),
        }
        .put_on(message);
        let relayed = self.deliver(envelope, stamped, spam).await;
        self.conclude(relayed, spam, envelope.recipients.len())
    }

    async fn deliver(&self, envelope: &EnvelopeIn, stamped: Vec<u8>, spam: bool) -> Relayed {
        let recipients = envelope.recipients.clone();
        let Some(Delivery::Relay(to)) = self.delivery else {
            let taken = recipients.len();
            self.shared.keep(Kept {
                mail_from: envelope.mail_from.clone(),
                recipients,
                message: stamped.into(),
                spam,
            });
            return Relayed::Taken(taken);
        };
        let relay = Relay {
            net: &*self.shared.around.net,
            from: self.host.address,
            own_name: &self.host.name,
            to,
        };
        let envelope = EnvelopeOut {
            mail_from: envelope.mail_from.clone(),
            recipients,
        };
        relay.hand_over(&envelope, &stamped).await
    }

    /// Books what became of a message, and says it.
    fn conclude(&self, relayed: Relayed, spam: bool, recipients: usize) -> Verdict {
        match relayed {
            Relayed::Taken(taken) => {
                let (ip, domain) = (self.peer.ip(), &self.domain);
                self.shared.with_standing(ip, domain, |standing| {
                    (0..taken).for_each(|_| standing.accepted());
                });
                self.count(if spam { Count::Spam } else { Count::Inbox }, taken);
                self.count(Count::Bounced, recipients.saturating_sub(taken));
                Reply::ok("OK, it is ours now")
            }
            Relayed::UnknownUsers => self.unknown_user(None, recipients),
            Relayed::Refused(reply) => {
                let lasting = reply.code() >= 500;
                self.count(
                    if lasting {
                        Count::Bounced
                    } else {
                        Count::Deferred
                    },
                    recipients,
                );
                reply
            }
        }
    }

    fn end_transaction(&mut self) {
        self.delivery = None;
        self.set_busy(false);
    }

    fn set_busy(&mut self, busy: bool) {
        match (busy, &self.busy) {
            (true, None) => self.busy = Some(self.shared.around.activity.begin()),
            (false, Some(_)) => self.busy = None,
            _ => {}
        }
    }
}

impl Handler for Session {
    fn banner_host(&self) -> &DomainName {
        &self.host.name
    }

    async fn mail(&mut self, from: Option<&EmailAddress>, _size: Option<u64>) -> Verdict {
        self.from = from.map(EmailAddress::key).unwrap_or_default();
        self.domain = from.map_or_else(|| NO_DOMAIN.to_owned(), |from| from.domain().to_string());
        self.delivery = None;
        let verdict = self.admit();
        self.set_busy(verdict.is_done());
        verdict
    }

    async fn rcpt(&mut self, to: &EmailAddress) -> Verdict {
        let verdict = self.take_recipient(to);
        // Without a recipient nothing more will come of this transaction, though it may stay open.
        self.set_busy(self.delivery.is_some());
        verdict
    }

    async fn data(&mut self, envelope: &EnvelopeIn, message: Bytes) -> Verdict {
        let verdict = self.take_message(envelope, &message).await;
        self.end_transaction();
        verdict
    }

    fn reset(&mut self) {
        self.end_transaction();
    }
}
