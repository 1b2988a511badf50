//! Records and how they last: the log, the rows, the one committer, recovery, backup.
//!
//! Read in this order: [`Store`] (what callers see), [`Batch`] (what they hand over), `committer` (how it becomes one frame
//! of the log), `log` (the commit point), `engine` (where rows live), `open` (how both agree
//! again after a crash), `records` (the tables).
//!
//! Only this crate names sled and rkyv, and nothing above it may assume that the rows are local.

mod batch;
mod lease;
mod store;

mod committer;
mod shared;

mod budgets;
pub mod records;
mod row;
pub mod table;
mod tables;

mod data_keys;
pub mod seal;
mod sealed;

mod frame;
mod log;

mod engine;
mod generations;
mod hot;
mod media;
mod memory;
mod shim;
mod witness;

mod backup;
mod checked;
mod compaction;
mod error;
mod found;
mod migrate;
mod open;
mod pace;
mod restore;
mod rewrite;
mod seed;
mod stats;
mod verify;

#[cfg(test)]
mod test_rng;
#[cfg(test)]
mod tests;

pub use backup::{BackupError, BackupReport};
pub use batch::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, BATCH_ROWS_MAX, Batch, BodySlot, Committed};
pub use compaction::CompactionReport;
pub use data_keys::DataKeysError;
pub use engine::EngineError;
pub use error::{CommitError, OpenError, ReadError};
pub use lease::{Lease, Owner};
pub use log::LogError;
pub use memory::{Fault, MemDisk, Stop};
pub use migrate::{
    FORMAT_NEWEST, FORMAT_OLDEST, MigrateError, MigrateReport, migrate_down, migrate_up,
};
pub use open::{OpenReport, Options};
pub use records::{EvidenceRow, InboxOfDomain, PolicyMark, SecretRow};
pub use restore::restore;
pub use rewrite::{RewriteError, RewriteReport};
pub use seal::{KeyFileError, Keys, NameKey};
pub use seed::{SeedPlan, Seeded};
pub use shared::{DueMark, StoreHealth};
pub use stats::StoreStats;
pub use store::{EventsStep, Page, Store};
pub use table::{KeyBytes, KeyParts, Record, RowError, Scope, TableId};
pub use verify::VerifyReport;
pub use witness::{RowChange, RowWrite, Witnessed};
