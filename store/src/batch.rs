//! Batches: what one commit does, as a whole or not at all.

use bytes::Bytes;
use inboxgrove_model::{
    InboxId, TenantId,
    budget::Take,
    event::Event,
    inbox::DayCounts,
    message::{BodyRef, Message},
};

use crate::{
    lease::Lease,
    seal::NameKey,
    table::{Record, RowError, TableId},
};

/// Rows of one batch: what bulk imports should cut their work into.
pub const BATCH_ROWS_MAX: usize = 10_000;
/// Events of one batch; an event's id has room for as many places.
pub const BATCH_EVENTS_MAX: usize = 1024;
/// Bytes of one batch: the largest message twice over, and room for rows.
pub const BATCH_BYTES_MAX: usize = 64 << 20;

/// What one commit does. Build it, then hand it to [`Store::commit`](crate::Store::commit).
#[derive(Default)]
pub struct Batch {
    pub(crate) leases: Vec<Lease>,
    pub(crate) new_keys: Vec<TenantId>,
    pub(crate) takes: Vec<Take>,
    pub(crate) returns: Vec<Take>,
    pub(crate) counts: Vec<Count>,
    pub(crate) events: Vec<Event>,
    pub(crate) bodies: Vec<(TenantId, Bytes)>,
    pub(crate) essential: bool,
    rows: Vec<RowOf>,
}

/// Where the body of this batch will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodySlot(pub(crate) usize);

/// What is committed: the batch's frame in the log, and where its bodies are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The sequence number of its frame.
    pub seq: u64,
    /// The batch's bodies, in the order in which they were added.
    pub bodies: Vec<BodyRef>,
}

/// An addition to a rollup.
#[derive(Debug, Clone)]
pub(crate) struct Count {
    pub(crate) tenant: TenantId,
    pub(crate) inbox: InboxId,
    pub(crate) utc_day: i64,
    pub(crate) provider: String,
    pub(crate) counts: DayCounts,
}

/// A step of a batch, encoded on the thread of whoever commits.
pub(crate) enum Step {
    /// Writes a row; `new` demands that there is none.
    Put {
        table: TableId,
        key: Vec<u8>,
        seal: Option<TenantId>,
        row: Vec<u8>,
        new: bool,
    },
    /// Writes a message, once its body has a place.
    PutMessage { message: Box<Message>, slot: usize },
    /// Demands that a row is as it says.
    Expect {
        table: TableId,
        key: Vec<u8>,
        same: SameRow,
    },
    /// Removes a row.
    Remove { key: Vec<u8> },
}

/// Whether a stored row is the one that was expected.
pub(crate) type SameRow = Box<dyn Fn(&[u8]) -> Result<bool, RowError> + Send>;

/// A batch whose rows are encoded.
pub(crate) struct Encoded {
    pub(crate) batch: Batch,
    pub(crate) steps: Vec<Step>,
    /// About what it weighs in the queue.
    pub(crate) bytes: usize,
}

/// A record that waits for the store's keys to be encoded.
type RowOf = Box<dyn FnOnce(&NameKey, u8) -> Step + Send>;

// === impl Batch ===

impl Batch {
    /// A batch that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// It is committed on behalf of a lease's owner, and fails when the lease is stale.
    pub fn by(&mut self, lease: &Lease) -> &mut Self {
        self.leases.push(lease.clone());
        self
    }

    /// Writes a record, over one that is there.
    pub fn put<R: Record>(&mut self, record: &R) -> &mut Self {
        self.put_row(record, false)
    }

    /// Writes a record that must not be there yet, or the batch fails with `Taken`.
    pub fn put_new<R: Record>(&mut self, record: &R) -> &mut Self {
        self.put_row(record, true)
    }

    /// Demands that a record is there as given, or the batch fails with `Changed`.
    pub fn expect<R: Record>(&mut self, record: &R) -> &mut Self {
        let record = record.clone();
        self.rows.push(Box::new(move |names, _format| {
            let key = whole_key::<R>(&record.key(), names);
            let (row, short) = (record.to_row(), key[1..].to_vec());
            Step::Expect {
                table: R::TABLE,
                key,
                same: Box::new(move |stored| Ok(R::from_row(&short, stored)?.to_row() == row)),
            }
        }));
        self
    }

    /// Removes a record; it need not be there.
    pub fn remove<R: Record>(&mut self, key: &R::Key) -> &mut Self {
        let key = key.clone();
        self.rows.push(Box::new(move |names, _format| Step::Remove {
            key: whole_key::<R>(&key, names),
        }));
        self
    }

    /// Adds a body: the bytes of a message, sealed with the tenant's key.
    pub fn body(&mut self, tenant: TenantId, bytes: Bytes) -> BodySlot {
        self.bodies.push((tenant, bytes));
        BodySlot(self.bodies.len() - 1)
    }

    /// Writes a message whose body is one of this batch; `message.body` is filled in.
    pub fn put_message(&mut self, message: Message, body: BodySlot) -> &mut Self {
        self.rows
            .push(Box::new(move |_names, _format| Step::PutMessage {
                message: Box::new(message),
                slot: body.0,
            }));
        self
    }

    /// Takes from a budget; the batch fails with `BudgetFull` when there is not enough.
    pub fn take(&mut self, take: Take) -> &mut Self {
        self.takes.push(take);
        self
    }

    /// Gives a take back, as far as its windows are still open. Only when DATA provably was not sent.
    pub fn give_back(&mut self, take: Take) -> &mut Self {
        self.returns.push(take);
        self
    }

    /// Adds to the rollup of an inbox, a day and a provider.
    pub fn count(
        &mut self,
        tenant: TenantId,
        inbox: InboxId,
        utc_day: i64,
        provider: &str,
        counts: DayCounts,
    ) -> &mut Self {
        let provider = provider.to_owned();
        self.counts.push(Count {
            tenant,
            inbox,
            utc_day,
            provider,
            counts,
        });
        self
    }

    /// Something happened.
    pub fn event(&mut self, event: Event) -> &mut Self {
        self.events.push(event);
        self
    }

    /// Makes the tenant's data key, if it has none. Putting a `Tenant` does so by itself.
    pub fn new_tenant_key(&mut self, tenant: TenantId) -> &mut Self {
        self.new_keys.push(tenant);
        self
    }

    /// It records what has happened already (the outcome of an attempt), and is taken until only a quarter
    /// of the free-space floor is left.
    pub fn essential(&mut self) -> &mut Self {
        self.essential = true;
        self
    }

    /// Whether it does nothing at all.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
            && self.new_keys.is_empty()
            && self.takes.is_empty()
            && self.returns.is_empty()
            && self.counts.is_empty()
            && self.events.is_empty()
            && self.bodies.is_empty()
    }

    /// How many rows it writes, removes or expects, those of budgets and rollups included.
    pub fn row_writes(&self) -> usize {
        self.rows.len() + self.takes.len() + self.returns.len() + self.counts.len()
    }

    fn put_row<R: Record>(&mut self, record: &R, new: bool) -> &mut Self {
        if R::TABLE == TableId::Tenant {
            self.new_keys.extend(record.seal_with());
        }
        let record = record.clone();
        self.rows.push(Box::new(move |names, format| Step::Put {
            table: R::TABLE,
            key: whole_key::<R>(&record.key(), names),
            seal: record.seal_with(),
            row: record.to_row_at(format),
            new,
        }));
        self
    }

    /// Encodes its rows.
    pub(crate) fn encode(mut self, names: &NameKey, format: u8) -> Encoded {
        let rows = std::mem::take(&mut self.rows);
        let steps: Vec<Step> = rows.into_iter().map(|row| row(names, format)).collect();
        let rows: usize = steps.iter().map(Step::weight).sum();
        let bodies: usize = self.bodies.iter().map(|(_, bytes)| bytes.len()).sum();
        Encoded {
            bytes: rows + bodies + self.events.len() * 256,
            batch: self,
            steps,
        }
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("leases", &self.leases)
            .field("rows", &self.rows.len())
            .field("takes", &self.takes)
            .field("events", &self.events.len())
            .field("bodies", &self.bodies.len())
            .finish_non_exhaustive()
    }
}

// === impl Step ===

impl Step {
    fn weight(&self) -> usize {
        const SMALL: usize = 256;
        match self {
            Self::Put { key, row, .. } => key.len() + row.len() + SMALL,
            Self::PutMessage { .. } => 4096,
            Self::Expect { key, .. } | Self::Remove { key } => key.len() + SMALL,
        }
    }
}

/// The key of a record with its table's byte.
pub(crate) fn whole_key<R: Record>(key: &R::Key, names: &NameKey) -> Vec<u8> {
    let mut whole = R::key_bytes(key, names);
    whole.insert(0, R::TABLE.byte());
    whole
}
