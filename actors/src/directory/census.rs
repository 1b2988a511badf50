//! Who is there: the directory's part of `admin tree`, the busiest first and bounded.

use tokio::time::Instant;

use super::{Address, DirectoryState, Entry, Life, SWEEP_EVERY};
use crate::platform::{TreeNode, TreePart, TreeQuery};

// === impl DirectoryState ===

impl DirectoryState {
    /// The nodes that are asked for: those in trouble first, then the deepest, then the busiest.
    pub(super) fn tree(&self, query: &TreeQuery) -> TreePart {
        let mut matching: Vec<_> = self
            .entries
            .iter()
            .filter(|(address, entry)| is_asked_for(query, address, entry))
            .collect();
        let count = matching.len();
        matching.sort_unstable_by_key(|(address, entry)| (rank(entry), **address));
        matching.truncate(query.limit);
        TreePart {
            nodes: matching.into_iter().map(node).collect(),
            matching: count,
        }
    }

    /// Marks what was handled so far, once in a while, so that a census can tell what is recent.
    pub(super) fn count(&mut self, now: Instant) {
        if now.duration_since(self.counted_at) < SWEEP_EVERY {
            return;
        }
        self.counted_at = now;
        for entry in self.entries.values() {
            entry.mailbox.mark();
        }
        for mailbox in [
            self.cx.vault.mailbox(),
            self.cx.directory.mailbox(),
            self.cx.notifier.mailbox(),
            self.cx.outbound.mailbox(),
            self.cx.clock.mailbox(),
        ] {
            mailbox.mark();
        }
    }
}

// === impl Address ===

impl Address {
    fn kind(&self) -> &'static str {
        match self {
            Self::Tenant(_) => "tenant",
            Self::Domain(..) => "domain",
            Self::Inbox(..) => "inbox",
        }
    }
}

// === impl Life ===

impl Life {
    fn name(&self) -> &'static str {
        match self {
            Self::Awake(_) => "running",
            Self::Ending(..) => "stopping",
            Self::Gone => "asleep",
            Self::Parked(_) => "parked",
        }
    }
}

/// What comes first: small is early.
fn rank(entry: &Entry) -> impl Ord + use<> {
    let depth = usize::MAX - entry.mailbox.depth();
    let recent = u64::MAX - entry.mailbox.recent();
    let parked = matches!(entry.life, Life::Parked(_));
    (!parked, depth, recent, u32::MAX - entry.record.total())
}

/// Whether a query means this actor. The address is written out only for those who ask for one.
fn is_asked_for(query: &TreeQuery, address: &Address, entry: &Entry) -> bool {
    let of = query.of.as_str();
    of.is_empty()
        || of == address.kind()
        || of == entry.life.name()
        || (of == TreeQuery::FAILED && entry.record.total() > 0)
        || (of.starts_with("ten_") && address.tenant().to_string() == of)
        || (of.contains('/') && address.to_string() == of)
}

fn node((address, entry): (&Address, &Entry)) -> TreeNode {
    TreeNode {
        address: address.to_string(),
        state: entry.life.name(),
        depth: entry.mailbox.depth(),
        recent: entry.mailbox.recent(),
        restarts: entry.record.total(),
        last_failure: entry.record.last().map(str::to_owned),
    }
}
