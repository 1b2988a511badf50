//! Bodies that messages name: each must be in the log and open.

use inboxgrove_model::{
    MessageId, TenantId,
    message::{BodyRef, Message},
};

use super::VerifyReport;
use crate::{
    LogError,
    frame::{Frame, HAS_BODIES, Item},
    log::READ_BYTES_MAX,
    sealed::body_belongs,
    shared::Shared,
};

/// Bodies looked for in one walk through the log: some thirty megabytes of references.
const BODIES_MAX: usize = 500_000;

/// Bodies that were named and not yet looked for.
pub(super) struct Bodies<'a> {
    shared: &'a Shared,
    named: Vec<Named>,
}

/// Sorted by where it is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    seq: u64,
    index: u32,
    size: u32,
    tenant: TenantId,
    message: MessageId,
}

// === impl Bodies ===

impl<'a> Bodies<'a> {
    pub(super) const fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            named: Vec::new(),
        }
    }

    /// A message names its body.
    pub(super) fn expect(
        &mut self,
        message: &Message,
        report: &mut VerifyReport,
    ) -> Result<(), LogError> {
        let BodyRef { seq, index, size } = message.body;
        self.named.push(Named {
            seq,
            index,
            size,
            tenant: message.tenant,
            message: message.id,
        });
        if self.named.len() >= BODIES_MAX {
            self.check(report)?;
        }
        Ok(())
    }

    /// Looks for all that were named, in the order of the log.
    pub(super) fn check(&mut self, report: &mut VerifyReport) -> Result<(), LogError> {
        let mut named = std::mem::take(&mut self.named);
        named.sort_unstable();
        let mut left = named.as_slice();
        let mut pace = self.shared.pace();
        while let Some(first) = left.first() {
            let read = self
                .shared
                .log
                .frames(first.seq, HAS_BODIES, READ_BYTES_MAX);
            let (frames, next) = match read {
                Ok(read) => read,
                Err(why) => {
                    // The log's damage is a problem of its own; what lies in its segment is not looked for.
                    report.problem(&why);
                    let behind = self.next_segment(first.seq);
                    let passed = left.partition_point(|named| named.seq < behind);
                    left = &left[passed..];
                    continue;
                }
            };
            let here = left.partition_point(|named| named.seq < next);
            let (these, rest) = left.split_at(here);
            for frame in &frames {
                let from = these.partition_point(|named| named.seq < frame.head.seq);
                let to = these.partition_point(|named| named.seq <= frame.head.seq);
                self.look(frame, &these[from..to], report)?;
            }
            for named in these {
                let seqs = |frame: &Frame| frame.head.seq;
                if frames.binary_search_by_key(&named.seq, seqs).is_err() {
                    self.missing(named, "its frame is not there", report);
                }
            }
            left = rest;
            pace.rest();
        }
        Ok(())
    }

    /// Opens the bodies of one frame.
    fn look(
        &self,
        frame: &Frame,
        named: &[Named],
        report: &mut VerifyReport,
    ) -> Result<(), LogError> {
        let items = frame.items()?;
        for named in named {
            let blob = items.iter().find_map(|item| match *item {
                Item::Body {
                    index,
                    tenant,
                    blob,
                } if (index, tenant) == (named.index, named.tenant) => Some(blob),
                _ => None,
            });
            let Some(blob) = blob else {
                self.missing(named, "its frame has it not", report);
                continue;
            };
            let belongs = body_belongs(named.tenant, named.seq, named.index);
            match self.shared.data_keys.open_blob(&belongs, blob) {
                Ok((_, bytes)) if bytes.len() == named.size as usize => report.bodies += 1,
                Ok(_) => self.missing(named, "it has not the size it should have", report),
                Err(why) => self.missing(named, &why.to_string(), report),
            }
        }
        Ok(())
    }

    /// A body that is not as it should be. One whose tenant was erased meanwhile may be anything.
    fn missing(&self, named: &Named, why: &str, report: &mut VerifyReport) {
        if self.shared.data_keys.of(named.tenant).is_some() {
            report.problem(&format!(
                "the body {} of {} in frame {}: {why}",
                named.index, named.message, named.seq
            ));
        }
    }

    /// The first sequence behind the segment that `seq` is in.
    fn next_segment(&self, seq: u64) -> u64 {
        let segments = self.shared.log.segments();
        let behind = segments.iter().find(|segment| segment.first > seq);
        behind.map_or(u64::MAX, |segment| segment.first)
    }
}
