//! What must hold in every world at every time, whatever befell it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    time::Duration,
};

use inboxgrove_config::{Caps, Config, PlanLimits};
use inboxgrove_model::{
    DomainId, InboxId, MessageId, PolicyTime, TenantId,
    budget::{BudgetKey, BudgetUse},
    domain::Domain,
    due::DueRow,
    event::{EventKind, LoggedEvent},
    inbox::{DayCounts, Inbox, InboxStatus},
    job::{Job, JobState},
    message::{BounceClass, Direction, Message, QueueEntry, RecipientState},
    tenant::Tenant,
};
use inboxgrove_policy::Zone;
use inboxgrove_sim::world::addresses;
use inboxgrove_store::{EvidenceRow, ReadError, Record, Store};

use super::{
    people::Entries,
    records::{all, events_after},
    wire::Transmission,
};

/// An attempt is booked before its first byte; its text may begin this much later, in the next window.
const BOOKED_BEFORE: Duration = Duration::from_mins(15);
/// Events are made a moment before they are committed, so two may stand in the wrong order by this much.
const EVENT_SLACK: Duration = Duration::from_mins(1);
/// In calm, work for a time is done within this long.
const DUE_WITHIN: Duration = Duration::from_mins(10);
/// In calm, mail is tried within this long; the pace of a site may hold it up.
const QUEUE_WITHIN: Duration = Duration::from_hours(2);

/// A store, and what the world knows of it.
pub struct Inspection<'a> {
    /// What is looked at.
    pub store: &'a Store,
    /// What it was told to keep to.
    pub config: &'a Config,
    /// What people were promised.
    pub promised: &'a Entries,
    /// What was heard on the wires.
    pub heard: &'a [Transmission],
    /// What time it is.
    pub now: PolicyTime,
    /// Whether everything has been well for hours, so that no work may be left.
    pub calm: bool,
    violations: Vec<String>,
}

/// How a log began when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Past {
    events: usize,
    hash: u64,
}

impl<'a> Inspection<'a> {
    /// About to look at a store.
    pub fn new(
        store: &'a Store,
        config: &'a Config,
        promised: &'a Entries,
        heard: &'a [Transmission],
        now: PolicyTime,
        calm: bool,
    ) -> Self {
        Self {
            store,
            config,
            promised,
            heard,
            now,
            calm,
            violations: Vec::new(),
        }
    }

    /// Looks at everything. What does not hold, in sentences.
    pub fn look(mut self, past: &mut Past) -> Result<Vec<String>, ReadError> {
        let messages: BTreeMap<(TenantId, InboxId, MessageId), Message> = self
            .rows::<Message>()?
            .into_iter()
            .map(|message| ((message.tenant, message.inbox, message.id), message))
            .collect();
        let inboxes = self.rows::<Inbox>()?;
        let events = events_after(self.store, 0)?;
        self.history_stays(&events, past);
        self.promises_are_kept(&messages)?;
        self.mail_that_was_taken_is_there(&messages, &inboxes);
        self.budgets_hold(&inboxes)?;
        self.acceptance_keeps_to_the_plan(&messages, &inboxes)?;
        self.wires_keep_to_the_caps();
        self.nothing_arrives_twice(&events);
        self.rollups_equal_events(&events)?;
        self.counts_equal_rows(&inboxes)?;
        if self.calm {
            self.no_work_is_left()?;
        }
        Ok(self.violations)
    }

    fn rows<R: Record>(&self) -> Result<Vec<R>, ReadError> {
        all(self.store)
    }

    fn demand(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(otherwise());
        }
    }

    /// What was once in the log stays there, and policy time never goes back.
    fn history_stays(&mut self, events: &[LoggedEvent], past: &mut Past) {
        let hash = |events: &[LoggedEvent]| {
            let mut hasher = DefaultHasher::new();
            for event in events {
                format!("{event:?}").hash(&mut hasher);
            }
            hasher.finish()
        };
        let same = events
            .get(..past.events)
            .is_some_and(|begin| hash(begin) == past.hash);
        self.demand(past.events == 0 || same, || {
            format!(
                "the first {} events of the log are not what they were",
                past.events
            )
        });
        *past = Past {
            events: events.len(),
            hash: hash(events),
        };
        for pair in events.windows(2) {
            let [earlier, later] = pair else { continue };
            self.demand(earlier.id < later.id, || {
                format!("event {} comes after {}", later.id, earlier.id)
            });
            self.demand(
                later.event.at.after(EVENT_SLACK) >= earlier.event.at,
                || format!("event {} is earlier than the one before it", later.id),
            );
        }
    }

    /// Nothing acknowledged over the API is lost; nothing asked for once was done twice.
    fn promises_are_kept(
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
        let promised = self.promised;
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
            let kept = self.store.body(sent.tenant, &message.body);
            self.demand(kept.is_ok(), || {
                format!("the text of {} is lost", sent.message)
            });
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
    fn mail_that_was_taken_is_there(
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
            .heard
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

    /// No budget's row says more than its cap.
    fn budgets_hold(&mut self, inboxes: &[Inbox]) -> Result<(), ReadError> {
        let caps = self.config.outbound.caps.clone();
        let limits = self.limits();
        let mut rows = vec![(BudgetKey::Global, caps.global_per_hour, caps.global_per_day)];
        for source in &self.config.outbound.sources {
            rows.push((
                BudgetKey::Source(source.address),
                caps.source_per_hour,
                caps.source_per_day,
            ));
        }
        for inbox in inboxes {
            rows.push((
                BudgetKey::Inbox(inbox.tenant, inbox.id),
                inbox.hourly_limit,
                inbox.daily_limit,
            ));
            let domain = BudgetKey::Domain(inbox.tenant, inbox.domain);
            rows.push((domain, limits.domain_per_hour, limits.domain_per_day));
            rows.push((
                BudgetKey::Tenant(inbox.tenant),
                limits.tenant_per_hour,
                limits.tenant_per_day,
            ));
        }
        for (key, hour, day) in rows {
            let BudgetUse {
                hour_used,
                day_used,
                ..
            } = self.store.budget(&key)?;
            self.demand(hour_used <= hour && day_used <= day, || {
                format!("the budget of {key} has {hour_used} of {hour} an hour and {day_used} of {day} a day")
            });
        }
        Ok(())
    }

    fn limits(&self) -> PlanLimits {
        self.config
            .plan
            .first()
            .map(|plan| plan.limits.clone())
            .unwrap_or_default()
    }

    /// Recipients that were accepted, by inbox, domain and tenant, in each of their hours and days.
    fn acceptance_keeps_to_the_plan(
        &mut self,
        messages: &BTreeMap<(TenantId, InboxId, MessageId), Message>,
        inboxes: &[Inbox],
    ) -> Result<(), ReadError> {
        let zones: BTreeMap<TenantId, Zone> = self
            .rows::<Tenant>()?
            .iter()
            .map(|tenant| (tenant.id, Zone::named_or_utc(&tenant.time_zone)))
            .collect();
        let inboxes: BTreeMap<InboxId, &Inbox> =
            inboxes.iter().map(|inbox| (inbox.id, inbox)).collect();
        let limits = self.limits();
        let mut sums: BTreeMap<(Whose, Window), (u32, u32)> = BTreeMap::new();
        for message in messages
            .values()
            .filter(|message| message.direction == Direction::Out)
        {
            let (Some(inbox), Some(zone)) =
                (inboxes.get(&message.inbox), zones.get(&message.tenant))
            else {
                continue;
            };
            let tried = message
                .recipients
                .iter()
                .filter(|r| r.state != RecipientState::Suppressed)
                .count();
            let tried = u32::try_from(tried).unwrap_or(u32::MAX);
            let hour = Window::Hour(message.accepted_at.utc_hour());
            let day = Window::Day(zone.local_day(message.accepted_at));
            for (whose, hour_cap, day_cap) in [
                (
                    Whose::Inbox(inbox.id),
                    inbox.hourly_limit,
                    inbox.daily_limit,
                ),
                (
                    Whose::Domain(inbox.domain),
                    limits.domain_per_hour,
                    limits.domain_per_day,
                ),
                (
                    Whose::Tenant(message.tenant),
                    limits.tenant_per_hour,
                    limits.tenant_per_day,
                ),
            ] {
                sums.entry((whose, hour)).or_insert((0, hour_cap)).0 += tried;
                sums.entry((whose, day)).or_insert((0, day_cap)).0 += tried;
            }
        }
        for ((whose, window), (sum, cap)) in sums {
            self.demand(sum <= cap, || {
                format!("{whose:?} had {sum} of {cap} accepted in {window:?}")
            });
        }
        Ok(())
    }

    /// What really went out, against the caps of all, of each source, and of each source at each site.
    fn wires_keep_to_the_caps(&mut self) {
        let Caps {
            global_per_hour,
            global_per_day,
            source_per_hour,
            source_per_day,
            source_site_per_hour,
            source_site_per_day,
        } = self.config.outbound.caps.clone();
        let sources: Vec<IpAddr> = self
            .config
            .outbound
            .sources
            .iter()
            .map(|source| source.address)
            .collect();
        let mut by: BTreeMap<Way, Vec<PolicyTime>> = BTreeMap::new();
        for out in self.heard.iter().filter(|out| sources.contains(&out.from)) {
            for way in [
                Way::Any,
                Way::From(out.from),
                Way::Between(out.from, provider_of(out.to)),
            ] {
                let times = by.entry(way).or_default();
                times.extend(std::iter::repeat_n(
                    out.began_at,
                    out.recipients.len().max(1),
                ));
            }
        }
        for (way, times) in by {
            let (hour, day) = match way {
                Way::Any => (global_per_hour, global_per_day),
                Way::From(_) => (source_per_hour, source_per_day),
                Way::Between(..) => (source_site_per_hour, source_site_per_day),
            };
            for (window, cap) in [
                (Duration::from_hours(1), hour),
                (Duration::from_hours(24), day),
            ] {
                if let Some(why) = exceeded(&times, window, cap) {
                    self.demand(false, || format!("{way:?}: {why}"));
                }
            }
        }
    }

    /// A server takes a message for a recipient once, and once more for every time that nobody knew.
    fn nothing_arrives_twice(&mut self, events: &[LoggedEvent]) {
        let mut uncertain: BTreeMap<(String, String), u32> = BTreeMap::new();
        let mut delivered: Vec<(String, String)> = Vec::new();
        for logged in events {
            match &logged.event.kind {
                EventKind::MessageUncertain {
                    message, recipient, ..
                } => {
                    *uncertain
                        .entry((message.to_string(), recipient.key()))
                        .or_default() += 1;
                }
                EventKind::MessageDelivered {
                    message, recipient, ..
                } => {
                    delivered.push((message.to_string(), recipient.key()));
                }
                _ => {}
            }
        }
        let mut taken: BTreeMap<(String, String), u32> = BTreeMap::new();
        let sources: Vec<IpAddr> = self
            .config
            .outbound
            .sources
            .iter()
            .map(|source| source.address)
            .collect();
        for out in self
            .heard
            .iter()
            .filter(|out| sources.contains(&out.from) && out.answer == Some(250))
        {
            let id = out.message_id.split('@').next().unwrap_or_default();
            for recipient in &out.recipients {
                *taken.entry((id.to_owned(), recipient.clone())).or_default() += 1;
            }
        }
        // An attempt that a crash cut off is called uncertain when the daemon is up again.
        for (what, times) in &taken {
            let known = uncertain.get(what).copied().unwrap_or(0);
            self.demand(*times <= known + 1, || {
                format!(
                    "{} arrived {times} times at {} and was uncertain {known} times",
                    what.0, what.1
                )
            });
        }
        for what in &delivered {
            self.demand(taken.contains_key(what), || {
                format!(
                    "{} is called delivered to {}, and no server took it",
                    what.0, what.1
                )
            });
        }
    }

    /// The rollups are the sums of their events.
    fn rollups_equal_events(&mut self, events: &[LoggedEvent]) -> Result<(), ReadError> {
        let mut expected: BTreeMap<(InboxId, i64, String), DayCounts> = BTreeMap::new();
        let mut replies: BTreeMap<(InboxId, i64), i64> = BTreeMap::new();
        let mut expired: BTreeSet<InboxId> = BTreeSet::new();
        for logged in events {
            let day = logged.event.at.utc_day();
            match &logged.event.kind {
                EventKind::MessageReplied { inbox, .. } => {
                    *replies.entry((*inbox, day)).or_default() += 1;
                }
                EventKind::MessageExpired { inbox, .. } => drop(expired.insert(*inbox)),
                kind => {
                    if let Some((inbox, provider, counted)) = counted_by(kind) {
                        *counted(
                            expected
                                .entry((inbox, day, provider.to_owned()))
                                .or_default(),
                        ) += 1;
                    }
                }
            }
        }
        for row in self.rows::<EvidenceRow>()? {
            let key = (row.inbox, row.day.utc_day, row.day.provider.clone());
            *replies.entry((row.inbox, row.day.utc_day)).or_default() -=
                i64::from(row.day.counts.replies);
            let mut sum = expected.remove(&key).unwrap_or_default();
            sum.replies = row.day.counts.replies;
            if expired.contains(&row.inbox) {
                // The last answer before a message grew too old is told by the event of its end.
                sum.deferred = row.day.counts.deferred;
            }
            self.demand(sum == row.day.counts, || {
                format!(
                    "the rollup {key:?} is {:?}, and its events sum up to {sum:?}",
                    row.day.counts
                )
            });
        }
        for (key, sum) in expected {
            self.demand(false, || {
                format!("there is no rollup {key:?}, and its events sum up to {sum:?}")
            });
        }
        for (key, difference) in replies {
            self.demand(difference == 0, || {
                format!("replies of {key:?}: {difference} more events than in the rollups")
            });
        }
        Ok(())
    }

    /// What rows say of how many others there are.
    fn counts_equal_rows(&mut self, inboxes: &[Inbox]) -> Result<(), ReadError> {
        let jobs = self.rows::<Job>()?;
        for tenant in self.rows::<Tenant>()? {
            let there = inboxes
                .iter()
                .filter(|i| i.tenant == tenant.id && i.status != InboxStatus::Deleted)
                .count();
            let coming: u32 = jobs
                .iter()
                .filter(|job| {
                    job.tenant == tenant.id
                        && matches!(job.state, JobState::Pending | JobState::Running)
                })
                .flat_map(|job| &job.steps)
                .map(|step| step.total - step.done)
                .sum();
            let counted = usize::try_from(tenant.inboxes_count).unwrap_or(usize::MAX);
            let known = there + usize::try_from(coming).unwrap_or(usize::MAX);
            self.demand(counted == known, || {
                format!(
                    "{} counts {counted} inboxes; {there} are there and {coming} are coming",
                    tenant.id
                )
            });
        }
        let mut addresses = BTreeSet::new();
        for inbox in inboxes {
            self.demand(addresses.insert(inbox.address.key()), || {
                format!("{} is there twice", inbox.address)
            });
        }
        Ok(())
    }

    /// In calm everything that was due has been done.
    fn no_work_is_left(&mut self) -> Result<(), ReadError> {
        let now = self.now;
        for row in self.rows::<DueRow>()? {
            self.demand(row.at.after(DUE_WITHIN) >= now, || {
                format!("{:?} was due {} and is not done at {now}", row.work, row.at)
            });
        }
        for row in self.rows::<QueueEntry>()? {
            self.demand(row.due_at.after(QUEUE_WITHIN) >= now, || {
                format!(
                    "recipient {} of {} was due {} and waits at {now}",
                    row.recipient, row.message, row.due_at
                )
            });
        }
        let (inboxes, jobs) = (self.rows::<Inbox>()?, self.rows::<Job>()?);
        for (tenant, id, _) in &self.promised.jobs.clone() {
            let job = jobs.iter().find(|job| job.id == *id);
            self.demand(job.is_some_and(|job| job.state == JobState::Done), || {
                format!("the job {id} is not done")
            });
            let asked: u32 = self
                .promised
                .jobs
                .iter()
                .filter(|job| job.0 == *tenant)
                .map(|job| job.2)
                .sum();
            let made = inboxes
                .iter()
                .filter(|inbox| inbox.tenant == *tenant)
                .count();
            self.demand(usize::try_from(asked) == Ok(made), || {
                format!("{made} of {asked} inboxes were made for {tenant}")
            });
        }
        Ok(())
    }
}

/// One of the sums of a rollup.
type Sum = fn(&mut DayCounts) -> &mut u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Inbox(InboxId),
    Domain(DomainId),
    Tenant(TenantId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Window {
    Hour(i64),
    Day(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Any,
    From(IpAddr),
    Between(IpAddr, u8),
}

/// Which provider lives at an address: all hosts of one are one site.
fn provider_of(host: IpAddr) -> u8 {
    match host {
        IpAddr::V4(v4) => v4.octets()[2],
        IpAddr::V6(_) => 0,
    }
}

/// Whether these transmissions need more than `cap` places in some window. What began shortly after a window's
/// beginning may have been booked in the one before, if that had room.
fn exceeded(times: &[PolicyTime], window: Duration, cap: u32) -> Option<impl Display + use<>> {
    let millis = i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
    let mut windows: BTreeMap<i64, (u32, u32)> = BTreeMap::new();
    for time in times {
        let index = time.as_millis().div_euclid(millis);
        let begins = PolicyTime::from_millis(index * millis);
        let (surely, perhaps) = windows.entry(index).or_default();
        if time.since(begins) < BOOKED_BEFORE {
            *perhaps += 1;
        } else {
            *surely += 1;
        }
    }
    let mut room_before = (i64::MIN, 0);
    for (index, (surely, perhaps)) in windows {
        // A window in which nothing began has all its room.
        let room = if room_before.0 == index - 1 {
            room_before.1
        } else {
            cap
        };
        let here = surely + perhaps.saturating_sub(room);
        if here > cap {
            let begins = PolicyTime::from_millis(index * millis);
            return Some(format!(
                "{here} recipients in the {window:?} from {begins}, and the cap is {cap}"
            ));
        }
        room_before = (index, cap - here);
    }
    None
}

/// Which sum of an inbox at a provider an event belongs to.
fn counted_by(kind: &EventKind) -> Option<(InboxId, &str, Sum)> {
    Some(match kind {
        EventKind::MessageDelivered {
            inbox, provider, ..
        } => (*inbox, provider, |counts| &mut counts.delivered),
        // Only what a server said counts; a lost connection says nothing about the inbox.
        EventKind::MessageDeferred {
            inbox,
            provider,
            reply,
            ..
        } if is_answer(reply) => (*inbox, provider, |counts| &mut counts.deferred),
        EventKind::MessageBounced {
            inbox,
            provider,
            class,
            ..
        } => match class {
            BounceClass::Recipient => (*inbox, provider, |counts| &mut counts.bounced_recipient),
            BounceClass::Infrastructure | BounceClass::Content => {
                (*inbox, provider, |counts| &mut counts.bounced_policy)
            }
        },
        EventKind::MessagePlaced {
            inbox,
            provider,
            spam,
            ..
        } => match spam {
            true => (*inbox, provider, |counts| &mut counts.placed_spam),
            false => (*inbox, provider, |counts| &mut counts.placed_inbox),
        },
        _ => return None,
    })
}

/// Whether a kept reply is a server's answer: it begins with a code.
fn is_answer(reply: &str) -> bool {
    let mut chars = reply.chars();
    chars.by_ref().take(3).filter(char::is_ascii_digit).count() == 3 && chars.next() == Some(' ')
}
