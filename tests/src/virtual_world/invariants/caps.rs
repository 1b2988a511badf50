//! No cap is exceeded: not in the counters, not in what was accepted, not on the wires.

use std::{collections::BTreeMap, fmt::Display, net::IpAddr, time::Duration};

use inboxgrove_config::{Caps, PlanLimits};
use inboxgrove_model::{
    DomainId, InboxId, MessageId, PolicyTime, TenantId,
    budget::{BudgetKey, BudgetUse},
    inbox::Inbox,
    message::{Direction, Message, RecipientState},
    tenant::Tenant,
};
use inboxgrove_policy::Zone;
use inboxgrove_store::ReadError;

use super::Inspection;

/// An attempt is booked before its first byte; its text may begin this much later, in the next window.
const BOOKED_BEFORE: Duration = Duration::from_mins(15);

impl Inspection<'_> {
    /// No budget's row says more than its cap.
    pub(super) fn budgets_hold(&mut self, inboxes: &[Inbox]) -> Result<(), ReadError> {
        let caps = self.scene.config.outbound.caps.clone();
        let limits = self.limits();
        let mut rows = vec![(BudgetKey::Global, caps.global_per_hour, caps.global_per_day)];
        for source in &self.scene.config.outbound.sources {
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
            } = self.scene.store.budget(&key)?;
            self.demand(hour_used <= hour && day_used <= day, || {
                format!("the budget of {key} has {hour_used} of {hour} an hour and {day_used} of {day} a day")
            });
        }
        Ok(())
    }

    fn limits(&self) -> PlanLimits {
        self.scene
            .config
            .plan
            .first()
            .map(|plan| plan.limits.clone())
            .unwrap_or_default()
    }

    /// Recipients that were accepted, by inbox, domain and tenant, in each of their hours and days.
    pub(super) fn acceptance_keeps_to_the_plan(
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
    pub(super) fn wires_keep_to_the_caps(&mut self) {
        let Caps {
            global_per_hour,
            global_per_day,
            source_per_hour,
            source_per_day,
            source_site_per_hour,
            source_site_per_day,
        } = self.scene.config.outbound.caps.clone();
        let sources: Vec<IpAddr> = self
            .scene
            .config
            .outbound
            .sources
            .iter()
            .map(|source| source.address)
            .collect();
        let mut by: BTreeMap<Way, Vec<PolicyTime>> = BTreeMap::new();
        for out in self
            .scene
            .heard
            .transmissions
            .iter()
            .filter(|out| out.begun && sources.contains(&out.from))
        {
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
}

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
