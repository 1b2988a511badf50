//! What the operator set, in the words of the policies: converted once, at the start.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use inboxgrove_config::{Cidr, Config, SignalSettings, TlsPolicy};
use inboxgrove_mail::smtp::{
    client::Tls,
    tls::{Trust, client_config},
};
use inboxgrove_model::{
    DomainName, InboxId, PolicyTime, TenantId,
    budget::{BudgetKey, Take, Window},
    domain::DomainStatus,
    message::QueueEntry,
    ports::Clock,
};
use inboxgrove_policy::{
    HealthRules, PaceRules, RetryRules, RulePack, SignalRules, WarmupRules, Zone,
};

use crate::refusal::Refusal;

/// How often an unproven domain is asked about: people wait for it.
const PENDING_EVERY: Duration = Duration::from_mins(5);
/// How often a proven domain is asked about: a break is found within 15 minutes (mission yardstick 3).
const PROVEN_EVERY: Duration = Duration::from_mins(15);

/// All rules of the tree.
pub(crate) struct Rules {
    pub(crate) hostname: String,
    pub(crate) own_name: DomainName,
    plans: BTreeMap<String, Plan>,
    first_plan: String,
    pub(crate) warmup: WarmupRules,
    pub(crate) health: HealthRules,
    pub(crate) retry: RetryRules,
    pub(crate) pace: PaceRules,
    pub(crate) pack: RulePack,
    pub(crate) sources: Vec<SourceRule>,
    caps: inboxgrove_config::Caps,
    /// What an inbox may receive in a day, in KiB.
    received_kib_max: u32,
    pub(crate) checks: Checks,
    pub(crate) outbound: OutboundRules,
    pub(crate) gateways: Vec<Cidr>,
}

/// What a plan allows.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) key: String,
    /// How long it may be tried out; `None` for a plan that is no trial.
    pub(crate) trial: Option<Duration>,
    pub(crate) domains_max: u32,
    pub(crate) inboxes_max: u32,
    pub(crate) inbox_hour: u32,
    pub(crate) inbox_day: u32,
    pub(crate) domain_hour: u32,
    pub(crate) domain_day: u32,
    pub(crate) tenant_hour: u32,
    pub(crate) tenant_day: u32,
}

/// An address that mail leaves from.
#[derive(Debug, Clone)]
pub(crate) struct SourceRule {
    pub(crate) address: IpAddr,
    pub(crate) weight: u32,
    pub(crate) ehlo_name: DomainName,
}

/// How often domains are asked about.
pub(crate) struct Checks {
    pub(crate) pending_every: Duration,
    proven_every: Duration,
}

/// How mail leaves.
pub(crate) struct OutboundRules {
    pub(crate) mx_port: u16,
    pub(crate) connect_timeout: Duration,
    pub(crate) allow_private: bool,
    pub(crate) tls: Tls,
    pub(crate) tls_required: bool,
}

/// The configuration cannot be acted on.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {why}")]
pub struct RulesError {
    /// Which key.
    pub key: &'static str,
    /// What was expected and what was found.
    pub why: String,
}

// === impl Rules ===

impl Rules {
    pub(crate) fn from_config(config: &Config, clock: &Arc<dyn Clock>) -> Result<Self, RulesError> {
        let hostname = config.inbound_hostname().to_owned();
        let own_name = DomainName::parse(&hostname).map_err(|why| RulesError {
            key: "inbound.hostname",
            why: why.to_string(),
        })?;
        let plans: BTreeMap<_, _> = config
            .plan
            .iter()
            .map(|plan| (plan.key.clone(), plan_of(plan)))
            .collect();
        let first_plan = config.accounts.default_plan.clone();
        if !plans.contains_key(&first_plan) {
            let why = format!("expected the key of a [[plan]], found {first_plan:?}");
            return Err(RulesError {
                key: "accounts.default_plan",
                why,
            });
        }
        Ok(Self {
            plans,
            first_plan,
            warmup: warmup_of(config),
            health: health_of(config),
            retry: retry_of(config),
            pace: pace_of(config),
            pack: RulePack::builtin(),
            sources: sources_of(config, &own_name)?,
            caps: config.outbound.caps.clone(),
            received_kib_max: config.inbound.limits.inbox_mib_per_day.saturating_mul(1024),
            checks: Checks {
                pending_every: PENDING_EVERY,
                proven_every: PROVEN_EVERY,
            },
            outbound: OutboundRules {
                mx_port: config.outbound.mx_port,
                connect_timeout: Duration::from_secs(
                    config.outbound.timeouts.connect_seconds.into(),
                ),
                allow_private: config.network.allow_private,
                tls: tls_of(config, clock)?,
                tls_required: config.outbound.tls == TlsPolicy::Required,
            },
            gateways: config.inbound.trusted_gateways.clone(),
            hostname,
            own_name,
        })
    }

    pub(crate) fn plan(&self, key: &str) -> Result<&Plan, Refusal> {
        self.plans.get(key).ok_or_else(|| Refusal::Unavailable {
            why: format!(
                "the configuration has no [[plan]] with key {key:?}; an operator has to put it back"
            ),
        })
    }

    /// The plan that new accounts start on.
    pub(crate) fn first_plan(&self) -> Result<&Plan, Refusal> {
        self.plan(&self.first_plan)
    }

    /// Where a recipient's mail leaves from: the address of the last attempt (greylisting knows it), else
    /// one by weight, always the same for one inbox.
    pub(crate) fn source_for(&self, entry: &QueueEntry) -> &SourceRule {
        if let Some(same) = self
            .sources
            .iter()
            .find(|source| entry.source == Some(source.address))
        {
            return same;
        }
        let total: u64 = self
            .sources
            .iter()
            .map(|source| u64::from(source.weight))
            .sum();
        let seed = u64::from_be_bytes(
            *entry
                .inbox
                .as_bytes()
                .last_chunk()
                .expect("an id has 16 bytes"),
        );
        let mut place = if total == 0 { 0 } else { seed % total };
        for source in &self.sources {
            match place.checked_sub(u64::from(source.weight)) {
                Some(rest) => place = rest,
                None => return source,
            }
        }
        &self.sources[0]
    }

    /// What a source address calls itself.
    pub(crate) fn ehlo_name(&self, source: IpAddr) -> DomainName {
        let named = self.sources.iter().find(|rule| rule.address == source);
        named.map_or_else(|| self.own_name.clone(), |rule| rule.ehlo_name.clone())
    }

    /// The takes of one recipient's attempt.
    pub(crate) fn attempt_takes(&self, source: IpAddr, site: &str, now: PolicyTime) -> [Take; 3] {
        let utc = Zone::utc();
        let take = |budget, hour, day| Take {
            budget,
            n: 1,
            hour: hour_window(now, hour),
            day: day_window(now, &utc, day),
        };
        let caps = &self.caps;
        [
            take(BudgetKey::Global, caps.global_per_hour, caps.global_per_day),
            take(
                BudgetKey::Source(source),
                caps.source_per_hour,
                caps.source_per_day,
            ),
            take(
                BudgetKey::SourceSite(source, site.to_owned()),
                caps.source_site_per_hour,
                caps.source_site_per_day,
            ),
        ]
    }

    /// The take of a message that an inbox receives. Strangers decide what comes, so the day is a UTC day and
    /// has no hours.
    pub(crate) fn received_take(
        &self,
        tenant: TenantId,
        inbox: InboxId,
        kib: u32,
        now: PolicyTime,
    ) -> Take {
        Take {
            budget: BudgetKey::Received(tenant, inbox),
            n: kib,
            hour: hour_window(now, u32::MAX),
            day: day_window(now, &Zone::utc(), self.received_kib_max),
        }
    }
}

// === impl Plan ===

impl Plan {
    /// An inbox's hourly limit: a quarter of its day at most, so that a day is not spent in an hour.
    pub(crate) fn hourly_limit(&self, daily: u32) -> u32 {
        self.inbox_hour.min(daily.div_ceil(4)).max(1)
    }
}

// === impl Checks ===

impl Checks {
    pub(crate) fn every(&self, status: DomainStatus) -> Duration {
        match status {
            DomainStatus::PendingDns | DomainStatus::Degraded => self.pending_every,
            _ => self.proven_every,
        }
    }
}

/// The UTC hour that `now` is in.
pub(crate) fn hour_window(now: PolicyTime, cap: u32) -> Window {
    let index = now.utc_hour();
    Window {
        index,
        cap,
        ends_at: PolicyTime::from_millis((index + 1) * 3_600_000),
    }
}

/// The day of a zone that `now` is in.
pub(crate) fn day_window(now: PolicyTime, zone: &Zone, cap: u32) -> Window {
    let index = zone.local_day(now);
    Window {
        index,
        cap,
        ends_at: zone.day_starts(index + 1),
    }
}

fn plan_of(plan: &inboxgrove_config::Plan) -> Plan {
    let limits = &plan.limits;
    Plan {
        key: plan.key.clone(),
        trial: (plan.trial_days > 0).then(|| hours(24 * plan.trial_days)),
        domains_max: limits.domains,
        inboxes_max: limits.inboxes,
        inbox_hour: limits.inbox_per_hour,
        inbox_day: limits.inbox_per_day,
        domain_hour: limits.domain_per_hour,
        domain_day: limits.domain_per_day,
        tenant_hour: limits.tenant_per_hour,
        tenant_day: limits.tenant_per_day,
    }
}

fn sources_of(config: &Config, own_name: &DomainName) -> Result<Vec<SourceRule>, RulesError> {
    let source = |source: &inboxgrove_config::SourceAddress| {
        let ehlo_name = if source.ehlo_name.is_empty() {
            own_name.clone()
        } else {
            DomainName::parse(&source.ehlo_name).map_err(|why| RulesError {
                key: "outbound.sources.ehlo_name",
                why: why.to_string(),
            })?
        };
        Ok(SourceRule {
            address: source.address,
            weight: source.weight,
            ehlo_name,
        })
    };
    let mut sources = config
        .outbound
        .sources
        .iter()
        .map(source)
        .collect::<Result<Vec<_>, _>>()?;
    if sources.is_empty() {
        // The system then chooses; SPF cannot name what nobody knows.
        tracing::warn!(
            "outbound.sources is empty: the system chooses the address, and SPF cannot be checked for it"
        );
        sources.push(SourceRule {
            address: Ipv4Addr::UNSPECIFIED.into(),
            weight: 1,
            ehlo_name: own_name.clone(),
        });
    }
    Ok(sources)
}

fn tls_of(config: &Config, clock: &Arc<dyn Clock>) -> Result<Tls, RulesError> {
    let client = |trust| {
        client_config(trust, Arc::clone(clock)).map_err(|why| RulesError {
            key: "outbound.tls",
            why: why.to_string(),
        })
    };
    Ok(match config.outbound.tls {
        TlsPolicy::Off => Tls::Never,
        TlsPolicy::Opportunistic => Tls::Opportunistic(client(Trust::Anybody)?),
        TlsPolicy::Required => Tls::Required(client(Trust::Web)?),
    })
}

fn minutes(n: u32) -> Duration {
    Duration::from_secs(60 * u64::from(n))
}

fn hours(n: u32) -> Duration {
    minutes(n) * 60
}

fn warmup_of(config: &Config) -> WarmupRules {
    let set = &config.warmup;
    WarmupRules {
        base: set.base,
        increment: set.increment,
        cap: set.cap,
        factor_low: set.factor_low,
        factor_high: set.factor_high,
        quiet_share: set.quiet_share,
        quiet_factor: set.quiet_factor,
        weekdays: set.weekdays,
        hour_curve: set.hour_curve,
        waking_start_minute: set.waking_start_minute,
        waking_end_minute: set.waking_end_minute,
        gap_min: minutes(set.gap_min_minutes),
        young_domain_days: set.young_domain_days,
        graduation_days: set.graduation_days,
        graduated_target: set.graduated_target,
        idle_days: set.idle_days,
        idle_step: set.idle_step,
        restart_days: set.restart_days,
        reply_low: set.reply_low,
        reply_high: set.reply_high,
        reply_median_low: minutes(set.reply_median_low_minutes),
        reply_median_high: minutes(set.reply_median_high_minutes),
        partner_rest: hours(set.partner_rest_hours),
    }
}

fn health_of(config: &Config) -> HealthRules {
    let set = &config.health;
    HealthRules {
        deferral: signal_of(&set.deferral),
        placement: signal_of(&set.placement),
        bounce: signal_of(&set.bounce),
        complaint: signal_of(&set.complaint),
        hold_above: set.hold_above,
        throttle_above: set.throttle_above,
        quarantine_above: set.quarantine_above,
        leave_below: set.leave_below,
        dwell_min: hours(set.dwell_min_hours),
        fresh_days: set.fresh_days,
    }
}

fn signal_of(set: &SignalSettings) -> SignalRules {
    SignalRules {
        prior_bad: set.prior_bad,
        prior_good: set.prior_good,
        half_life_days: set.half_life_days,
        limit: set.limit,
        worst: set.worst,
        points: set.points,
    }
}

fn retry_of(config: &Config) -> RetryRules {
    let set = &config.outbound.retry;
    RetryRules {
        unit: minutes(set.unit_minutes),
        longest: hours(set.longest_hours),
        greylisted: minutes(set.greylisted_minutes),
        uncertain: minutes(set.uncertain_minutes),
        age_max: hours(24 * set.age_max_days),
        jitter: set.jitter,
    }
}

fn pace_of(config: &Config) -> PaceRules {
    let set = &config.outbound.pace;
    PaceRules {
        slow_factor: set.slow_factor,
        factor_min: set.factor_min,
        cohort: Duration::from_secs(set.cohort_seconds.into()),
        hold: minutes(set.hold_minutes),
        quiet: minutes(set.quiet_minutes),
        recovery_step: set.recovery_step,
        suspend_first: hours(set.suspend_first_hours),
        suspend_longest: hours(set.suspend_longest_hours),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The defaults stand in `config`, for operators, and in `policy`, for its laws: neither may see the other.
    #[test]
    fn the_defaults_of_config_and_policy_are_the_same() {
        let config = Config::default();
        assert_eq!(warmup_of(&config), WarmupRules::default());
        assert_eq!(health_of(&config), HealthRules::default());
        assert_eq!(retry_of(&config), RetryRules::default());
        assert_eq!(pace_of(&config), PaceRules::default());
    }

    #[test]
    fn windows_contain_now_and_end_after_it() {
        for millis in [0, 1, 3_599_999, 3_600_000, 86_399_999, 1_794_000_000_123] {
            let now = PolicyTime::from_millis(millis);
            let zone = Zone::named_or_utc("America/New_York");
            for window in [hour_window(now, 5), day_window(now, &zone, 5)] {
                assert!(window.ends_at > now, "{now}");
            }
            assert_eq!(hour_window(now, 5).index, now.utc_hour());
        }
    }
}
