//! A tap on every wire: what servers really read and really answered, whatever either side believes of it.
//!
//! It listens at the servers' ends. So a transmission counts when its text reached a server, and an answer counts
//! when it was written.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use inboxgrove_model::{
    PolicyTime,
    ports::{BoxFuture, BoxStream, Clock, Listener, Net},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a message that are kept: its header.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// One message on its way to one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmission {
    /// When its text began.
    pub began_at: PolicyTime,
    /// Who sent it.
    pub from: IpAddr,
    /// To which server.
    pub to: IpAddr,
    /// The recipients that the server took.
    pub recipients: Vec<String>,
    /// Whether anything of its text reached the server: the server's 354 may not have reached the client.
    pub begun: bool,
    /// Its `Message-ID`, without brackets; empty while unknown.
    pub message_id: String,
    /// Whether the final dot arrived.
    pub complete: bool,
    /// What the server answered to the final dot.
    pub answer: Option<u16>,
    /// Whether the client has said something after that, and so has seen it.
    pub answer_seen: bool,
}

/// Everything that was heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// In the order in which they began.
    pub transmissions: Vec<Transmission>,
    /// Ends of runs of the daemon: for each, how many transmissions had begun before.
    pub ends: Vec<usize>,
}

/// What the tap has seen. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Wire {
    seen: Arc<Mutex<Heard>>,
}

/// A net whose servers are listened to.
pub struct TappedNet {
    inner: Arc<dyn Net>,
    clock: Arc<dyn Clock>,
    wire: Wire,
}

struct TappedListener {
    inner: Box<dyn Listener>,
    clock: Arc<dyn Clock>,
    wire: Wire,
}

struct TappedStream {
    inner: BoxStream,
    ear: Ear,
}

/// Understands one SMTP session by listening to both sides.
struct Ear {
    clock: Arc<dyn Clock>,
    wire: Wire,
    from: IpAddr,
    to: IpAddr,
    /// Commands whose answers are to come, in their order; the greeting is the answer to none.
    asked: VecDeque<Asked>,
    heard: Vec<u8>,
    said: Vec<u8>,
    recipients: Vec<String>,
    /// The message whose text is under way, and its text so far.
    under_way: Option<(usize, Vec<u8>)>,
    /// The message whose final dot was answered last.
    answered: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Greeting,
    Recipient(String),
    Data,
    End(usize),
    Other,
}

// === impl Wire ===

impl Wire {
    /// Everything that was seen so far.
    pub fn seen(&self) -> Heard {
        self.lock().clone()
    }

    /// Ends of runs so far.
    pub fn ends(&self) -> Vec<usize> {
        self.lock().ends.clone()
    }

    /// A run of the daemon ends here.
    pub fn run_ends(&self) {
        let mut seen = self.lock();
        let begun = seen.transmissions.len();
        seen.ends.push(begun);
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl TappedNet ===

impl TappedNet {
    /// Listens to all servers of a net.
    pub fn new(inner: Arc<dyn Net>, clock: Arc<dyn Clock>, wire: Wire) -> Self {
        Self { inner, clock, wire }
    }
}

impl Net for TappedNet {
    fn connect(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
    ) -> BoxFuture<'_, io::Result<BoxStream>> {
        self.inner.connect(from, to)
    }

    fn listen(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let inner = self.inner.listen(at).await?;
            Ok(Box::new(TappedListener {
                inner,
                clock: Arc::clone(&self.clock),
                wire: self.wire.clone(),
            }) as Box<dyn Listener>)
        })
    }
}

impl Listener for TappedListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (inner, peer) = self.inner.accept().await?;
            let ear = Ear {
                clock: Arc::clone(&self.clock),
                wire: self.wire.clone(),
                from: peer.ip(),
                to: self.inner.local_addr().ip(),
                asked: VecDeque::from([Asked::Greeting]),
                heard: Vec::new(),
                said: Vec::new(),
                recipients: Vec::new(),
                under_way: None,
                answered: None,
            };
            Ok((Box::new(TappedStream { inner, ear }) as BoxStream, peer))
        })
    }

    fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }
}

// === impl TappedStream ===

impl AsyncRead for TappedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
        self.ear.hear(&buffer.filled()[before..]);
        Poll::Ready(read)
    }
}

impl AsyncWrite for TappedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, bytes));
        if let Ok(written) = written {
            self.ear.say(&bytes[..written]);
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

// === impl Ear ===

impl Ear {
    /// What the client sent.
    fn hear(&mut self, bytes: &[u8]) {
        if let Some(message) = self.answered.take_if(|_| !bytes.is_empty()) {
            self.wire.lock().transmissions[message].answer_seen = true;
        }
        self.heard.extend_from_slice(bytes);
        loop {
            let went_on = match self.under_way.take() {
                Some((message, text)) => self.hear_text(message, text),
                None => self.hear_command(),
            };
            if !went_on {
                return;
            }
        }
    }

    fn hear_command(&mut self) -> bool {
        let Some(line) = take_line(&mut self.heard) else {
            return false;
        };
        let upper = line.to_ascii_uppercase();
        let asked = if upper.starts_with("RCPT TO:") {
            Asked::Recipient(path_of(&line))
        } else if upper == "DATA" {
            Asked::Data
        } else {
            if upper.starts_with("MAIL FROM:") || upper == "RSET" {
                self.recipients.clear();
            }
            Asked::Other
        };
        self.asked.push_back(asked);
        true
    }

    fn hear_text(&mut self, message: usize, mut text: Vec<u8>) -> bool {
        // What was heard earlier may end in the middle of the final dot's line.
        let seen = text.len().saturating_sub(4);
        text.append(&mut self.heard);
        let end = find(&text[seen..], b"\r\n.\r\n").map(|at| seen + at + 2);
        let end = if text.starts_with(b".\r\n") {
            Some(0)
        } else {
            end
        };
        let mut seen = self.wire.lock();
        seen.transmissions[message].begun |= !text.is_empty();
        seen.transmissions[message].message_id =
            message_id_of(&text[..end.unwrap_or(text.len()).min(HEAD_BYTES_MAX)]);
        let Some(end) = end else {
            drop(seen);
            self.under_way = Some((message, text));
            return false;
        };
        seen.transmissions[message].complete = true;
        drop(seen);
        self.heard = text.split_off(end + 3);
        self.asked.push_back(Asked::End(message));
        true
    }

    /// What the server answered.
    fn say(&mut self, bytes: &[u8]) {
        self.said.extend_from_slice(bytes);
        while let Some(line) = take_line(&mut self.said) {
            let Ok(code) = line.get(..3).unwrap_or_default().parse::<u16>() else {
                continue;
            };
            // A hyphen says that more lines follow (RFC 5321 §4.2.1).
            if line.as_bytes().get(3) == Some(&b'-') {
                continue;
            }
            self.answered(code);
        }
    }

    fn answered(&mut self, code: u16) {
        match (self.asked.pop_front(), code) {
            (Some(Asked::Recipient(path)), 200..300) => self.recipients.push(path),
            (Some(Asked::Data), 354) => {
                let mut seen = self.wire.lock();
                seen.transmissions.push(Transmission {
                    began_at: self.clock.policy(),
                    from: self.from,
                    to: self.to,
                    recipients: std::mem::take(&mut self.recipients),
                    begun: false,
                    message_id: String::new(),
                    complete: false,
                    answer: None,
                    answer_seen: false,
                });
                self.under_way = Some((seen.transmissions.len() - 1, Vec::new()));
            }
            (Some(Asked::End(message)), _) => {
                self.wire.lock().transmissions[message].answer = Some(code);
                self.answered = Some(message);
            }
            _ => {}
        }
    }
}

/// Takes a whole line off the front, without its end.
fn take_line(bytes: &mut Vec<u8>) -> Option<String> {
    let end = find(bytes, b"\r\n")?;
    let line = String::from_utf8_lossy(&bytes[..end]).into_owned();
    bytes.drain(..end + 2);
    Some(line)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

/// What stands between the angle brackets.
fn path_of(line: &str) -> String {
    let path = line
        .split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'));
    path.map_or_else(String::new, |(path, _)| path.to_lowercase())
}

fn message_id_of(head: &[u8]) -> String {
    let head = String::from_utf8_lossy(head);
    let line = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("message-id").then_some(value)
    });
    line.map_or_else(String::new, |value| {
        value.trim().trim_matches(['<', '>']).to_owned()
    })
}
