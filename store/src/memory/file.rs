//! A file in memory: its bytes, and what of them a crash may take back.

#[derive(Default)]
pub(super) struct MemFile {
    pub(super) bytes: Vec<u8>,
    /// What writes have replaced since the last sync, oldest first.
    unsynced: Vec<Replaced>,
}

/// What a write has replaced: the bytes that were there, and how long the file was.
struct Replaced {
    offset: usize,
    len: usize,
    old: Vec<u8>,
    old_len: usize,
}

/// What a disk writes at once: of what was not synced it keeps whole sectors.
const SECTOR: usize = 512;

// === impl MemFile ===

impl MemFile {
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let old_len = self.bytes.len();
        self.grow(offset);
        let (over, behind) = bytes.split_at(bytes.len().min(self.bytes.len() - offset));
        let place = &mut self.bytes[offset..offset + over.len()];
        self.unsynced.push(Replaced {
            offset,
            len: bytes.len(),
            old: place.to_vec(),
            old_len,
        });
        place.copy_from_slice(over);
        self.bytes.extend_from_slice(behind);
    }

    /// Takes back what was not synced, but for the first `kept` bytes of it, in whole sectors.
    pub(super) fn crash(&mut self, kept: usize) {
        let mut left = kept;
        let mut survive = Vec::new();
        for write in &self.unsynced {
            let end = write.offset + write.len;
            let reached = write.offset.saturating_add(left).min(end);
            let whole = if reached == end {
                end
            } else {
                reached / SECTOR * SECTOR
            };
            let whole = whole.max(write.offset);
            survive.push((
                write.offset,
                self.bytes
                    .get(write.offset..whole)
                    .unwrap_or_default()
                    .to_vec(),
            ));
            left = left.saturating_sub(write.len);
        }
        for write in self.unsynced.drain(..).rev() {
            self.bytes.truncate(write.old_len);
            // A later cut may have left less than there was.
            let at = write.offset.min(self.bytes.len());
            let len = write.old.len().min(self.bytes.len() - at);
            self.bytes[at..at + len].copy_from_slice(&write.old[..len]);
        }
        for (offset, bytes) in survive.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
            let end = offset + bytes.len();
            self.grow(end);
            self.bytes[offset..end].copy_from_slice(&bytes);
        }
    }

    /// Nothing that was written can be lost any more.
    pub(super) fn sync(&mut self) {
        self.unsynced.clear();
    }

    fn grow(&mut self, len: usize) {
        self.bytes.resize(len.max(self.bytes.len()), 0);
    }

    pub(super) fn truncate(&mut self, len: usize) {
        // Kept by every crash: nobody may rely on a cut to be lost.
        self.bytes.truncate(len);
        self.unsynced.clear();
    }
}
