//! What all layers talk about: ids, names, addresses, times, records, events; and the ports through
//! which time, chance and the outside are passed in.
//!
//! No I/O happens here and nothing here knows how a record is stored or rendered: the store keeps its
//! own frozen rows, the HTTP layer its own wire types, and both convert by hand.

pub mod id;
pub mod name;
pub mod net;
pub mod time;

pub mod domain;
pub mod event;
pub mod inbox;
pub mod job;
pub mod message;
pub mod tenant;

pub mod budget;
pub mod claim;
pub mod due;
pub mod idempotency;
pub mod limits;
pub mod notice;
pub mod site;
pub mod suppression;

pub mod generations;
pub mod ports;

pub use id::{DomainId, InboxId, JobId, MessageId, SecretId, SessionId, TenantId, UserId};
pub use name::{DomainName, EmailAddress, NameError};
pub use time::{PolicyTime, WallTime};
