//! Clients of outside services, all over the `Http` port, and the one real implementation of that port.
//!
//! A client is thin: it knows a vendor's calls, its wire and its errors, and answers what the caller should
//! do next ([`Verdict`]). When to call, how often and how to try again belongs to the actor that calls.

pub mod http;

pub mod cloudflare;
pub mod error;
pub mod fake;
pub mod record;

pub use error::{ProviderError, Verdict};
pub use record::{Record, RecordError};
