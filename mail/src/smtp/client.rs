//! The client: delivers messages over one connection, as often as the server lets it.
//!
//! mail-send holds the stream and writes message text; its replies and addresses are not used, because
//! it loses a second reply that comes in one segment, puts addresses into commands as they are, and
//! upgrades to TLS on TCP only. A session is not cancel safe: drop it when a call was cancelled, and
//! take the message of a cancelled [`Session::send`] for uncertain.

mod capabilities;
mod error;
mod outcome;
mod send;
mod wire;

use std::{io, sync::Arc, time::Duration};

use inboxgrove_model::{DomainName, ports::BoxStream};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

pub use capabilities::Capabilities;
pub use error::ClientError;
pub use outcome::{Delivery, EnvelopeOut, RecipientOutcome, SendOutcome, Stage};

use super::{Reply, Severity};
use wire::Wire;

/// How to talk to one server.
#[derive(Debug, Clone)]
pub struct Options {
    /// What we call ourselves in EHLO.
    pub own_name: DomainName,
    /// The server's name: in errors, and what its certificate must show where that is checked.
    pub server_name: String,
    /// Whether to encrypt.
    pub tls: Tls,
    /// How long to wait for what.
    pub timeouts: Timeouts,
}

/// Whether to encrypt by STARTTLS.
#[derive(Debug, Clone)]
pub enum Tls {
    /// Never.
    Never,
    /// When it is offered. A failed handshake fails the session; the caller decides on another without.
    Opportunistic(Arc<ClientConfig>),
    /// Always: no mail goes out in the clear.
    Required(Arc<ClientConfig>),
}

/// The least waits of RFC 5321 §4.5.3.2.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// For the greeting.
    pub greeting: Duration,
    /// For the reply to EHLO, HELO, STARTTLS, MAIL, RCPT or RSET.
    pub command: Duration,
    /// For the TLS handshake.
    pub tls: Duration,
    /// For the reply to DATA.
    pub data: Duration,
    /// For handing over the text of a message, and …
    pub content: Duration,
    /// … a second more for every so many bytes of it.
    pub content_bytes_per_second: u64,
    /// For the reply to the final dot; too short a wait makes duplicates.
    pub end: Duration,
    /// For the reply to QUIT, which nobody needs.
    pub quit: Duration,
}

/// A connection on which the server has greeted us.
pub struct Session {
    wire: Wire,
    options: Options,
    capabilities: Capabilities,
    secure: bool,
    state: State,
}

/// What the server remembers of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No transaction is open.
    Idle,
    /// A transaction may be open: say RSET before the next.
    Open,
    /// Nothing more can be said.
    Ended,
}

// === impl Options ===

impl Options {
    /// Opportunistic about nothing: no TLS, the waits of RFC 5321.
    pub fn new(own_name: DomainName, server_name: impl Into<String>) -> Self {
        Self {
            own_name,
            server_name: server_name.into(),
            tls: Tls::Never,
            timeouts: Timeouts::default(),
        }
    }
}

// === impl Timeouts ===

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            greeting: Duration::from_mins(5),
            command: Duration::from_mins(5),
            tls: Duration::from_mins(1),
            data: Duration::from_mins(2),
            content: Duration::from_mins(3),
            content_bytes_per_second: 1024,
            end: Duration::from_mins(10),
            quit: Duration::from_secs(10),
        }
    }
}

// === impl Session ===

impl Session {
    /// Greeting, EHLO, and STARTTLS as `options` wish: a session ready to send.
    pub async fn open(stream: BoxStream, options: Options) -> Result<Self, ClientError> {
        let mut session = Self::connect(stream, options).await?;
        session.ehlo().await?;
        session.starttls().await?;
        Ok(session)
    }

    /// Waits for the greeting.
    pub async fn connect(stream: BoxStream, options: Options) -> Result<Self, ClientError> {
        let wait = options.timeouts.greeting;
        let mut session = Self {
            wire: wire::new(stream, wait),
            options,
            capabilities: Capabilities::default(),
            secure: false,
            state: State::Idle,
        };
        let greeting = session.reply(Stage::Greeting, wait).await?;
        session.demand(Stage::Greeting, greeting)?;
        Ok(session)
    }

    /// Says EHLO, or HELO where EHLO is not known.
    pub async fn ehlo(&mut self) -> Result<&Capabilities, ClientError> {
        self.state = State::Idle;
        let own_name = self.options.own_name.clone();
        let wait = self.options.timeouts.command;
        self.write(Stage::Hello, &format!("EHLO {own_name}\r\n"))
            .await?;
        let raw = self.raw_reply(Stage::Hello, wait).await?;
        let reply = self.parsed(Stage::Hello, &raw)?;
        if reply.is_done() {
            self.capabilities = Capabilities::parse(&raw);
        } else {
            self.capabilities = Capabilities::default();
            if reply.severity() == Severity::Transient {
                return Err(self.refused(Stage::Hello, reply));
            }
            let helo = format!("HELO {own_name}\r\n");
            let reply = self.command(Stage::Hello, &helo).await?;
            self.demand(Stage::Hello, reply)?;
        }
        Ok(&self.capabilities)
    }

    /// Encrypts as the options wish, and says EHLO again: what was said in the clear does not count
    /// (RFC 3207 §4.2). Without TLS on offer an opportunistic session stays in the clear.
    pub async fn starttls(&mut self) -> Result<(), ClientError> {
        let (config, required) = match &self.options.tls {
            Tls::Never => return Ok(()),
            Tls::Opportunistic(config) => (Arc::clone(config), false),
            Tls::Required(config) => (Arc::clone(config), true),
        };
        if self.secure {
            return Ok(());
        }
        let server = self.options.server_name.clone();
        if !self.capabilities.starttls {
            return if required {
                Err(ClientError::NoTls { server })
            } else {
                Ok(())
            };
        }
        let reply = self.command(Stage::Tls, "STARTTLS\r\n").await?;
        if reply.code() != 220 {
            return if required || reply.code() == 421 {
                Err(self.refused(Stage::Tls, reply))
            } else {
                Ok(())
            };
        }
        if wire::has_buffered(&self.wire) {
            self.state = State::Ended;
            return Err(ClientError::Injected { server });
        }
        self.handshake(config).await?;
        self.secure = true;
        self.ehlo().await?;
        Ok(())
    }

    /// Ends an open transaction, so that the connection can be used for another.
    pub async fn reset(&mut self) -> Result<(), ClientError> {
        let reply = self.command(Stage::Reset, "RSET\r\n").await?;
        self.demand(Stage::Reset, reply)?;
        self.state = State::Idle;
        Ok(())
    }

    /// Says goodbye and closes. There is nothing to lose any more, so there is no error.
    pub async fn quit(mut self) {
        if self.state == State::Ended {
            return;
        }
        let wait = self.options.timeouts.quit;
        let farewell = async {
            self.write(Stage::Quit, "QUIT\r\n").await?;
            self.raw_reply(Stage::Quit, wait).await
        };
        if let Ok(Err(error)) = timeout(wait, farewell).await {
            tracing::debug!(%error, "no goodbye");
        }
    }

    /// What the server offers.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether the connection is encrypted.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether another message can be tried on this connection.
    pub fn is_usable(&self) -> bool {
        self.state != State::Ended
    }

    async fn handshake(&mut self, config: Arc<ClientConfig>) -> Result<(), ClientError> {
        let server = self.options.server_name.clone();
        self.state = State::Ended;
        let failed = |source| ClientError::Handshake {
            server: server.clone(),
            source,
        };
        let name = ServerName::try_from(server.clone())
            .map_err(|why| failed(io::Error::new(io::ErrorKind::InvalidInput, why)))?;
        let wait = self.options.timeouts.tls;
        let plain = wire::take(&mut self.wire);
        let stream = timeout(wait, TlsConnector::from(config).connect(name, plain))
            .await
            .map_err(|_| ClientError::Timeout {
                server: server.clone(),
                stage: Stage::Tls,
                waited: wait,
            })?
            .map_err(failed)?;
        self.wire = wire::new(Box::new(stream), self.options.timeouts.command);
        self.state = State::Idle;
        Ok(())
    }

    /// Sends one command and waits for its reply, whatever it says.
    async fn command(&mut self, stage: Stage, line: &str) -> Result<Reply, ClientError> {
        self.write(stage, line).await?;
        self.reply(stage, self.options.timeouts.command).await
    }

    /// Sends commands, each ended by CRLF.
    async fn write(&mut self, stage: Stage, lines: &str) -> Result<(), ClientError> {
        debug_assert!(lines.ends_with("\r\n"), "a command ends with CRLF");
        if self.state == State::Ended {
            return Err(ClientError::Ended {
                server: self.options.server_name.clone(),
            });
        }
        let wait = self.options.timeouts.command;
        let written = timeout(wait, wire::write(&mut self.wire, lines.as_bytes())).await;
        self.judged(stage, wait, written)
    }

    async fn reply(&mut self, stage: Stage, wait: Duration) -> Result<Reply, ClientError> {
        let raw = self.raw_reply(stage, wait).await?;
        self.parsed(stage, &raw)
    }

    /// The bytes of the next reply, whole.
    async fn raw_reply(&mut self, stage: Stage, wait: Duration) -> Result<Vec<u8>, ClientError> {
        let read = timeout(wait, wire::read_reply(&mut self.wire)).await;
        let raw = self.judged(stage, wait, read)?;
        let server = || self.options.server_name.clone();
        let error = match raw {
            wire::Raw::Reply(bytes) => return Ok(bytes),
            wire::Raw::End => ClientError::Closed {
                server: server(),
                stage,
            },
            wire::Raw::Endless => ClientError::Endless {
                server: server(),
                stage,
            },
        };
        self.state = State::Ended;
        Err(error)
    }

    fn parsed(&mut self, stage: Stage, raw: &[u8]) -> Result<Reply, ClientError> {
        let reply = Reply::parse(raw).map_err(|source| {
            self.state = State::Ended;
            ClientError::Garbled {
                server: self.options.server_name.clone(),
                stage,
                source,
            }
        })?;
        if reply.code() == 421 {
            // The server closes the connection behind a 421 (RFC 5321 §3.8).
            self.state = State::Ended;
        }
        Ok(reply)
    }

    /// Turns a broken or late connection into our error, and remembers it.
    fn judged<T>(
        &mut self,
        stage: Stage,
        waited: Duration,
        result: Result<io::Result<T>, tokio::time::error::Elapsed>,
    ) -> Result<T, ClientError> {
        let server = || self.options.server_name.clone();
        let error = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(source)) => ClientError::Broken {
                server: server(),
                stage,
                source,
            },
            Err(_) => ClientError::Timeout {
                server: server(),
                stage,
                waited,
            },
        };
        self.state = State::Ended;
        Err(error)
    }

    /// Takes nothing but success.
    fn demand(&mut self, stage: Stage, reply: Reply) -> Result<(), ClientError> {
        if reply.is_done() {
            Ok(())
        } else {
            Err(self.refused(stage, reply))
        }
    }

    /// A refusal that ends the session.
    fn refused(&mut self, stage: Stage, reply: Reply) -> ClientError {
        self.state = State::Ended;
        ClientError::Refused {
            server: self.options.server_name.clone(),
            stage,
            reply,
        }
    }
}
