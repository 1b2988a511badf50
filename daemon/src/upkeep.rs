//! Upkeep of the store while it serves: backups; after each the log is compacted, and the rows are rewritten where that
//! is worth it; once in a while everything is verified, and what is found damaged is healed, as is a row that a reader
//! met damaged before that.
//!
//! One chore at a time, on a thread of its own, at a pace that leaves the disk to commits. A crash or the end of the
//! process in the middle of one costs nothing but the work. What came of each is kept for operators.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use inboxgrove_actors::platform::Platform;
use inboxgrove_model::{PolicyTime, WallTime, ports::Blocking};
use inboxgrove_store::Store;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    backups,
    http::admin_views::{store_backup, store_compaction, store_rewrite, store_verify},
};

/// Rows that could not be healed are tried again after this: it reads a whole backup each time.
const HEAL_AGAIN_AFTER: Duration = Duration::from_hours(1);

/// Kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Chore {
    Backup,
    Compaction,
    Rewrite,
    Rebuild,
    Verification,
}

/// The thread that does it, and what came of it. Clones share both.
#[derive(Clone)]
pub(crate) struct Upkeep {
    thread: Arc<dyn Blocking>,
    last: Arc<Mutex<BTreeMap<Chore, Done>>>,
}

/// What came of a chore.
#[derive(Debug, Clone)]
struct Done {
    ended: WallTime,
    result: Result<Value, String>,
}

/// When the regular chores are next due; never, where the operator wants none.
struct Plan {
    backup: Option<Duration>,
    verification: Option<Duration>,
    next_backup: Instant,
    next_verification: Instant,
    heal_from: Instant,
}

// === impl Chore ===

impl Chore {
    const fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Compaction => "compaction",
            Self::Rewrite => "rewrite",
            Self::Rebuild => "rebuild",
            Self::Verification => "verification",
        }
    }
}

// === impl Upkeep ===

impl Upkeep {
    pub(crate) fn new(thread: Arc<dyn Blocking>) -> Self {
        Self {
            thread,
            last: Arc::default(),
        }
    }

    /// Does a chore, and keeps what came of it. Dropping the future does not stop the work.
    pub(crate) async fn work(
        &self,
        platform: &Platform,
        chore: Chore,
        work: impl FnOnce(&Store) -> anyhow::Result<Value> + Send + 'static,
    ) -> anyhow::Result<Value> {
        let store = platform.store().clone();
        let done = self.thread.call(move || work(&store)).await;
        let result = done.with_context(|| format!("the {} panicked", chore.name()));
        let result = result.and_then(|result| result);
        match &result {
            Ok(found) => tracing::info!(chore = chore.name(), %found, "upkeep"),
            Err(why) => tracing::error!(chore = chore.name(), why = %format!("{why:#}"), "upkeep"),
        }
        let kept = result.as_ref().map_err(|why| format!("{why:#}"));
        let done = Done {
            ended: platform.ports().clock.wall(),
            result: kept.cloned(),
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.insert(chore, done);
        result
    }

    /// What came of each kind of work the last time, since the start.
    pub(crate) fn view(&self) -> Value {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = last.iter().map(|(chore, done)| {
            let at = done.ended.to_string();
            let view = match &done.result {
                Ok(found) => json!({ "at": at, "ok": true, "found": found }),
                Err(why) => json!({ "at": at, "ok": false, "why": why }),
            };
            (chore.name().to_owned(), view)
        });
        Value::Object(entries.collect())
    }
}

impl fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upkeep").finish_non_exhaustive()
    }
}

// === impl Plan ===

impl Plan {
    fn of(platform: &Platform) -> Self {
        let settings = &platform.config().store;
        let minutes = |minutes: u64| (minutes > 0).then(|| Duration::from_mins(minutes));
        let (backup, verification) = (
            minutes(settings.backup.interval_minutes.into()),
            minutes(u64::from(settings.verify_hours) * 60),
        );
        let now = Instant::now();
        Self {
            backup,
            verification,
            next_backup: now + backup.unwrap_or_default(),
            next_verification: now + verification.unwrap_or_default(),
            heal_from: now,
        }
    }
}

// === free functions ===

/// Keeps the store until `end`.
pub(crate) async fn run(platform: Platform, upkeep: Upkeep, end: CancellationToken) {
    let mut plan = Plan::of(&platform);
    loop {
        tokio::select! {
            biased;
            () = end.cancelled() => return,
            why = damage_met(platform.store(), plan.heal_from) => {
                let healed = upkeep.work(&platform, Chore::Rebuild, move |store| rebuild(store, &why)).await;
                if healed.is_err() {
                    plan.heal_from = Instant::now() + HEAL_AGAIN_AFTER;
                }
            }
            () = sleep_until(plan.next_backup), if plan.backup.is_some() => {
                back_up(&platform, &upkeep).await;
                plan.next_backup = Instant::now() + plan.backup.unwrap_or_default();
            }
            () = sleep_until(plan.next_verification), if plan.verification.is_some() => {
                // What went wrong is in the log and in the last results.
                drop(upkeep.work(&platform, Chore::Verification, verify_and_heal).await);
                plan.next_verification = Instant::now() + plan.verification.unwrap_or_default();
            }
        }
    }
}

async fn damage_met(store: &Store, from: Instant) -> String {
    sleep_until(from).await;
    store.damage_met().await
}

/// A backup, and what only a backup makes possible: it says which rows the log may lose, and how large they are.
async fn back_up(platform: &Platform, upkeep: &Upkeep) {
    let to = backups::next_path(platform);
    let (folder, kept) = (
        backups::folder(platform.config()),
        platform.config().store.backup.kept as usize,
    );
    let made = upkeep.work(platform, Chore::Backup, move |store| {
        let report = backups::make_regular(store, &to, &folder, kept)?;
        Ok(store_backup(&report))
    });
    if made.await.is_err() {
        return;
    }
    let now = platform.ports().clock.policy();
    let compacted = upkeep.work(platform, Chore::Compaction, move |store| {
        compact(store, now)
    });
    if compacted.await.is_ok() && platform.store().rewrite_is_due() {
        // As above.
        drop(upkeep.work(platform, Chore::Rewrite, rewrite).await);
    }
}

/// Compacts the whole log.
pub(crate) fn compact(store: &Store, now: PolicyTime) -> anyhow::Result<Value> {
    Ok(store_compaction(&store.compact(now)?))
}

/// Writes all rows into a fresh file.
pub(crate) fn rewrite(store: &Store) -> anyhow::Result<Value> {
    Ok(store_rewrite(&store.rewrite_rows()?))
}

/// Makes all rows anew from backup and log.
pub(crate) fn rebuild(store: &Store, because: &str) -> anyhow::Result<Value> {
    Ok(store_rewrite(&store.rebuild_rows(Some(because))?))
}

/// Verifies, and heals what can be healed.
fn verify_and_heal(store: &Store) -> anyhow::Result<Value> {
    let report = store.verify();
    let mut view = store_verify(&report);
    if !report.is_clean() {
        tracing::error!(problems = report.problems_count, first = ?report.problems.first(), "the store is damaged");
        let healed = store.heal(&report).context("it could not be healed")?;
        view["healed"] = healed.as_ref().map_or(Value::Null, store_rewrite);
    }
    Ok(view)
}

#[cfg(test)]
mod tests {
    use inboxgrove_store::{Keys, MemDisk};

    use super::*;
    use crate::backups::tests::Ones;

    #[test]
    fn what_compaction_and_rewrite_found_can_be_read() {
        let (store, _) =
            Store::in_memory(MemDisk::new(), Keys::from_bytes([7; 32]), Arc::new(Ones))
                .expect("opens");
        let compacted = compact(&store, PolicyTime::default()).expect("compacted");
        assert_eq!(compacted["all"], true);
        let rewritten = rewrite(&store).expect("rewritten");
        assert!(rewritten["bytes_after"].is_u64(), "{rewritten}");
        let rebuilt = rebuild(&store, "a test").expect("rebuilt");
        assert!(rebuilt["moved_aside"].is_string(), "{rebuilt}");
    }

    #[test]
    fn a_verification_heals_a_damaged_row() {
        let disk = MemDisk::new();
        let (store, _) = Store::in_memory(disk.clone(), Keys::from_bytes([7; 32]), Arc::new(Ones))
            .expect("opens");
        // The row that says the format is there from the beginning.
        let key = disk.row_keys().into_iter().next().expect("a row");
        let last = disk.row_len(&key).expect("it has a value") - 1;
        assert!(disk.flip_row(&key, last));
        let found = verify_and_heal(&store).expect("healed");
        assert_eq!(found["good"], false);
        assert!(found["healed"].is_object(), "{found}");
        assert!(store.verify().is_clean());
    }
}
