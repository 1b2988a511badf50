//! The supervised tree, sole owner of all state.
//!
//! Read in this order: [`platform`] is what the daemon may ask for; `root`, `directory` and `supervision` are
//! the tree itself; `tenant`, `domain`, `inbox` own what customers have; `outbound`, `site`, `inbound` move
//! mail; `clock`, `vault`, `notifier` serve the others; `why` explains.

pub mod platform;
pub mod refusal;

pub mod life;
mod root;
pub mod supervision;

mod context;
mod directory;
mod mailbox;
mod memory;

pub mod tenant;

mod domain;
mod idempotency;
mod inbox;
mod naming;
mod provisioning;

mod inbound;
mod outbound;
mod site;

mod clock;
mod notifier;
mod vault;

mod metrics;
pub mod rules;
mod why;

pub use life::StartError;
pub use notifier::NoticeCode;
pub use platform::{Parts, Platform};
pub use refusal::Refusal;
