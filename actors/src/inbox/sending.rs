//! The acceptance of a message: every gate, then one commit, then the answer.

use bytes::Bytes;
use inboxgrove_mail::message::{
    self, Draft, HeaderText, Mailbox, MessageIdText, TextError, Unsubscribe,
};
use inboxgrove_model::{
    EmailAddress, MessageId, PolicyTime,
    budget::{BudgetKey, Take},
    domain::Domain,
    event::EventKind,
    inbox::Inbox,
    limits::{MESSAGE_BYTES_MAX, RECIPIENTS_MAX, SUBJECT_CHARS_MAX},
    message::{
        BodyRef, Direction, Folder, Message, MessageClass, QueueEntry, Recipient, RecipientState,
    },
    suppression::Suppression,
    tenant::Tenant,
};
use inboxgrove_policy::gate::{self, Gate};
use inboxgrove_store::{Batch, records::MESSAGE_IDS_BYTES_MAX};

use super::InboxState;
use crate::{
    idempotency,
    platform::{IdempotencyKey, Made, NewMessage},
    refusal::Refusal,
    rules::Plan,
};

/// `References` that are kept: the root and the latest (RFC 5322 §3.6.4 lets old ones go).
const REFERENCES_MAX: usize = 20;

/// A message about to be accepted.
pub(super) struct Outgoing {
    pub(super) class: MessageClass,
    pub(super) to: Vec<EmailAddress>,
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: Option<String>,
    /// What it answers: its `Message-ID`, the thread's first, and the references so far.
    pub(super) answers: Option<Answered>,
    pub(super) list_unsubscribe: Option<String>,
}

/// The message that another answers.
pub(super) struct Answered {
    pub(super) message_id: String,
    pub(super) thread: String,
    pub(super) references: Vec<String>,
}

/// Rows that the gates were asked with.
pub(super) struct Standing {
    pub(super) tenant: Tenant,
    pub(super) domain: Domain,
}

impl InboxState {
    /// Accepts somebody's message. Resolves when it is on disk.
    pub(super) async fn send(
        &mut self,
        new: NewMessage,
        key: Option<IdempotencyKey>,
    ) -> Result<Made<Message>, Refusal> {
        if let Some(made) = idempotency::seen::<MessageId>(&self.cx, self.tenant, key)? {
            return idempotency::replay(self.cx.store.get::<Message>(&(
                self.tenant,
                self.id,
                made,
            ))?);
        }
        let answers = match new.in_reply_to {
            Some(id) => Some(self.answered(id)?),
            None => None,
        };
        let outgoing = Outgoing {
            class: MessageClass::Person,
            to: new.to,
            subject: new.subject,
            text: new.text,
            html: new.html,
            answers,
            list_unsubscribe: new.list_unsubscribe,
        };
        let standing = self.pass_gates(self.existing()?, MessageClass::Person)?;
        let mut batch = self.batch();
        let mut message = self.accept(&mut batch, &standing, outgoing)?;
        idempotency::remember(&self.cx, &mut batch, self.tenant, key, 202, &message.id);
        let committed = self.cx.store.commit(batch).await?;
        if let Some(body) = committed.bodies.first() {
            message.body = *body;
        }
        self.cx.metrics.accepted.inc();
        Ok(Made {
            value: message,
            replayed: false,
        })
    }

    /// The message that a reply answers: one that this inbox sent or received.
    fn answered(&self, id: MessageId) -> Result<Answered, Refusal> {
        let message = self.cx.store.get::<Message>(&(self.tenant, self.id, id))?;
        let message = message.ok_or_else(|| Refusal::Invalid {
            field: "in_reply_to",
            why: format!("this inbox has no message {id}"),
        })?;
        self.answered_by(&message)
    }

    /// Asks every gate that needs rows only; budgets are asked by the commit itself. The inbox is given as it
    /// is to be after the commit: one that has just been judged is held to its new band.
    pub(super) fn pass_gates(
        &self,
        inbox: &Inbox,
        class: MessageClass,
    ) -> Result<Standing, Refusal> {
        let standing = Standing {
            tenant: self.tenant_row()?,
            domain: self.domain_row(inbox)?,
        };
        // When a warmup message is due is the planner's business, and an answer waits for no plan.
        let gates = [
            gate::tenant(&standing.tenant),
            gate::domain(&standing.domain, class),
            gate::inbox(inbox, class),
            gate::band(&inbox.warmup, class),
        ];
        match gate::first_closed(&gates) {
            Some(closed) => Err(refusal_of(closed)),
            None => Ok(standing),
        }
    }

    /// Puts a message, its queue entries, its takes and its event into a batch.
    pub(super) fn accept(
        &self,
        batch: &mut Batch,
        standing: &Standing,
        outgoing: Outgoing,
    ) -> Result<Message, Refusal> {
        let inbox = self.existing()?;
        check_recipients(&outgoing.to)?;
        let now = self.cx.now();
        let id = MessageId::from_bytes(self.cx.new_id());
        let message_id = format!("{id}@{}", standing.domain.name);
        let bytes = self.compose(inbox, &outgoing, &message_id)?;
        let recipients = outgoing
            .to
            .into_iter()
            .map(|address| self.recipient(address))
            .collect::<Result<Vec<_>, _>>()?;
        if recipients
            .iter()
            .all(|recipient| recipient.state == RecipientState::Suppressed)
        {
            let why = "every recipient is on the suppression list".to_owned();
            return Err(Refusal::Gated {
                gate: "suppression",
                why,
                lifts_at: None,
            });
        }
        let mut message = Message {
            id,
            tenant: self.tenant,
            inbox: self.id,
            direction: Direction::Out,
            class: outgoing.class,
            mail_from: Some(inbox.address.clone()),
            recipients,
            subject: outgoing.subject.chars().take(SUBJECT_CHARS_MAX).collect(),
            in_reply_to: outgoing
                .answers
                .as_ref()
                .map(|answers| answers.message_id.clone()),
            thread: outgoing
                .answers
                .map_or_else(|| message_id.clone(), |answers| answers.thread),
            message_id,
            body: BodyRef {
                seq: 0,
                index: 0,
                size: 0,
            },
            accepted_at: now,
            folder: Folder::Sent,
        };
        fit_ids(&mut message);
        let queued = self.queue(batch, &message, now);
        for take in self.takes(inbox, standing, queued, now)? {
            batch.take(take);
        }
        let slot = batch.body(self.tenant, Bytes::from(bytes));
        batch.put_message(message.clone(), slot);
        batch.event(self.event(EventKind::MessageAccepted {
            message: id,
            inbox: self.id,
            class: message.class,
            recipients: u16::try_from(message.recipients.len()).unwrap_or(u16::MAX),
        }));
        Ok(message)
    }

    fn compose(
        &self,
        inbox: &Inbox,
        outgoing: &Outgoing,
        message_id: &str,
    ) -> Result<Vec<u8>, Refusal> {
        let subject = HeaderText::new(&outgoing.subject).map_err(|why| invalid("subject", &why))?;
        let references = outgoing
            .answers
            .as_ref()
            .map_or_else(Vec::new, references_after);
        let unsubscribe = outgoing
            .list_unsubscribe
            .as_deref()
            .map(|url| Unsubscribe::new(url, None));
        let draft = Draft {
            from: Mailbox {
                name: Some(HeaderText::lossy(&inbox.display_name)),
                address: inbox.address.clone(),
            },
            to: outgoing
                .to
                .iter()
                .map(|address| Mailbox {
                    name: None,
                    address: address.clone(),
                })
                .collect(),
            subject,
            text: outgoing.text.clone(),
            html: outgoing.html.clone(),
            // An id that a stranger made up and that cannot stand in a header is left out: the thread suffers, no more.
            in_reply_to: outgoing
                .answers
                .as_ref()
                .and_then(|answers| MessageIdText::new(&answers.message_id).ok()),
            references: references
                .iter()
                .filter_map(|id| MessageIdText::new(id).ok())
                .collect(),
            list_unsubscribe: unsubscribe
                .transpose()
                .map_err(|why| invalid("list_unsubscribe", &why))?,
            date: self.cx.ports.clock.wall(),
            message_id: MessageIdText::new(message_id)
                .map_err(|why| invalid("message_id", &why))?,
            auto_submitted: false,
        };
        let bytes = draft.compose().map_err(|why| Refusal::Invalid {
            field: "message",
            why: why.to_string(),
        })?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            let why = format!(
                "expected at most {MESSAGE_BYTES_MAX} bytes, found {}",
                bytes.len()
            );
            return Err(Refusal::Invalid {
                field: "message",
                why,
            });
        }
        Ok(bytes)
    }

    /// What a reply needs to know of a message of this inbox. The chain of references is read from its body.
    pub(super) fn answered_by(&self, message: &Message) -> Result<Answered, Refusal> {
        let body = self.cx.store.body(self.tenant, &message.body)?;
        let references = message::inspect(&body)
            .map_or_else(|_| vec![message.thread.clone()], |found| found.references);
        Ok(Answered {
            message_id: message.message_id.clone(),
            thread: message.thread.clone(),
            references,
        })
    }

    fn recipient(&self, address: EmailAddress) -> Result<Recipient, Refusal> {
        let suppressed = self
            .cx
            .store
            .get::<Suppression>(&(self.tenant, address.key()))?;
        let state = if suppressed.is_some() {
            RecipientState::Suppressed
        } else {
            RecipientState::Queued
        };
        Ok(Recipient {
            address,
            state,
            attempts: 0,
            last_reply: String::new(),
        })
    }

    /// Puts the recipients that are to be tried into the queue; says how many.
    fn queue(&self, batch: &mut Batch, message: &Message, now: PolicyTime) -> u32 {
        let mut queued = 0;
        for (index, recipient) in (0_u16..).zip(&message.recipients) {
            if recipient.state != RecipientState::Queued {
                continue;
            }
            queued += 1;
            batch.put_new(&QueueEntry {
                message: message.id,
                recipient: index,
                tenant: self.tenant,
                inbox: self.id,
                due_at: now,
                accepted_at: now,
                attempts: 0,
                class: message.class,
                attempting: false,
                source: None,
                held: false,
            });
        }
        queued
    }

    /// What acceptance spends: one of each budget for each recipient.
    fn takes(
        &self,
        inbox: &Inbox,
        standing: &Standing,
        n: u32,
        now: PolicyTime,
    ) -> Result<[Take; 3], Refusal> {
        let plan = self.cx.rules.plan(&standing.tenant.plan)?;
        Ok(acceptance_takes(inbox, &standing.tenant, plan, n, now))
    }
}

/// The takes of an acceptance, which are also the budgets that `why` shows.
pub(crate) fn acceptance_takes(
    inbox: &Inbox,
    tenant: &Tenant,
    plan: &Plan,
    n: u32,
    now: PolicyTime,
) -> [Take; 3] {
    let zone = inboxgrove_policy::Zone::named_or_utc(&tenant.time_zone);
    let take = |budget, hour: u32, day: u32| Take {
        budget,
        n,
        hour: crate::rules::hour_window(now, hour),
        day: crate::rules::day_window(now, &zone, day),
    };
    [
        take(
            // A plan that allows less than it did binds inboxes that were made before, too.
            BudgetKey::Inbox(inbox.tenant, inbox.id),
            inbox.hourly_limit.min(plan.inbox_hour),
            inbox.daily_limit.min(plan.inbox_day),
        ),
        take(
            BudgetKey::Domain(inbox.tenant, inbox.domain),
            plan.domain_hour,
            plan.domain_day,
        ),
        take(
            BudgetKey::Tenant(inbox.tenant),
            plan.tenant_hour,
            plan.tenant_day,
        ),
    ]
}

/// Drops what a stranger's long ids would add to the row: it has to have room for the answers of servers,
/// or an outcome could not be committed later. The header has them all the same.
fn fit_ids(message: &mut Message) {
    let fits = |message: &Message| {
        let answered = message.in_reply_to.as_ref().map_or(0, String::len);
        message.message_id.len() + answered + message.thread.len() <= MESSAGE_IDS_BYTES_MAX
    };
    if !fits(message) {
        message.in_reply_to = None;
    }
    if !fits(message) {
        message.thread.clone_from(&message.message_id);
    }
}

/// `References` of a reply: those of its parent and the parent itself, the root kept.
fn references_after(answers: &Answered) -> Vec<String> {
    let mut references = answers.references.clone();
    if references.last() != Some(&answers.message_id) {
        references.push(answers.message_id.clone());
    }
    if references.len() > REFERENCES_MAX {
        let latest = references.split_off(references.len() - (REFERENCES_MAX - 1));
        references.truncate(1);
        references.extend(latest);
    }
    references
}

fn check_recipients(to: &[EmailAddress]) -> Result<(), Refusal> {
    if to.is_empty() || to.len() > RECIPIENTS_MAX {
        let why = format!(
            "expected 1 to {RECIPIENTS_MAX} recipients, found {}",
            to.len()
        );
        return Err(Refusal::Invalid { field: "to", why });
    }
    for (at, address) in to.iter().enumerate() {
        if to[..at].iter().any(|other| other.key() == address.key()) {
            return Err(Refusal::Invalid {
                field: "to",
                why: format!("{address} is named twice"),
            });
        }
    }
    Ok(())
}

fn invalid(field: &'static str, why: &TextError) -> Refusal {
    Refusal::Invalid {
        field,
        why: why.to_string(),
    }
}

fn refusal_of(closed: &Gate) -> Refusal {
    Refusal::Gated {
        gate: closed.name,
        why: closed.evidence.clone(),
        lifts_at: closed.lifts_at,
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::{InboxId, TenantId};

    use super::*;

    fn message(in_reply_to: usize, thread: usize) -> Message {
        Message {
            id: MessageId::from_bytes([1; 16]),
            tenant: TenantId::from_bytes([2; 16]),
            inbox: InboxId::from_bytes([3; 16]),
            direction: Direction::Out,
            class: MessageClass::Person,
            mail_from: None,
            recipients: Vec::new(),
            subject: String::new(),
            message_id: "m".repeat(100),
            in_reply_to: Some("r".repeat(in_reply_to)),
            thread: "t".repeat(thread),
            body: BodyRef {
                seq: 0,
                index: 0,
                size: 0,
            },
            accepted_at: PolicyTime::from_millis(0),
            folder: Folder::Sent,
        }
    }

    #[test]
    fn ids_that_leave_no_room_for_outcomes_are_dropped() {
        let room = MESSAGE_IDS_BYTES_MAX - 100;
        for (in_reply_to, thread, keeps_reply, keeps_thread) in [
            (100, 100, true, true),
            (room - 100, 100, true, true),
            (room, 100, false, true),
            (100, room + 1, false, false),
        ] {
            let mut fitted = message(in_reply_to, thread);
            fit_ids(&mut fitted);
            assert_eq!(fitted.in_reply_to.is_some(), keeps_reply, "{in_reply_to}");
            assert_eq!(fitted.thread.starts_with('t'), keeps_thread, "{thread}");
        }
    }
}
