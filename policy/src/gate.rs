//! Gates: every reason that may stop a send, with its limit, what is used, the evidence, and when it lifts.
//!
//! The same functions decide and explain: what `why` prints is what the inbox asked.

use inboxgrove_model::{
    PolicyTime,
    budget::{BudgetFull, BudgetUse, Window},
    domain::{CheckOutcome, Domain, DomainStatus},
    inbox::{Band, Inbox, InboxStatus, Warmup, WarmupState},
    message::MessageClass,
    site::SitePace,
    suppression::{Suppression, SuppressionReason},
    tenant::Tenant,
};

use crate::{pace, rules::WarmupRules};

/// A reason that may stop a send.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    /// Its stable name, as in `inbox_day`.
    pub name: &'static str,
    /// Whether a send may pass.
    pub open: bool,
    /// The limit, when it is a number.
    pub limit: Option<u64>,
    /// What is used of it.
    pub used: Option<u64>,
    /// What it rests on, in a sentence.
    pub evidence: String,
    /// When it opens by itself, if it does.
    pub lifts_at: Option<PolicyTime>,
}

// === impl Gate ===

impl Gate {
    fn new(name: &'static str, open: bool, evidence: impl Into<String>) -> Self {
        Self {
            name,
            open,
            limit: None,
            used: None,
            evidence: evidence.into(),
            lifts_at: None,
        }
    }

    fn lifting(self, at: Option<PolicyTime>) -> Self {
        Self {
            lifts_at: at.filter(|_| !self.open),
            ..self
        }
    }

    fn counted(self, limit: u32, used: u32) -> Self {
        Self {
            limit: Some(limit.into()),
            used: Some(used.into()),
            ..self
        }
    }
}

/// The first gate that is closed.
pub fn first_closed(gates: &[Gate]) -> Option<&Gate> {
    gates.iter().find(|gate| !gate.open)
}

/// The account: suspension holds mail, it never drops it.
pub fn tenant(tenant: &Tenant) -> Gate {
    let why = tenant
        .suspension
        .as_ref()
        .map_or_else(String::new, |suspension| {
            format!(
                " for {:?} since {}: {}",
                suspension.reason, suspension.since, suspension.note
            )
        });
    let open = tenant.status.may_act();
    Gate::new(
        "tenant",
        open,
        format!(
            "the account is {}{why}",
            word(&format!("{:?}", tenant.status))
        ),
    )
}

/// The domain: its records must be proven; people's mail also leaves while one of them fails.
pub fn domain(domain: &Domain, class: MessageClass) -> Gate {
    let open = match domain.status {
        DomainStatus::Active => true,
        DomainStatus::Degraded => class != MessageClass::Warmup,
        DomainStatus::PendingPurchase
        | DomainStatus::PendingDns
        | DomainStatus::Suspended
        | DomainStatus::Expired => false,
    };
    let failed: Vec<String> = domain
        .checks
        .iter()
        .filter(|check| check.outcome == CheckOutcome::Fail)
        .map(|check| format!("{} at {}", check.kind, check.subject))
        .collect();
    let status = word(&format!("{:?}", domain.status));
    let mut evidence = format!("{} is {status}", domain.name);
    if !domain.reason.is_empty() {
        evidence = format!("{evidence}: {}", domain.reason);
    }
    if !failed.is_empty() {
        evidence = format!("{evidence}; failing: {}", failed.join(", "));
    }
    Gate::new("domain", open, evidence)
}

/// The inbox: what its owner and its evidence let it do.
pub fn inbox(inbox: &Inbox, class: MessageClass) -> Gate {
    let open = match inbox.status {
        InboxStatus::Pending | InboxStatus::Warming | InboxStatus::Active => true,
        // A paused inbox still carries what the system itself has to say.
        InboxStatus::Paused => matches!(class, MessageClass::System | MessageClass::Bounce),
        InboxStatus::Suspended | InboxStatus::Deleted => false,
    };
    let status = word(&format!("{:?}", inbox.status));
    let reason = if inbox.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", inbox.reason)
    };
    Gate::new(
        "inbox",
        open,
        format!("{} is {status}{reason}", inbox.address),
    )
}

/// The band: quarantine stops everything but the system's own mail.
pub fn band(warmup: &Warmup, class: MessageClass) -> Gate {
    let stopped = warmup.band == Band::Quarantined
        && matches!(class, MessageClass::Warmup | MessageClass::Person);
    let factor = WarmupRules::band_factor(warmup.band);
    let band = word(&format!("{:?}", warmup.band));
    let evidence = format!(
        "{band} since {}: {:.0} % of the warmup volume",
        warmup.band_since,
        factor * 100.0
    );
    Gate::new("band", !stopped, evidence)
}

/// Today's warmup plan: for warmup mail only.
pub fn warmup(warmup: &Warmup, now: PolicyTime) -> Gate {
    if !matches!(warmup.state, WarmupState::Running | WarmupState::Graduated) {
        return Gate::new(
            "warmup",
            false,
            format!("warmup is {}", word(&format!("{:?}", warmup.state))),
        );
    }
    let Some(plan) = &warmup.today else {
        return Gate::new("warmup", false, "no day has been planned yet");
    };
    let due = plan.next_at.is_some_and(|at| at <= now);
    let evidence = match plan.next_at {
        Some(at) => format!("the next message is due at {at}"),
        None if plan.sent >= plan.target => "today's target is reached".to_owned(),
        None => "no more messages fit into today's waking hours".to_owned(),
    };
    let open = due && plan.sent < plan.target;
    Gate::new("warmup", open, evidence)
        .counted(plan.target, plan.sent)
        .lifting(plan.next_at)
}

/// The list of addresses that are not written to again.
pub fn suppression(found: Option<&Suppression>) -> Gate {
    found.map_or_else(
        || Gate::new("suppression", true, "the recipient is on no list"),
        |found| {
            let why = match found.reason {
                SuppressionReason::HardBounce => "the address does not exist",
                SuppressionReason::Complaint => "its owner complained",
                SuppressionReason::Unsubscribe => "its owner unsubscribed",
                SuppressionReason::Manual => "it was put on the list by hand",
            };
            Gate::new(
                "suppression",
                false,
                format!("{why}, since {}", found.since),
            )
        },
    )
}

/// A budget's hour and day. `names` are the gates' names, as in `["inbox_hour", "inbox_day"]`. What was
/// used in an earlier window no longer counts.
pub fn budget(
    names: [&'static str; 2],
    used: &BudgetUse,
    hour: &Window,
    day: &Window,
) -> [Gate; 2] {
    let window = |name, window: &Window, index: i64, used: u32| {
        let used = if index == window.index { used } else { 0 };
        let open = used < window.cap;
        if window.cap == u32::MAX {
            return Gate {
                used: Some(used.into()),
                ..Gate::new(name, true, "no cap")
            };
        }
        let left = window.cap.saturating_sub(used);
        Gate::new(name, open, format!("{left} left until {}", window.ends_at))
            .counted(window.cap, used)
            .lifting(Some(window.ends_at))
    };
    [
        window(names[0], hour, used.hour_index, used.hour_used),
        window(names[1], day, used.day_index, used.day_used),
    ]
}

/// A budget that a commit found full.
pub fn budget_full(full: &BudgetFull) -> Gate {
    Gate::new("budget", false, full.to_string())
        .counted(full.cap, full.used)
        .lifting(Some(full.lifts_at))
}

/// The pace of a site.
pub fn site(found: &SitePace, now: PolicyTime) -> Gate {
    let why = if found.why.is_empty() {
        String::new()
    } else {
        format!(", after: {}", found.why)
    };
    match pace::suspended_until(found, now) {
        Some(until) => {
            let evidence = format!("{} is suspended for {}{why}", found.site, found.source);
            Gate::new("site", false, evidence).lifting(Some(until))
        }
        None => Gate::new(
            "site",
            true,
            format!("{} at {:.0} % pace{why}", found.site, found.factor * 100.0),
        ),
    }
}

/// The gates of a message of an inbox that need nothing but its records, in the order they are asked.
pub fn of_inbox(
    of_tenant: &Tenant,
    of_domain: &Domain,
    of_inbox: &Inbox,
    class: MessageClass,
    now: PolicyTime,
) -> Vec<Gate> {
    let mut gates = vec![
        tenant(of_tenant),
        domain(of_domain, class),
        inbox(of_inbox, class),
        band(&of_inbox.warmup, class),
    ];
    if class == MessageClass::Warmup {
        gates.push(warmup(&of_inbox.warmup, now));
    }
    gates
}

/// `PendingDns` as people read it: `pending dns`.
fn word(variant: &str) -> String {
    let mut word = String::with_capacity(variant.len() + 2);
    for letter in variant.chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push(' ');
        }
        word.extend(letter.to_lowercase());
    }
    word
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::{DomainId, DomainName, EmailAddress, TenantId, inbox::DayPlan};

    use super::*;

    fn at(millis: i64) -> PolicyTime {
        PolicyTime::from_millis(millis)
    }

    fn running() -> Warmup {
        Warmup {
            state: WarmupState::Running,
            started_at: None,
            active_days: 3,
            base: 4,
            increment: 1,
            cap: 20,
            seed: 1,
            today: Some(DayPlan {
                local_day: 0,
                target: 5,
                sent: 2,
                next_at: Some(at(1000)),
            }),
            band: Band::Healthy,
            band_since: at(0),
        }
    }

    fn some_domain(status: DomainStatus) -> Domain {
        Domain {
            id: DomainId::from_bytes([1; 16]),
            tenant: TenantId::from_bytes([2; 16]),
            name: DomainName::parse("example.com").unwrap(),
            status,
            reason: "MX points elsewhere".into(),
            selectors: Vec::new(),
            ownership_token: String::new(),
            mail_hosts: Vec::new(),
            checks: Vec::new(),
            created_at: at(0),
            verified_at: None,
            checked_at: None,
            inboxes_count: 0,
        }
    }

    #[test]
    fn a_degraded_domain_holds_warmup_only() {
        let found = some_domain(DomainStatus::Degraded);
        assert!(!domain(&found, MessageClass::Warmup).open);
        assert!(domain(&found, MessageClass::Person).open);
        let pending = domain(&some_domain(DomainStatus::PendingDns), MessageClass::Person);
        assert_eq!(
            pending.evidence,
            "example.com is pending dns: MX points elsewhere"
        );
        assert!(!pending.open);
    }

    #[test]
    fn a_quarantine_stops_all_but_the_systems_own() {
        let sick = Warmup {
            band: Band::Quarantined,
            ..running()
        };
        let open = [
            MessageClass::Warmup,
            MessageClass::Person,
            MessageClass::System,
        ]
        .map(|class| band(&sick, class).open);
        assert_eq!(open, [false, false, true]);
    }

    #[test]
    fn the_plan_opens_when_the_next_message_is_due() {
        let early = warmup(&running(), at(999));
        assert_eq!(
            (early.open, early.lifts_at, early.used),
            (false, Some(at(1000)), Some(2))
        );
        assert!(warmup(&running(), at(1000)).open);
        let done = DayPlan {
            local_day: 0,
            target: 5,
            sent: 5,
            next_at: None,
        };
        let gate = warmup(
            &Warmup {
                today: Some(done),
                ..running()
            },
            at(5),
        );
        assert_eq!((gate.open, gate.lifts_at), (false, None));
    }

    #[test]
    fn a_budget_counts_in_its_window_only() {
        let window = |index, cap| Window {
            index,
            cap,
            ends_at: at(9),
        };
        let used = BudgetUse {
            hour_index: 7,
            hour_used: 3,
            day_index: 1,
            day_used: 40,
        };
        let gates = budget(
            ["inbox_hour", "inbox_day"],
            &used,
            &window(8, 3),
            &window(1, 40),
        );
        assert!(gates[0].open, "the hour is a new one");
        assert_eq!(
            (gates[1].open, gates[1].limit, gates[1].lifts_at),
            (false, Some(40), Some(at(9)))
        );
        assert_eq!(
            first_closed(&gates).map(|gate| gate.name),
            Some("inbox_day")
        );
        assert!(
            budget(["a", "b"], &used, &window(7, u32::MAX), &window(1, 41))
                .iter()
                .all(|gate| gate.open)
        );
    }

    #[test]
    fn a_suppressed_recipient_says_why() {
        let found = Suppression {
            tenant: TenantId::from_bytes([2; 16]),
            address: EmailAddress::parse("x@example.com").unwrap(),
            reason: SuppressionReason::Unsubscribe,
            since: at(0),
        };
        assert!(suppression(Some(&found)).evidence.contains("unsubscribed"));
        assert!(suppression(None).open);
    }
}
