//! The rows as they will be when the group is applied.

use std::{collections::BTreeMap, sync::Arc};

use crate::engine::{Engine, EngineError, Write};

/// Writes of a group over the rows beneath.
pub(crate) struct Overlay {
    engine: Arc<dyn Engine>,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Overlay {
    pub(crate) fn new(engine: Arc<dyn Engine>) -> Self {
        Self {
            engine,
            writes: BTreeMap::new(),
        }
    }

    /// The value at a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.engine.get(key),
        }
    }

    /// Adds the writes of one batch.
    pub(crate) fn extend(&mut self, writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
        self.writes.extend(writes);
    }

    /// Takes all writes out, in the order of keys.
    pub(crate) fn take_writes(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.writes).into_iter().collect()
    }
}
