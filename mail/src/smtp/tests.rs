//! Both ends against each other, and each against a script, under a paused clock.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use inboxgrove_model::{DomainName, EmailAddress};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::watch,
    task::JoinHandle,
};

use super::{
    EnhancedStatus, Reply,
    client::{EnvelopeOut, Options, Session},
    server::{EnvelopeIn, Handler, Limits, Summary, Verdict, serve},
};

mod delivery;
mod encryption;
mod hostile;
mod laws;

/// Takes everything but unknown people and foreign domains, and keeps it.
#[derive(Clone)]
struct Keeper {
    host: DomainName,
    kept: Arc<Mutex<Vec<(EnvelopeIn, Bytes)>>>,
    resting: Arc<AtomicBool>,
}

/// A server on the other end of a stream.
struct Served {
    stream: DuplexStream,
    keeper: Keeper,
    stop: watch::Sender<bool>,
    summary: JoinHandle<Summary>,
}

impl Keeper {
    fn new() -> Self {
        Self {
            host: DomainName::parse("mx.example.net").unwrap(),
            kept: Arc::default(),
            resting: Arc::default(),
        }
    }

    fn rests(&self) -> bool {
        self.resting.load(Ordering::Relaxed)
    }

    fn kept(&self) -> Vec<(EnvelopeIn, Bytes)> {
        self.kept.lock().unwrap().clone()
    }
}

impl Handler for Keeper {
    fn banner_host(&self) -> &DomainName {
        &self.host
    }

    async fn mail(&mut self, _from: Option<&EmailAddress>, _size: Option<u64>) -> Verdict {
        self.resting.store(false, Ordering::Relaxed);
        Reply::new(250, EnhancedStatus::new(2, 1, 0), "ok")
    }

    async fn rcpt(&mut self, to: &EmailAddress) -> Verdict {
        if to.domain().as_str().ends_with("example.net") && !to.local().starts_with("nobody") {
            Reply::new(250, EnhancedStatus::new(2, 1, 5), "ok")
        } else {
            Reply::new(550, EnhancedStatus::new(5, 1, 1), "no such user")
        }
    }

    async fn data(&mut self, envelope: &EnvelopeIn, message: Bytes) -> Verdict {
        self.kept.lock().unwrap().push((envelope.clone(), message));
        Reply::ok("kept")
    }

    fn rest(&mut self) {
        self.resting.store(true, Ordering::Relaxed);
    }
}

fn start(limits: Limits, tls: Option<Arc<ServerConfig>>) -> Served {
    let (stream, theirs) = duplex(4096);
    let keeper = Keeper::new();
    let (stop, stopped) = watch::channel(false);
    let handler = keeper.clone();
    let peer = SocketAddr::from(([127, 0, 0, 9], 4711));
    let summary =
        tokio::spawn(
            async move { serve(Box::new(theirs), peer, handler, &limits, tls, stopped).await },
        );
    Served {
        stream,
        keeper,
        stop,
        summary,
    }
}

fn options() -> Options {
    let own_name = DomainName::parse("out.example.org").unwrap();
    Options::new(own_name, "mx.example.net")
}

fn address(text: &str) -> EmailAddress {
    EmailAddress::parse(text).unwrap()
}

fn envelope(recipients: &[&str]) -> EnvelopeOut {
    EnvelopeOut {
        mail_from: Some(address("ada@example.org")),
        recipients: recipients.iter().map(|to| address(to)).collect(),
    }
}

/// Reads up to and with the last line of a reply that begins with `code` and a space.
async fn expect(stream: &mut DuplexStream, code: &str) -> String {
    let mut seen = Vec::new();
    loop {
        let byte = stream
            .read_u8()
            .await
            .unwrap_or_else(|_| panic!("wanted {code}, saw {}", String::from_utf8_lossy(&seen)));
        seen.push(byte);
        let text = String::from_utf8_lossy(&seen).into_owned();
        if text.ends_with("\r\n") && text.lines().next_back().unwrap().as_bytes()[3] == b' ' {
            let last = text.lines().next_back().unwrap();
            assert!(last.starts_with(code), "wanted {code}, saw {text}");
            return text;
        }
    }
}

/// Says a line and expects a reply.
async fn say(stream: &mut DuplexStream, line: &str, code: &str) -> String {
    stream.write_all(line.as_bytes()).await.unwrap();
    stream.write_all(b"\r\n").await.unwrap();
    expect(stream, code).await
}

/// Everything up to the end of the stream.
async fn rest(stream: &mut DuplexStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A server that plays a script: waits for each text to have come in, then answers with the next.
fn play(script: Vec<(&'static str, &'static str)>) -> (DuplexStream, JoinHandle<String>) {
    let (ours, mut theirs) = duplex(64 * 1024);
    let played = tokio::spawn(async move {
        let mut all = String::new();
        for (wanted, answer) in script {
            let mut seen = String::new();
            while !seen.ends_with(wanted) {
                let Ok(byte) = theirs.read_u8().await else {
                    panic!("wanted {wanted:?}, saw {seen:?}");
                };
                seen.push(char::from(byte));
            }
            all.push_str(&seen);
            theirs.write_all(answer.as_bytes()).await.unwrap();
        }
        all
    });
    (ours, played)
}

/// A session with the server of [`start`].
async fn open(served: &mut Served) -> Session {
    let stream = std::mem::replace(&mut served.stream, duplex(1).0);
    Session::open(Box::new(stream), options()).await.unwrap()
}
