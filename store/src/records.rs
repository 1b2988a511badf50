//! Records as they are stored: one file a table, each with its key, its frozen rows and its golden bytes.
//!
//! A stored shape is never edited once released: a change is a new `mod v2` beside `mod v1` with its own
//! golden file. The model's types know nothing of this; conversions are written by hand.

mod codec;
mod codes;
#[cfg(test)]
mod laws;

pub(crate) mod events;

mod sessions;
mod tenants;
mod users;

mod domains;
mod inboxes;
mod inboxes_of_domain;

mod due;
mod messages;
mod queue;

mod evidence;
mod jobs;
mod pool;

mod claims;
mod idempotent_answers;
mod secrets;

mod notices;
mod policy_mark;
mod site_paces;
mod suppressions;

pub(crate) use claims::domain_and_below;
pub use codec::ROW_BYTES_MAX;
pub use evidence::EvidenceRow;
pub use inboxes_of_domain::InboxOfDomain;
pub use messages::MESSAGE_IDS_BYTES_MAX;
pub use policy_mark::PolicyMark;
pub use pool::pool_place;
pub use secrets::SecretRow;
