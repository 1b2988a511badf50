//! The byte stream under an HTTP connection: notes when bytes last moved, and watches the framing.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use inboxgrove_model::ports::BoxStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::framing::{Framing, Seen};

/// What the connection's task and its requests know of the stream.
#[derive(Debug)]
pub(crate) struct Pulse {
    moved: Mutex<Instant>,
    begun: AtomicBool,
    ambiguous: AtomicBool,
}

/// A stream that keeps its [`Pulse`].
pub(crate) struct Watched {
    inner: BoxStream,
    framing: Framing,
    pulse: Arc<Pulse>,
}

// === impl Pulse ===

impl Pulse {
    /// When bytes last moved either way; its making at first.
    pub(crate) fn moved(&self) -> Instant {
        *self
            .moved
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether the peer has sent anything.
    pub(crate) fn begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Whether a request came with two framings.
    pub(crate) fn ambiguous(&self) -> bool {
        self.ambiguous.load(Ordering::Acquire)
    }

    fn beat(&self) {
        *self
            .moved
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
    }
}

// === impl Watched ===

impl Watched {
    /// Watches a stream from its first byte on.
    pub(crate) fn new(inner: BoxStream) -> (Self, Arc<Pulse>) {
        let pulse = Arc::new(Pulse {
            moved: Mutex::new(Instant::now()),
            begun: AtomicBool::new(false),
            ambiguous: AtomicBool::new(false),
        });
        let watched = Self {
            inner,
            framing: Framing::new(),
            pulse: Arc::clone(&pulse),
        };
        (watched, pulse)
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let fresh = &buf.filled()[before..];
        if !fresh.is_empty() {
            self.pulse.begun.store(true, Ordering::Release);
            self.pulse.beat();
            if self.framing.see(fresh) == Seen::Ambiguous {
                self.pulse.ambiguous.store(true, Ordering::Release);
            }
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if matches!(polled, Poll::Ready(Ok(written)) if written > 0) {
            self.pulse.beat();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
