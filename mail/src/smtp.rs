//! SMTP, both ends, over any byte stream: a client that delivers and a server in the role of port 25.
//!
//! Neither end trusts the other. Lines end with CRLF and with nothing else, a message ends with
//! CRLF.CRLF and with nothing else, addresses are typed, every wait has a deadline on tokio's time.
//! Nothing here keeps state beyond one connection.

pub mod reply;
pub mod tls;

pub mod client;
pub mod server;

pub use reply::{EnhancedStatus, Reply, ReplyError, Severity};

#[cfg(test)]
mod tests;
