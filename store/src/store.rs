//! The store's face: commits, reads, watches.

use std::sync::Arc;

use bytes::Bytes;
use inboxgrove_model::{
    DomainName, InboxId, TenantId,
    budget::{BudgetKey, BudgetUse},
    claim::Claim,
    event::LoggedEvent,
    inbox::{EvidenceDay, PoolMember},
    limits::PAGE_MAX,
    message::BodyRef,
    ports::BoxFuture,
};
use tokio::sync::{broadcast, watch};

use crate::{
    Batch, CommitError, Committed, DueMark, EvidenceRow, OpenReport, ReadError, Record, Scope,
    StoreHealth, TableId,
    batch::whole_key,
    budgets,
    committer::{
        Committer, EVENT_PLACES, Request, awaited,
        queue::{self, Queue},
    },
    engine::RawRow,
    frame::{HAS_EVENTS, Item},
    hot::HotRows,
    log::READ_BYTES_MAX,
    records, row,
    sealed::{body_belongs, event_belongs},
    shared::Shared,
    table::{KeyBytes, RowError, after_prefix, show_key},
};

/// The store. Clones are the same store; when the last one is dropped, what was handed over is finished.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// Some records of a table, in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<R> {
    /// The records.
    pub items: Vec<R>,
    /// Where to go on: hand it in as `after`. `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// What one bounded look at the log found of events.
#[derive(Debug, Clone, PartialEq)]
pub struct EventsStep {
    /// The events, rising.
    pub events: Vec<LoggedEvent>,
    /// Where to go on: hand it in as `after`.
    pub after: u64,
    /// About how many bytes of the log were read.
    pub bytes: u64,
    /// Whether that was all there is.
    pub end: bool,
}

pub(crate) struct Inner {
    // Dropped first: its thread finishes while the rest is still there.
    pub(crate) queue: Queue,
    pub(crate) shared: Arc<Shared>,
}

/// Bytes of the log that a step of events reads at once: what it reads in vain at its end is no more.
const EVENTS_PIECE_BYTES: u64 = 256 * 1024;

// === impl Store ===

impl Store {
    /// Commits a batch. Handed over before this returns; resolves when it is durable and can be read.
    /// Dropping the future does not take the commit back.
    pub fn commit(&self, batch: Batch) -> BoxFuture<'static, Result<Committed, CommitError>> {
        let shared = &self.inner.shared;
        let encoded = batch.encode(shared.data_keys.names(), shared.format());
        let (answer, answered) = queue::answer();
        let request = Request::Commit(Box::new(encoded), answer);
        self.inner.queue.send(request);
        awaited(answered)
    }

    /// A record, if it is there.
    pub fn get<R: Record>(&self, key: &R::Key) -> Result<Option<R>, ReadError> {
        let key = whole_key::<R>(key, self.inner.shared.data_keys.names());
        match self.inner.shared.engine.get(&key)? {
            Some(value) => self.inner.shared.decode(&key, &value).map(Some),
            None => Ok(None),
        }
    }

    /// As [`Store::get`], for rows that every request reads: accounts, users, sessions, inboxes. The decoded row is kept
    /// until it is written again, so what is found is never older than what was answered.
    pub fn hot<R: Record + Sync>(&self, key: &R::Key) -> Result<Option<Arc<R>>, ReadError> {
        debug_assert!(HotRows::keeps(R::TABLE), "{} is not kept", R::TABLE);
        let shared = &self.inner.shared;
        let key = whole_key::<R>(key, shared.data_keys.names());
        let stamp = match shared.hot.get::<R>(&key) {
            Ok(row) => return Ok(Some(row)),
            Err(stamp) => stamp,
        };
        let Some(value) = shared.engine.get(&key)? else {
            return Ok(None);
        };
        let row = Arc::new(shared.decode::<R>(&key, &value)?);
        shared.hot.keep(stamp, key, &row);
        Ok(Some(row))
    }

    /// A record that must be there.
    pub fn existing<R: Record>(&self, key: &R::Key) -> Result<R, ReadError> {
        self.get(key)?.ok_or_else(|| {
            let key = whole_key::<R>(key, self.inner.shared.data_keys.names());
            ReadError::Missing {
                table: R::TABLE,
                key: show_key(&key[1..]),
            }
        })
    }

    /// Records of a scope, in the order of their keys; at most [`PAGE_MAX`]. `after` is the `next` of the
    /// page before.
    pub fn page<R: Record>(
        &self,
        scope: &Scope,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page<R>, ReadError> {
        let (rows, next) = self.raw_page(R::TABLE, scope, after, limit)?;
        let items = rows
            .iter()
            .map(|(key, value)| self.inner.shared.decode(key, value));
        Ok(Page {
            items: items.collect::<Result<_, _>>()?,
            next,
        })
    }

    fn raw_page(
        &self,
        table: TableId,
        scope: &Scope,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Vec<RawRow>, Option<Vec<u8>>), ReadError> {
        let (mut from, to) = scope.range(table);
        if let Some(after) = after {
            // The least key behind `after`: the same bytes and a zero.
            let behind = [&[table.byte()], after, &[0]].concat();
            from = from.max(behind);
        }
        let limit = limit.clamp(1, PAGE_MAX);
        let mut rows = self
            .inner
            .shared
            .engine
            .scan(&from, to.as_deref(), limit + 1)?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let last = rows.last().map(|(key, _)| key[1..].to_vec());
        Ok((rows, last.filter(|_| more)))
    }

    /// Like [`Store::page`], for work that must go on whatever one row holds: rows that cannot be read are
    /// stepped over and returned as errors beside the others.
    pub fn sound_page<R: Record>(
        &self,
        scope: &Scope,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Page<R>, Vec<ReadError>), ReadError> {
        let (rows, next) = self.raw_page(R::TABLE, scope, after, limit)?;
        let (mut items, mut damaged) = (Vec::with_capacity(rows.len()), Vec::new());
        for (key, value) in &rows {
            match self.inner.shared.decode(key, value) {
                Ok(record) => items.push(record),
                Err(why) => damaged.push(why),
            }
        }
        Ok((Page { items, next }, damaged))
    }

    /// What has been taken from a budget; nothing, in windows long past, where nothing ever was.
    pub fn budget(&self, budget: &BudgetKey) -> Result<BudgetUse, ReadError> {
        let key = budgets::whole_key(budget);
        let shared = &self.inner.shared;
        let Some(value) = shared.engine.get(&key)? else {
            return Ok(BudgetUse::default());
        };
        let row = row::unframe(TableId::Budget, &key, &value, &shared.data_keys);
        row.and_then(|row| budgets::from_row(&row))
            .map_err(|why| shared.unreadable(&key, why))
    }

    /// The rollups of an inbox from a day on, by day and provider.
    pub fn evidence(
        &self,
        tenant: TenantId,
        inbox: InboxId,
        from_day: i64,
    ) -> Result<Vec<EvidenceDay>, ReadError> {
        let (start, to) = Scope::Inbox(tenant, inbox).range(TableId::Evidence);
        let day = KeyBytes::new().signed(from_day).finish();
        let mut from = [start, day].concat();
        let mut days = Vec::new();
        loop {
            let rows = self
                .inner
                .shared
                .engine
                .scan(&from, to.as_deref(), PAGE_MAX)?;
            for (key, value) in &rows {
                days.push(self.inner.shared.decode::<EvidenceRow>(key, value)?.day);
            }
            match rows.last() {
                Some((key, _)) if rows.len() == PAGE_MAX => from = [key.as_slice(), &[0]].concat(),
                _ => return Ok(days),
            }
        }
    }

    /// The claims of a proven domain and of proven names below it, whoever holds them; at most
    /// [`PAGE_MAX`].
    pub fn claims_within(&self, domain: &DomainName) -> Result<Vec<Claim>, ReadError> {
        let below = records::domain_and_below(domain.as_str());
        let from = [&[TableId::Claim.byte()], below.as_slice()].concat();
        let shared = &self.inner.shared;
        let rows = shared
            .engine
            .scan(&from, after_prefix(&from).as_deref(), PAGE_MAX)?;
        rows.iter()
            .map(|(key, value)| shared.decode(key, value))
            .collect()
    }

    /// Members of the warmup pool from a place on, going round at the end; at most [`PAGE_MAX`]. Each
    /// member at most once.
    pub fn pool_from(&self, start: u64, limit: usize) -> Result<Vec<PoolMember>, ReadError> {
        let limit = limit.min(PAGE_MAX);
        let (first, end) = Scope::All.range(TableId::Pool);
        let place = [first.clone(), KeyBytes::new().number(start).finish()].concat();
        let shared = &self.inner.shared;
        let mut rows = shared.engine.scan(&place, end.as_deref(), limit)?;
        if rows.len() < limit {
            let left = limit - rows.len();
            rows.extend(shared.engine.scan(&first, Some(&place), left)?);
        }
        rows.iter()
            .map(|(key, value)| shared.decode(key, value))
            .collect()
    }

    /// The bytes of a message.
    pub fn body(&self, tenant: TenantId, body: &BodyRef) -> Result<Bytes, ReadError> {
        let missing = || ReadError::NoBody {
            tenant,
            body: *body,
        };
        let shared = &self.inner.shared;
        let frame = shared.log.frame(body.seq)?.ok_or_else(missing)?;
        let items = frame.items()?;
        let blob = items.into_iter().find_map(|item| match item {
            Item::Body {
                index,
                tenant: owner,
                blob,
            } if index == body.index && owner == tenant => Some(blob),
            _ => None,
        });
        let belongs = body_belongs(tenant, body.seq, body.index);
        let opened = shared
            .data_keys
            .open_blob(&belongs, blob.ok_or_else(missing)?);
        let (_, bytes) = opened.map_err(|_| missing())?;
        Ok(Bytes::copy_from_slice(&bytes))
    }

    /// Events after an id, rising, at most `limit`; of one tenant if one is named. Those of tenants whose
    /// key was erased are gone. May read the whole log: who has strangers waiting takes
    /// [`Store::events_step`].
    pub fn events(
        &self,
        after: u64,
        limit: usize,
        tenant: Option<TenantId>,
    ) -> Result<Vec<LoggedEvent>, ReadError> {
        let mut found = Vec::new();
        let mut after = after;
        while found.len() < limit {
            let step = self.events_step(after, limit - found.len(), tenant)?;
            found.extend(step.events);
            if step.end {
                break;
            }
            after = step.after;
        }
        Ok(found)
    }

    /// As [`Store::events`], but reads about a megabyte of the log at most and says where to go on. It
    /// may find nothing and not be at the end. Blocks on the disk.
    pub fn events_step(
        &self,
        after: u64,
        limit: usize,
        tenant: Option<TenantId>,
    ) -> Result<EventsStep, ReadError> {
        let shared = &self.inner.shared;
        let mut step = EventsStep {
            events: Vec::new(),
            after,
            bytes: 0,
            end: false,
        };
        // The frame of the first id that may be wanted.
        let mut next = after.saturating_add(1) / EVENT_PLACES;
        while step.bytes < READ_BYTES_MAX && step.events.len() < limit {
            if next >= shared.log.next_seq() {
                step.end = true;
                break;
            }
            let piece = shared.log.piece(next, HAS_EVENTS, EVENTS_PIECE_BYTES)?;
            for frame in &piece.frames {
                for item in frame.items()? {
                    let event = shared.event(frame.head.seq, &item, after, tenant)?;
                    step.events.extend(event);
                }
            }
            step.bytes += piece.bytes;
            next = piece.next;
            step.after = after.max((next * EVENT_PLACES).saturating_sub(1));
        }
        if step.events.len() > limit {
            step.events.truncate(limit);
            step.after = step.events.last().map_or(after, |last| last.id);
        }
        Ok(step)
    }

    /// The highest id that an event of what is committed by now can have.
    pub fn events_end(&self) -> u64 {
        (self.inner.shared.log.next_seq() * EVENT_PLACES).saturating_sub(1)
    }

    /// Events as they are committed. Who lags too far behind is told so, and reads [`Store::events`].
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Vec<LoggedEvent>>> {
        self.inner.shared.events.subscribe()
    }

    /// What commits add to the due table and to the queue. Whoever asked first is woken first.
    pub fn due_watch(&self) -> watch::Receiver<DueMark> {
        self.inner.shared.due.watch()
    }

    /// How the store is, now.
    pub fn health(&self) -> StoreHealth {
        self.inner.shared.health()
    }

    /// Resolves when the store has failed for good, with the cause.
    pub fn failed(&self) -> BoxFuture<'static, String> {
        let mut failed = self.inner.shared.failed.subscribe();
        Box::pin(async move {
            let why = failed.wait_for(Option::is_some).await;
            let why = why.map(|why| why.clone().unwrap_or_default());
            match why {
                Ok(why) => why,
                // The store was dropped: it will not fail any more.
                Err(_gone) => std::future::pending().await,
            }
        })
    }

    /// Resolves when a row was met that cannot be read, with which and how, until the rows were rebuilt.
    pub fn damage_met(&self) -> BoxFuture<'static, String> {
        let mut damage = self.inner.shared.damage.subscribe();
        Box::pin(async move {
            let met = damage.wait_for(Option::is_some).await;
            let met = met.map(|what| what.clone().unwrap_or_default());
            match met {
                Ok(what) => what,
                // The store was dropped: nobody reads any more.
                Err(_gone) => std::future::pending().await,
            }
        })
    }

    /// What opening it has found.
    pub fn opened(&self) -> &OpenReport {
        &self.inner.shared.opened
    }

    /// Why the rows are not to be trusted, if they are not and could not be rebuilt.
    pub fn distrusted(&self) -> Option<String> {
        self.inner.shared.rows.distrusted()
    }

    /// Flushes the rows now. Blocks.
    pub fn checkpoint(&self) {
        if self.inner.queue.alone(Committer::checkpoint).is_none() {
            tracing::warn!("no checkpoint: the committer has ended");
        }
    }

    /// Waits until everything is done and flushed, if this is the last clone.
    pub fn close(self) {
        drop(self);
    }

    /// Erases a tenant's data key: its rows, events and bodies can no longer be read, here and in every
    /// backup that has no older copy of the file of data keys. False when it had none. Blocks.
    pub fn erase_tenant_key(&self, tenant: TenantId) -> Result<bool, CommitError> {
        let erased = self.inner.queue.alone(move |committer| {
            let keys = &committer.shared.data_keys;
            let erased = keys.erase(tenant, committer.rng.as_ref());
            committer.shared.hot.clear();
            erased.map_err(|why| {
                committer.shared.fail(&why);
                why.to_string()
            })
        });
        let gone = || Err("the committer has ended".to_owned());
        erased
            .unwrap_or_else(gone)
            .map_err(|why| CommitError::Failed { why })
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("media", &self.inner.shared.media)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// The record in a row.
    pub(crate) fn decode<R: Record>(&self, key: &[u8], value: &[u8]) -> Result<R, ReadError> {
        let row = row::unframe(R::TABLE, key, value, &self.data_keys);
        row.and_then(|row| R::from_row(&key[1..], &row))
            .map_err(|why| self.unreadable(key, why))
    }

    /// The error that a row is damaged, which is told to whoever may heal it. `key` is the whole key.
    pub(crate) fn unreadable(&self, key: &[u8], source: RowError) -> ReadError {
        let heals = source.may_heal();
        let why = damaged(key, source);
        if heals {
            self.met_damage(&why);
        }
        why
    }

    /// The event in an item, if it is one, is wanted, and can still be read.
    fn event(
        &self,
        seq: u64,
        item: &Item<'_>,
        after: u64,
        wanted: Option<TenantId>,
    ) -> Result<Option<LoggedEvent>, ReadError> {
        let Item::Event {
            place,
            tenant,
            blob,
            ..
        } = *item
        else {
            return Ok(None);
        };
        let id = seq * EVENT_PLACES + u64::from(place);
        if id <= after || (wanted.is_some() && wanted != tenant) {
            return Ok(None);
        }
        let row = match tenant {
            Some(tenant) => {
                if self.data_keys.of(tenant).is_none() {
                    return Ok(None);
                }
                let opened = self.data_keys.open_blob(&event_belongs(id), blob);
                opened
                    .map(|(_, row)| row.to_vec())
                    .map_err(|why| RowError::Sealed(why.to_string()))
            }
            None => Ok(blob.to_vec()),
        };
        row.and_then(|row| records::events::from_row(&row))
            .map(|event| Some(LoggedEvent { id, event }))
            .map_err(|source| ReadError::Event { id, source })
    }
}

/// The error that a row is damaged. `key` is the whole key.
pub(crate) fn damaged(key: &[u8], source: RowError) -> ReadError {
    let table = key.first().and_then(|byte| TableId::from_byte(*byte));
    ReadError::Damaged {
        table: table.unwrap_or(TableId::Meta),
        key: show_key(key.get(1..).unwrap_or_default()),
        source,
    }
}
