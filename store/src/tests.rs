//! Laws of the whole store, over its face: on the disk in memory and on real files.

mod crash;
mod disk;
mod face;
mod fresh_rows;
mod healing;
mod migration;
mod rules;
mod upkeep;

use std::{future::Future, sync::Arc};

use inboxgrove_model::{
    PolicyTime, TenantId,
    budget::{BudgetKey, Take, Window},
    event::{Event, EventKind},
    notice::{Notice, NoticeState},
    ports::Rng,
};

use crate::{
    Batch, CommitError, Committed, Keys, MemDisk, OpenError, OpenReport, Options, Store,
    seal::KEY_LEN, test_rng::CountingRng,
};

const NOW: PolicyTime = PolicyTime::from_millis(1_800_000_000_000);

fn keys() -> Keys {
    Keys::from_bytes([7; KEY_LEN])
}

fn rng() -> Arc<dyn Rng> {
    Arc::new(CountingRng::new(11))
}

/// Small segments, so that everything happens across several of them.
fn options(dir: &std::path::Path) -> Options {
    Options {
        segment_bytes: 8 * 1024,
        free_floor_bytes: 0,
        cache_bytes: 16 << 20,
        ..Options::new(dir, keys())
    }
}

fn open(disk: &MemDisk) -> (Store, OpenReport) {
    try_open(disk).expect("opens")
}

fn try_open(disk: &MemDisk) -> Result<(Store, OpenReport), OpenError> {
    let options = options(std::path::Path::new(""));
    Store::in_memory_with(disk, &options, rng())
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(future)
}

fn commit(store: &Store, batch: Batch) -> Result<Committed, CommitError> {
    wait(store.commit(batch))
}

fn notice(id: u64, text: &str) -> Notice {
    Notice {
        id,
        tenant: None,
        code: "test".to_owned(),
        text: text.to_owned(),
        subject: String::new(),
        at: NOW,
        attempts: 0,
        state: NoticeState::Waiting,
        last_error: String::new(),
    }
}

fn put(id: u64, text: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(&notice(id, text));
    batch
}

fn take(n: u32, cap: u32) -> Take {
    let window = Window {
        index: 1,
        cap,
        ends_at: NOW,
    };
    Take {
        budget: BudgetKey::Global,
        n,
        hour: window,
        day: window,
    }
}

fn event(tenant: Option<TenantId>, verb: &str) -> Event {
    Event {
        at: NOW,
        tenant,
        kind: EventKind::OperatorActed {
            verb: verb.to_owned(),
            subject: String::new(),
            uid: 0,
        },
    }
}
