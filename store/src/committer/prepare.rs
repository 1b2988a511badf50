//! From a batch to a frame: leases, preconditions, takes and counts are settled here, against the rows
//! as they will be; what comes out is absolute and can be applied any number of times.

use std::collections::{BTreeMap, BTreeSet};

use inboxgrove_model::{
    PolicyTime, TenantId,
    budget::{BudgetKey, BudgetUse},
    event::LoggedEvent,
    inbox::{DayCounts, EvidenceDay},
    message::{BodyRef, Message},
};

use super::{Committer, Group, overlay::Overlay};
use crate::{
    CommitError, Committed, DueMark, EvidenceRow,
    batch::{
        BATCH_BYTES_MAX, BATCH_EVENTS_MAX, BATCH_ROWS_MAX, Batch, Count, Encoded, Step, whole_key,
    },
    budgets::{self, TakeRefused},
    data_keys::DataKeysError,
    engine::{EngineError, sled::ROW_BYTES_MAX},
    frame::{FrameWriter, Item},
    records, row,
    seal::SealingKey,
    sealed::{body_belongs, event_belongs},
    table::{KeyParts, Record, RowError, TableId, show_key},
};

/// Events per frame: an event's id is its frame's sequence times this, plus its place.
pub(crate) const EVENT_PLACES: u64 = BATCH_EVENTS_MAX as u64;

/// A batch whose frame is in the group.
pub(crate) struct Prepared {
    pub(crate) committed: Committed,
    pub(crate) events: Vec<LoggedEvent>,
    pub(crate) due: DueMark,
}

/// The writes of one batch, the last one of a key counting.
type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A row in clear, before it is sealed and framed.
struct ClearRow {
    table: TableId,
    key: Vec<u8>,
    seal: Option<TenantId>,
    row: Vec<u8>,
}

impl Committer {
    /// Settles a batch and writes its frame at the end of the group's bytes. After an error the caller
    /// cuts those bytes off again; nothing else has changed, but perhaps a new data key.
    pub(super) fn prepare(
        &mut self,
        group: &mut Group,
        seq: u64,
        encoded: Encoded,
    ) -> Result<Prepared, CommitError> {
        let Encoded { batch, steps, .. } = encoded;
        check_size(&batch, &steps)?;
        self.check_leases(&batch)?;
        self.check_steps(&steps, &group.overlay)?;
        let mut clear = settle_budgets(&batch, &group.overlay, self)?;
        clear.extend(settle_counts(&batch.counts, &group.overlay, self)?);
        self.make_keys(&batch.new_keys)?;
        let bodies = body_refs(seq, &batch);
        let due = due_mark(&steps);
        let writes = self.seal_rows(clear, steps, &bodies)?;
        let events = self.write_frame(group, seq, &batch, &writes)?;
        group.overlay.extend(writes);
        let committed = Committed { seq, bodies };
        Ok(Prepared {
            committed,
            events,
            due,
        })
    }

    fn check_leases(&self, batch: &Batch) -> Result<(), CommitError> {
        let stale = batch
            .leases
            .iter()
            .find(|lease| !self.shared.leases.is_current(lease));
        match stale {
            Some(lease) => Err(CommitError::Stale {
                owner: lease.owner.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Preconditions hold against the rows before the batch; two new rows of one key are one too many.
    fn check_steps(&self, steps: &[Step], overlay: &Overlay) -> Result<(), CommitError> {
        let mut made = BTreeSet::new();
        for step in steps {
            match step {
                Step::Put {
                    table,
                    key,
                    new: true,
                    ..
                } => {
                    let twice = !made.insert(key.as_slice());
                    if twice || self.read(overlay, key)?.is_some() {
                        return Err(CommitError::Taken {
                            table: *table,
                            key: show_key(&key[1..]),
                        });
                    }
                }
                Step::Expect { table, key, same } => {
                    let stored = self.read_row(overlay, *table, key)?;
                    let same = match &stored {
                        Some(row) => same(row).map_err(|why| unreadable(*table, key, why))?,
                        None => false,
                    };
                    if !same {
                        return Err(CommitError::Changed {
                            table: *table,
                            key: show_key(&key[1..]),
                        });
                    }
                }
                Step::Put { .. } | Step::PutMessage { .. } | Step::Remove { .. } => {}
            }
        }
        Ok(())
    }

    fn make_keys(&self, tenants: &[TenantId]) -> Result<(), CommitError> {
        match self.shared.data_keys.ensure(tenants, self.rng.as_ref()) {
            Ok(()) => Ok(()),
            Err(DataKeysError::Erased(tenant)) => Err(CommitError::NoTenantKey { tenant }),
            Err(why) => {
                // The file was not written, and what the disk holds now is unknown.
                self.shared.fail(&why);
                Err(CommitError::Failed {
                    why: why.to_string(),
                })
            }
        }
    }

    fn seal_rows(
        &self,
        clear: Vec<ClearRow>,
        steps: Vec<Step>,
        bodies: &[BodyRef],
    ) -> Result<Writes, CommitError> {
        let mut writes = Writes::new();
        for row in clear {
            let value = self.seal_row(&row)?;
            writes.insert(row.key, Some(value));
        }
        for step in steps {
            let row = match step {
                Step::Put {
                    table,
                    key,
                    seal,
                    row,
                    ..
                } => ClearRow {
                    table,
                    key,
                    seal,
                    row,
                },
                Step::PutMessage { message, slot } => {
                    self.message_row(*message, bodies.get(slot))?
                }
                Step::Remove { key } => {
                    writes.insert(key, None);
                    continue;
                }
                Step::Expect { .. } => continue,
            };
            let value = self.seal_row(&row)?;
            writes.insert(row.key, Some(value));
        }
        Ok(writes)
    }

    fn message_row(
        &self,
        mut message: Message,
        body: Option<&BodyRef>,
    ) -> Result<ClearRow, CommitError> {
        message.body = *body.ok_or(CommitError::NoSuchBody { id: message.id })?;
        let names = self.shared.data_keys.names();
        Ok(ClearRow {
            table: TableId::Message,
            key: whole_key::<Message>(&message.key(), names),
            seal: message.seal_with(),
            row: message.to_row_at(self.shared.format()),
        })
    }

    fn seal_row(&self, row: &ClearRow) -> Result<Vec<u8>, CommitError> {
        let key = row.seal.map(|tenant| self.key_of(tenant)).transpose()?;
        let rng = self.rng.as_ref();
        let value = row::frame(row.table, &row.key, &row.row, key.as_ref(), rng);
        let size = row.key.len() + value.len();
        if size > ROW_BYTES_MAX {
            return Err(CommitError::TooBig {
                what: format!("row {}/{}", row.table, show_key(&row.key[1..])),
                size,
                max: ROW_BYTES_MAX,
            });
        }
        Ok(value)
    }

    fn key_of(&self, tenant: TenantId) -> Result<SealingKey, CommitError> {
        let key = self.shared.data_keys.of(tenant);
        key.ok_or(CommitError::NoTenantKey { tenant })
    }

    /// Writes the frame: events first, then rows, then bodies.
    fn write_frame(
        &self,
        group: &mut Group,
        seq: u64,
        batch: &Batch,
        writes: &Writes,
    ) -> Result<Vec<LoggedEvent>, CommitError> {
        let rng = self.rng.as_ref();
        let mut frame = FrameWriter::new(&mut group.bytes, seq, group.first_seq);
        let mut logged = Vec::with_capacity(batch.events.len());
        for (place, event) in (0_u16..).zip(&batch.events) {
            let id = seq * EVENT_PLACES + u64::from(place);
            let clear = records::events::to_row(event);
            let blob = match event.tenant {
                Some(tenant) => self.key_of(tenant)?.seal(&event_belongs(id), &clear, rng),
                None => clear,
            };
            let (at, tenant, blob) = (event.at, event.tenant, blob.as_slice());
            frame.item(&Item::Event {
                place,
                at,
                tenant,
                blob,
            });
            let event = event.clone();
            logged.push(LoggedEvent { id, event });
        }
        for (key, value) in writes {
            frame.item(&match value {
                Some(value) => Item::Put { key, value },
                None => Item::Remove { key },
            });
        }
        for (index, (tenant, bytes)) in (0_u32..).zip(&batch.bodies) {
            let tenant = *tenant;
            let belongs = body_belongs(tenant, seq, index);
            let blob = self.key_of(tenant)?.seal(&belongs, bytes, rng);
            let blob = blob.as_slice();
            frame.item(&Item::Body {
                index,
                tenant,
                blob,
            });
        }
        frame.finish();
        Ok(logged)
    }

    fn read(&self, overlay: &Overlay, key: &[u8]) -> Result<Option<Vec<u8>>, CommitError> {
        overlay.get(key).map_err(|why| self.broken(&why))
    }

    fn read_row(
        &self,
        overlay: &Overlay,
        table: TableId,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, CommitError> {
        let Some(value) = self.read(overlay, key)? else {
            return Ok(None);
        };
        row::unframe(table, key, &value, &self.shared.data_keys)
            .map(|row| Some(row.to_vec()))
            .map_err(|why| {
                self.shared.unreadable(key, why.clone());
                unreadable(table, key, why)
            })
    }

    fn broken(&self, why: &EngineError) -> CommitError {
        self.shared.fail(why);
        CommitError::Failed {
            why: why.to_string(),
        }
    }
}

fn check_size(batch: &Batch, steps: &[Step]) -> Result<(), CommitError> {
    let bodies: usize = batch.bodies.iter().map(|(_, bytes)| bytes.len()).sum();
    let rows = steps.len() + batch.takes.len() + batch.returns.len() + batch.counts.len();
    for (what, size, max) in [
        ("the batch's bodies", bodies, BATCH_BYTES_MAX),
        ("the batch's number of rows", rows, BATCH_ROWS_MAX),
        (
            "the batch's number of events",
            batch.events.len(),
            BATCH_EVENTS_MAX,
        ),
    ] {
        if size > max {
            let what = what.to_owned();
            return Err(CommitError::TooBig { what, size, max });
        }
    }
    Ok(())
}

/// The rows of the budgets that are taken from, as they will be.
fn settle_budgets(
    batch: &Batch,
    overlay: &Overlay,
    committer: &Committer,
) -> Result<Vec<ClearRow>, CommitError> {
    let mut uses: BTreeMap<BudgetKey, Option<BudgetUse>> = BTreeMap::new();
    let all = batch.returns.iter().chain(&batch.takes);
    for take in all {
        if !uses.contains_key(&take.budget) {
            let key = budgets::whole_key(&take.budget);
            let stored = committer.read_row(overlay, TableId::Budget, &key)?;
            let was = stored.map(|row| budgets::from_row(&row)).transpose();
            let was = was.map_err(|why| unreadable(TableId::Budget, &key, why))?;
            uses.insert(take.budget.clone(), was);
        }
    }
    for take in &batch.returns {
        if let Some(Some(of)) = uses.get_mut(&take.budget) {
            *of = budgets::give_back(*of, take);
        }
    }
    for take in &batch.takes {
        let was = uses.get(&take.budget).copied().flatten();
        let after = budgets::take(was, take).map_err(|why| refused(take, why))?;
        uses.insert(take.budget.clone(), Some(after));
    }
    let rows = uses.into_iter().filter_map(|(budget, of)| {
        of.map(|of| ClearRow {
            table: TableId::Budget,
            key: budgets::whole_key(&budget),
            seal: None,
            row: budgets::to_row(of),
        })
    });
    Ok(rows.collect())
}

fn refused(take: &inboxgrove_model::budget::Take, why: TakeRefused) -> CommitError {
    match why {
        TakeRefused::Full(full) => CommitError::BudgetFull(full),
        TakeRefused::Past {
            window,
            index,
            seen,
        } => CommitError::WindowPast {
            budget: take.budget.to_string(),
            window,
            index,
            seen,
        },
    }
}

/// The rollups that are added to, as they will be.
fn settle_counts(
    counts: &[Count],
    overlay: &Overlay,
    committer: &Committer,
) -> Result<Vec<ClearRow>, CommitError> {
    let names = committer.shared.data_keys.names();
    let mut rows: BTreeMap<Vec<u8>, EvidenceRow> = BTreeMap::new();
    for count in counts {
        let fresh = EvidenceRow {
            tenant: count.tenant,
            inbox: count.inbox,
            day: EvidenceDay {
                utc_day: count.utc_day,
                provider: count.provider.clone(),
                counts: DayCounts::default(),
            },
        };
        let key = whole_key::<EvidenceRow>(&fresh.key(), names);
        if !rows.contains_key(&key) {
            let stored = committer.read_row(overlay, TableId::Evidence, &key)?;
            let stored = stored.map(|row| EvidenceRow::from_row(&key[1..], &row));
            let stored = stored.transpose();
            let was = stored.map_err(|why| unreadable(TableId::Evidence, &key, why))?;
            rows.insert(key.clone(), was.unwrap_or(fresh));
        }
        if let Some(row) = rows.get_mut(&key) {
            row.day.counts = sum(row.day.counts, count.counts);
        }
    }
    let format = committer.shared.format();
    let rows = rows.into_iter().map(|(key, row)| ClearRow {
        table: TableId::Evidence,
        key,
        seal: row.seal_with(),
        row: row.to_row_at(format),
    });
    Ok(rows.collect())
}

fn sum(a: DayCounts, b: DayCounts) -> DayCounts {
    DayCounts {
        delivered: a.delivered.saturating_add(b.delivered),
        deferred: a.deferred.saturating_add(b.deferred),
        bounced_recipient: a.bounced_recipient.saturating_add(b.bounced_recipient),
        bounced_policy: a.bounced_policy.saturating_add(b.bounced_policy),
        placed_inbox: a.placed_inbox.saturating_add(b.placed_inbox),
        placed_spam: a.placed_spam.saturating_add(b.placed_spam),
        complaints: a.complaints.saturating_add(b.complaints),
        replies: a.replies.saturating_add(b.replies),
    }
}

fn body_refs(seq: u64, batch: &Batch) -> Vec<BodyRef> {
    let refs = (0_u32..)
        .zip(&batch.bodies)
        .map(|(index, (_, bytes))| BodyRef {
            seq,
            index,
            size: u32::try_from(bytes.len()).expect("the batch's size was checked"),
        });
    refs.collect()
}

/// The earliest due row and queue entry that a batch writes. Their keys start with the time.
fn due_mark(steps: &[Step]) -> DueMark {
    let mut mark = DueMark::NOTHING;
    for step in steps {
        let Step::Put { table, key, .. } = step else {
            continue;
        };
        let at = |key: &[u8]| {
            let at = KeyParts::of(&key[1..]).time();
            at.unwrap_or(PolicyTime::from_millis(i64::MAX))
        };
        match table {
            TableId::Due => mark.earliest_due = mark.earliest_due.min(at(key)),
            TableId::Queue => mark.earliest_queue = mark.earliest_queue.min(at(key)),
            _ => {}
        }
    }
    mark
}

fn unreadable(table: TableId, key: &[u8], source: RowError) -> CommitError {
    CommitError::Unreadable {
        table,
        key: show_key(&key[1..]),
        source,
    }
}
