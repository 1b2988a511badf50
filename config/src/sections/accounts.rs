//! Who may log in, and how: `[accounts]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may log in, and how.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Accounts {
    /// Whether strangers may open an account.
    pub registration: Registration,
    /// The plan of new accounts: the key of a `[[plan]]`.
    #[schemars(length(min = 1, max = 40))]
    pub default_plan: String,
    /// Life of an access token.
    #[schemars(range(min = 1, max = 1440))]
    pub access_token_minutes: u32,
    /// Life of a refresh token; each use replaces it.
    #[schemars(range(min = 1, max = 365))]
    pub refresh_token_days: u32,
    /// Shortest password.
    #[schemars(range(min = 8, max = 128))]
    pub password_length_min: u32,
    /// Cost of a password's hash.
    pub argon2: Argon2,
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            registration: Registration::default(),
            default_plan: "trial".to_owned(),
            access_token_minutes: 15,
            refresh_token_days: 7,
            password_length_min: 8,
            argon2: Argon2::default(),
        }
    }
}

/// Whether strangers may open an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    /// Anybody may register.
    #[default]
    Open,
    /// Only the operator makes accounts.
    Closed,
}

/// Cost of a password's hash (argon2id).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Argon2 {
    /// Memory in KiB.
    #[schemars(range(min = 8, max = 4_194_304))]
    pub memory_kib: u32,
    /// Passes.
    #[schemars(range(min = 1, max = 100))]
    pub iterations: u32,
    /// Lanes.
    #[schemars(range(min = 1, max = 64))]
    pub parallelism: u32,
}

impl Default for Argon2 {
    fn default() -> Self {
        Self {
            memory_kib: 19_456,
            iterations: 2,
            parallelism: 1,
        }
    }
}
