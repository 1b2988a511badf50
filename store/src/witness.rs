//! A witness of commits to a disk in memory: which owners' leases wrote which rows. For judges of simulated worlds.

use std::sync::Mutex;

use super::{
    CommitError, Lease, MemDisk, Owner, TableId,
    batch::{Encoded, Step, whole_key},
    committer::{
        Answer, Committer, Request,
        queue::{self, serve_inline},
    },
};
use crate::{Committed, table::Record};

/// One commit that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witnessed {
    /// The frame that it became.
    pub seq: u64,
    /// Whose leases it was made by.
    pub owners: Vec<Owner>,
    /// The rows that it wrote; those that the committer reckons (budgets, rollups) are not among them.
    pub rows: Vec<RowWrite>,
}

/// One row of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowWrite {
    /// Where it lies.
    pub table: TableId,
    /// Its key in the table.
    pub key: Vec<u8>,
    /// What became of it.
    pub change: RowChange,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowChange {
    /// There was none.
    Made,
    /// There was one.
    Written,
    /// It is gone.
    Removed,
}

/// Serves a request, and tells the disk's witness when a commit was made.
pub(crate) fn serve_witnessed(disk: &MemDisk, committer: &Mutex<Committer>, request: Request) {
    match request {
        Request::Commit(encoded, answer) if disk.is_watched() => {
            commit(disk, committer, encoded, answer);
        }
        request => serve_inline(committer, [request]),
    }
}

fn commit(
    disk: &MemDisk,
    committer: &Mutex<Committer>,
    encoded: Box<Encoded>,
    answer: Answer<Committed>,
) {
    let mut seen = Witnessed {
        seq: 0,
        owners: encoded
            .batch
            .leases
            .iter()
            .map(Lease::owner)
            .cloned()
            .collect(),
        rows: rows_of(disk, committer, &encoded.steps),
    };
    let (tell, mut told) = queue::answer();
    serve_inline(committer, [Request::Commit(encoded, tell)]);
    // An inline committer has answered by now.
    let outcome = told.try_recv().unwrap_or_else(|_| {
        let why = "the committer did not answer".to_owned();
        Err(CommitError::Failed { why })
    });
    if let Ok(committed) = &outcome {
        seen.seq = committed.seq;
        disk.witness(seen);
    }
    // Whoever asked may have gone.
    drop(answer.send(outcome));
}

fn rows_of(disk: &MemDisk, committer: &Mutex<Committer>, steps: &[Step]) -> Vec<RowWrite> {
    let committer = committer
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let names = committer.shared.data_keys.names();
    let row = |table, key: &[u8], removed: bool| RowWrite {
        table,
        key: key[1..].to_vec(),
        change: match (removed, disk.has_row(key)) {
            (true, _) => RowChange::Removed,
            (false, true) => RowChange::Written,
            (false, false) => RowChange::Made,
        },
    };
    let rows = steps.iter().filter_map(|step| match step {
        Step::Put { table, key, .. } => Some(row(*table, key, false)),
        Step::PutMessage { message, .. } => {
            let key = whole_key::<inboxgrove_model::message::Message>(&message.key(), names);
            Some(row(TableId::Message, &key, false))
        }
        Step::Remove { key } => Some(row(TableId::from_byte(key[0])?, key, true)),
        Step::Expect { .. } => None,
    });
    rows.collect()
}
