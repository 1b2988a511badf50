//! Decisions, pure: how much an inbox may send and when, what its evidence says, what a provider's answer
//! means, when to try again, and why something may not leave.
//!
//! Nothing here waits, sleeps, reads a clock or rolls real dice: times and seeds come in, decisions go
//! out, and the same input always gives the same output. Every tunable number stands in a plain struct
//! with a `Default` (`WarmupRules`, `HealthRules`, `RetryRules`, `PaceRules`), which the caller may fill
//! from the configuration.

pub mod rules;

pub mod hold;

pub mod conversation;
pub mod ramp;
pub mod schedule;
pub mod zone;

pub mod band;
pub mod beta;
pub mod evidence;
pub mod score;

pub mod pace;
pub mod provider;
pub mod reply;
pub mod retry;

pub mod dice;
pub mod gate;
mod numbers;

pub use band::band;
pub use dice::Dice;
pub use evidence::{Beliefs, Posterior, Signal};
pub use gate::Gate;
pub use hold::{HeldClock, SLACK};
pub use pace::{PaceAction, ProviderLimits};
pub use provider::{provider_of, site_of};
pub use reply::{Outcome, ReplyText, RulePack, Stage, Verdict};
pub use retry::next_attempt;
pub use rules::{HealthRules, PaceRules, RetryRules, SignalRules, WarmupRules};
pub use score::{Driver, Score, score};
pub use zone::Zone;
