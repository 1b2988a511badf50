//! Errors of the store's face.

use std::{io, path::PathBuf};

use inboxgrove_model::{MessageId, TenantId, budget::BudgetFull, message::BodyRef};

use crate::{
    EngineError, Owner, RowError, TableId, data_keys::DataKeysError, log::LogError,
    seal::KeyFileError,
};

/// Why a commit did not happen. Nothing of its batch did, except where `Failed` says otherwise.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CommitError {
    /// A budget has not enough left.
    #[error(transparent)]
    BudgetFull(#[from] BudgetFull),
    /// A take names a window that lies before one already seen.
    #[error("the {window} window {index} of {budget} is over: window {seen} has begun")]
    WindowPast {
        /// Whose budget.
        budget: String,
        /// `hour` or `day`.
        window: &'static str,
        /// The window asked for.
        index: i64,
        /// The newest one seen.
        seen: i64,
    },
    /// A row that had to be new is there.
    #[error("{table}/{key} is taken")]
    Taken {
        /// In which table.
        table: TableId,
        /// Its key, in hexadecimal.
        key: String,
    },
    /// A row is not as it was expected.
    #[error("{table}/{key} is not as it was expected")]
    Changed {
        /// In which table.
        table: TableId,
        /// Its key, in hexadecimal.
        key: String,
    },
    /// Somebody has taken a newer lease.
    #[error("{owner} has a newer lease")]
    Stale {
        /// Whose lease.
        owner: Owner,
    },
    /// Something is larger than the store takes.
    #[error("{what} is too big: {size}, at most {max}")]
    TooBig {
        /// What.
        what: String,
        /// How big it is.
        size: usize,
        /// The most there may be.
        max: usize,
    },
    /// A message was put with the body slot of another batch.
    #[error("the batch has no body for message {id}")]
    NoSuchBody {
        /// Which message.
        id: MessageId,
    },
    /// The tenant has no data key: its row was never put, or it was erased.
    #[error("{tenant} has no data key: it was never registered, or it was erased")]
    NoTenantKey {
        /// Which.
        tenant: TenantId,
    },
    /// A row that the commit depends on cannot be read.
    #[error("{table}/{key} cannot be read: {source}")]
    Unreadable {
        /// In which table.
        table: TableId,
        /// Its key, in hexadecimal.
        key: String,
        /// How.
        source: RowError,
    },
    /// Too much waits already; try again in a moment.
    #[error("too many commits wait")]
    Busy,
    /// There is not enough room on the disk.
    #[error("the disk has {free} bytes left, the floor is {floor}")]
    DiskLow {
        /// What is left.
        free: u64,
        /// What must be.
        floor: u64,
    },
    /// The store has failed for good. Whether this commit happened shows after the restart.
    #[error("the store has failed: {why}")]
    Failed {
        /// How.
        why: String,
    },
}

impl CommitError {
    /// Whether it is for a damaged row, which may be healed: the same commit may succeed when the rows were rebuilt.
    pub fn may_heal(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.may_heal())
    }
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such row.
    #[error("{table}/{key} does not exist")]
    Missing {
        /// In which table.
        table: TableId,
        /// Its key, in hexadecimal.
        key: String,
    },
    /// The row is not as it was written.
    #[error("{table}/{key} cannot be read: {source}")]
    Damaged {
        /// In which table.
        table: TableId,
        /// Its key, in hexadecimal.
        key: String,
        /// How.
        source: RowError,
    },
    /// The log has no such body, or another tenant's.
    #[error("there is no body {} of {tenant} in frame {}", .body.index, .body.seq)]
    NoBody {
        /// Whose it should be.
        tenant: TenantId,
        /// Where it should be.
        body: BodyRef,
    },
    /// An event is not as it was written.
    #[error("event {id} cannot be read: {source}")]
    Event {
        /// Which.
        id: u64,
        /// How.
        source: RowError,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The rows cannot be read.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The installation's key is not the one the store was made with.
    #[error("wrong key: {0}")]
    WrongKey(DataKeysError),
    /// The key file cannot be used.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The data keys cannot be used.
    #[error(transparent)]
    DataKeys(DataKeysError),
    /// The directory cannot be used.
    #[error("data directory {}: {source}", .dir.display())]
    Dir {
        /// Which.
        dir: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The log cannot be opened or replayed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The rows cannot be opened, and could not be rebuilt.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The rows have come further than the log: acknowledged frames are gone.
    #[error(
        "the rows have come to frame {rows}, the log ends at {log}: segments of the log are missing"
    )]
    LogBehind {
        /// The position of the rows.
        rows: u64,
        /// The last frame.
        log: u64,
    },
    /// A newer daemon wrote it.
    #[error(
        "the store has format {found}, this daemon knows up to {newest}: run the newer release, or let it take the store \
         back (`inboxgrove store migrate down --format {newest}`)"
    )]
    Format {
        /// The format it has.
        found: u8,
        /// The newest this daemon knows.
        newest: u8,
    },
    /// The rows had to be rebuilt, and no backup could be used for it.
    #[error("the rows cannot be rebuilt: {why}")]
    NoRebuild {
        /// Why not.
        why: String,
    },
    /// The committer's thread could not be started.
    #[error("the committer's thread: {0}")]
    Thread(io::Error),
}

// === impl OpenError ===

impl OpenError {
    /// Whether what is on the disk is at fault, so that neither a restart nor room nor another key helps:
    /// an operator has to restore a backup.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Log(why) => !matches!(why, LogError::Io { .. }),
            Self::DataKeys(why) => matches!(why, DataKeysError::Damaged(_)),
            Self::LogBehind { .. } | Self::NoRebuild { .. } => true,
            Self::WrongKey(_)
            | Self::KeyFile(_)
            | Self::Dir { .. }
            | Self::Engine(_)
            | Self::Format { .. }
            | Self::Thread(_) => false,
        }
    }
}

impl From<DataKeysError> for OpenError {
    fn from(why: DataKeysError) -> Self {
        match why {
            DataKeysError::WrongKey { .. } => Self::WrongKey(why),
            why => Self::DataKeys(why),
        }
    }
}
