//! Whether a configuration makes sense: what no single key can tell.

use crate::{check::Problem, sections::Config, values::HIDDEN};

/// Shortest webhook secret: below it a signature proves little.
const WEBHOOK_SECRET_LEN_MIN: usize = 16;

/// All that makes no sense.
pub(crate) fn sense(config: &Config) -> Vec<Problem> {
    [
        accounts(config),
        warmup(config),
        health(config),
        plans(config),
        outbound(config),
        rest(config),
    ]
    .concat()
}

/// A problem unless it holds.
fn unless(
    holds: bool,
    key: &str,
    expected: impl Into<String>,
    found: impl std::fmt::Display,
) -> Option<Problem> {
    (!holds).then(|| Problem::new(key, expected, found.to_string()))
}

fn accounts(config: &Config) -> Vec<Problem> {
    let accounts = &config.accounts;
    let least = accounts.argon2.parallelism * 8;
    let access_minutes = accounts.access_token_minutes;
    [
        unless(
            config.plan_of(&accounts.default_plan).is_some(),
            "accounts.default_plan",
            "the key of a `[[plan]]`",
            format!("{:?}", accounts.default_plan),
        ),
        unless(
            accounts.argon2.memory_kib >= least,
            "accounts.argon2.memory_kib",
            format!("at least 8 for each lane ({least})"),
            accounts.argon2.memory_kib,
        ),
        unless(
            u64::from(access_minutes) < u64::from(accounts.refresh_token_days) * 1440,
            "accounts.access_token_minutes",
            "less than the life of a refresh token",
            access_minutes,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn warmup(config: &Config) -> Vec<Problem> {
    let warmup = &config.warmup;
    let (start, end) = (warmup.waking_start_minute, warmup.waking_end_minute);
    let hours = warmup.hour_curve.iter().enumerate();
    let awake: f64 = hours
        .filter(|(hour, _)| *hour * 60 < end as usize && (*hour + 1) * 60 > start as usize)
        .map(|(_, weight)| weight)
        .sum();
    [
        unless(
            warmup.base <= warmup.cap,
            "warmup.base",
            "at most `warmup.cap`",
            warmup.base,
        ),
        unless(
            start < end,
            "warmup.waking_end_minute",
            "more than `warmup.waking_start_minute`",
            end,
        ),
        unless(
            awake > 0.0,
            "warmup.hour_curve",
            "a weight above 0 in some waking hour",
            "none",
        ),
        unless(
            warmup.factor_low <= warmup.factor_high,
            "warmup.factor_high",
            "at least `warmup.factor_low`",
            warmup.factor_high,
        ),
        unless(
            warmup.reply_low <= warmup.reply_high,
            "warmup.reply_high",
            "at least `warmup.reply_low`",
            warmup.reply_high,
        ),
        unless(
            warmup.reply_median_low_minutes <= warmup.reply_median_high_minutes,
            "warmup.reply_median_high_minutes",
            "at least `warmup.reply_median_low_minutes`",
            warmup.reply_median_high_minutes,
        ),
        unless(
            warmup.idle_days < warmup.restart_days,
            "warmup.restart_days",
            "more than `warmup.idle_days`",
            warmup.restart_days,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn health(config: &Config) -> Vec<Problem> {
    let health = &config.health;
    let points = [
        health.deferral,
        health.placement,
        health.bounce,
        health.complaint,
    ]
    .map(|signal| signal.points);
    let points: f64 = points.iter().sum();
    [
        unless(
            health.hold_above <= health.throttle_above,
            "health.throttle_above",
            "at least `health.hold_above`",
            health.throttle_above,
        ),
        unless(
            health.throttle_above <= health.quarantine_above,
            "health.quarantine_above",
            "at least `health.throttle_above`",
            health.quarantine_above,
        ),
        unless(
            health.leave_below <= health.hold_above,
            "health.leave_below",
            "at most `health.hold_above`",
            health.leave_below,
        ),
        unless(
            (points - 100.0).abs() < 1e-6,
            "health",
            "points of the four signals that add up to 100",
            points,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn plans(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    if config.plan.is_empty() {
        problems.push(Problem::new("plan", "at least one `[[plan]]`", "none"));
    }
    for (place, plan) in config.plan.iter().enumerate() {
        let at = |key: &str| format!("plan[{place}].{key}");
        let earlier = &config.plan[..place];
        let is_word =
            |sign: char| sign.is_ascii_lowercase() || sign.is_ascii_digit() || sign == '_';
        let limits = &plan.limits;
        let pairs = [
            (
                "limits.inbox_per_hour",
                limits.inbox_per_hour,
                limits.inbox_per_day,
            ),
            (
                "limits.domain_per_hour",
                limits.domain_per_hour,
                limits.domain_per_day,
            ),
            (
                "limits.tenant_per_hour",
                limits.tenant_per_hour,
                limits.tenant_per_day,
            ),
        ];
        problems.extend(unless(
            earlier.iter().all(|other| other.key != plan.key),
            &at("key"),
            "a key that no other plan has",
            format!("{:?}", plan.key),
        ));
        problems.extend(unless(
            plan.key.chars().all(is_word),
            &at("key"),
            "lower-case letters, digits and `_`",
            format!("{:?}", plan.key),
        ));
        problems.extend(unless(
            plan.currency.chars().all(|sign| sign.is_ascii_uppercase()),
            &at("currency"),
            "three capital letters, as in `USD`",
            format!("{:?}", plan.currency),
        ));
        problems.extend(pairs.into_iter().filter_map(|(key, hour, day)| {
            unless(
                hour <= day,
                &at(key),
                format!("at most the day's ({day})"),
                hour,
            )
        }));
    }
    problems
}

fn outbound(config: &Config) -> Vec<Problem> {
    let (sources, caps) = (&config.outbound.sources, &config.outbound.caps);
    let mut problems = Vec::new();
    for (place, source) in sources.iter().enumerate() {
        let twice = sources[..place]
            .iter()
            .any(|other| other.address == source.address);
        let key = format!("outbound.sources[{place}].address");
        problems.extend(unless(
            !twice,
            &key,
            "an address that no other source has",
            source.address,
        ));
    }
    let weighty = sources.is_empty() || sources.iter().any(|source| source.weight > 0);
    problems.extend(unless(
        weighty,
        "outbound.sources",
        "a weight above 0 in one of them",
        "none",
    ));
    let pairs = [
        ("global_per_hour", caps.global_per_hour, caps.global_per_day),
        ("source_per_hour", caps.source_per_hour, caps.source_per_day),
        (
            "source_site_per_hour",
            caps.source_site_per_hour,
            caps.source_site_per_day,
        ),
    ];
    problems.extend(pairs.into_iter().filter_map(|(key, hour, day)| {
        unless(
            hour <= day,
            &format!("outbound.caps.{key}"),
            format!("at most the day's ({day})"),
            hour,
        )
    }));
    let pace = &config.outbound.pace;
    problems.extend(unless(
        pace.suspend_first_hours <= pace.suspend_longest_hours,
        "outbound.pace.suspend_longest_hours",
        "at least `outbound.pace.suspend_first_hours`",
        pace.suspend_longest_hours,
    ));
    problems
}

fn rest(config: &Config) -> Vec<Problem> {
    let (inbound, notifier) = (&config.inbound, &config.notifier);
    let secret_len = notifier
        .webhook_secret
        .expose()
        .map_or(0, |secret| secret.chars().count());
    let key = config.store.installation_key.expose();
    let is_key = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    [
        unless(
            inbound.tls_certificate.as_os_str().is_empty()
                == inbound.tls_key.as_os_str().is_empty(),
            "inbound.tls_key",
            "both `inbound.tls_certificate` and `inbound.tls_key`, or neither",
            "one of them",
        ),
        unless(
            notifier.webhook_url.is_empty() || secret_len >= WEBHOOK_SECRET_LEN_MIN,
            "notifier.webhook_secret",
            format!(
                "at least {WEBHOOK_SECRET_LEN_MIN} characters, as `notifier.webhook_url` is set"
            ),
            format!("{secret_len}"),
        ),
        unless(
            key.is_none_or(is_key),
            "store.installation_key",
            "64 hexadecimal digits",
            HIDDEN,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense() {
        assert_eq!(sense(&Config::default()), []);
    }

    #[test]
    fn what_contradicts_itself_is_told_by_its_key() {
        let table = [
            ("accounts.default_plan", "[accounts]\ndefault_plan = 'gold'"),
            (
                "accounts.argon2.memory_kib",
                "[accounts.argon2]\nmemory_kib = 8\nparallelism = 2",
            ),
            (
                "accounts.access_token_minutes",
                "[accounts]\naccess_token_minutes = 1440\nrefresh_token_days = 1",
            ),
            ("warmup.base", "[warmup]\nbase = 21"),
            (
                "warmup.waking_end_minute",
                "[warmup]\nwaking_end_minute = 540",
            ),
            (
                "warmup.hour_curve",
                "[warmup]\nwaking_start_minute = 60\nwaking_end_minute = 120",
            ),
            ("warmup.reply_high", "[warmup]\nreply_high = 0.1"),
            ("warmup.restart_days", "[warmup]\nrestart_days = 7"),
            (
                "health.quarantine_above",
                "[health]\nquarantine_above = 0.7",
            ),
            ("health", "[health.bounce]\npoints = 21"),
            ("plan", "plan = []"),
            (
                "plan[0].limits.inbox_per_hour",
                "[[plan]]\nkey='trial'\nname='T'\nlimits = { inbox_per_hour = 41 }",
            ),
            (
                "plan[0].currency",
                "[[plan]]\nkey='trial'\nname='T'\ncurrency='usd'",
            ),
            ("plan[0].key", "[[plan]]\nkey='Trial'\nname='T'"),
            (
                "outbound.caps.source_per_hour",
                "[outbound.caps]\nsource_per_hour = 10001",
            ),
            (
                "outbound.sources",
                "[[outbound.sources]]\naddress = '192.0.2.1'\nweight = 0",
            ),
            ("inbound.tls_key", "[inbound]\ntls_certificate = 'cert.pem'"),
            (
                "notifier.webhook_secret",
                "[notifier]\nwebhook_url = 'https://example.com'",
            ),
            (
                "store.installation_key",
                "[store]\ninstallation_key = 'abc'",
            ),
        ];
        for (key, text) in table {
            let problems = Config::from_toml(text).expect_err(key).problems;
            assert!(
                problems.iter().any(|problem| problem.key == key),
                "{key}: {problems:?}"
            );
        }
    }
}
