//! Warmup conversations: who with, how long, how fast, and what is said.
//!
//! Everything follows from the thread's seed (from the `Message-ID` of its first message), so that both
//! ends know the same plan without telling each other, and a restart changes nothing.

mod texts;

use std::{collections::BTreeMap, time::Duration};

use inboxgrove_model::{DomainId, InboxId, PolicyTime, TenantId, inbox::PoolMember};

pub use self::texts::{Turn, compose};
use crate::{
    dice::{Dice, seed_of},
    numbers::{real, seconds, whole},
    rules::WarmupRules,
    schedule,
    zone::Zone,
};

/// Marks the stream of thread lengths.
const TURNS: u64 = 1;
/// Marks the stream of whether a thread is answered.
const ANSWERED: u64 = 2;
/// Marks the stream of reply delays.
const DELAY: u64 = 3;
/// Spread of reply delays: with it one in twenty takes more than three times the median.
const DELAY_SIGMA: f64 = 0.7;
/// Nobody answers faster than this.
const DELAY_MIN: Duration = Duration::from_mins(4);
/// Whom it would rather not write to is still better than nobody, this much.
const SAME_TENANT_WEIGHT: f64 = 0.5;
/// Siblings on one domain prove nothing to anybody.
const SAME_DOMAIN_WEIGHT: f64 = 0.05;

/// Somebody who might be written to.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// Who.
    pub member: &'a PoolMember,
    /// When the two last began a thread.
    pub last_met: Option<PolicyTime>,
    /// What it has received today, if that is known.
    pub received_today: u32,
}

/// The seed of a thread, from the `Message-ID` of its first message.
pub fn thread_seed(thread: &str) -> u64 {
    seed_of(thread.trim_matches(['<', '>']))
}

/// How many messages a thread has when it is answered: 2 to 5.
pub fn turns(thread_seed: u64) -> u8 {
    // 2 and 3 are common, 5 is rare.
    let place = Dice::of(thread_seed, &[TURNS]).weighted(&[0.40, 0.30, 0.20, 0.10]);
    u8::try_from(2 + place.unwrap_or(0)).expect("at most 5")
}

/// How probable it is that this thread is answered.
pub fn reply_probability(thread_seed: u64, rules: &WarmupRules) -> f64 {
    Dice::of(thread_seed, &[ANSWERED])
        .between(rules.reply_low, rules.reply_high)
        .clamp(0.0, 1.0)
}

/// Whether the `turn`-th message of a thread (the first is 1) gets an answer.
pub fn is_answered(thread_seed: u64, turn: u8, rules: &WarmupRules) -> bool {
    let probability = reply_probability(thread_seed, rules);
    let answered = Dice::of(thread_seed, &[ANSWERED, 1]).unit() < probability;
    answered && turn < turns(thread_seed)
}

/// How long the answer to the `turn`-th message takes, before waking hours are looked at: lognormal, with
/// a median that is the thread's own.
pub fn reply_delay(thread_seed: u64, turn: u8, rules: &WarmupRules) -> Duration {
    let low = rules.reply_median_low.as_secs_f64();
    let high = rules.reply_median_high.as_secs_f64();
    let median = Dice::of(thread_seed, &[DELAY]).between(low, high);
    let deviation = Dice::of(thread_seed, &[DELAY, turn.into()])
        .normal()
        .clamp(-3.0, 3.0);
    seconds(median * (DELAY_SIGMA * deviation).exp()).max(DELAY_MIN)
}

/// When the answer to the `turn`-th message is due, within the waking hours of who answers.
pub fn reply_at(
    thread_seed: u64,
    turn: u8,
    received_at: PolicyTime,
    inbox_seed: u64,
    zone: &Zone,
    rules: &WarmupRules,
) -> PolicyTime {
    let at = received_at.after(reply_delay(thread_seed, turn, rules));
    schedule::when_awake(at, inbox_seed, zone, rules)
}

/// Whom to write to: the place of one of the candidates, `None` when there is nobody but the inbox itself.
///
/// Who was written to in the last days rests; other domains are preferred to the own one and other
/// tenants to the own one; big domains do not crowd out small ones; who has received much today rests
/// too. In a pool so small that everybody rests, the one met longest ago is taken.
pub fn choose_partner(
    me: (TenantId, DomainId, InboxId),
    candidates: &[Candidate<'_>],
    now: PolicyTime,
    seed: u64,
    rules: &WarmupRules,
) -> Option<usize> {
    let mut of_domain: BTreeMap<DomainId, u32> = BTreeMap::new();
    for candidate in candidates {
        *of_domain.entry(candidate.member.domain).or_default() += 1;
    }
    let weights: Vec<f64> = candidates
        .iter()
        .map(|candidate| {
            let crowd = of_domain
                .get(&candidate.member.domain)
                .copied()
                .unwrap_or(1);
            partner_weight(me, candidate, now, rules) / real(crowd.max(1))
        })
        .collect();
    Dice::new(seed)
        .weighted(&weights)
        .or_else(|| met_longest_ago(me, candidates))
}

/// How much a candidate is wanted, domains' sizes left aside; 0 is not at all.
pub fn partner_weight(
    me: (TenantId, DomainId, InboxId),
    candidate: &Candidate<'_>,
    now: PolicyTime,
    rules: &WarmupRules,
) -> f64 {
    let (tenant, domain, inbox) = me;
    let member = candidate.member;
    let rests = candidate
        .last_met
        .is_some_and(|met| now.since(met) < rules.partner_rest);
    if member.inbox == inbox || rests {
        return 0.0;
    }
    let near = if member.domain == domain {
        SAME_DOMAIN_WEIGHT
    } else if member.tenant == tenant {
        SAME_TENANT_WEIGHT
    } else {
        1.0
    };
    near / (1.0 + real(candidate.received_today) / real(rules.cap.max(1)))
}

fn met_longest_ago(
    me: (TenantId, DomainId, InboxId),
    candidates: &[Candidate<'_>],
) -> Option<usize> {
    let others = candidates
        .iter()
        .enumerate()
        .filter(|(_, candidate)| candidate.member.inbox != me.2);
    others
        .min_by_key(|(_, candidate)| {
            (
                candidate.last_met,
                candidate.member.domain == me.1,
                candidate.member.inbox,
            )
        })
        .map(|(place, _)| place)
}

/// How many days of partners an inbox has to remember.
pub fn partner_memory_days(rules: &WarmupRules) -> u32 {
    whole((rules.partner_rest.as_secs_f64() / 86_400.0).ceil())
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::EmailAddress;
    use proptest::prelude::*;

    use super::*;

    fn member(tenant: u8, domain: u8, inbox: u8) -> PoolMember {
        PoolMember {
            inbox: InboxId::from_bytes([inbox; 16]),
            tenant: TenantId::from_bytes([tenant; 16]),
            domain: DomainId::from_bytes([domain; 16]),
            address: EmailAddress::parse("a@example.com").unwrap(),
            display_name: "A".into(),
        }
    }

    fn me() -> (TenantId, DomainId, InboxId) {
        let me = member(1, 1, 1);
        (me.tenant, me.domain, me.inbox)
    }

    fn now() -> PolicyTime {
        PolicyTime::from_millis(100 * 86_400_000)
    }

    fn candidate(member: &PoolMember, met_hours_ago: Option<u64>) -> Candidate<'_> {
        let last_met = met_hours_ago.map(|hours| now().before(Duration::from_secs(hours * 3600)));
        Candidate {
            member,
            last_met,
            received_today: 0,
        }
    }

    #[test]
    fn about_a_third_of_threads_are_answered_and_few_are_long() {
        let rules = WarmupRules::default();
        let threads: Vec<u64> = (0..5000)
            .map(|n| thread_seed(&format!("<{n}@example.com>")))
            .collect();
        let answered = threads
            .iter()
            .filter(|seed| is_answered(**seed, 1, &rules))
            .count();
        assert!((1600..1900).contains(&answered), "{answered} of 5000");
        let mut lengths = [0_u32; 6];
        for seed in &threads {
            lengths[usize::from(turns(*seed))] += 1;
            assert!(
                !is_answered(*seed, turns(*seed), &rules),
                "the last message is the last"
            );
        }
        assert!(
            lengths[..2] == [0, 0] && lengths[2] > lengths[3] && lengths[5] > 300,
            "{lengths:?}"
        );
    }

    #[test]
    fn brackets_do_not_matter() {
        assert_eq!(thread_seed("<a@b.test>"), thread_seed("a@b.test"));
    }

    #[test]
    fn half_of_the_answers_take_one_to_three_hours_at_the_median() {
        let rules = WarmupRules::default();
        let mut delays: Vec<_> = (0..4001).map(|seed| reply_delay(seed, 1, &rules)).collect();
        delays.sort_unstable();
        let median = delays[2000].as_secs() / 60;
        assert!((100..140).contains(&median), "{median} min");
    }

    #[test]
    fn who_was_met_rests_and_strangers_come_first() {
        let (sibling, colleague, stranger, met) = (
            member(1, 1, 2),
            member(1, 2, 3),
            member(2, 3, 4),
            member(3, 4, 5),
        );
        let pool = [
            candidate(&sibling, None),
            candidate(&colleague, None),
            candidate(&stranger, None),
            candidate(&met, Some(71)),
        ];
        let mut counts = [0_u32; 4];
        for seed in 0..3000 {
            let chosen = choose_partner(me(), &pool, now(), seed, &WarmupRules::default());
            counts[chosen.unwrap()] += 1;
        }
        assert_eq!(counts[3], 0, "met 71 h ago");
        assert!(counts[0] < counts[1] && counts[1] < counts[2], "{counts:?}");
    }

    #[test]
    fn a_small_pool_still_talks() {
        let (own, recent, older) = (member(1, 1, 1), member(2, 2, 2), member(2, 2, 3));
        let rules = WarmupRules::default();
        let pool = [
            candidate(&own, None),
            candidate(&recent, Some(5)),
            candidate(&older, Some(9)),
        ];
        assert_eq!(choose_partner(me(), &pool, now(), 1, &rules), Some(2));
        assert_eq!(
            choose_partner(me(), &pool[..1], now(), 1, &rules),
            None,
            "never to itself"
        );
    }

    proptest! {
        #[test]
        fn answers_come_while_people_are_awake(seed: u64, inbox: u64, millis in 0_i64..4_000_000_000_000) {
            let (zone, rules) = (Zone::named("Europe/Berlin").unwrap(), WarmupRules::default());
            let received = PolicyTime::from_millis(millis);
            let at = reply_at(seed, 1, received, inbox, &zone, &rules);
            let hour = zone.local_second(at) / 3600;
            prop_assert!(at > received && (9..18).contains(&hour), "{at}");
            prop_assert!(crate::zone::weekday(zone.local_day(at)) < 5);
        }
    }
}
