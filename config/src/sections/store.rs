//! What is kept, and how: `[store]`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::values::Secret;

/// What is kept, and how.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Free space below which nothing new is taken: mail gets 452, writes over HTTP 507.
    #[schemars(range(min = 0, max = 1_099_511_627_776_u64))]
    pub free_floor_bytes: u64,
    /// Memory for the cache of rows.
    #[schemars(range(min = 8_388_608, max = 68_719_476_736_u64))]
    pub cache_bytes: u64,
    /// Size of one file of the log.
    #[schemars(range(min = 1_048_576, max = 1_073_741_824))]
    pub segment_bytes: u64,
    /// How long events are kept; sums of them are kept for longer.
    #[schemars(range(min = 1, max = 3650))]
    pub events_kept_days: u32,
    /// Key that seals what is personal: 64 hexadecimal digits. Best given as a systemd credential. Without it
    /// the key file is used, and made at the first start.
    pub installation_key: Secret,
    /// File of that key; empty means `installation.key` in the data directory.
    #[schemars(extend("format" = "path"))]
    pub key_file: PathBuf,
    /// How often everything is verified and, where it is damaged, healed; 0 for never.
    #[schemars(range(min = 0, max = 8760))]
    pub verify_hours: u32,
    /// Backups.
    pub backup: Backup,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            free_floor_bytes: 512 * 1024 * 1024,
            cache_bytes: 48 * 1024 * 1024,
            segment_bytes: 64 * 1024 * 1024,
            events_kept_days: 90,
            installation_key: Secret::default(),
            key_file: PathBuf::new(),
            verify_hours: 24,
            backup: Backup::default(),
        }
    }
}

/// Backups.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Backup {
    /// How often a backup is made; 0 for never.
    #[schemars(range(min = 0, max = 10_080))]
    pub interval_minutes: u32,
    /// Where backups go; empty means `backups` in the data directory. Better on another disk.
    #[schemars(extend("format" = "path"))]
    pub directory: PathBuf,
    /// How many are kept.
    #[schemars(range(min = 2, max = 1000))]
    pub kept: u32,
}

impl Default for Backup {
    fn default() -> Self {
        Self {
            interval_minutes: 60,
            directory: PathBuf::new(),
            kept: 24,
        }
    }
}
