//! What comes in: a bounce, a turn of a warmup conversation, or somebody's mail.
//!
//! What strangers write is no evidence by itself. A warmup message counts only when it is proven to come
//! from the inbox that sent it; a bounce or an answer only when it is about mail that this inbox sent, and
//! once for each message and correspondent.

use std::{collections::BTreeSet, time::Duration};

use aws_lc_rs::digest;
use bytes::Bytes;
use inboxgrove_mail::{dsn, message::Inspection};
use inboxgrove_model::{
    EmailAddress, InboxId, MessageId, TenantId,
    claim::{Claim, ClaimHolder, ClaimName},
    due::{DueRow, DueWork},
    event::{Event, EventKind},
    idempotency::IdempotentAnswer,
    inbox::{DayCounts, Inbox, InboxStatus, WarmupState},
    limits::SUBJECT_CHARS_MAX,
    message::{
        BodyRef, BounceClass, Direction, Folder, Message, MessageClass, Recipient, RecipientState,
    },
    suppression::{Suppression, SuppressionReason},
};
use inboxgrove_policy::{Zone, conversation, provider_of};
use inboxgrove_store::Batch;

use super::InboxState;
use crate::{context::Context, inbound::kib, refusal::Refusal};

/// How long it is remembered that a bounce or an answer was counted: longer than servers try again.
const COUNTED_FOR: Duration = Duration::from_hours(30 * 24);

/// What the rows and the event of a message take beside its body, rounded up: many small messages count too.
const ROWS_KIB: u32 = 2;

/// A message that inbound took for an inbox.
pub(crate) struct Incoming {
    /// Envelope sender; `None` for bounces.
    pub(crate) mail_from: Option<EmailAddress>,
    /// What its header says.
    pub(crate) inspection: Inspection,
    /// Our `Received` and `Authentication-Results`, which go in front of it.
    pub(crate) head: String,
    /// Its bytes, shared by all who receive it.
    pub(crate) content: Bytes,
    /// Whether its author is who it says: a gateway that we trust has handed it on, or the author's domain
    /// stands behind it (DMARC, or an aligned DKIM signature).
    pub(crate) authenticated: bool,
    /// Whether a gateway that we trust, or our own check, calls it spam.
    pub(crate) spam: bool,
}

/// What a message is.
enum Kind {
    /// A report that mail of ours was not delivered.
    Bounce(Box<dsn::Dsn>),
    /// A turn of a conversation that an inbox of ours began or goes on with: as it was sent, and the
    /// address of the inbox that sent it.
    Warmup(Box<Message>, EmailAddress),
    /// Somebody's mail.
    Person,
}

impl InboxState {
    /// Keeps a message. Resolves when it is on disk; only then may SMTP answer 250.
    pub(super) async fn receive(&mut self, incoming: Incoming) -> Result<(), Refusal> {
        let inbox = self.existing()?.clone();
        let kind = self.kind_of(&inbox, &incoming)?;
        let id = match &kind {
            // Under the sender's id: a copy that comes twice is seen to be the same.
            Kind::Warmup(sent, _) => sent.id,
            _ => MessageId::from_bytes(self.cx.new_id()),
        };
        let seen = matches!(kind, Kind::Warmup(..))
            && self
                .cx
                .store
                .get::<Message>(&(self.tenant, self.id, id))?
                .is_some();
        if seen {
            return Ok(());
        }
        let mut batch = self.batch();
        let message = self.received(&inbox, id, &incoming, &kind);
        let label = match &kind {
            Kind::Bounce(dsn) => {
                self.bounced(&mut batch, dsn, &message)?;
                "bounce"
            }
            Kind::Warmup(sent, _) => {
                self.placed(
                    &mut batch,
                    &inbox,
                    sent,
                    &message,
                    turn_of(&incoming.inspection),
                )?;
                "warmup"
            }
            Kind::Person => {
                // A vacation notice is no answer.
                if !incoming.inspection.automatic {
                    let from = incoming.inspection.from.as_ref();
                    self.replied(&mut batch, &message, from.or(message.mail_from.as_ref()))?;
                }
                "person"
            }
        };
        let body = [incoming.head.as_bytes(), &incoming.content].concat();
        let kib = u32::try_from(kib(body.len() as u64)).unwrap_or(u32::MAX);
        let now = message.accepted_at;
        let take =
            self.cx
                .rules
                .received_take(self.tenant, self.id, kib.saturating_add(ROWS_KIB), now);
        batch.take(take);
        let slot = batch.body(self.tenant, Bytes::from(body));
        batch.event(self.event(EventKind::MessageReceived {
            message: id,
            inbox: self.id,
            class: message.class,
            from: message.mail_from.clone(),
        }));
        batch.put_message(message, slot);
        self.cx.store.commit(batch).await?;
        self.cx
            .metrics
            .received
            .get_or_create(&crate::metrics::ByOutcome { outcome: label })
            .inc();
        Ok(())
    }

    fn kind_of(&self, inbox: &Inbox, incoming: &Incoming) -> Result<Kind, Refusal> {
        if incoming.mail_from.is_none()
            && let Some(dsn) = dsn::parse(&incoming.content)
        {
            return Ok(Kind::Bounce(Box::new(dsn)));
        }
        if !incoming.authenticated {
            return Ok(Kind::Person);
        }
        match warmup_turn(&self.cx, inbox, &incoming.inspection)? {
            Some((sent, from)) => Ok(Kind::Warmup(Box::new(sent), from)),
            None => Ok(Kind::Person),
        }
    }

    fn received(&self, inbox: &Inbox, id: MessageId, incoming: &Incoming, kind: &Kind) -> Message {
        let inspection = &incoming.inspection;
        let message_id = inspection
            .message_id
            .clone()
            .unwrap_or_else(|| format!("{id}@{}", inbox.address.domain()));
        let thread = inspection
            .references
            .first()
            .or(inspection.in_reply_to.as_ref())
            .unwrap_or(&message_id)
            .clone();
        Message {
            id,
            tenant: self.tenant,
            inbox: self.id,
            direction: Direction::In,
            class: match kind {
                Kind::Bounce(_) => MessageClass::Bounce,
                Kind::Warmup(..) => MessageClass::Warmup,
                Kind::Person => MessageClass::Person,
            },
            mail_from: match kind {
                // It is answered: to the inbox that sent it, whatever the envelope says.
                Kind::Warmup(_, from) => Some(from.clone()),
                Kind::Bounce(_) | Kind::Person => incoming.mail_from.clone(),
            },
            recipients: vec![Recipient {
                address: inbox.address.clone(),
                state: RecipientState::Received,
                attempts: 0,
                last_reply: String::new(),
            }],
            subject: inspection.subject.chars().take(SUBJECT_CHARS_MAX).collect(),
            message_id,
            in_reply_to: inspection.in_reply_to.clone(),
            thread,
            body: BodyRef {
                seq: 0,
                index: 0,
                size: 0,
            },
            accepted_at: self.cx.now(),
            folder: if incoming.spam {
                Folder::Spam
            } else {
                Folder::Inbox
            },
        }
    }

    /// Mail that a server took and later gave back: it counts as if it had been refused at once.
    fn bounced(&self, batch: &mut Batch, dsn: &dsn::Dsn, report: &Message) -> Result<(), Refusal> {
        let Some(sent) = self.sent(dsn.original_message_id.as_deref())? else {
            return Ok(());
        };
        let id = sent.id;
        let mut counted = BTreeSet::new();
        for failed in dsn
            .recipients
            .iter()
            .filter(|recipient| recipient.action == dsn::Action::Failed)
        {
            let address = failed
                .original_recipient
                .clone()
                .unwrap_or_else(|| failed.final_recipient.clone());
            // A report about somebody we never wrote to is forged, or not about this message.
            let Some(recipient) = sent
                .recipients
                .iter()
                .find(|recipient| recipient.address.key() == address.key())
            else {
                continue;
            };
            // Refused at once: it was counted then.
            if matches!(recipient.state, RecipientState::Bounced(_)) {
                continue;
            }
            let unknown = failed.status.subject == 1;
            let suppression = self
                .cx
                .store
                .get::<Suppression>(&(self.tenant, address.key()))?;
            if (unknown && suppression.is_some())
                || !counted.insert(address.key())
                || !self.first_time(batch, "bounce", id, &address)?
            {
                continue;
            }
            let class = if unknown {
                BounceClass::Recipient
            } else {
                BounceClass::Infrastructure
            };
            let counts = match class {
                BounceClass::Recipient => DayCounts {
                    bounced_recipient: 1,
                    ..DayCounts::default()
                },
                _ => DayCounts {
                    bounced_policy: 1,
                    ..DayCounts::default()
                },
            };
            let provider = provider_of(address.domain().as_str());
            let now = report.accepted_at;
            batch.count(self.tenant, self.id, now.utc_day(), &provider, counts);
            batch.event(self.event(EventKind::MessageBounced {
                message: id,
                inbox: self.id,
                recipient: address.clone(),
                provider,
                reply: failed.diagnostic.clone(),
                class,
            }));
            if unknown {
                let reason = SuppressionReason::HardBounce;
                batch.put(&Suppression {
                    tenant: self.tenant,
                    address,
                    reason,
                    since: now,
                });
            }
        }
        Ok(())
    }

    /// A partner's message arrived: that is evidence for the partner, and perhaps the occasion for an answer.
    fn placed(
        &self,
        batch: &mut Batch,
        inbox: &Inbox,
        sent: &Message,
        here: &Message,
        turn: u8,
    ) -> Result<(), Refusal> {
        let spam = here.folder == Folder::Spam;
        let provider = self.own_provider(inbox)?;
        let counts = if spam {
            DayCounts {
                placed_spam: 1,
                ..DayCounts::default()
            }
        } else {
            DayCounts {
                placed_inbox: 1,
                ..DayCounts::default()
            }
        };
        batch.count(
            sent.tenant,
            sent.inbox,
            here.accepted_at.utc_day(),
            &provider,
            counts,
        );
        batch.event(Event {
            at: here.accepted_at,
            tenant: Some(sent.tenant),
            kind: EventKind::MessagePlaced {
                message: sent.id,
                inbox: sent.inbox,
                provider,
                spam,
            },
        });
        if sent.in_reply_to.is_some() {
            self.replied(batch, here, here.mail_from.as_ref())?;
        }
        let running = matches!(
            inbox.warmup.state,
            WarmupState::Running | WarmupState::Graduated
        );
        if running && matches!(inbox.status, InboxStatus::Warming | InboxStatus::Active) {
            self.plan_reply(batch, inbox, here, turn);
        }
        Ok(())
    }

    fn plan_reply(&self, batch: &mut Batch, inbox: &Inbox, here: &Message, turn: u8) {
        let rules = &self.cx.rules.warmup;
        let seed = conversation::thread_seed(&here.thread);
        if conversation::is_answered(seed, turn, rules) {
            let zone = Zone::named_or_utc(&inbox.time_zone);
            let at = conversation::reply_at(
                seed,
                turn,
                here.accepted_at,
                inbox.warmup.seed,
                &zone,
                rules,
            );
            batch.put(&DueRow {
                at,
                work: DueWork::Reply(self.tenant, self.id, here.id),
            });
        }
    }

    /// An answer to mail of this inbox is the best sign there is; one from each correspondent.
    fn replied(
        &self,
        batch: &mut Batch,
        here: &Message,
        from: Option<&EmailAddress>,
    ) -> Result<(), Refusal> {
        let (Some(sent), Some(from)) = (self.sent(here.in_reply_to.as_deref())?, from) else {
            return Ok(());
        };
        if !self.first_time(batch, "reply", sent.id, from)? {
            return Ok(());
        }
        let provider = provider_of(from.domain().as_str());
        let counts = DayCounts {
            replies: 1,
            ..DayCounts::default()
        };
        batch.count(
            self.tenant,
            self.id,
            here.accepted_at.utc_day(),
            &provider,
            counts,
        );
        batch.event(self.event(EventKind::MessageReplied {
            message: sent.id,
            inbox: self.id,
        }));
        Ok(())
    }

    /// The message with this `Message-ID`, when this inbox has sent it.
    fn sent(&self, message_id: Option<&str>) -> Result<Option<Message>, Refusal> {
        let Some(id) = message_id.and_then(message_of) else {
            return Ok(None);
        };
        let found = self.cx.store.get::<Message>(&(self.tenant, self.id, id))?;
        Ok(found.filter(|message| message.direction == Direction::Out))
    }

    /// Whether this has not been counted yet; the batch then says that it is. The inbox is the only one who
    /// counts it, so nobody comes between the question and the commit.
    fn first_time(
        &self,
        batch: &mut Batch,
        what: &str,
        message: MessageId,
        about: &EmailAddress,
    ) -> Result<bool, Refusal> {
        let key = counted_key(what, message, about);
        let before = self.cx.store.get::<IdempotentAnswer>(&(self.tenant, key))?;
        if before.is_some() {
            return Ok(false);
        }
        batch.put(&IdempotentAnswer {
            tenant: self.tenant,
            key,
            body: [0; 32],
            status: 0,
            made: message.to_string(),
            expires_at: self.cx.ports.clock.wall().after(COUNTED_FOR),
        });
        Ok(true)
    }

    /// Who filters the mail of this inbox's domain.
    fn own_provider(&self, inbox: &Inbox) -> Result<String, Refusal> {
        let domain = self.domain_row(inbox)?;
        Ok(provider_of(
            domain
                .mail_hosts
                .first()
                .map_or(self.cx.rules.hostname.as_str(), String::as_str),
        ))
    }
}

/// Which turn of its thread a message is; the first is 1.
pub(super) fn turn_of(inspection: &Inspection) -> u8 {
    u8::try_from(inspection.references.len() + 1).unwrap_or(u8::MAX)
}

/// Our own message id in a `Message-ID`.
fn message_of(message_id: &str) -> Option<MessageId> {
    message_id
        .split_once('@')
        .and_then(|(id, _)| id.parse().ok())
}

/// Where it is remembered that something was counted. No idempotency key of a client comes to the same.
fn counted_key(what: &str, message: MessageId, about: &EmailAddress) -> [u8; 32] {
    let text = format!("counted|{what}|{message}|{}", about.key());
    digest::digest(&digest::SHA256, text.as_bytes())
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

/// The warmup message that this is, with the address it came from, when an inbox of ours really sent it to
/// this inbox. A forged header names no row, or one that was not for us.
fn warmup_turn(
    cx: &Context,
    inbox: &Inbox,
    inspection: &Inspection,
) -> Result<Option<(Message, EmailAddress)>, Refusal> {
    let Some(id) = inspection.message_id.as_deref().and_then(message_of) else {
        return Ok(None);
    };
    let Some(from) = &inspection.from else {
        return Ok(None);
    };
    let Some((tenant, sender)) = holder_of(cx, from)? else {
        return Ok(None);
    };
    let Some(author) = cx.store.get::<Inbox>(&(tenant, sender))? else {
        return Ok(None);
    };
    let sent = cx.store.get::<Message>(&(tenant, sender, id))?;
    let to_us = |sent: &Message| {
        sent.class == MessageClass::Warmup
            && sent.direction == Direction::Out
            && sent
                .recipients
                .iter()
                .any(|recipient| recipient.address.key() == inbox.address.key())
    };
    Ok(sent.filter(to_us).map(|sent| (sent, author.address)))
}

/// The inbox that has this address.
pub(crate) fn holder_of(
    cx: &Context,
    address: &EmailAddress,
) -> Result<Option<(TenantId, InboxId)>, Refusal> {
    let claim = cx.store.get::<Claim>(&ClaimName::Address(address.key()))?;
    Ok(match claim.map(|claim| claim.holder) {
        Some(ClaimHolder::Inbox(tenant, _, inbox)) => Some((tenant, inbox)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_message_ids_name_a_message() {
        let id = MessageId::from_bytes([3; 16]);
        assert_eq!(message_of(&format!("{id}@example.com")), Some(id));
        for other in ["", "@", "x@example.com", "msg_@example.com"] {
            assert_eq!(message_of(other), None, "{other}");
        }
    }

    #[test]
    fn what_was_counted_is_known_by_kind_message_and_correspondent() {
        let (one, two) = (
            MessageId::from_bytes([1; 16]),
            MessageId::from_bytes([2; 16]),
        );
        let ann = EmailAddress::parse("ann@example.com").expect("an address");
        let bob = EmailAddress::parse("bob@example.com").expect("an address");
        let keys = BTreeSet::from([
            counted_key("reply", one, &ann),
            counted_key("reply", one, &bob),
            counted_key("reply", two, &ann),
            counted_key("bounce", one, &ann),
        ]);
        assert_eq!(keys.len(), 4);
        let shouted = EmailAddress::parse("Ann@EXAMPLE.com").expect("an address");
        assert!(keys.contains(&counted_key("reply", one, &shouted)));
    }
}
