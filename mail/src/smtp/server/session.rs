//! One session: the order of commands, and what each of them does.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use inboxgrove_model::{EmailAddress, ports::BoxStream};
use rustls::ServerConfig;
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::{
    Ended, EnvelopeIn, Handler, Limits, Summary,
    command::{Command, MailFrom, Recipient, Refusal, parse},
    content::{Content, Fault},
    wire::{Line, Wire},
};
use crate::smtp::{EnhancedStatus, Reply, Severity};

/// How far beyond the limit an oversized message is read before the connection is dropped: enough for
/// an honest client to hear its 552.
const OVERSIZE_FACTOR: u64 = 2;

/// When we shut down, an open transaction may go on while its commands come this soon after each other: nothing of it
/// was accepted yet, and its client loses nothing by a 421 but time.
const LAST_COMMAND_WAIT: Duration = Duration::from_secs(10);

/// One connection.
pub(super) struct Session<'a, H> {
    wire: Wire,
    handler: H,
    limits: &'a Limits,
    tls: Option<Arc<ServerConfig>>,
    shutdown: watch::Receiver<bool>,
    deadline: Instant,
    peer: SocketAddr,
    secure: bool,
    hello: Option<Hello>,
    transaction: Option<EnvelopeIn>,
    accepted: u32,
    errors: u32,
    idle_commands: u32,
}

/// How the client introduced itself.
struct Hello {
    name: String,
    extended: bool,
}

/// What happens after a command.
enum Next {
    /// Wait for the next one.
    Command,
    /// Hang up, after what is queued was sent.
    End(Ended),
}

// === impl Session ===

impl<'a, H: Handler> Session<'a, H> {
    pub(super) fn new(
        stream: BoxStream,
        peer: SocketAddr,
        handler: H,
        limits: &'a Limits,
        tls: Option<Arc<ServerConfig>>,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        Self {
            wire: Wire::new(stream),
            handler,
            limits,
            tls,
            shutdown,
            deadline: Instant::now() + limits.session_timeout,
            peer,
            secure: false,
            hello: None,
            transaction: None,
            accepted: 0,
            errors: 0,
            idle_commands: 0,
        }
    }

    pub(super) async fn run(mut self) -> Summary {
        let ended = self.converse().await;
        self.forget();
        // The client may be gone or deaf: the last words are worth one timeout and no error.
        drop(timeout(self.limits.command_timeout, self.wire.close()).await);
        Summary {
            accepted: self.accepted,
            errors: self.errors,
            ended,
        }
    }

    async fn converse(&mut self) -> Ended {
        if *self.shutdown.borrow() {
            return self.goodbye();
        }
        if self.talks_early().await {
            let text = "you spoke before the greeting";
            self.say(&Reply::plain(554, text));
            return Ended::Violation("spoke before the greeting");
        }
        if let Some(refusal) = self.handler.greet().await {
            self.say(&refusal);
            return Ended::Dismissed;
        }
        let greeting = format!("{} ESMTP", self.handler.banner_host());
        self.say(&Reply::plain(220, &greeting));
        loop {
            let line = match self.next_line().await {
                Ok(line) => line,
                Err(ended) => return ended,
            };
            if let Next::End(ended) = self.obey(&line).await {
                return ended;
            }
        }
    }

    /// Whether the client sent anything before our greeting.
    async fn talks_early(&mut self) -> bool {
        self.wire.has_more()
            || (!self.limits.greeting_pause.is_zero()
                && timeout(self.limits.greeting_pause, self.wire.early())
                    .await
                    .is_ok())
    }

    /// The next command line, or why there is none.
    async fn next_line(&mut self) -> Result<Vec<u8>, Ended> {
        let deadline = self
            .deadline
            .min(Instant::now() + self.limits.command_timeout);
        let patience = match self.transaction {
            None => Duration::ZERO,
            Some(_) => LAST_COMMAND_WAIT,
        };
        let (wire, handler) = (&mut self.wire, &mut self.handler);
        let rests = self.transaction.is_none() && wire.input().is_empty();
        let line = async {
            if rests {
                wire.flush().await?;
                handler.rest();
            }
            wire.line(self.limits.command_line_bytes).await
        };
        let line = tokio::select! {
            biased;
            () = told_to_stop(&mut self.shutdown, patience) => return Err(self.goodbye()),
            line = timeout_at(deadline, line) => line,
        };
        match line {
            Err(_) => {
                self.say(&transient(421, 4, 2, "timed out, closing"));
                Err(Ended::TooSlow)
            }
            Ok(Err(_) | Ok(Line::End)) => Err(Ended::Gone),
            Ok(Ok(Line::Whole(line))) => Ok(line),
            Ok(Ok(Line::TooLong)) => {
                self.say(&permanent(500, 5, 2, "line too long, closing"));
                Err(Ended::Violation("line too long"))
            }
            Ok(Ok(Line::Broken)) => {
                self.say(&permanent(500, 5, 2, "bare CR, bare LF or NUL, closing"));
                Err(Ended::Violation("broken line"))
            }
        }
    }

    /// Carries out one command line.
    async fn obey(&mut self, line: &[u8]) -> Next {
        let smtputf8 = self.transaction.as_ref().is_some_and(|t| t.smtputf8);
        let command = match parse(line, smtputf8) {
            Ok(command) => command,
            Err(Refusal::Answer(reply)) => return self.answer(&reply),
            Err(Refusal::Close(reply, what)) => {
                self.say(&reply);
                return Next::End(Ended::Violation(what));
            }
        };
        if self.must_wait_for_reply(&command) && self.wire.has_more() {
            self.say(&permanent(
                503,
                5,
                1,
                "you did not wait for the reply, closing",
            ));
            return Next::End(Ended::Violation("pipelining"));
        }
        match command {
            Command::Ehlo(name) => self.hello(name, true),
            Command::Helo(name) => self.hello(name, false),
            Command::Mail(mail) => self.mail(mail).await,
            Command::Rcpt(to) => self.rcpt(to).await,
            Command::Data => self.data().await,
            Command::Rset => self.rset(),
            Command::Noop => self.idle(&Reply::ok("ok")),
            Command::Help => self.idle(&Reply::new(214, EnhancedStatus::new(2, 0, 0), "RFC 5321")),
            Command::StartTls => self.start_tls().await,
            Command::Quit => {
                self.say(&Reply::new(221, EnhancedStatus::new(2, 0, 0), "bye"));
                Next::End(Ended::Quit)
            }
        }
    }

    /// Whether nothing may stand behind `command` before its reply (RFC 2920 §3.1, RFC 3207 §4.2).
    fn must_wait_for_reply(&self, command: &Command) -> bool {
        let pipelining = self.hello.as_ref().is_some_and(|hello| hello.extended);
        match command {
            Command::Helo(_) | Command::Ehlo(_) | Command::Data | Command::StartTls => true,
            Command::Quit => false,
            _ => !pipelining,
        }
    }

    fn hello(&mut self, name: String, extended: bool) -> Next {
        self.forget();
        self.hello = Some(Hello { name, extended });
        let host = self.handler.banner_host().to_string();
        if !extended {
            return self.idle(&Reply::plain(250, &host));
        }
        let mut lines = vec![
            host,
            "PIPELINING".to_owned(),
            format!("SIZE {}", self.limits.message_bytes),
            "8BITMIME".to_owned(),
            "SMTPUTF8".to_owned(),
            "ENHANCEDSTATUSCODES".to_owned(),
        ];
        if self.tls.is_some() && !self.secure {
            lines.push("STARTTLS".to_owned());
        }
        self.idle(&Reply::plain(250, &lines.join("\n")))
    }

    async fn mail(&mut self, mail: MailFrom) -> Next {
        let Some(hello) = &self.hello else {
            return self.answer(&permanent(503, 5, 1, "say EHLO first"));
        };
        if self.transaction.is_some() {
            return self.answer(&permanent(503, 5, 1, "a transaction is open"));
        }
        if self.accepted >= self.limits.messages {
            return self.answer(&transient(421, 7, 0, "enough for one session, come again"));
        }
        if mail
            .size
            .is_some_and(|size| size > self.limits.message_bytes)
        {
            return self.answer(&permanent(552, 3, 4, "message too big"));
        }
        let envelope = EnvelopeIn {
            peer: self.peer,
            helo: hello.name.clone(),
            extended: hello.extended,
            secure: self.secure,
            mail_from: mail.from,
            recipients: Vec::new(),
            smtputf8: mail.smtputf8,
        };
        let verdict = self
            .handler
            .mail(envelope.mail_from.as_ref(), mail.size)
            .await;
        if verdict.is_done() {
            self.transaction = Some(envelope);
        }
        self.answer(&verdict)
    }

    async fn rcpt(&mut self, to: Recipient) -> Next {
        let Some(envelope) = &mut self.transaction else {
            return self.answer(&permanent(503, 5, 1, "say MAIL first"));
        };
        if envelope.recipients.len() >= self.limits.recipients {
            return self.answer(&transient(452, 5, 3, "too many recipients"));
        }
        let to = match to {
            Recipient::Address(to) => to,
            Recipient::Postmaster => EmailAddress::new("postmaster", self.handler.banner_host())
                .expect("an atom of ten letters on a host's name is an address"),
        };
        let verdict = self.handler.rcpt(&to).await;
        if verdict.is_done() && !envelope.recipients.contains(&to) {
            envelope.recipients.push(to);
        }
        self.answer(&verdict)
    }

    async fn data(&mut self) -> Next {
        match &self.transaction {
            None => return self.answer(&permanent(503, 5, 1, "say MAIL first")),
            Some(envelope) if envelope.recipients.is_empty() => {
                return self.answer(&permanent(554, 5, 1, "no valid recipients"));
            }
            Some(_) => {}
        }
        self.say(&Reply::plain(354, "end with <CRLF>.<CRLF>"));
        let message = match self.content().await {
            Ok(message) => message,
            Err(ended) => return Next::End(ended),
        };
        let verdict = match message {
            Ok(message) => self.deliver(message).await,
            Err(fault) => {
                self.forget();
                let next = self.answer(&fault.reply());
                if fault == Fault::Broken {
                    return Next::End(Ended::Violation("broken line in a message"));
                }
                return next;
            }
        };
        if verdict.is_done() {
            self.accepted += 1;
            self.idle_commands = 0;
        }
        self.answer(&verdict)
    }

    /// Hands a whole message over and ends the transaction.
    async fn deliver(&mut self, message: Vec<u8>) -> Reply {
        let envelope = self
            .transaction
            .take()
            .expect("DATA is answered with 354 only within a transaction");
        self.handler.data(&envelope, Bytes::from(message)).await
    }

    /// Reads a message to its end; `Err` when the connection ends first.
    async fn content(&mut self) -> Result<Result<Vec<u8>, Fault>, Ended> {
        let started = Instant::now();
        let mut content = Content::new();
        let mut held = 0;
        loop {
            let (used, done) = content.feed(self.wire.input(), self.limits);
            self.wire.consume(used);
            if content.held() > held {
                held = content.held();
                if !self.handler.hold(held) {
                    content.give_up();
                }
            }
            if done {
                return Ok(content.finish());
            }
            if content.received() > self.limits.message_bytes.saturating_mul(OVERSIZE_FACTOR) {
                self.say(&Fault::TooBig.reply());
                return Err(Ended::Violation("message far too big"));
            }
            let deadline = self
                .deadline
                .min(started + self.data_time(content.received()));
            match timeout_at(deadline, self.wire.fill()).await {
                Ok(Ok(0) | Err(_)) => return Err(Ended::Gone),
                Ok(Ok(_)) => {}
                Err(_) => {
                    self.say(&transient(421, 4, 2, "too slow, closing"));
                    return Err(Ended::TooSlow);
                }
            }
        }
    }

    /// How long a message of so many bytes may have taken.
    fn data_time(&self, received: u64) -> Duration {
        let rate = self.limits.data_bytes_per_second.max(1);
        let time = self.limits.data_grace + Duration::from_secs(received / rate);
        time.min(self.limits.data_timeout)
    }

    fn rset(&mut self) -> Next {
        self.forget();
        self.idle(&Reply::ok("ok"))
    }

    async fn start_tls(&mut self) -> Next {
        let Some(tls) = self.tls.clone().filter(|_| !self.secure) else {
            return self.answer(&permanent(503, 5, 1, "not offered"));
        };
        self.say(&Reply::new(220, EnhancedStatus::new(2, 0, 0), "go ahead"));
        match timeout(self.limits.tls_timeout, self.handshake(tls)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Next::End(Ended::TlsFailed),
        }
        // Whatever was said in the clear is forgotten (RFC 3207 §4.2).
        self.forget();
        self.hello = None;
        self.secure = true;
        Next::Command
    }

    async fn handshake(&mut self, tls: Arc<ServerConfig>) -> io::Result<()> {
        self.wire.flush().await?;
        let nowhere = Wire::new(Box::new(tokio::io::empty()));
        let plain = std::mem::replace(&mut self.wire, nowhere).into_stream();
        let stream = TlsAcceptor::from(tls).accept(plain).await?;
        self.wire = Wire::new(Box::new(stream));
        Ok(())
    }

    /// Ends an open transaction without a message.
    fn forget(&mut self) {
        if self.transaction.take().is_some() {
            self.handler.reset();
        }
    }

    fn goodbye(&mut self) -> Ended {
        self.say(&transient(421, 3, 2, "shutting down, come back later"));
        Ended::Shutdown
    }

    fn say(&mut self, reply: &Reply) {
        self.wire.reply(reply);
    }

    /// Answers a command that brings no mail closer.
    fn idle(&mut self, reply: &Reply) -> Next {
        self.idle_commands += 1;
        if self.idle_commands > self.limits.idle_commands {
            return self.too_much();
        }
        self.answer(reply)
    }

    /// Answers a command and counts refusals.
    fn answer(&mut self, reply: &Reply) -> Next {
        if reply.severity() == Severity::Permanent {
            self.errors += 1;
            if self.errors >= self.limits.errors {
                return self.too_much();
            }
        }
        self.say(reply);
        if reply.code() == 421 {
            return Next::End(Ended::Dismissed);
        }
        Next::Command
    }

    fn too_much(&mut self) -> Next {
        self.say(&transient(421, 7, 0, "too many errors, closing"));
        Next::End(Ended::Excess)
    }
}

/// Resolves so long after we are told to shut down; never when nobody can tell any more.
async fn told_to_stop(shutdown: &mut watch::Receiver<bool>, patience: Duration) {
    if shutdown.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
    if !patience.is_zero() {
        sleep(patience).await;
    }
}

fn permanent(code: u16, subject: u16, detail: u16, text: &str) -> Reply {
    Reply::new(code, EnhancedStatus::new(5, subject, detail), text)
}

fn transient(code: u16, subject: u16, detail: u16, text: &str) -> Reply {
    Reply::new(code, EnhancedStatus::new(4, subject, detail), text)
}
