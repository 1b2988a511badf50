//! Nothing that was promised is lost.

use std::collections::{BTreeMap, BTreeSet};

use inboxgrove_model::{
    InboxId, MessageId, TenantId,
    domain::Domain,
    inbox::Inbox,
    job::Job,
    message::{Direction, Message, QueueEntry},
    notice::{Notice, NoticeState},
    tenant::Tenant,
};
use inboxgrove_sim::world::addresses;
use inboxgrove_store::ReadError;

use super::Inspection;

impl Inspection<'_> {
    /// Nothing acknowledged over the API is lost; nothing asked for once was done twice.
    pub(super) fn promises_are_kept(
        &mut self,
        messages: &BTreeMap<(TenantId, InboxId, MessageId), Message>,
    ) -> Result<(), ReadError> {
        let tenants: BTreeSet<_> = self
            .rows::<Tenant>()?
            .iter()
            .map(|tenant| tenant.id)
            .collect();
        let domains: BTreeSet<_> = self
            .rows::<Domain>()?
            .iter()
            .map(|domain| (domain.tenant, domain.id))
            .collect();
        let jobs: BTreeSet<_> = self
            .rows::<Job>()?
            .iter()
            .map(|job| (job.tenant, job.id))
            .collect();
        let queued: BTreeSet<_> = self
            .rows::<QueueEntry>()?
            .iter()
            .map(|row| (row.message, row.recipient))
            .collect();
        let promised = self.scene.promised;
        for tenant in &promised.tenants {
            self.demand(tenants.contains(tenant), || {
                format!("the account {tenant} is lost")
            });
        }
        for domain in &promised.domains {
            self.demand(domains.contains(domain), || {
                format!("the domain {} is lost", domain.1)
            });
        }
        for (tenant, job, _) in &promised.jobs {
            self.demand(jobs.contains(&(*tenant, *job)), || {
                format!("the job {job} is lost")
            });
        }
        let mut subjects: BTreeMap<&str, u32> = BTreeMap::new();
        for message in messages
            .values()
            .filter(|message| message.direction == Direction::Out)
        {
            *subjects.entry(&message.subject).or_default() += 1;
        }
        for sent in &promised.sent {
            let Some(message) = messages.get(&(sent.tenant, sent.inbox, sent.message)) else {
                self.demand(false, || format!("the message {} is lost", sent.message));
                continue;
            };
            let times = subjects.get(sent.subject.as_str()).copied().unwrap_or(0);
            self.demand(times == 1, || {
                format!(
                    "{:?} was accepted {times} times under one key",
                    sent.subject
                )
            });
            // The text has rotted if anything has; then it is read again when that is mended.
            if let Err(why) = self.scene.store.body(sent.tenant, &message.body)
                && !self.scene.rotten
            {
                self.demand(false, || {
                    format!("the text of {} is lost: {why}", sent.message)
                });
            }
        }
        for message in messages
            .values()
            .filter(|message| message.direction == Direction::Out)
        {
            for (n, recipient) in (0_u16..).zip(&message.recipients) {
                let waits = queued.contains(&(message.id, n));
                self.demand(recipient.state.is_final() != waits, || {
                    format!(
                        "recipient {n} of {} is {:?} and {} in the queue",
                        message.id,
                        recipient.state,
                        if waits { "is" } else { "is not" }
                    )
                });
            }
        }
        Ok(())
    }

    /// What our listener answered 250 to lies in its inbox.
    pub(super) fn mail_that_was_taken_is_there(
        &mut self,
        messages: &BTreeMap<(TenantId, InboxId, MessageId), Message>,
        inboxes: &[Inbox],
    ) {
        let addresses_of: BTreeMap<InboxId, String> = inboxes
            .iter()
            .map(|inbox| (inbox.id, inbox.address.key()))
            .collect();
        let received: BTreeSet<(String, String)> = messages
            .values()
            .filter(|message| message.direction == Direction::In)
            .filter_map(|message| {
                Some((
                    addresses_of.get(&message.inbox)?.clone(),
                    message.message_id.clone(),
                ))
            })
            .collect();
        for taken in self
            .scene
            .heard
            .transmissions
            .iter()
            .filter(|taken| taken.to == addresses::INBOUND && taken.answer == Some(250))
        {
            for recipient in &taken.recipients {
                let there = received.contains(&(recipient.clone(), taken.message_id.clone()));
                self.demand(there, || {
                    format!("{} was taken for {recipient} and is lost", taken.message_id)
                });
            }
        }
    }

    /// Whoever is told that a notice went out finds that the vendor has it; under one key he is told one thing, and
    /// not again once his answer came back.
    pub(super) fn notices_are_told(&mut self) -> Result<(), ReadError> {
        let mut bodies: BTreeMap<&str, &bytes::Bytes> = BTreeMap::new();
        let mut confirmed: BTreeMap<&str, usize> = BTreeMap::new();
        let calls = self.scene.calls;
        for call in calls {
            let first = bodies.entry(&call.key).or_insert(&call.body);
            let same = *first == &call.body;
            self.demand(same, || format!("{} says two different things", call.key));
            *confirmed.entry(&call.key).or_default() += usize::from(call.confirmed);
        }
        let ends = self.scene.heard.ends.len();
        for (key, times) in &confirmed {
            self.demand(*times <= 1 + ends, || {
                format!("{key} was confirmed {times} times, with {ends} ends of runs")
            });
        }
        let done: BTreeSet<&str> = calls
            .iter()
            .filter(|call| call.done)
            .map(|call| call.key.as_str())
            .collect();
        for notice in self.rows::<Notice>()? {
            let key = format!("notice-{}", notice.id);
            let told = notice.state == NoticeState::Told;
            self.demand(!told || done.contains(key.as_str()), || {
                format!("{key} is called told, and no vendor has it")
            });
        }
        Ok(())
    }
}
