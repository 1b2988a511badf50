//! Frames: what one commit appends to the log, whole or not at all.
//!
//! `magic u32 | length u32 | sequence u64 | group u64 | flags u32 | crc32c u32 | payload`, little-endian. The
//! checksum covers everything but itself. `group` is the sequence of the first frame of the group that
//! was synced at once: groups are synced one after the other, so a whole frame of a *later* group proves that everything before
//! it was synced, and that damage there is no torn tail. The payload is a version byte, items
//! `kind u8 | length u32 | bytes`, and a mark; unknown kinds are kept and passed over.

use bytes::Bytes;
use inboxgrove_model::{PolicyTime, TenantId};

use crate::log::LogError;

/// Bytes before the payload.
pub(crate) const HEAD_LEN: usize = 32;
/// The frame carries row writes.
pub(crate) const HAS_ROWS: u32 = 1;
/// The frame carries events.
pub(crate) const HAS_EVENTS: u32 = 2;
/// The frame carries bodies.
pub(crate) const HAS_BODIES: u32 = 4;
/// Longest payload that is believed; a longer one is damage. Above what a batch may hold.
pub(crate) const PAYLOAD_LEN_MAX: u32 = 96 << 20;

/// What every frame starts with.
pub(crate) const MAGIC: [u8; 4] = *b"IGF1";
const PAYLOAD_VERSION: u8 = 1;
/// The last byte of every payload. A write that was cut short anywhere leaves a zero there, as in the reserve; a bit that
/// flips cannot.
const END_MARK: u8 = 0xFF;

const KIND_PUT: u8 = 1;
const KIND_REMOVE: u8 = 2;
const KIND_EVENT: u8 = 3;
const KIND_BODY: u8 = 4;

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) payload_len: u32,
    pub(crate) seq: u64,
    pub(crate) group: u64,
    pub(crate) flags: u32,
    crc: u32,
}

/// A frame whose checksum has been checked.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) head: Head,
    pub(crate) payload: Bytes,
}

/// Part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// A row's new value, framed and sealed as in the engine.
    Put { key: &'a [u8], value: &'a [u8] },
    /// A row is gone.
    Remove { key: &'a [u8] },
    /// Something happened. `blob` is sealed when there is a tenant.
    Event {
        place: u16,
        at: PolicyTime,
        tenant: Option<TenantId>,
        blob: &'a [u8],
    },
    /// The sealed bytes of a message.
    Body {
        index: u32,
        tenant: TenantId,
        blob: &'a [u8],
    },
    /// Of a kind that this version does not know.
    Unknown { kind: u8, bytes: &'a [u8] },
}

/// Writes one frame at the end of a buffer.
pub(crate) struct FrameWriter<'b> {
    buffer: &'b mut Vec<u8>,
    start: usize,
    seq: u64,
    group: u64,
    flags: u32,
}

// === impl Head ===

impl Head {
    /// Reads a head; says what is wrong with it.
    pub(crate) fn parse(bytes: &[u8; HEAD_LEN]) -> Result<Self, &'static str> {
        let word = |at: usize| {
            let bytes = bytes[at..].first_chunk::<4>();
            u32::from_le_bytes(*bytes.expect("the head is long enough"))
        };
        let long = |at: usize| {
            let bytes = bytes[at..].first_chunk::<8>();
            u64::from_le_bytes(*bytes.expect("the head is long enough"))
        };
        if bytes[..4] != MAGIC {
            return Err("no frame starts here");
        }
        let head = Self {
            payload_len: word(4),
            seq: long(8),
            group: long(16),
            flags: word(24),
            crc: word(28),
        };
        if head.payload_len > PAYLOAD_LEN_MAX {
            return Err("its length is beyond all limits");
        }
        Ok(head)
    }

    /// How long the whole frame is.
    pub(crate) fn frame_len(&self) -> u64 {
        HEAD_LEN as u64 + u64::from(self.payload_len)
    }

    /// Whether head and payload are as they were written.
    pub(crate) fn matches(&self, head: &[u8; HEAD_LEN], payload: &[u8]) -> bool {
        checksum(head, payload) == self.crc
    }
}

// === impl Frame ===

impl Frame {
    /// Its items, in the order in which they were written.
    pub(crate) fn items(&self) -> Result<Vec<Item<'_>>, LogError> {
        let wrong = |why| {
            let seq = self.head.seq;
            move || LogError::Frame { seq, why }
        };
        let Some((&PAYLOAD_VERSION, mut rest)) = self.payload.split_first() else {
            return Err(wrong("the version of its payload is not known")());
        };
        rest = match rest.split_last() {
            Some((&END_MARK, items)) => items,
            _ => return Err(wrong("its payload has no end")()),
        };
        let mut items = Vec::new();
        while !rest.is_empty() {
            let (kind, bytes, after) = split_item(rest).ok_or_else(wrong("an item is cut off"))?;
            items.push(parse_item(kind, bytes).ok_or_else(wrong("an item is too short"))?);
            rest = after;
        }
        Ok(items)
    }
}

// === impl Item ===

impl<'a> Item<'a> {
    /// The key that it writes, and the value; none where it removes the row.
    pub(crate) fn row_write(&self) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        match *self {
            Item::Put { key, value } => Some((key, Some(value))),
            Item::Remove { key } => Some((key, None)),
            Item::Event { .. } | Item::Body { .. } | Item::Unknown { .. } => None,
        }
    }
}

// === impl FrameWriter ===

impl<'b> FrameWriter<'b> {
    pub(crate) fn new(buffer: &'b mut Vec<u8>, seq: u64, group: u64) -> Self {
        let start = buffer.len();
        buffer.extend_from_slice(&[0; HEAD_LEN]);
        buffer.push(PAYLOAD_VERSION);
        Self {
            buffer,
            start,
            seq,
            group,
            flags: 0,
        }
    }

    /// Whether nothing has been written yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.flags == 0
    }

    /// Writes an item again, as it was read.
    pub(crate) fn item(&mut self, item: &Item<'_>) {
        match *item {
            Item::Put { key, value } => {
                let len = u16::try_from(key.len()).expect("keys are far below 64 KiB");
                self.write(HAS_ROWS, KIND_PUT, &[&len.to_le_bytes(), key, value]);
            }
            Item::Remove { key } => self.write(HAS_ROWS, KIND_REMOVE, &[key]),
            Item::Event {
                place,
                at,
                tenant,
                blob,
            } => {
                let owner = tenant.map_or([0; 16], |tenant| *tenant.as_bytes());
                let head: [&[u8]; 5] = [
                    &place.to_le_bytes(),
                    &at.as_millis().to_le_bytes(),
                    &[u8::from(tenant.is_some())],
                    &owner,
                    blob,
                ];
                self.write(HAS_EVENTS, KIND_EVENT, &head);
            }
            Item::Body {
                index,
                tenant,
                blob,
            } => {
                let parts: [&[u8]; 3] = [&index.to_le_bytes(), tenant.as_bytes(), blob];
                self.write(HAS_BODIES, KIND_BODY, &parts);
            }
            Item::Unknown { kind, bytes } => self.write(HAS_ROWS, kind, &[bytes]),
        }
    }

    /// Ends the frame; its length in the buffer.
    pub(crate) fn finish(self) -> usize {
        self.buffer.push(END_MARK);
        let len = self.buffer.len() - self.start;
        let payload_len = u32::try_from(len - HEAD_LEN).expect("a batch is held far below 4 GiB");
        let frame = &mut self.buffer[self.start..];
        frame[..4].copy_from_slice(&MAGIC);
        frame[4..8].copy_from_slice(&payload_len.to_le_bytes());
        frame[8..16].copy_from_slice(&self.seq.to_le_bytes());
        frame[16..24].copy_from_slice(&self.group.to_le_bytes());
        frame[24..28].copy_from_slice(&self.flags.to_le_bytes());
        let (head, payload) = frame.split_at(HEAD_LEN);
        let head = head.first_chunk().expect("the head was split off here");
        let crc = checksum(head, payload);
        frame[28..32].copy_from_slice(&crc.to_le_bytes());
        len
    }

    fn write(&mut self, flag: u32, kind: u8, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let len = u32::try_from(len).expect("a batch is held far below 4 GiB");
        self.flags |= flag;
        self.buffer.push(kind);
        self.buffer.extend_from_slice(&len.to_le_bytes());
        for part in parts {
            self.buffer.extend_from_slice(part);
        }
    }
}

fn checksum(head: &[u8; HEAD_LEN], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head[..28]), payload)
}

fn split_item(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    let (item, rest) = rest.split_at_checked(len)?;
    Some((*kind, item, rest))
}

fn parse_item(kind: u8, bytes: &[u8]) -> Option<Item<'_>> {
    match kind {
        KIND_PUT => {
            let (len, rest) = bytes.split_first_chunk::<2>()?;
            let (key, value) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
            Some(Item::Put { key, value })
        }
        KIND_REMOVE => Some(Item::Remove { key: bytes }),
        KIND_EVENT => {
            let (place, rest) = bytes.split_first_chunk::<2>()?;
            let (at, rest) = rest.split_first_chunk::<8>()?;
            let (owned, rest) = rest.split_first()?;
            let (owner, blob) = rest.split_first_chunk::<16>()?;
            Some(Item::Event {
                place: u16::from_le_bytes(*place),
                at: PolicyTime::from_millis(i64::from_le_bytes(*at)),
                tenant: (*owned != 0).then(|| TenantId::from_bytes(*owner)),
                blob,
            })
        }
        KIND_BODY => {
            let (index, rest) = bytes.split_first_chunk::<4>()?;
            let (tenant, blob) = rest.split_first_chunk::<16>()?;
            Some(Item::Body {
                index: u32::from_le_bytes(*index),
                tenant: TenantId::from_bytes(*tenant),
                blob,
            })
        }
        kind => Some(Item::Unknown { kind, bytes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId::from_bytes([9; 16]);

    fn sample() -> Vec<Item<'static>> {
        vec![
            Item::Event {
                place: 0,
                at: PolicyTime::from_millis(-5),
                tenant: Some(TENANT),
                blob: b"sealed",
            },
            Item::Event {
                place: 1,
                at: PolicyTime::from_millis(7),
                tenant: None,
                blob: b"clear",
            },
            Item::Put {
                key: b"k",
                value: b"value",
            },
            Item::Remove { key: b"gone" },
            Item::Body {
                index: 3,
                tenant: TENANT,
                blob: b"body",
            },
            Item::Unknown {
                kind: 200,
                bytes: b"of the future",
            },
        ]
    }

    fn encoded() -> Vec<u8> {
        let mut buffer = Vec::new();
        let mut writer = FrameWriter::new(&mut buffer, 41, 40);
        for item in sample() {
            writer.item(&item);
        }
        assert_eq!(writer.finish(), buffer.len());
        buffer
    }

    fn parse(bytes: &[u8]) -> Option<Frame> {
        let head_bytes = bytes.first_chunk()?;
        let head = Head::parse(head_bytes).ok()?;
        let payload = Bytes::copy_from_slice(&bytes[HEAD_LEN..]);
        head.matches(head_bytes, &payload)
            .then_some(Frame { head, payload })
    }

    #[test]
    fn items_come_back_as_they_were_written() {
        let frame = parse(&encoded()).expect("whole");
        assert_eq!((frame.head.seq, frame.head.group), (41, 40));
        assert_eq!(frame.head.flags, HAS_ROWS | HAS_EVENTS | HAS_BODIES);
        assert_eq!(frame.items().expect("parsed"), sample());
    }

    #[test]
    fn a_flipped_bit_anywhere_is_seen() {
        let good = encoded();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            assert!(parse(&bad).is_none(), "byte {at}");
        }
    }

    #[test]
    fn the_bytes_of_version_one_never_change() {
        let mut buffer = Vec::new();
        let mut writer = FrameWriter::new(&mut buffer, 1, 1);
        writer.item(&Item::Put {
            key: b"k",
            value: b"v",
        });
        writer.finish();
        assert_eq!(
            data_encoding::HEXLOWER.encode(&buffer),
            "494746310b0000000100000000000000010000000000000001000000b91b431501010400000001006b76ff"
        );
    }
}
