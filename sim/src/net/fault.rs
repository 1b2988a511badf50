//! What may befall a connection: refusal, silence, a reset in the middle, a long way, a drip.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use inboxgrove_model::ports::{BoxStream, Rng};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    time::Sleep,
};

use crate::rng::SeededRng;

/// Most bytes that travel together on a slow line.
const PARCEL_BYTES: usize = 16 * 1024;

/// How often what befalls a connection. The default is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Faults {
    /// Share of connections that are refused, in `[0, 1]`.
    pub refuse: f64,
    /// Share of connections that are established and then silent for ever.
    pub stall: f64,
    /// Share of connections that are reset in the middle.
    pub reset: f64,
    /// After at most this many bytes in both directions; the number is drawn anew for each connection.
    pub reset_within: u64,
    /// Least time that establishing, and every answer, takes.
    pub latency_min: Duration,
    /// Most time.
    pub latency_max: Duration,
    /// Whether bytes come and go one by one, each after that time.
    pub drip: bool,
}

/// What befalls one connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fate {
    pub(super) refused: bool,
    pub(super) stalled: bool,
    pub(super) reset_after: Option<u64>,
    pub(super) latency: Duration,
    pub(super) drip: bool,
}

/// The client's end of a connection with a fate.
struct FatedStream {
    inner: DuplexStream,
    /// The far end of a stalled connection, kept open.
    held: Option<DuplexStream>,
    bytes_left: Option<u64>,
    latency: Duration,
    parcel: Parcel,
    drip: bool,
    /// On a line that drips: when the next byte may leave.
    leaves: Option<Pin<Box<Sleep>>>,
}

/// What has arrived and is still on its way to the reader.
#[derive(Default)]
struct Parcel {
    bytes: Vec<u8>,
    taken: usize,
    arrives: Option<Pin<Box<Sleep>>>,
}

// === impl Faults ===

impl Faults {
    /// Every connection is refused.
    pub fn refuse() -> Self {
        Self {
            refuse: 1.0,
            ..Self::default()
        }
    }

    /// Every connection is established and then silent.
    pub fn stall() -> Self {
        Self {
            stall: 1.0,
            ..Self::default()
        }
    }

    /// Every connection is reset after at most this many bytes.
    pub fn reset_within(bytes: u64) -> Self {
        Self {
            reset: 1.0,
            reset_within: bytes,
            ..Self::default()
        }
    }

    /// Everything takes this long.
    pub fn latency(latency: Duration) -> Self {
        Self {
            latency_min: latency,
            latency_max: latency,
            ..Self::default()
        }
    }

    /// Every byte takes this long.
    pub fn drip(each: Duration) -> Self {
        Self {
            drip: true,
            ..Self::latency(each)
        }
    }

    /// Draws the fate of one connection. Always takes five numbers, so that one fault more or less does
    /// not change the others.
    pub(super) fn draw(&self, rng: &SeededRng) -> Fate {
        let rng: &dyn Rng = rng;
        let refused = rng.unit() < self.refuse;
        let stalled = rng.unit() < self.stall;
        let reset = rng.unit() < self.reset;
        let after = rng.below(self.reset_within.saturating_add(1));
        let spread = self.latency_max.saturating_sub(self.latency_min);
        Fate {
            refused,
            stalled,
            reset_after: reset.then_some(after),
            latency: self.latency_min + spread.mul_f64(rng.unit()),
            drip: self.drip,
        }
    }
}

// === impl Fate ===

impl Fate {
    pub(super) fn wrap(self, ours: DuplexStream) -> BoxStream {
        if self.reset_after.is_none() && self.latency.is_zero() {
            return Box::new(ours);
        }
        Box::new(FatedStream::new(self, ours, None))
    }

    pub(super) fn wrap_stalled(self, ours: DuplexStream, theirs: DuplexStream) -> BoxStream {
        Box::new(FatedStream::new(self, ours, Some(theirs)))
    }
}

// === impl FatedStream ===

impl FatedStream {
    fn new(fate: Fate, inner: DuplexStream, held: Option<DuplexStream>) -> Self {
        Self {
            inner,
            held,
            bytes_left: fate.reset_after,
            latency: fate.latency,
            parcel: Parcel::default(),
            drip: fate.drip,
            leaves: None,
        }
    }

    /// Takes bytes off what may still pass.
    fn spend(&mut self, bytes: usize) {
        if let Some(left) = &mut self.bytes_left {
            *left = left.saturating_sub(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }

    fn is_reset(&self) -> bool {
        self.bytes_left == Some(0)
    }

    /// Cuts the line: the far end sees its end, too.
    fn cut(&mut self) -> io::Error {
        self.inner = tokio::io::duplex(1).0;
        self.held = None;
        io::Error::new(
            io::ErrorKind::ConnectionReset,
            "the simulated net reset the connection",
        )
    }

    /// How many of `wanted` bytes may pass before the reset.
    fn allowance(&self, wanted: usize) -> usize {
        self.bytes_left.map_or(wanted, |left| {
            wanted.min(usize::try_from(left).unwrap_or(usize::MAX))
        })
    }

    /// Reads what is there into the parcel, and sets when it arrives.
    fn poll_fetch(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let parcel = if self.drip { 1 } else { PARCEL_BYTES };
        let mut space = vec![0; self.allowance(parcel)];
        let mut fetched = ReadBuf::new(&mut space);
        std::task::ready!(Pin::new(&mut self.inner).poll_read(context, &mut fetched))?;
        let bytes = fetched.filled().to_vec();
        self.spend(bytes.len());
        self.parcel = Parcel {
            bytes,
            taken: 0,
            arrives: Some(Box::pin(tokio::time::sleep(self.latency))),
        };
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for FatedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.parcel.is_empty() && this.parcel.arrives.is_none() {
            if this.is_reset() {
                return Poll::Ready(Err(this.cut()));
            }
            std::task::ready!(this.poll_fetch(context))?;
        }
        if let Some(arrives) = &mut this.parcel.arrives {
            std::task::ready!(arrives.as_mut().poll(context));
            this.parcel.arrives = None;
        }
        this.parcel.pour(buffer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FatedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.is_reset() {
            return Poll::Ready(Err(this.cut()));
        }
        if let Some(leaves) = &mut this.leaves {
            std::task::ready!(leaves.as_mut().poll(context));
            this.leaves = None;
        }
        let parcel = if this.drip { 1 } else { bytes.len() };
        let passing = &bytes[..this.allowance(parcel.min(bytes.len()))];
        let written = std::task::ready!(Pin::new(&mut this.inner).poll_write(context, passing))?;
        if this.drip {
            this.leaves = Some(Box::pin(tokio::time::sleep(this.latency)));
        }
        this.spend(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

// === impl Parcel ===

impl Parcel {
    fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    fn pour(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = &self.bytes[self.taken..];
        let poured = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..poured]);
        self.taken += poured;
    }
}
