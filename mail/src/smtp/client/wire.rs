//! The client's side of the stream: mail-send's client over buffers of our own, which keep what comes
//! behind a reply, and under them a count of what has really gone out.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use inboxgrove_model::ports::BoxStream;
use mail_send::SmtpClient;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
    BufWriter, ReadBuf,
};

/// Longest line of a reply we read: four times what RFC 5321 §4.5.3.1.5 allows.
const LINE_BYTES_MAX: u64 = 2048;
/// Longest reply we read.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// mail-send's client over buffers and a count.
pub(super) type Wire = SmtpClient<BufReader<BufWriter<Counted>>>;

/// Counts the bytes that the stream has taken.
pub(super) struct Counted {
    stream: BoxStream,
    written: u64,
}

/// What was read.
pub(super) enum Raw {
    /// A whole reply.
    Reply(Vec<u8>),
    /// The end of the stream.
    End,
    /// More than any reply has.
    Endless,
}

/// A fresh wire.
pub(super) fn new(stream: BoxStream, timeout: Duration) -> Wire {
    let counted = Counted { stream, written: 0 };
    SmtpClient {
        stream: BufReader::new(BufWriter::new(counted)),
        timeout,
    }
}

/// Takes the stream out; the wire leads nowhere afterwards.
pub(super) fn take(wire: &mut Wire) -> BoxStream {
    let nowhere = new(Box::new(tokio::io::empty()), wire.timeout);
    std::mem::replace(wire, nowhere)
        .stream
        .into_inner()
        .into_inner()
        .stream
}

/// Whether bytes came that nobody has asked for yet.
pub(super) fn has_buffered(wire: &Wire) -> bool {
    !wire.stream.buffer().is_empty()
}

/// Whether the server has said something unasked or has gone, without waiting for it.
pub(super) fn has_more(wire: &mut Wire) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(&mut wire.stream)
        .poll_fill_buf(&mut context)
        .is_ready()
}

/// How many bytes the stream has taken so far.
pub(super) fn written(wire: &Wire) -> u64 {
    wire.stream.get_ref().get_ref().written
}

/// Sends commands.
pub(super) async fn write(wire: &mut Wire, bytes: &[u8]) -> io::Result<()> {
    wire.stream.write_all(bytes).await?;
    wire.stream.flush().await
}

/// Sends the text of a message, dots stuffed, and the final dot. The text must hold CR and LF only as
/// CRLF; a last CRLF of it is the one that the final dot needs.
pub(super) async fn write_content(wire: &mut Wire, text: &[u8]) -> io::Result<()> {
    let text = text.strip_suffix(b"\r\n").unwrap_or(text);
    if text.first() == Some(&b'.') {
        // mail-send stuffs behind line ends only, and here there is none before.
        wire.stream.write_all(b".").await?;
    }
    wire.write_message(text).await
}

/// How many bytes [`write_content`] sends.
pub(super) fn content_len(text: &[u8]) -> u64 {
    let text = text.strip_suffix(b"\r\n").unwrap_or(text);
    let leading = usize::from(text.first() == Some(&b'.'));
    let stuffed = text.windows(2).filter(|pair| pair == b"\n.").count();
    (text.len() + leading + stuffed + b"\r\n.\r\n".len()) as u64
}

/// Reads one whole reply: lines up to the first whose fourth byte is not a hyphen. What stands behind
/// it stays for the next call.
pub(super) async fn read_reply(wire: &mut Wire) -> io::Result<Raw> {
    let mut reply = Vec::new();
    loop {
        let start = reply.len();
        let mut line = (&mut wire.stream).take(LINE_BYTES_MAX);
        if line.read_until(b'\n', &mut reply).await? == 0 {
            return Ok(Raw::End);
        }
        if !reply.ends_with(b"\n") {
            let whole = (reply.len() - start) as u64 == LINE_BYTES_MAX;
            return Ok(if whole { Raw::Endless } else { Raw::End });
        }
        if reply.get(start + 3) != Some(&b'-') {
            return Ok(Raw::Reply(reply));
        }
        if reply.len() > REPLY_BYTES_MAX {
            return Ok(Raw::Endless);
        }
    }
}

// === impl Counted ===

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            self.written += *count as u64;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
