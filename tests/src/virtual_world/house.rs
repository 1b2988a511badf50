//! The house of the daemon: its disk, its front door, and whichever run of it is up.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use inboxgrove_actors::{Parts, Platform};
use inboxgrove_config::Config;
use inboxgrove_model::ports::Rng;
use inboxgrove_sim::rng::SeededRng;
use inboxgrove_store::{Keys, MemDisk, OpenReport, Options, Store};

use super::machine::{FrontDoor, Machine, Outside};

/// Share of starts during which the power fails again.
const CUT_AGAIN: f64 = 0.3;
/// A start that needs longer than this of simulated time hangs.
const START_WAIT: Duration = Duration::from_mins(10);

/// A daemon that may be up or down; clones are the same one. Callers ask for its platform whenever they call.
#[derive(Clone, Default)]
pub struct Daemon {
    up: Arc<Mutex<Option<Platform>>>,
}

/// What the daemon lives on and in.
pub struct House {
    daemon: Daemon,
    disk: MemDisk,
    config: Arc<Config>,
    outside: Outside,
    door: FrontDoor,
    address: SocketAddr,
    rng: SeededRng,
    machine: Option<Machine>,
    starts: u32,
    tally: Tally,
}

/// How a run of the daemon ends without being asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accident {
    /// The power fails: of each file at most so many unsynced bytes survive.
    PowerCut {
        /// How many.
        kept: usize,
    },
    /// The process dies; what it had written is in the system's cache.
    Killed,
}

/// What befell the house.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Starts that came to their end.
    pub starts: u32,
    /// Starts during which the power failed.
    pub failed_starts: u32,
    /// Runs that ended by accident.
    pub accidents: u32,
    /// Frames that recoveries brought back into the rows.
    pub replayed: u64,
    /// Bytes of torn tails that were cut.
    pub torn_bytes: u64,
}

// === impl Daemon ===

impl Daemon {
    /// The run that is up, if one is.
    pub fn platform(&self) -> Option<Platform> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Platform>> {
        self.up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl House ===

impl House {
    /// A house with an empty disk, its door open and nobody behind it.
    pub async fn build(
        config: Config,
        outside: Outside,
        address: SocketAddr,
        rng: SeededRng,
    ) -> anyhow::Result<Self> {
        let door = FrontDoor::open(&*outside.net, address)
            .await
            .context("the front door")?;
        Ok(Self {
            daemon: Daemon::default(),
            disk: MemDisk::new(),
            config: Arc::new(config),
            outside,
            door,
            address,
            rng,
            machine: None,
            starts: 0,
            tally: Tally::default(),
        })
    }

    /// Who lives here.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Its disk.
    pub fn disk(&self) -> &MemDisk {
        &self.disk
    }

    /// What the operator set.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What befell it so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Starts the daemon in calm.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.try_start().await
    }

    /// Starts the daemon; now and then the power fails meanwhile, and it starts once more.
    pub async fn start_in_trouble(&mut self, chance: &dyn Rng) -> anyhow::Result<()> {
        while chance.unit() < CUT_AGAIN {
            let kept = usize::try_from(chance.below(2_000)).unwrap_or(0);
            self.disk.cut_power_in(chance.below(12), kept);
            if self.try_start().await.is_ok() {
                // It was quicker than the failure, which strikes at one of its first commits.
                return Ok(());
            }
            self.tally.failed_starts += 1;
            self.fall(Accident::PowerCut { kept: 0 }).await;
        }
        self.try_start().await
    }

    async fn try_start(&mut self) -> anyhow::Result<()> {
        self.starts += 1;
        let rng = self.rng.stream(&format!("run/{}", self.starts));
        let machine = Machine::new(self.outside.clone());
        self.machine = Some(machine.clone());
        let (store, report) = self.open(&rng).context("the store does not open")?;
        let found = store.verify();
        ensure!(found.is_clean(), "after recovery: {:?}", found.problems);
        let parts = Parts {
            ports: machine.ports(rng),
            store,
            config: Arc::clone(&self.config),
            smtp: Some(self.door.lead_to(&machine, self.address)),
            smtp_tls: None,
        };
        let starting = tokio::time::timeout(START_WAIT, Platform::start(parts));
        match starting.await {
            Ok(started) => *self.daemon.lock() = Some(started.context("the tree does not start")?),
            Err(_) => bail!("the tree does not start in {START_WAIT:?}"),
        }
        self.tally.starts += 1;
        self.tally.replayed += report.replayed;
        self.tally.torn_bytes += report.torn_bytes;
        Ok(())
    }

    /// Opens the store as a start does.
    fn open(&self, rng: &SeededRng) -> anyhow::Result<(Store, OpenReport)> {
        let keys = Keys::from_bytes([7; 32]);
        Ok(Store::in_memory_with(
            &self.disk,
            &Options::new("", keys),
            Arc::new(rng.stream("store")),
        )?)
    }

    /// Opens the store of a house that nobody lives in, to look at it.
    pub fn look(&self) -> anyhow::Result<Store> {
        ensure!(self.daemon.platform().is_none(), "somebody lives here");
        Ok(self.open(&self.rng.stream("look"))?.0)
    }

    /// The daemon ends by accident.
    pub async fn accident(&mut self, accident: Accident) {
        self.tally.accidents += 1;
        self.fall(accident).await;
    }

    async fn fall(&mut self, accident: Accident) {
        if let Some(machine) = self.machine.take() {
            machine.lose_power();
        }
        self.door.lead_nowhere();
        match accident {
            Accident::PowerCut { kept } => self.disk.crash_torn(kept),
            Accident::Killed => {}
        }
        // What is left of the run can no longer do anything; this takes its tasks apart.
        let remains = self.daemon.lock().take();
        if let Some(remains) = remains {
            remains.drain(Duration::ZERO).await;
        }
    }

    /// The daemon ends as it is asked to.
    pub async fn stop(&mut self, within: Duration) {
        let leaving = self.daemon.lock().take();
        if let Some(leaving) = leaving {
            leaving.drain(within).await;
        }
        self.door.lead_nowhere();
        if let Some(machine) = self.machine.take() {
            machine.lose_power();
        }
    }
}
