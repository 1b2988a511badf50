//! The server's side of the stream: lines in, replies out, both buffered within bounds.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, BytesMut};
use inboxgrove_model::ports::BoxStream;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    time::{Duration, timeout},
};

use crate::smtp::Reply;

/// Bytes asked of the stream at once; also bounds what a client can have waiting here.
const READ_BYTES: usize = 8 * 1024;

/// How long a closed session waits for the client to close too.
const LINGER: Duration = Duration::from_secs(2);
/// How much it lets the client say meanwhile: what may be on its way, and not a message more.
const LINGER_BYTES: u64 = 1024 * 1024;

/// A stream with what was read and not used, and what was answered and not sent.
pub(super) struct Wire {
    stream: BoxStream,
    input: BytesMut,
    output: BytesMut,
}

/// What stands at the head of the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A command, without its CRLF.
    Whole(Vec<u8>),
    /// A CR or LF that is not part of CRLF, or a NUL.
    Broken,
    /// No CRLF within the limit.
    TooLong,
    /// The client has ended the stream.
    End,
}

// === impl Wire ===

impl Wire {
    pub(super) fn new(stream: BoxStream) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
        }
    }

    /// Gives the stream up; whatever was read and not used is dropped.
    pub(super) fn into_stream(self) -> BoxStream {
        self.stream
    }

    /// Queues a reply. It is sent before the next wait for the client (RFC 2920 §3.2).
    pub(super) fn reply(&mut self, reply: &Reply) {
        self.output.extend_from_slice(&reply.render());
    }

    /// Sends what is queued. Cancel safe.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            if self.stream.write_buf(&mut self.output).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        self.stream.flush().await
    }

    /// Sends what is queued, ends our side and lingers a little: a connection that is dropped with
    /// unread bytes is reset, and our last words may be lost with it.
    pub(super) async fn close(mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await?;
        let mut unread = AsyncReadExt::take(&mut self.stream, LINGER_BYTES);
        let mut nowhere = tokio::io::sink();
        // Whoever goes on talking, or neither talks nor closes, has had time to listen.
        drop(timeout(LINGER, tokio::io::copy(&mut unread, &mut nowhere)).await);
        Ok(())
    }

    /// Sends what is queued, then waits for more bytes; 0 at the end of the stream. Cancel safe.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        self.flush().await?;
        self.input.reserve(READ_BYTES);
        let input = &mut self.input;
        let read = AsyncReadExt::take(&mut self.stream, READ_BYTES as u64)
            .read_buf(input)
            .await?;
        Ok(read)
    }

    /// The next line of at most `line_bytes` with its CRLF. Cancel safe.
    pub(super) async fn line(&mut self, line_bytes: usize) -> io::Result<Line> {
        loop {
            if let Some(line) = take_line(&mut self.input, line_bytes) {
                return Ok(line);
            }
            if self.fill().await? == 0 {
                return Ok(Line::End);
            }
        }
    }

    /// Whether the client has sent more already, without waiting for it.
    pub(super) fn has_more(&mut self) -> bool {
        if !self.input.is_empty() {
            return true;
        }
        let mut context = Context::from_waker(Waker::noop());
        matches!(self.poll_peek(&mut context), Poll::Ready(true))
    }

    /// Resolves when the client sends anything; never when it has ended the stream. Cancel safe.
    pub(super) async fn early(&mut self) {
        if poll_fn(|context| self.poll_peek(context)).await {
            return;
        }
        std::future::pending::<()>().await;
    }

    /// What was read and not used.
    pub(super) fn input(&self) -> &[u8] {
        &self.input
    }

    /// Marks so many bytes of the input as used.
    pub(super) fn consume(&mut self, count: usize) {
        self.input.advance(count);
    }

    /// Reads into the input; ready with whether there is anything in it.
    fn poll_peek(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let mut bytes = [0; 512];
        let mut buffer = ReadBuf::new(&mut bytes);
        Pin::new(&mut self.stream)
            .poll_read(context, &mut buffer)
            .map(|read| {
                // An error shows again at the next read, which reports it.
                self.input.extend_from_slice(buffer.filled());
                read.is_ok() && !self.input.is_empty()
            })
    }
}

/// Takes one line off the input, if it holds one or can never hold one.
fn take_line(input: &mut BytesMut, line_bytes: usize) -> Option<Line> {
    let special = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
    let within = &input[..input.len().min(line_bytes)];
    match within.iter().position(special) {
        None if input.len() >= line_bytes => Some(Line::TooLong),
        None => None,
        Some(at) if input[at] != b'\r' => Some(Line::Broken),
        Some(at) => match input.get(at + 1) {
            None => None,
            Some(b'\n') if at + 2 > line_bytes => Some(Line::TooLong),
            Some(b'\n') => {
                let line = input.split_to(at).to_vec();
                input.advance(2);
                Some(Line::Whole(line))
            }
            Some(_) => Some(Line::Broken),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_crlf_ends_a_line() {
        let whole = |text: &str| Some(Line::Whole(text.as_bytes().to_vec()));
        for (bytes, found) in [
            ("NOOP\r\nQUIT\r\n", whole("NOOP")),
            ("\r\n", whole("")),
            ("NOOP", None),
            ("NOOP\r", None),
            ("NOOP\n", Some(Line::Broken)),
            ("NO\rOP\r\n", Some(Line::Broken)),
            ("NO\0OP\r\n", Some(Line::Broken)),
            ("\nNOOP\r\n", Some(Line::Broken)),
            ("12345678\r\n", whole("12345678")),
            ("123456789\r\n", Some(Line::TooLong)),
            ("1234567890", Some(Line::TooLong)),
        ] {
            let mut input = BytesMut::from(bytes.as_bytes());
            assert_eq!(take_line(&mut input, 10), found, "{bytes:?}");
        }
    }
}
