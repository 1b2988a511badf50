//! `inboxgrove store`: over the admin socket when the daemon runs, on the files when it does not.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use inboxgrove_config::Config;
use inboxgrove_model::PolicyTime;
use inboxgrove_model::ports::{Clock, Rng};
use inboxgrove_store::{MigrateReport, SeedPlan, Store, migrate_down, migrate_up, restore};
use serde_json::{Value, json};

use super::{
    Process,
    admin::{self, Ask},
    print, text,
};
use crate::{
    http::admin_views::{store_backup, store_opened, store_stats, store_verify},
    ports::{OsRng, SystemClock},
    serve::{admin_path, installation_keys, make_private, store_dir, store_options},
    upkeep,
};

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Back it up into a new directory and verify the backup
    Backup {
        /// Where to; the daemon reads and writes it
        to: PathBuf,
    },
    /// Check every frame and row, and compare with the newest backup
    Verify,
    /// Take out of the log what nobody needs any more; a running daemon does so after each backup
    Compact,
    /// Write all rows into a fresh file, because the old one only grows; a running daemon does so when it is due
    Rewrite,
    /// Make all rows anew from the newest backup and the log since, because they are damaged; the old ones are put aside
    Rebuild,
    /// Show its figures, and what the last start found
    Stats,
    /// Restore a backup into an empty data directory
    Restore {
        /// The backup
        from: PathBuf,
    },
    /// Fill it with synthetic tenants, for tests and measurements
    Seed {
        /// Tenants, each with one domain
        #[arg(long, default_value_t = 10)]
        tenants: u32,
        /// Inboxes of each
        #[arg(long, default_value_t = 10)]
        inboxes: u32,
        /// Received messages of each inbox
        #[arg(long, default_value_t = 10)]
        messages: u32,
        /// Hours over which the inboxes' next warmup turns are spread; none is due when left out
        #[arg(long)]
        wake_hours: Option<u32>,
    },
    /// Rewrite its rows in the newest format, or in one that an older daemon reads
    Migrate {
        /// Which way
        #[arg(value_enum)]
        way: Way,
        /// The format to go down to
        #[arg(long, required_if_eq("way", "down"))]
        format: Option<u8>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// To the newest format
    Up,
    /// To an older format
    Down,
}

// === free functions ===

pub(crate) fn run(command: StoreCommand, process: &Process) -> anyhow::Result<ExitCode> {
    let config = process.config()?;
    let socket = admin_path(&config);
    let runs = std::os::unix::net::UnixStream::connect(&socket).is_ok();
    match (over_socket(&command), runs) {
        (Some(ask), true) => {
            let (status, answer) = admin::ask(&socket, ask)?;
            admin::show(status, &answer, false)
        }
        (None, true) => anyhow::bail!("stop the daemon first: this works on its files"),
        (_, false) => on_files(command, &config),
    }
}

/// What the running daemon does itself.
fn over_socket(command: &StoreCommand) -> Option<Ask> {
    match command {
        StoreCommand::Backup { to } => {
            let to = std::path::absolute(to).unwrap_or_else(|_| to.clone());
            Some(Ask::post("/admin/store/backup", json!({ "to": to })))
        }
        StoreCommand::Verify => Some(Ask::get("/admin/store/verify")),
        StoreCommand::Compact => Some(Ask::post("/admin/store/compact", json!({}))),
        StoreCommand::Rewrite => Some(Ask::post("/admin/store/rewrite", json!({}))),
        StoreCommand::Rebuild => Some(Ask::post("/admin/store/rebuild", json!({}))),
        StoreCommand::Stats => Some(Ask::get("/admin/store/stats")),
        _ => None,
    }
}

fn on_files(command: StoreCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let rng: Arc<dyn Rng> = Arc::new(OsRng::default());
    let open = || -> anyhow::Result<Store> {
        let dir = store_dir(config);
        anyhow::ensure!(dir.exists(), "there is no store at {}", dir.display());
        let keys = installation_keys(config, &*rng)?;
        Ok(Store::open(store_options(config, keys), Arc::clone(&rng))?.0)
    };
    let (report, good) = match command {
        StoreCommand::Backup { to } => (store_backup(&open()?.backup(&to)?), true),
        StoreCommand::Compact => (upkeep::compact(&open()?, policy_now())?, true),
        StoreCommand::Rewrite => (upkeep::rewrite(&open()?)?, true),
        StoreCommand::Rebuild => {
            let because = "an operator asked for it";
            (upkeep::rebuild(&open()?, because)?, true)
        }
        StoreCommand::Stats => {
            let store = open()?;
            let mut view = store_stats(&store.stats());
            view["opened"] = store_opened(&store);
            (view, true)
        }
        StoreCommand::Verify => {
            let report = open()?.verify();
            (store_verify(&report), report.problems_count == 0)
        }
        StoreCommand::Restore { from } => (restored(&from, config, &rng)?, true),
        StoreCommand::Seed {
            tenants,
            inboxes,
            messages,
            wake_hours,
        } => (
            seeded(config, &rng, (tenants, inboxes, messages), wake_hours)?,
            true,
        ),
        StoreCommand::Migrate { way, format } => (migrated(config, &rng, way, format)?, true),
    };
    print(&text::render(&report))?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn restored(from: &std::path::Path, config: &Config, rng: &Arc<dyn Rng>) -> anyhow::Result<Value> {
    make_private(&config.server.data_dir)?;
    let keys = installation_keys(config, &**rng)?;
    let (_, report) = restore(from, store_options(config, keys), Arc::clone(rng))?;
    Ok(json!({ "position": report.position, "replayed": report.replayed }))
}

fn seeded(
    config: &Config,
    rng: &Arc<dyn Rng>,
    (tenants, inboxes, messages): (u32, u32, u32),
    wake_hours: Option<u32>,
) -> anyhow::Result<Value> {
    make_private(&config.server.data_dir)?;
    let keys = installation_keys(config, &**rng)?;
    let (store, _) = Store::open(store_options(config, keys), Arc::clone(rng))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let plan = runtime.block_on(async {
        SeedPlan {
            tenants,
            inboxes_of_tenant: inboxes,
            messages_of_inbox: messages,
            body_bytes: 4096,
            at: policy_now(),
            wake_over: wake_hours.map(|hours| Duration::from_hours(hours.into())),
        }
    });
    let made = runtime.block_on(store.seed(&plan, &**rng))?;
    Ok(json!({
        "tenants": made.tenants.len(),
        "inboxes": made.inboxes.len(),
        "messages": made.messages.len(),
    }))
}

/// Policy time where no daemon runs: the wall's.
fn policy_now() -> PolicyTime {
    SystemClock::new(PolicyTime::default()).policy()
}

fn migrated(
    config: &Config,
    rng: &Arc<dyn Rng>,
    way: Way,
    format: Option<u8>,
) -> anyhow::Result<Value> {
    let keys = installation_keys(config, &**rng)?;
    let (options, rng) = (store_options(config, keys), Arc::clone(rng));
    let report: MigrateReport = match way {
        Way::Up => migrate_up(options, rng)?,
        Way::Down => {
            let format = format.context("--format is needed to go down")?;
            migrate_down(options, rng, format)?
        }
    };
    Ok(json!({ "from": report.from, "to": report.to, "rewritten": report.rewritten }))
}
