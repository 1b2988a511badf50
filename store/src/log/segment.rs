//! One segment of the log: its head, and reading its frames one after the other.
//!
//! Head: `magic 8 | first sequence u64 | flags u32 | rows from u64 | crc32c u32`, little-endian.

use std::ops::Range;

use bytes::Bytes;

use super::LogError;
use crate::{
    frame::{Frame, HEAD_LEN, Head},
    media::Media,
};

/// Bytes before the first frame.
pub(crate) const SEGMENT_HEAD_LEN: u64 = 32;

const MAGIC: [u8; 8] = *b"IGLOG1\r\n";
const COMPACTED: u32 = 1;
/// What a disk writes at once, whole or not at all. Each group starts in a sector of its own: no write of one can harm
/// another that was acknowledged, and a sector that is lost is one group's.
pub(crate) const SECTOR: u64 = SECTOR_LEN as u64;
const SECTOR_LEN: usize = 512;
/// How much is read at once where many frames are read or passed over.
pub(crate) const CHUNK_LEN: usize = 256 * 1024;
/// How much is read first; then twice as much each time, up to [`CHUNK_LEN`]. Who wants one frame (a body, most often)
/// does not pay for a walk.
const FIRST_CHUNK_LEN: usize = 16 * 1024;
/// What stands between two groups.
const ZEROS: [u8; SECTOR_LEN] = [0; SECTOR_LEN];

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHead {
    /// The first sequence it was made for.
    pub(crate) first: u64,
    /// It has been compacted: sequences may have gaps.
    pub(crate) compacted: bool,
    /// Row writes of frames below this have been left out.
    pub(crate) rows_from: u64,
}

/// Reads frames.
pub(crate) struct SegmentReader<'a> {
    media: &'a dyn Media,
    name: &'a str,
    offset: u64,
    end: u64,
    /// What was read last. Frames are parts of it, without a copy.
    buffer: Bytes,
    buffer_at: u64,
    /// How much the next reading reads.
    chunk_len: usize,
}

// === impl SegmentHead ===

impl SegmentHead {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.first.to_le_bytes());
        let flags = if self.compacted { COMPACTED } else { 0 };
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&self.rows_from.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or("its head is cut off")?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err("the checksum of its head does not match");
        }
        let rest = body.strip_prefix(&MAGIC).ok_or("it is no log segment")?;
        let (first, rest) = rest.split_first_chunk::<8>().ok_or("its head is cut off")?;
        let (flags, rest) = rest.split_first_chunk::<4>().ok_or("its head is cut off")?;
        let rows_from = rest.first_chunk::<8>().ok_or("its head is cut off")?;
        Ok(Self {
            first: u64::from_le_bytes(*first),
            compacted: u32::from_le_bytes(*flags) & COMPACTED != 0,
            rows_from: u64::from_le_bytes(*rows_from),
        })
    }
}

// === impl SegmentReader ===

impl<'a> SegmentReader<'a> {
    pub(crate) fn new(media: &'a dyn Media, name: &'a str, offset: u64, end: u64) -> Self {
        Self {
            media,
            name,
            offset,
            end,
            buffer: Bytes::new(),
            buffer_at: 0,
            chunk_len: FIRST_CHUNK_LEN,
        }
    }

    /// Where the next frame starts.
    pub(crate) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The head of the next frame, its checksum not yet checked. Passes over the zeros between two groups.
    pub(crate) fn peek(&mut self) -> Result<Option<Head>, LogError> {
        let sector = self.offset.next_multiple_of(SECTOR).min(self.end);
        let left = usize::try_from(sector.saturating_sub(self.offset)).unwrap_or(0);
        if ZEROS.starts_with(self.bytes(left)?) {
            self.offset = self.offset.max(sector);
        }
        if self.offset >= self.end {
            return Ok(None);
        }
        let bytes = self.bytes(HEAD_LEN)?;
        let Some(bytes) = bytes.first_chunk::<HEAD_LEN>().copied() else {
            return Err(self.damaged("the head of a frame is cut off"));
        };
        match Head::parse(&bytes) {
            Ok(head) if self.offset + head.frame_len() > self.end => {
                Err(self.damaged("a frame is cut off"))
            }
            Ok(head) => Ok(Some(head)),
            Err(why) => Err(self.damaged(why)),
        }
    }

    /// Passes over the frame that was peeked at.
    pub(crate) fn skip(&mut self, head: &Head) {
        self.offset += head.frame_len();
    }

    /// Reads the frame that was peeked at, and checks it.
    pub(crate) fn take(&mut self, head: &Head) -> Result<Frame, LogError> {
        let len = usize::try_from(head.frame_len()).expect("a frame fits into memory");
        let at = self.buffered(len)?;
        let bytes = &self.buffer[at.clone()];
        let whole = bytes.split_first_chunk::<HEAD_LEN>();
        let checked = whole.filter(|(start, payload)| {
            payload.len() + HEAD_LEN == len && head.matches(start, payload)
        });
        let frame = checked.map(|_| Frame {
            head: *head,
            payload: self.buffer.slice(at.start + HEAD_LEN..at.end),
        });
        match frame {
            Some(frame) => {
                self.skip(head);
                Ok(frame)
            }
            None => Err(self.damaged("the checksum of a frame does not match")),
        }
    }

    /// The error that the segment is damaged where the reader stands.
    pub(crate) fn damaged(&self, why: &'static str) -> LogError {
        LogError::Damaged {
            segment: self.name.to_owned(),
            offset: self.offset,
            why,
        }
    }

    /// The next `len` bytes, fewer at the end.
    fn bytes(&mut self, len: usize) -> Result<&[u8], LogError> {
        let at = self.buffered(len)?;
        Ok(&self.buffer[at])
    }

    /// Where in the buffer the next `len` bytes are, fewer at the end.
    fn buffered(&mut self, len: usize) -> Result<Range<usize>, LogError> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let len = len.min(left);
        let buffered = self.offset >= self.buffer_at
            && self.offset + len as u64 <= self.buffer_at + self.buffer.len() as u64;
        if !buffered {
            let mut chunk = vec![0; len.max(self.chunk_len.min(left))];
            self.chunk_len = CHUNK_LEN.min(self.chunk_len * 2);
            let read = self.media.read_at(self.name, self.offset, &mut chunk);
            let read = read.map_err(|source| LogError::Io {
                segment: self.name.to_owned(),
                what: "read",
                source,
            })?;
            chunk.truncate(read);
            self.buffer = chunk.into();
            self.buffer_at = self.offset;
        }
        let from = usize::try_from(self.offset - self.buffer_at).expect("it lies in the buffer");
        Ok(from..(from + len).min(self.buffer.len()))
    }
}
