//! What an operator may set.
//!
//! [`Config`] is read from a TOML file, then the environment (`INBOXGROVE_<SECTION>__<KEY>`), then, for
//! secrets, systemd's credentials directory. The schema derived from its types is the one list of keys: it
//! names unknown ones, checks types and ranges, and prints [`docs`]. All that is wrong is told at once.

pub mod sections;
pub mod values;

mod check;
mod document;
mod load;
mod reader;
mod schema;
mod sense;

pub use check::Problem;
pub use document::{docs, show};
pub use load::{ConfigError, Sources};
pub use sections::{
    Config,
    accounts::{Accounts, Argon2, Registration},
    api::{Api, ApiLimits, Tokens},
    health::{Health, SignalSettings},
    inbound::{Inbound, InboundLimits},
    outbound::{Caps, Concurrency, Outbound, Pace, Retry, SourceAddress, Timeouts, TlsPolicy},
    plan::{Plan, PlanLimits},
    server::{Dns, Log, LogFormat, Network, Notifier, Server},
    store::{Backup, Store},
    warmup::Warmup,
};
pub use values::{Cidr, Secret};
