//! The byte stream under an HTTP connection: notes when bytes last moved, and watches the framing. Also what hyper
//! takes for its timer, for it is noted in the same place.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::{Sleep, Timer};
use inboxgrove_model::ports::BoxStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::framing::{Framing, Seen};

/// What the connection's task and its requests know of the stream.
#[derive(Debug)]
pub(crate) struct Pulse {
    marks: Mutex<Marks>,
    begun: AtomicBool,
    ambiguous: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
struct Marks {
    moved: Instant,
    head_by: Option<Instant>,
}

/// hyper's timer, which it sets for every request and takes back when its head is there. A timer of the runtime's
/// is a lock and two turns of its wheel; this one only notes the deadline, and whoever polls the connection sees to
/// it that it is polled then: see [`Pulse::head_by`].
#[derive(Debug, Clone)]
pub(crate) struct HeadTimer(Arc<Pulse>);

struct HeadWait {
    pulse: Arc<Pulse>,
    until: Instant,
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
        self.marks().moved
    }

    /// By when hyper wants the head that it waits for, while it waits for one.
    pub(crate) fn head_by(&self) -> Option<Instant> {
        self.marks().head_by
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
        self.marks().moved = Instant::now();
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl HeadTimer ===

impl HeadTimer {
    /// A timer that notes its deadlines here.
    pub(crate) fn new(pulse: &Arc<Pulse>) -> Self {
        Self(Arc::clone(pulse))
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        let until = Instant::from_std(deadline);
        self.0.marks().head_by = Some(until);
        Box::pin(HeadWait {
            pulse: Arc::clone(&self.0),
            until,
        })
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

impl Sleep for HeadWait {}

impl Future for HeadWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        // Nobody is woken from here: the connection's task polls again in time.
        if Instant::now() >= self.until {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for HeadWait {
    fn drop(&mut self) {
        self.pulse.marks().head_by = None;
    }
}

// === impl Watched ===

impl Watched {
    /// Watches a stream from its first byte on.
    pub(crate) fn new(inner: BoxStream) -> (Self, Arc<Pulse>) {
        let pulse = Arc::new(Pulse {
            marks: Mutex::new(Marks {
                moved: Instant::now(),
                head_by: None,
            }),
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
