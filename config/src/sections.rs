//! The sections, one file each; every field's comment is its line in the documentation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod accounts;
pub mod api;
pub mod health;
pub mod inbound;
pub mod outbound;
pub mod plan;
pub mod server;
pub mod store;
pub mod warmup;

/// All settings. Every one has a default: an empty file is a working configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The daemon itself.
    pub server: server::Server,
    /// The HTTP API and the admin socket.
    pub api: api::Api,
    /// Mail that comes in.
    pub inbound: inbound::Inbound,
    /// Mail that goes out.
    pub outbound: outbound::Outbound,
    /// Questions to the DNS.
    pub dns: server::Dns,
    /// What the daemon may talk to.
    pub network: server::Network,
    /// What is kept, and how.
    pub store: store::Store,
    /// How inboxes are warmed up.
    pub warmup: warmup::Warmup,
    /// How evidence is judged.
    pub health: health::Health,
    /// The plans that tenants can be on; giving any replaces all the default ones.
    pub plan: Vec<plan::Plan>,
    /// What the system tells its operator.
    pub notifier: server::Notifier,
    /// What it writes about itself.
    pub log: server::Log,
    /// Who may log in, and how.
    pub accounts: accounts::Accounts,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: server::Server::default(),
            api: api::Api::default(),
            inbound: inbound::Inbound::default(),
            outbound: outbound::Outbound::default(),
            dns: server::Dns::default(),
            network: server::Network::default(),
            store: store::Store::default(),
            warmup: warmup::Warmup::default(),
            health: health::Health::default(),
            plan: plan::defaults(),
            notifier: server::Notifier::default(),
            log: server::Log::default(),
            accounts: accounts::Accounts::default(),
        }
    }
}

impl Config {
    /// The plan of a key.
    pub fn plan_of(&self, key: &str) -> Option<&plan::Plan> {
        self.plan.iter().find(|plan| plan.key == key)
    }

    /// The name by which the inbound listener greets.
    pub fn inbound_hostname(&self) -> &str {
        if self.inbound.hostname.is_empty() {
            &self.server.hostname
        } else {
            &self.inbound.hostname
        }
    }

    /// Where the admin socket is.
    pub fn admin_socket(&self) -> std::path::PathBuf {
        if self.api.admin_socket.as_os_str().is_empty() {
            self.server.data_dir.join("admin.sock")
        } else {
            self.api.admin_socket.clone()
        }
    }

    /// Where the installation's key is kept when it is not given as a secret.
    pub fn key_file(&self) -> std::path::PathBuf {
        if self.store.key_file.as_os_str().is_empty() {
            self.server.data_dir.join("installation.key")
        } else {
            self.store.key_file.clone()
        }
    }

    /// Where backups go.
    pub fn backup_directory(&self) -> std::path::PathBuf {
        if self.store.backup.directory.as_os_str().is_empty() {
            self.server.data_dir.join("backups")
        } else {
            self.store.backup.directory.clone()
        }
    }
}
