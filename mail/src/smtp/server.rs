//! The server, in the role of port 25: it takes mail for a handler that decides.
//!
//! Strict where leniency has been abused: lines end with CRLF only, a message ends with CRLF.CRLF only,
//! nobody speaks out of turn, bytes behind STARTTLS end the session. Neither AUTH, BDAT, VRFY, EXPN nor
//! XCLIENT exist here. Every wait has a deadline; the handler's answer alone is waited for without one,
//! because a commit that was begun must be answered with what became of it.

mod command;
mod content;
mod session;
mod wire;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use inboxgrove_model::{DomainName, EmailAddress, ports::BoxStream};
use rustls::ServerConfig;
use tokio::sync::watch;

use super::Reply;

/// What a handler answers.
pub type Verdict = Reply;

/// Decides what is taken. One handler serves one connection, its methods are called in turn.
pub trait Handler: Send {
    /// The name in the greeting, which is also the domain of `<Postmaster>` without one.
    fn banner_host(&self) -> &DomainName;

    /// Whether to serve this connection at all: a verdict, such as 421 for one too many, takes the place
    /// of the greeting and ends the session.
    fn greet(&mut self) -> impl Future<Output = Option<Verdict>> + Send {
        std::future::ready(None)
    }

    /// MAIL: a transaction wants to begin, from nobody when `from` is the null sender; `size` is what
    /// the client announced. A positive verdict begins it.
    fn mail(
        &mut self,
        from: Option<&EmailAddress>,
        size: Option<u64>,
    ) -> impl Future<Output = Verdict> + Send;

    /// RCPT: whether mail for `to` is taken. Everything else is relaying and must be refused.
    fn rcpt(&mut self, to: &EmailAddress) -> impl Future<Output = Verdict> + Send;

    /// A whole message, dots unstuffed, lines ended by CRLF. A positive verdict takes the duty for it
    /// (RFC 5321 §6.1), so answer only when it is durable. Called once in a transaction, at its end.
    fn data(
        &mut self,
        envelope: &EnvelopeIn,
        message: Bytes,
    ) -> impl Future<Output = Verdict> + Send;

    /// A message that is coming in has come to take so much memory: whether it may. Asked as it grows, whatever
    /// the client announced; a message that may not is dropped where it stands and answered with 452.
    fn hold(&mut self, _bytes: u64) -> bool {
        true
    }

    /// A transaction that had begun ended without a call of [`Handler::data`].
    fn reset(&mut self) {}

    /// Every reply has been sent, and no transaction is open: until the client says more, nobody is at work.
    fn rest(&mut self) {}
}

/// Who sends what to whom, as the client said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeIn {
    /// Where the connection comes from.
    pub peer: SocketAddr,
    /// What the client called itself in EHLO or HELO; printable, without spaces.
    pub helo: String,
    /// Whether it said EHLO.
    pub extended: bool,
    /// Whether the connection is encrypted.
    pub secure: bool,
    /// The sender; `None` for bounces.
    pub mail_from: Option<EmailAddress>,
    /// The recipients the handler took, in their order.
    pub recipients: Vec<EmailAddress>,
    /// Whether the client asked for SMTPUTF8.
    pub smtputf8: bool,
}

/// What one session may use (RFC 5321 §4.5.3 gives the least, Postfix's defaults the order of size).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest command line with its CRLF: 512 and what SIZE, BODY and SMTPUTF8 add (RFC 5321 §4.5.3.1.4).
    pub command_line_bytes: usize,
    /// Longest text line without its CRLF (RFC 5321 §4.5.3.1.6).
    pub text_line_bytes: usize,
    /// Largest message, announced by SIZE.
    pub message_bytes: u64,
    /// Most messages of one session; at the next one it ends with 421.
    pub messages: u32,
    /// Most recipients of a message; the next ones are told to come again (RFC 5321 §4.5.3.1.10).
    pub recipients: usize,
    /// Largest header section.
    pub header_bytes: usize,
    /// Most lines of a header section.
    pub header_lines: usize,
    /// Most `Received` fields: a loop has more (RFC 5321 §6.3).
    pub hops: usize,
    /// Refusals after which the session ends with 421.
    pub errors: u32,
    /// Commands that bring no mail closer, in a row without an accepted message.
    pub idle_commands: u32,
    /// How long to listen for an early talker before the greeting; zero looks once.
    pub greeting_pause: Duration,
    /// Longest wait for a whole command line, and for a reply to be taken (RFC 5321 §4.5.3.2.7).
    pub command_timeout: Duration,
    /// Longest TLS handshake.
    pub tls_timeout: Duration,
    /// A message may take this long, and …
    pub data_grace: Duration,
    /// … a second more for every so many bytes received, but …
    pub data_bytes_per_second: u64,
    /// … never longer than this.
    pub data_timeout: Duration,
    /// Longest session.
    pub session_timeout: Duration,
}

/// How a session ended, for the log and for counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Messages answered with 250.
    pub accepted: u32,
    /// Refusals.
    pub errors: u32,
    /// Why it ended.
    pub ended: Ended,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The client said QUIT.
    Quit,
    /// The client went away.
    Gone,
    /// The client was too slow.
    TooSlow,
    /// The client broke the protocol in a way that is not forgiven; which one.
    Violation(&'static str),
    /// Too many refusals or idle commands.
    Excess,
    /// The handler answered 421, or refused to greet.
    Dismissed,
    /// TLS did not come about.
    TlsFailed,
    /// We are shutting down.
    Shutdown,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            command_line_bytes: 512 + 26 + 17 + 10,
            text_line_bytes: 998,
            message_bytes: 25 * 1024 * 1024,
            messages: 100,
            recipients: 100,
            header_bytes: 100 * 1024,
            header_lines: 1000,
            hops: 50,
            errors: 10,
            idle_commands: 100,
            greeting_pause: Duration::ZERO,
            command_timeout: Duration::from_mins(5),
            tls_timeout: Duration::from_mins(1),
            data_grace: Duration::from_mins(1),
            data_bytes_per_second: 1024,
            data_timeout: Duration::from_mins(10),
            session_timeout: Duration::from_mins(30),
        }
    }
}

/// Serves one connection to its end; STARTTLS is offered when there is a `tls` configuration.
///
/// When `shutdown` turns true the session ends with 421 as soon as no transaction is open. A caller that
/// drops the future cuts the client off, which then does not know what became of its message.
pub async fn serve<H: Handler>(
    stream: BoxStream,
    peer: SocketAddr,
    handler: H,
    limits: &Limits,
    tls: Option<Arc<ServerConfig>>,
    shutdown: watch::Receiver<bool>,
) -> Summary {
    session::Session::new(stream, peer, handler, limits, tls, shutdown)
        .run()
        .await
}
