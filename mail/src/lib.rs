//! Mail protocols without state: names and what they publish, messages, DKIM, SMTP both ways, reports.
//!
//! Nothing here stores anything, knows a tenant or decides a policy. Time, names and byte streams come in
//! through the ports of `inboxgrove-model`; crypto is aws-lc-rs throughout.

pub mod authentication;
pub mod dkim;
pub mod dns;
pub mod dsn;
pub mod message;
pub mod smtp;
