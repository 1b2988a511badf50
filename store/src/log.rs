//! The log: the commit point. Segments of frames, named by their first sequence number.
//!
//! Only the committer appends; a group of frames is on the disk when [`Log::append`] returns. Readers see
//! synced frames only. The segment that is appended to has a reserve: zeros behind its frames that were synced before a
//! frame is written over them. So a sync changes nothing but bytes, and a file that lacks its reserve was cut: what
//! stood in the missing part may have been acknowledged. Sealed segments are replaced whole by compaction, which keeps sequence numbers, so a
//! [`BodyRef`](inboxgrove_model::message::BodyRef) and an event's id hold for ever.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::{
    frame::Frame,
    media::{Media, UNFINISHED},
};

mod open;
pub(crate) mod segment;

pub(crate) use open::exists;
use open::{read_head, written_len};
use segment::{CHUNK_LEN, SECTOR, SEGMENT_HEAD_LEN, SegmentHead, SegmentReader};

/// One entry of a segment's sparse index for about this many bytes.
const INDEX_EVERY_BYTES: u64 = 64 * 1024;

/// The segment that is appended to is so long, or a multiple of it. A new store takes so much room.
pub(crate) const RESERVE_BYTES: u64 = 1 << 20;

/// It grows by this. All that are committing then wait for as long as that takes to write, some tens of milliseconds: with
/// 256 of them that is one commit in two hundred. In smaller steps it would be one in a hundred or more, and show in the
/// 99th percentile.
const RESERVE_GROWS_BY: u64 = 16 << 20;

/// How much is read under one lock, where much is read: the committer waits for so long at most.
pub(crate) const READ_BYTES_MAX: u64 = 1 << 20;

/// Why the log could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed.
    #[error("log segment {segment}: could not {what}: {source}")]
    Io {
        /// Which segment.
        segment: String,
        /// What was tried.
        what: &'static str,
        /// What happened.
        source: io::Error,
    },
    /// Bytes are not as they were written, and it is no torn tail.
    #[error("log segment {segment} is damaged at offset {offset}: {why}")]
    Damaged {
        /// Which segment.
        segment: String,
        /// Where.
        offset: u64,
        /// How.
        why: &'static str,
    },
    /// A frame is whole, but not as frames are.
    #[error("log frame {seq}: {why}")]
    Frame {
        /// Which.
        seq: u64,
        /// How.
        why: &'static str,
    },
    /// Frames that are needed are not there.
    #[error("the log lacks frames {from} to {to}")]
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// Row writes that are needed were left out by compaction; a backup has them.
    #[error("the log has no rows below frame {rows_from}; they are in a backup")]
    RowsGone {
        /// From where on it has them.
        rows_from: u64,
    },
}

/// The log.
#[derive(Debug)]
pub(crate) struct Log {
    media: Arc<dyn Media>,
    segment_bytes: u64,
    state: RwLock<State>,
}

/// A piece of the log.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Its frames, as far as they were wanted.
    pub(crate) frames: Vec<Frame>,
    /// The sequence to go on with.
    pub(crate) next: u64,
    /// About what was read for it.
    pub(crate) bytes: u64,
}

/// What the log looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentStats {
    pub(crate) name: String,
    pub(crate) first: u64,
    pub(crate) bytes: u64,
    /// The file's length: more than its bytes where there is a reserve.
    pub(crate) file_bytes: u64,
    pub(crate) sealed: bool,
    pub(crate) head: SegmentHead,
}

#[derive(Debug)]
struct State {
    /// By first sequence; the last one is appended to.
    segments: BTreeMap<u64, Segment>,
    next_seq: u64,
}

#[derive(Debug)]
struct Segment {
    name: String,
    head: SegmentHead,
    /// Where its synced frames end.
    end: u64,
    /// Where its file ends.
    file_end: u64,
    /// Sequence and offset of about every 64th KiB's first frame; `None` until somebody looks.
    index: Option<Vec<(u64, u64)>>,
}

// === impl Log ===

impl Log {
    /// The sequence number that the next frame gets.
    pub(crate) fn next_seq(&self) -> u64 {
        self.read().next_seq
    }

    /// The smallest sequence from which on every frame is there with its rows.
    pub(crate) fn rows_from(&self) -> u64 {
        let state = self.read();
        let first = state.segments.keys().next().copied().unwrap_or(1);
        let left_out = state
            .segments
            .values()
            .map(|segment| segment.head.rows_from);
        left_out.max().unwrap_or(0).max(first)
    }

    /// Appends a group: `bytes` are whole frames whose sequences and offsets in `bytes` are `frames`. On the
    /// disk when this returns; after an error the log must not be written again.
    pub(crate) fn append(&self, bytes: &[u8], frames: &[(u64, usize)]) -> Result<(), LogError> {
        let first = frames.first().map_or(0, |(seq, _)| *seq);
        let (name, at) = self.make_room(first, bytes.len() as u64)?;
        let failed = |what| {
            let segment = name.clone();
            move |source| LogError::Io {
                segment,
                what,
                source,
            }
        };
        let written = self.media.write_at(&name, at, bytes);
        written.map_err(failed("append"))?;
        self.media.sync(&name).map_err(failed("sync"))?;
        let mut state = self.write();
        let next_seq = frames.last().map(|(seq, _)| seq + 1);
        state.next_seq = next_seq.unwrap_or(state.next_seq);
        let active = state.segments.values_mut().next_back();
        let active = active.expect("an open log has a segment");
        let index = active.index.get_or_insert_default();
        for (seq, offset) in frames {
            note(index, *seq, at + *offset as u64);
        }
        active.end = at + bytes.len() as u64;
        Ok(())
    }

    /// Reads whole frames from `seq` on, in order, at least one if there is one and not much more than
    /// `bytes_max`; only those that have one of `flags` (0 for all). Also the sequence to go on with.
    pub(crate) fn frames(
        &self,
        seq: u64,
        flags: u32,
        bytes_max: u64,
    ) -> Result<(Vec<Frame>, u64), LogError> {
        let piece = self.piece(seq, flags, bytes_max)?;
        Ok((piece.frames, piece.next))
    }

    /// As [`frames`](Self::frames), and what it cost.
    pub(crate) fn piece(&self, seq: u64, flags: u32, bytes_max: u64) -> Result<Piece, LogError> {
        self.index_around(seq);
        let state = self.read();
        let mut piece = Piece {
            frames: Vec::new(),
            next: seq,
            bytes: 0,
        };
        let start = state.segments.range(..=seq).next_back();
        let start = start.map_or(0, |(first, _)| *first);
        let mut segments = state.segments.range(start..).peekable();
        while let Some((first, segment)) = segments.next() {
            let offset = segment.offset_before(seq);
            let mut reader = self.reader(segment, offset);
            let mut reached = first - 1;
            while let Some(head) = reader.peek()? {
                reached = head.seq;
                if piece.bytes >= bytes_max {
                    return Ok(piece);
                }
                if head.seq < seq {
                    reader.skip(&head);
                    continue;
                }
                if flags != 0 && head.flags & flags == 0 {
                    // Behind a large frame the reader's buffer is filled anew, no more.
                    piece.bytes += head.frame_len().min(CHUNK_LEN as u64);
                    reader.skip(&head);
                } else {
                    piece.bytes += head.frame_len();
                    piece.frames.push(reader.take(&head)?);
                }
                piece.next = head.seq + 1;
            }
            // A sealed segment has its last frame for ever, be it empty.
            let end = segments.peek().map_or(reached + 1, |(next, _)| **next);
            if reached + 1 < end {
                return Err(reader.damaged("it ends before its last frame"));
            }
        }
        piece.next = state.next_seq.max(piece.next);
        Ok(piece)
    }

    /// The frame with this sequence.
    pub(crate) fn frame(&self, seq: u64) -> Result<Option<Frame>, LogError> {
        self.index_around(seq);
        let state = self.read();
        let Some((_, segment)) = state.segments.range(..=seq).next_back() else {
            return Ok(None);
        };
        let mut reader = self.reader(segment, segment.offset_before(seq));
        while let Some(head) = reader.peek()? {
            if head.seq == seq {
                return reader.take(&head).map(Some);
            }
            if head.seq > seq {
                return Ok(None);
            }
            reader.skip(&head);
        }
        // A sealed segment has its last frame for ever: where it ends before, it was cut.
        if state.segments.range(seq + 1..).next().is_some() {
            return Err(reader.damaged("it ends before its last frame"));
        }
        Ok(None)
    }

    /// Its segments, oldest first.
    pub(crate) fn segments(&self) -> Vec<SegmentStats> {
        let state = self.read();
        let last = state.segments.keys().next_back().copied();
        let stats = state.segments.iter().map(|(first, segment)| SegmentStats {
            name: segment.name.clone(),
            first: *first,
            bytes: segment.end,
            file_bytes: segment.file_end,
            sealed: Some(*first) != last,
            head: segment.head,
        });
        stats.collect()
    }

    /// Reads the head and every frame of a segment and checks them; how many frames there are.
    pub(crate) fn check(&self, first: u64) -> Result<u64, LogError> {
        let (name, head, end, next_seq) = {
            let state = self.read();
            let Some(segment) = state.segments.get(&first) else {
                return Ok(0);
            };
            let after = state.segments.range(first + 1..).next();
            let next_seq = after.map_or(state.next_seq, |(seq, _)| *seq);
            (segment.name.clone(), segment.head, segment.end, next_seq)
        };
        // What was read at the opening may have rotted since, and the next opening would be refused.
        if read_head(self.media.as_ref(), first)? != head {
            return Err(LogError::Damaged {
                segment: name,
                offset: 0,
                why: "its head is another than when it was opened",
            });
        }
        let in_order = |expected: u64, found: u64| {
            if head.compacted || expected == found {
                return Ok(());
            }
            let (from, to) = (expected, found.saturating_sub(1));
            Err(LogError::Missing { from, to })
        };
        // From the first byte to the last, so that the zeros between groups are looked at, too.
        let mut reader = SegmentReader::new(self.media.as_ref(), &name, SEGMENT_HEAD_LEN, end);
        let (mut count, mut expected) = (0, first);
        while let Some(next) = reader.peek()? {
            let frame = reader.take(&next)?;
            in_order(expected, frame.head.seq)?;
            frame.items()?;
            expected = frame.head.seq + 1;
            count += 1;
        }
        in_order(expected, next_seq)?;
        Ok(count)
    }

    /// Whether a piece of the reserve, from this offset on, is zeros, as it was made; the offset to go on with. The
    /// committer's thread only, which waits for one piece at a time: to others a frame that is being written looks like
    /// damage.
    pub(crate) fn check_reserve(&self, from: u64) -> Result<Option<u64>, LogError> {
        let (first, name, end, file_end) = self.reserve();
        let from = from.max(end);
        let to = (from + READ_BYTES_MAX).min(file_end);
        let len = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        let mut piece = vec![0; len];
        let read = self.media.read_at(&name, from, &mut piece);
        let read = read.map_err(Self::failed(first, "read the reserve of"))?;
        let damaged = |offset, why| LogError::Damaged {
            segment: name,
            offset,
            why,
        };
        if written_len(&piece[..read]) > 0 {
            let zeros = piece.iter().take_while(|byte| **byte == 0).count();
            let offset = from + zeros as u64;
            return Err(damaged(
                offset,
                "the reserve behind its frames is not zeros",
            ));
        }
        if read < len {
            let offset = from + read as u64;
            return Err(damaged(offset, "the file was cut: its reserve is missing"));
        }
        Ok((to < file_end).then_some(to))
    }

    /// Makes zeros of the reserve again, where it is not. The committer's thread only.
    pub(crate) fn mend_reserve(&self) -> Result<(), LogError> {
        let mut next = Some(0);
        while let Some(from) = next {
            match self.check_reserve(from) {
                Ok(after) => next = after,
                Err(LogError::Damaged { .. }) => {
                    let (_, name, end, file_end) = self.reserve();
                    return write_zeros(self.media.as_ref(), &name, end, file_end);
                }
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }

    /// The last segment's first sequence and name, where its frames end, and where its file.
    fn reserve(&self) -> (u64, String, u64, u64) {
        let state = self.read();
        let last = state.segments.last_key_value();
        let (first, last) = last.expect("an open log has a segment");
        (*first, last.name.clone(), last.end, last.file_end)
    }

    /// Writes at the end of what is to take the place of a sealed segment, which begins with a head; on the
    /// disk when this returns.
    pub(crate) fn stage(
        &self,
        first: u64,
        head: Option<SegmentHead>,
        bytes: &[u8],
    ) -> Result<(), LogError> {
        let unfinished = format!("{}{UNFINISHED}", name_of(first));
        let begun = head.map_or(Ok(()), |head| {
            let made = self.media.create(&unfinished);
            made.and_then(|()| self.media.append(&unfinished, &head.to_bytes()))
        });
        let written = begun.and_then(|()| self.media.append(&unfinished, bytes));
        let written = written.and_then(|()| self.media.sync(&unfinished));
        written.map_err(Self::failed(first, "write its compaction"))
    }

    /// Puts what was staged, a head and frames of `len` bytes in all, in the place of a sealed segment.
    /// After a crash the old segment is there or the new one.
    pub(crate) fn replace(&self, first: u64, head: SegmentHead, len: u64) -> Result<(), LogError> {
        let name = name_of(first);
        let unfinished = format!("{name}{UNFINISHED}");
        {
            // Readers must not hold offsets of the old bytes while names change.
            let mut state = self.write();
            let renamed = self.media.rename(&unfinished, &name);
            renamed.map_err(Self::failed(first, "replace"))?;
            if let Some(segment) = state.segments.get_mut(&first) {
                segment.head = head;
                segment.end = len;
                segment.file_end = len;
                segment.index = None;
            }
        }
        let synced = self.media.sync_names();
        synced.map_err(Self::failed(first, "sync the name of"))
    }

    /// Removes a sealed segment. After a crash it may be there again.
    pub(crate) fn remove(&self, first: u64) -> Result<(), LogError> {
        {
            let mut state = self.write();
            let removed = self.media.remove(&name_of(first));
            removed.map_err(Self::failed(first, "remove"))?;
            state.segments.remove(&first);
        }
        let synced = self.media.sync_names();
        synced.map_err(Self::failed(first, "sync the name of"))
    }

    /// The error that something could not be done with a segment.
    fn failed(first: u64, what: &'static str) -> impl FnOnce(io::Error) -> LogError {
        move |source| LogError::Io {
            segment: name_of(first),
            what,
            source,
        }
    }

    /// The segment to append `len` bytes to, and where; a new one when the last is full. Its reserve covers them.
    fn make_room(&self, next: u64, len: u64) -> Result<(String, u64), LogError> {
        let (_, mut name, mut end, mut file_end) = self.reserve();
        if end >= self.segment_bytes {
            let segment = make_segment(self.media.as_ref(), next)?;
            let full = std::mem::replace(&mut name, segment.name.clone());
            let full_end = std::mem::replace(&mut end, segment.end);
            file_end = segment.file_end;
            self.write().segments.insert(next, segment);
            self.seal(&full, full_end)?;
        }
        let start = end.next_multiple_of(SECTOR);
        // At least one zero stays behind the frames: where a file ends in a frame, it was cut.
        let least = (start + len + 1).next_multiple_of(RESERVE_BYTES);
        if least > file_end {
            // No further than where the segment is full and its last frames end.
            let full = self.segment_bytes.div_ceil(RESERVE_BYTES).saturating_add(1);
            let full = full.saturating_mul(RESERVE_BYTES);
            let grown = (file_end + RESERVE_GROWS_BY).min(full);
            self.extend_reserve(&name, file_end, grown.max(least))?;
        }
        Ok((name, start))
    }

    /// Makes the reserve of the last segment longer, on the disk before this returns.
    fn extend_reserve(&self, name: &str, from: u64, to: u64) -> Result<(), LogError> {
        write_zeros(self.media.as_ref(), name, from, to)?;
        if let Some(last) = self.write().segments.values_mut().next_back() {
            last.file_end = to;
        }
        Ok(())
    }

    /// Takes the reserve off the segment before the last, which is not appended to any more.
    fn seal(&self, name: &str, end: u64) -> Result<(), LogError> {
        cut(self.media.as_ref(), name, end)?;
        if let Some(sealed) = self.write().segments.values_mut().nth_back(1) {
            sealed.file_end = end;
        }
        Ok(())
    }

    /// Makes the index of the segment that `seq` is in, if there is none yet.
    fn index_around(&self, seq: u64) {
        let (first, end, index) = {
            let state = self.read();
            let Some((first, segment)) = state.segments.range(..=seq).next_back() else {
                return;
            };
            if segment.index.is_some() {
                return;
            }
            let mut index = Vec::new();
            let mut reader = self.reader(segment, SEGMENT_HEAD_LEN);
            // Behind damage there is no index: whoever reads there meets the damage by itself.
            while let Ok(Some(head)) = reader.peek() {
                note(&mut index, head.seq, reader.offset());
                reader.skip(&head);
            }
            (*first, segment.end, index)
        };
        // Compaction may have replaced the segment meanwhile: its end tells.
        let mut state = self.write();
        let segment = state.segments.get_mut(&first);
        if let Some(segment) = segment.filter(|segment| segment.end == end) {
            segment.index.get_or_insert(index);
        }
    }

    fn reader<'a>(&'a self, segment: &'a Segment, offset: u64) -> SegmentReader<'a> {
        SegmentReader::new(self.media.as_ref(), &segment.name, offset, segment.end)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Segment ===

impl Segment {
    /// Where to start looking for `seq`: at a frame that is not after it.
    fn offset_before(&self, seq: u64) -> u64 {
        let index = self.index.as_deref().unwrap_or_default();
        let after = index.partition_point(|(first, _)| *first <= seq);
        match after.checked_sub(1).and_then(|at| index.get(at)) {
            Some((_, offset)) => *offset,
            None => SEGMENT_HEAD_LEN,
        }
    }
}

/// The name of the segment whose first frame is `first`.
pub(crate) fn name_of(first: u64) -> String {
    format!("{first:020}.log")
}

/// The first sequence in a segment's name.
pub(crate) fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    if digits.len() != 20 {
        return None;
    }
    digits.parse().ok()
}

fn note(index: &mut Vec<(u64, u64)>, seq: u64, offset: u64) {
    let due = index
        .last()
        .is_none_or(|(_, last)| offset >= last + INDEX_EVERY_BYTES);
    if due {
        index.push((seq, offset));
    }
}

/// Makes a segment with its reserve. It has its name only when all of that is on the disk.
fn make_segment(media: &dyn Media, first: u64) -> Result<Segment, LogError> {
    let name = name_of(first);
    let head = SegmentHead {
        first,
        compacted: false,
        rows_from: 0,
    };
    let mut bytes = head.to_bytes();
    let reserve = usize::try_from(RESERVE_BYTES).unwrap_or(usize::MAX);
    bytes.extend_from_slice(&vec![0; reserve - bytes.len()]);
    match media.replace(&name, &bytes) {
        Ok(()) => Ok(Segment {
            name,
            head,
            end: SEGMENT_HEAD_LEN,
            file_end: RESERVE_BYTES,
            index: Some(Vec::new()),
        }),
        Err(source) => Err(LogError::Io {
            segment: name,
            what: "make",
            source,
        }),
    }
}

/// Writes the reserve that a segment lacks, on the disk before this returns.
fn write_zeros(media: &dyn Media, name: &str, from: u64, to: u64) -> Result<(), LogError> {
    let zeros = vec![0; usize::try_from(RESERVE_BYTES.min(to - from)).unwrap_or(usize::MAX)];
    let write = || {
        let mut at = from;
        while at < to {
            let piece = usize::try_from(to - at).unwrap_or(usize::MAX);
            let piece = &zeros[..piece.min(zeros.len())];
            media.write_at(name, at, piece)?;
            at += piece.len() as u64;
        }
        media.sync(name)
    };
    write().map_err(|source| LogError::Io {
        segment: name.to_owned(),
        what: "extend",
        source,
    })
}

/// Cuts a segment, on the disk before this returns.
fn cut(media: &dyn Media, name: &str, end: u64) -> Result<(), LogError> {
    let done = media.truncate(name, end).and_then(|()| media.sync(name));
    done.map_err(|source| LogError::Io {
        segment: name.to_owned(),
        what: "seal",
        source,
    })
}

#[cfg(test)]
mod tests;
