//! The engine in use, which is exchanged for another one with the same rows while everybody reads.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::{Alarm, Engine, EngineError, RawRow, Write};

/// The engine in use. Every call goes to one engine from its beginning to its end, so nobody sees a
/// mixture; two calls may meet two engines, which then hold the same rows at the same position.
#[derive(Debug)]
pub(crate) struct CurrentEngine {
    engine: RwLock<Arc<dyn Engine>>,
    /// Handed from one to the next.
    alarm: OnceLock<Alarm>,
}

// === impl CurrentEngine ===

impl CurrentEngine {
    pub(crate) fn new(engine: Arc<dyn Engine>) -> Self {
        Self {
            engine: RwLock::new(engine),
            alarm: OnceLock::new(),
        }
    }

    /// Puts another engine in its place; the one before, which readers may still be in.
    pub(crate) fn exchange(&self, fresh: Arc<dyn Engine>) -> Arc<dyn Engine> {
        if let Some(alarm) = self.alarm.get() {
            fresh.watch(alarm);
        }
        let mut engine = self.engine.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *engine, fresh)
    }

    fn now(&self) -> Arc<dyn Engine> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&engine)
    }
}

impl Engine for CurrentEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.now().get(key)
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<RawRow>, EngineError> {
        self.now().scan(from, to, limit)
    }

    fn apply(&self, writes: &[Write], position: u64) -> Result<(), EngineError> {
        self.now().apply(writes, position)
    }

    fn position(&self) -> Result<Option<u64>, EngineError> {
        self.now().position()
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.now().flush()
    }

    fn watch(&self, alarm: &Alarm) {
        // Whoever uses the engine comes once.
        let alarm = self.alarm.get_or_init(|| alarm.clone());
        self.now().watch(alarm);
    }

    fn disk_bytes(&self) -> u64 {
        self.now().disk_bytes()
    }

    fn check(&self) -> Result<(), EngineError> {
        self.now().check()
    }
}
