//! The plans that tenants can be on: `[[plan]]`. Prices and limits are the operator's data, never code.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A plan that tenants can be on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Its stable name in the API and in accounts: lower-case letters, digits and `_`.
    #[schemars(length(min = 1, max = 40))]
    pub key: String,
    /// Its name for people.
    #[schemars(length(min = 1, max = 80))]
    pub name: String,
    /// Its monthly price in minor units of its currency, as in 9700 for 97.00.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub price_minor: u32,
    /// ISO 4217 code of its currency.
    #[serde(default = "usd")]
    #[schemars(length(min = 3, max = 3))]
    pub currency: String,
    /// Days it may be tried; 0 for a plan that is no trial.
    #[serde(default)]
    #[schemars(range(min = 0, max = 365))]
    pub trial_days: u32,
    /// What it allows.
    #[serde(default)]
    pub limits: PlanLimits,
}

fn usd() -> String {
    "USD".to_owned()
}

/// What a plan allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlanLimits {
    /// Domains.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub domains: u32,
    /// Inboxes.
    #[schemars(range(min = 0, max = 10_000_000))]
    pub inboxes: u32,
    /// Recipients of one inbox an hour, warmup included.
    #[schemars(range(min = 0, max = u32::MAX))]
    pub inbox_per_hour: u32,
    /// Recipients of one inbox a day, warmup included.
    #[schemars(range(min = 0, max = u32::MAX))]
    pub inbox_per_day: u32,
    /// Recipients of one domain an hour.
    #[schemars(range(min = 0, max = u32::MAX))]
    pub domain_per_hour: u32,
    /// Recipients of one domain a day.
    #[schemars(range(min = 0, max = u32::MAX))]
    pub domain_per_day: u32,
    /// Recipients of the tenant an hour.
    #[schemars(range(min = 0, max = u32::MAX))]
    pub tenant_per_hour: u32,
    /// Recipients of the tenant a day.
    #[schemars(range(min = 0, max = u32::MAX))]
    pub tenant_per_day: u32,
}

impl Default for PlanLimits {
    fn default() -> Self {
        Self {
            domains: 10,
            inboxes: 50,
            inbox_per_hour: 10,
            inbox_per_day: 40,
            domain_per_hour: 60,
            domain_per_day: 200,
            tenant_per_hour: 500,
            tenant_per_day: 2_000,
        }
    }
}

/// The plans that there are when the operator gives none.
pub(crate) fn defaults() -> Vec<Plan> {
    let plan = |key: &str, name: &str, price_minor, trial_days, limits| Plan {
        key: key.to_owned(),
        name: name.to_owned(),
        price_minor,
        currency: usd(),
        trial_days,
        limits,
    };
    let limits = |domains, inboxes, tenant_per_hour, tenant_per_day| PlanLimits {
        domains,
        inboxes,
        tenant_per_hour,
        tenant_per_day,
        ..PlanLimits::default()
    };
    vec![
        plan("trial", "Trial", 0, 7, limits(1, 5, 50, 200)),
        plan("starter", "Starter", 9_700, 0, limits(10, 50, 500, 2_000)),
        plan(
            "growth",
            "Growth",
            29_700,
            0,
            limits(50, 500, 5_000, 20_000),
        ),
        plan(
            "enterprise",
            "Enterprise",
            99_700,
            0,
            limits(10_000, 100_000, 500_000, 4_000_000),
        ),
    ]
}
