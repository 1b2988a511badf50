//! A mail server that takes everything and counts. Its cost is its own: the daemon is another process.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What it offers.
const EHLO: &str = "250-sink.post.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 10485760\r\n";

/// The mail server; it ends when this is dropped.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    /// How many bytes the last message had.
    message_bytes: Arc<AtomicUsize>,
    taken: watch::Receiver<usize>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Counters {
    message_bytes: Arc<AtomicUsize>,
    taken: Arc<watch::Sender<usize>>,
}

// === impl Sink ===

impl Sink {
    pub(crate) async fn start(at: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(at).await;
        Self::on(listener.with_context(|| format!("{at}"))?)
    }

    pub(crate) fn on(listener: TcpListener) -> Result<Self> {
        let (taken, watched) = watch::channel(0);
        let counters = Counters {
            message_bytes: Arc::default(),
            taken: Arc::new(taken),
        };
        Ok(Self {
            address: listener.local_addr()?,
            message_bytes: Arc::clone(&counters.message_bytes),
            taken: watched,
            serving: tokio::spawn(accept(listener, counters)),
        })
    }

    /// How many messages it has taken.
    pub(crate) fn taken(&self) -> usize {
        *self.taken.borrow()
    }

    /// Waits until it has taken so many.
    pub(crate) async fn until_taken(&self, messages: usize) -> Result<()> {
        let mut taken = self.taken.clone();
        taken
            .wait_for(|taken| *taken >= messages)
            .await
            .context("the sink has ended")?;
        Ok(())
    }

    pub(crate) fn message_bytes(&self) -> usize {
        self.message_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

// === free functions ===

async fn accept(listener: TcpListener, counters: Counters) {
    loop {
        // An error here is one of the connection that was to come.
        if let Ok((stream, _)) = listener.accept().await {
            let counters = counters.clone();
            // How a session breaks off is the client's affair.
            tokio::spawn(async move { serve(stream, counters).await.unwrap_or_default() });
        }
    }
}

async fn serve(stream: TcpStream, counters: Counters) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 sink.post.test\r\n").await?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let reply = match verb.as_str() {
            "EHLO" => EHLO,
            "DATA" => {
                stream.write_all(b"354 go ahead\r\n").await?;
                let bytes = read_message(&mut stream).await?;
                counters.message_bytes.store(bytes, Ordering::Relaxed);
                counters.taken.send_modify(|taken| *taken += 1);
                "250 2.0.0 taken\r\n"
            }
            "QUIT" => "221 2.0.0 bye\r\n",
            _ => "250 2.0.0 ok\r\n",
        };
        stream.write_all(reply.as_bytes()).await?;
        if verb == "QUIT" {
            return Ok(());
        }
    }
}

/// Reads to the final dot; the message's bytes.
async fn read_message(stream: &mut BufReader<TcpStream>) -> Result<usize> {
    let mut line = Vec::new();
    let mut bytes = 0;
    loop {
        line.clear();
        ensure!(
            stream.read_until(b'\n', &mut line).await? > 0,
            "broke off in the message"
        );
        if line == b".\r\n" {
            return Ok(bytes);
        }
        bytes += line.len();
    }
}
