//! Warmup: the band by evidence, the day's plan, the next message, the answers.

use std::time::Duration;

use inboxgrove_mail::message as mail_message;
use inboxgrove_model::{
    EmailAddress, MessageId, PolicyTime,
    due::DueRow,
    event::EventKind,
    inbox::{Band, DayPlan, Inbox, InboxStatus, Partner, PoolMember, Warmup, WarmupState},
    limits::PARTNERS_MAX,
    message::{Message, MessageClass},
};
use inboxgrove_policy::{
    WarmupRules, Zone, band,
    conversation::{self, Candidate},
    ramp, schedule,
};
use inboxgrove_store::Batch;

use super::{
    InboxState, beliefs,
    receiving::turn_of,
    sending::{Answered, Outgoing},
};
use crate::{
    notifier::{self, NoticeCode},
    refusal::Refusal,
};

/// Partners that are looked at for one thread, from a random place in the pool.
const CANDIDATES: usize = 32;
/// A wake-up later than this is not sent at once but planned anew: missed sends are not caught up in a burst.
const LATE: Duration = Duration::from_mins(30);
/// When a gate is closed, it is asked again after this.
const GATED_AGAIN: Duration = Duration::from_hours(1);
/// Answers that wait for the same window go out over this time.
const SPREAD_MILLIS: u64 = 15 * 60 * 1000;
/// An answer that could not be sent for this long is not sent any more: people forget, too.
const REPLY_STALE: Duration = Duration::from_hours(168);

impl InboxState {
    /// The clock's wake-up: judge, plan, perhaps send one message, and set the next wake-up. One commit.
    pub(super) async fn warmup_due(&mut self, row: DueRow) -> Result<(), Refusal> {
        let Ok(inbox) = self.existing().cloned() else {
            return self.drop_due(row).await;
        };
        let running = matches!(
            inbox.warmup.state,
            WarmupState::Running | WarmupState::Graduated
        );
        if inbox.wake_at != Some(row.at) || !running {
            return self.drop_due(row).await;
        }
        let now = self.cx.now();
        let zone = Zone::named_or_utc(&inbox.time_zone);
        let planned = inbox.warmup.today.clone();
        let mut changes = Vec::new();
        let mut unsent = self.judge(&mut changes, inbox)?;
        self.turn_day(&mut changes, &mut unsent, &zone, now);
        let mut inbox = unsent.clone();
        let mut batch = self.batch();
        let mut sent = self.send_if_due(&mut batch, &mut inbox, planned.as_ref(), now)?;
        self.plan_next(&mut batch, &mut inbox, &zone, now);
        let mut committed = self.commit_changes(batch, inbox, &changes).await;
        if let Err(Refusal::Budget(full)) = &committed
            && sent
        {
            // The plan is kept, the message is not: it is planned anew for when the budget opens.
            sent = false;
            let from = full.lifts_at.max(now);
            let mut batch = self.batch();
            self.plan_next(&mut batch, &mut unsent, &zone, from);
            committed = self.commit_changes(batch, unsent, &changes).await;
        }
        let inbox = committed?;
        if sent {
            self.cx.metrics.accepted.inc();
        }
        self.tell_of(&inbox, &changes);
        Ok(())
    }

    async fn commit_changes(
        &mut self,
        mut batch: Batch,
        inbox: Inbox,
        changes: &[EventKind],
    ) -> Result<Inbox, Refusal> {
        for change in changes {
            batch.event(self.event(change.clone()));
        }
        self.commit(batch, inbox).await
    }

    /// Operators hear of a quarantine once it is on disk.
    fn tell_of(&self, inbox: &Inbox, changes: &[EventKind]) {
        for change in changes {
            if let EventKind::BandChanged {
                band: Band::Quarantined,
                why,
                ..
            } = change
            {
                notifier::tell(
                    &self.cx,
                    Some(self.tenant),
                    NoticeCode::InboxQuarantined,
                    inbox.address.as_str(),
                    why,
                );
            }
        }
    }

    /// A due row that nobody waits for any more.
    async fn drop_due(&mut self, row: DueRow) -> Result<(), Refusal> {
        let mut batch = self.batch();
        batch.remove::<DueRow>(&(row.at, row.work));
        self.cx.store.commit(batch).await?;
        Ok(())
    }

    /// Moves the inbox to the band that its evidence calls for.
    fn judge(&self, changes: &mut Vec<EventKind>, mut inbox: Inbox) -> Result<Inbox, Refusal> {
        let now = self.cx.now();
        let beliefs = beliefs(&self.cx, self.tenant, self.id)?;
        let was = inbox.warmup.band;
        let (next, why) = band(&beliefs, was, inbox.warmup.band_since, now);
        if next == was {
            return Ok(inbox);
        }
        inbox.warmup.band = next;
        inbox.warmup.band_since = now;
        inbox.reason.clone_from(&why);
        changes.push(EventKind::BandChanged {
            inbox: self.id,
            band: next,
            why,
        });
        Ok(inbox)
    }

    /// On the first wake-up of a local day: yesterday moves the ramp on, or a rest moves it back.
    fn turn_day(
        &self,
        changes: &mut Vec<EventKind>,
        inbox: &mut Inbox,
        zone: &Zone,
        now: PolicyTime,
    ) {
        let rules = &self.cx.rules.warmup;
        let local_day = zone.local_day(now);
        let Some(last) = inbox
            .warmup
            .today
            .clone()
            .filter(|last| last.local_day < local_day)
        else {
            return;
        };
        if last.sent > 0 && ramp::advances(inbox.warmup.band) {
            inbox.warmup.active_days += 1;
        }
        inbox.warmup.active_days = ramp::active_days_after_rest(&inbox.warmup, local_day, rules);
        if ramp::may_graduate(&inbox.warmup, None, rules) {
            inbox.warmup.state = WarmupState::Graduated;
            inbox.status = InboxStatus::Active;
            "warm: its warmup goes on at a low level".clone_into(&mut inbox.reason);
            changes.push(EventKind::WarmupChanged {
                inbox: self.id,
                state: WarmupState::Graduated,
            });
        }
        inbox.warmup.today = None;
    }

    /// Starts a thread when its time has come and no gate is closed.
    fn send_if_due(
        &self,
        batch: &mut Batch,
        inbox: &mut Inbox,
        planned: Option<&DayPlan>,
        now: PolicyTime,
    ) -> Result<bool, Refusal> {
        let Some(next_at) = planned.and_then(|plan| plan.next_at) else {
            return Ok(false);
        };
        let has_room = inbox
            .warmup
            .today
            .as_ref()
            .is_some_and(|plan| plan.sent < plan.target);
        if next_at > now || now.since(next_at) > LATE || !has_room {
            return Ok(false);
        }
        let standing = match self.pass_gates(inbox, MessageClass::Warmup) {
            Ok(standing) => standing,
            Err(Refusal::Gated { .. }) => return Ok(false),
            Err(why) => return Err(why),
        };
        let Some(partner) = self.choose_partner(inbox, now)? else {
            return Ok(false);
        };
        // The thread's words follow from its Message-ID, which acceptance makes; so the seed is drawn here.
        let seed = self.cx.ports.rng.next_u64();
        let turn = conversation::compose(seed, 1, 2, &inbox.display_name, &partner.display_name);
        let outgoing = warmup_message(partner.address.clone(), turn, None);
        self.accept(batch, &standing, outgoing)?;
        remember(
            inbox,
            Partner {
                inbox: partner.inbox,
                met_at: now,
            },
            now,
            self.cx.rules.warmup.partner_rest,
        );
        count_sent(inbox);
        Ok(true)
    }

    fn choose_partner(
        &self,
        inbox: &Inbox,
        now: PolicyTime,
    ) -> Result<Option<PoolMember>, Refusal> {
        let rng = &*self.cx.ports.rng;
        let members = self.cx.store.pool_from(rng.next_u64(), CANDIDATES)?;
        let met = |member: &PoolMember| {
            inbox
                .partners
                .iter()
                .rev()
                .find(|partner| partner.inbox == member.inbox)
                .map(|partner| partner.met_at)
        };
        let candidates: Vec<_> = members
            .iter()
            .map(|member| Candidate {
                member,
                last_met: met(member),
                received_today: 0,
            })
            .collect();
        let me = (inbox.tenant, inbox.domain, inbox.id);
        let chosen = conversation::choose_partner(
            me,
            &candidates,
            now,
            rng.next_u64(),
            &self.cx.rules.warmup,
        );
        Ok(chosen.map(|place| members[place].clone()))
    }

    /// Plans what is left of the day from a time on, and when to wake next: for the next message, or before
    /// tomorrow's first.
    fn plan_next(&self, batch: &mut Batch, inbox: &mut Inbox, zone: &Zone, from: PolicyTime) {
        let now = self.cx.now();
        let (plan, wake_at) = plan_from(&inbox.warmup, now, from, zone, &self.cx.rules.warmup);
        inbox.warmup.today = Some(plan);
        self.schedule(batch, inbox, wake_at);
    }

    /// The time to answer a partner has come.
    pub(super) async fn reply_due(&mut self, row: DueRow, id: MessageId) -> Result<(), Refusal> {
        let key = (row.at, row.work.clone());
        if self.cx.store.get::<DueRow>(&key)?.is_none() {
            // Offered twice: it is done, or moved.
            return Ok(());
        }
        let received = self.cx.store.get::<Message>(&(self.tenant, self.id, id))?;
        let (Ok(mut inbox), Some(received)) = (self.existing().cloned(), received) else {
            return self.drop_due(row).await;
        };
        let now = self.cx.now();
        let paused = !matches!(
            inbox.warmup.state,
            WarmupState::Running | WarmupState::Graduated
        );
        let Some(to) = received
            .mail_from
            .clone()
            .filter(|_| !paused && now.since(received.accepted_at) < REPLY_STALE)
        else {
            return self.drop_due(row).await;
        };
        let standing = match self.pass_gates(&inbox, MessageClass::Warmup) {
            Ok(standing) => standing,
            Err(Refusal::Gated { lifts_at, .. }) => {
                return self
                    .put_off_reply(row, lifts_at.unwrap_or(now.after(GATED_AGAIN)))
                    .await;
            }
            Err(why) => return Err(why),
        };
        let mut batch = self.batch();
        batch.expect(&row).remove::<DueRow>(&key);
        let outgoing = self.turn_after(&inbox, &received, to)?;
        self.accept(&mut batch, &standing, outgoing)?;
        count_sent(&mut inbox);
        match self.commit(batch, inbox).await {
            Ok(_) => {
                self.cx.metrics.accepted.inc();
                Ok(())
            }
            Err(Refusal::Budget(full)) => self.put_off_reply(row, full.lifts_at).await,
            Err(why) => Err(why),
        }
    }

    async fn put_off_reply(&mut self, row: DueRow, at: PolicyTime) -> Result<(), Refusal> {
        // Not all at the instant at which a window opens.
        let spread = self.cx.ports.rng.next_u64() % SPREAD_MILLIS;
        let at = at.after(Duration::from_millis(spread));
        let mut batch = self.batch();
        batch.remove::<DueRow>(&(row.at, row.work.clone()));
        batch.put(&DueRow {
            at: at.max(self.cx.now().after(Duration::from_secs(1))),
            work: row.work,
        });
        self.cx.store.commit(batch).await?;
        Ok(())
    }

    fn turn_after(
        &self,
        inbox: &Inbox,
        received: &Message,
        to: EmailAddress,
    ) -> Result<Outgoing, Refusal> {
        let body = self.cx.store.body(self.tenant, &received.body)?;
        let damaged = |why: mail_message::InspectError| Refusal::Damaged {
            why: format!("message {}: {why}", received.id),
        };
        let inspection = mail_message::inspect(&body).map_err(damaged)?;
        let seed = conversation::thread_seed(&received.thread);
        let turn = turn_of(&inspection).saturating_add(1);
        let mut words = conversation::compose(
            seed,
            turn,
            conversation::turns(seed),
            &inbox.display_name,
            &inspection.from_name,
        );
        // A reply keeps its thread's subject, whatever the seed would say.
        words.subject = reply_subject(&inspection.subject);
        let answers = Answered {
            message_id: received.message_id.clone(),
            thread: received.thread.clone(),
            references: inspection.references,
        };
        Ok(warmup_message(to, words, Some(answers)))
    }
}

/// The plan of the day that `now` is in, which sends nothing before `from`, and when to wake next.
fn plan_from(
    warmup: &Warmup,
    now: PolicyTime,
    from: PolicyTime,
    zone: &Zone,
    rules: &WarmupRules,
) -> (DayPlan, PolicyTime) {
    let mut plan = ramp::plan_day(warmup, now, zone, None, rules);
    if from > now {
        // Beyond midnight it is the next day's plan, which is made when that day comes.
        plan.next_at = schedule::next_send_at(&plan, warmup.seed, from, zone, rules);
    }
    let tomorrow = || schedule::next_plan_at(warmup.seed, now, zone, rules);
    let soonest = now.after(Duration::from_secs(1));
    let wake_at = plan.next_at.unwrap_or_else(tomorrow).max(soonest);
    (plan, wake_at)
}

fn warmup_message(
    to: EmailAddress,
    words: conversation::Turn,
    answers: Option<Answered>,
) -> Outgoing {
    Outgoing {
        class: MessageClass::Warmup,
        to: vec![to],
        subject: words.subject,
        text: words.text,
        html: None,
        answers,
        list_unsubscribe: None,
    }
}

fn reply_subject(subject: &str) -> String {
    if subject.to_ascii_lowercase().starts_with("re:") {
        subject.to_owned()
    } else {
        format!("Re: {subject}")
    }
}

fn count_sent(inbox: &mut Inbox) {
    if let Some(plan) = &mut inbox.warmup.today {
        plan.sent += 1;
    }
}

/// Keeps the latest partners; those that have rested long enough are forgotten.
fn remember(inbox: &mut Inbox, partner: Partner, now: PolicyTime, rest: Duration) {
    inbox.partners.retain(|old| now.since(old.met_at) < rest);
    inbox.partners.push(partner);
    let beyond = inbox.partners.len().saturating_sub(PARTNERS_MAX);
    inbox.partners.drain(..beyond);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_keeps_its_subject() {
        assert_eq!(reply_subject("Lunch"), "Re: Lunch");
        assert_eq!(reply_subject("RE: Lunch"), "RE: Lunch");
    }

    fn warmup(seed: u64) -> Warmup {
        Warmup {
            state: WarmupState::Running,
            started_at: Some(PolicyTime::from_millis(0)),
            active_days: 20,
            base: 3,
            increment: 2,
            cap: 40,
            seed,
            today: None,
            band: Band::Healthy,
            band_since: PolicyTime::from_millis(0),
        }
    }

    #[test]
    fn inboxes_that_wait_for_a_budget_do_not_go_off_at_one_instant() {
        let (zone, rules) = (Zone::utc(), WarmupRules::default());
        // A Wednesday, ten in the morning; the hour's budget opens at eleven.
        let now = PolicyTime::from_millis(20_780 * 86_400_000 + 10 * 3_600_000);
        let opens = now.after(Duration::from_hours(1));
        let mut times: Vec<_> = (0..50)
            .map(|seed| plan_from(&warmup(seed), now, opens, &zone, &rules).1)
            .collect();
        assert!(times.iter().all(|at| *at > opens));
        times.sort();
        times.dedup();
        assert!(times.len() > 25, "{}", times.len());
    }

    #[test]
    fn a_budget_that_opens_tomorrow_leaves_the_rest_of_today_empty() {
        let (zone, rules) = (Zone::utc(), WarmupRules::default());
        let now = PolicyTime::from_millis(20_780 * 86_400_000 + 10 * 3_600_000);
        let opens = PolicyTime::from_millis(20_781 * 86_400_000);
        for seed in 0..50 {
            let (plan, wake_at) = plan_from(&warmup(seed), now, opens, &zone, &rules);
            assert_eq!(plan.next_at, None);
            assert!(wake_at > opens);
        }
    }
}
