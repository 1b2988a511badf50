//! A mail server that takes everything and counts: the world's memory of what was delivered to it, which no crash of the
//! daemon takes back. It can be cut off at once, as by a power cut.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use crate::fates::Arrivals;

/// What it offers.
const EHLO: &str = "250-sink.post.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 10485760";

/// A delivery, as the sink has answered 250 to its final dot.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The subject: the load's are unlike each other.
    pub subject: String,
    /// The envelope's sender.
    pub mail_from: String,
}

/// The mail server.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    deliveries: Arc<Mutex<Vec<Delivery>>>,
    is_open: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Sink {
    /// Listens.
    pub async fn start(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("{address}"))?;
        let deliveries = Arc::new(Mutex::new(Vec::new()));
        let (is_open, watched) = watch::channel(true);
        let serving = tokio::spawn(accept(listener, deliveries.clone(), watched));
        Ok(Self {
            address,
            deliveries,
            is_open,
            serving,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Drops all connections without another word, and takes no new ones until it is opened.
    pub fn cut_off(&self) {
        self.is_open.send_replace(false);
    }

    /// Takes mail again.
    pub fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// All deliveries so far, in their order.
    pub fn deliveries(&self) -> Vec<Delivery> {
        locked(&self.deliveries).clone()
    }

    /// How often each subject has arrived.
    pub fn arrivals(&self) -> Arrivals {
        let mut arrivals = Arrivals::new();
        for delivery in locked(&self.deliveries).iter() {
            *arrivals.entry(delivery.subject.clone()).or_default() += 1;
        }
        arrivals
    }

    /// The subjects that have arrived from this sender.
    pub fn subjects_from(&self, sender: &str) -> BTreeSet<String> {
        let from = format!("<{sender}>");
        let deliveries = locked(&self.deliveries);
        let theirs = deliveries
            .iter()
            .filter(|delivery| delivery.mail_from.contains(&from));
        theirs.map(|delivery| delivery.subject.clone()).collect()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn accept(
    listener: TcpListener,
    deliveries: Arc<Mutex<Vec<Delivery>>>,
    is_open: watch::Receiver<bool>,
) {
    loop {
        // An error here is one of the connection that was to come.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        if !*is_open.borrow() {
            continue;
        }
        let (deliveries, mut closed) = (deliveries.clone(), is_open.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                // Its sender lives as long as the sink; when it goes, so does this connection.
                _ = closed.wait_for(|open| !open) => {}
                // How a session breaks off is the client's affair.
                _ = serve(stream, &deliveries) => {}
            }
        });
    }
}

async fn serve(stream: TcpStream, deliveries: &Mutex<Vec<Delivery>>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut mail_from = String::new();
    say(&mut stream, "220 sink.post.test").await?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => say(&mut stream, EHLO).await?,
            "MAIL" => {
                line.trim_end().clone_into(&mut mail_from);
                say(&mut stream, "250 2.1.0 ok").await?;
            }
            "DATA" => {
                say(&mut stream, "354 go ahead").await?;
                let subject = read_message(&mut stream).await?;
                // Counted before it is said: what is said has happened.
                locked(deliveries).push(Delivery {
                    subject,
                    mail_from: mail_from.clone(),
                });
                say(&mut stream, "250 2.0.0 taken").await?;
            }
            "QUIT" => return say(&mut stream, "221 2.0.0 bye").await,
            "HELO" | "RCPT" | "RSET" | "NOOP" => say(&mut stream, "250 2.0.0 ok").await?,
            _ => say(&mut stream, "502 5.5.1 no such command").await?,
        }
    }
}

/// Reads to the final dot; the message's subject.
async fn read_message(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut subject = String::new();
    let mut in_head = true;
    let mut line = Vec::new();
    loop {
        line.clear();
        let size = stream.read_until(b'\n', &mut line).await?;
        anyhow::ensure!(size > 0, "broke off in the message");
        match line.as_slice() {
            b".\r\n" => return Ok(subject),
            b"\r\n" => in_head = false,
            _ if in_head && line.starts_with(b"Subject: ") => {
                String::from_utf8_lossy(&line[9..])
                    .trim_end()
                    .clone_into(&mut subject);
            }
            _ => {}
        }
    }
}

async fn say(stream: &mut BufReader<TcpStream>, line: &str) -> Result<()> {
    stream.write_all(line.as_bytes()).await?;
    stream.write_all(b"\r\n").await?;
    stream.flush().await.context("the client is gone")
}

fn locked<T>(deliveries: &Mutex<T>) -> MutexGuard<'_, T> {
    deliveries.lock().expect("nobody panics while counting")
}
