//! The house of the daemon: its disk, its front door, and whichever run of it is up.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use inboxgrove_actors::{Parts, Platform};
use inboxgrove_config::Config;
use inboxgrove_model::PolicyTime;
use inboxgrove_sim::rng::SeededRng;
use inboxgrove_store::{
    Fault, Keys, MemDisk, OpenReport, Options, PolicyMark, RewriteError, Stop, Store,
};
use tokio::task::AbortHandle;

use super::{
    attic::Attic,
    classes::{FaultClass, Struck},
    machine::{FrontDoor, Machine, Outside},
    weather::{Nested, Rot},
    wire::Wire,
};

/// A start that needs longer than this of simulated time hangs.
const START_WAIT: Duration = Duration::from_mins(10);
/// Rows that could not be healed are tried again after this.
const HEAL_AGAIN: Duration = Duration::from_mins(1);
/// A log segment: small enough that a day has several, and compaction something to do.
const SEGMENT_BYTES: u64 = 256 << 10;

/// A daemon that may be up or down; clones are the same one. Callers ask for its platform whenever they call.
#[derive(Clone, Default)]
pub struct Daemon {
    up: Arc<Mutex<Option<Platform>>>,
}

/// What the daemon lives on and in.
pub struct House {
    daemon: Daemon,
    disk: MemDisk,
    attic: Attic,
    config: Arc<Config>,
    outside: Outside,
    wire: Wire,
    door: FrontDoor,
    address: SocketAddr,
    rng: SeededRng,
    machine: Option<Machine>,
    starts: u32,
    rotten: Option<Rotten>,
    healer: Option<AbortHandle>,
    /// Why rows could not be healed, but for the disk.
    unhealed: Arc<Mutex<Option<String>>>,
    tally: Tally,
}

/// What has rotted and was not mended yet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rotten {
    /// Some row: the rows are made anew from backup and log.
    Row,
    /// A byte of a file: it is put back.
    File { name: String, offset: usize },
    /// The newest backup: it is thrown away.
    Backup,
}

/// What befell the house.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Starts that came to their end.
    pub starts: u32,
    /// Starts that an accident cut off.
    pub failed_starts: u32,
    /// Runs that ended by accident.
    pub accidents: u32,
    /// Frames that recoveries brought back into the rows.
    pub replayed: u64,
    /// Bytes of torn tails that were cut.
    pub torn_bytes: u64,
    /// Backups that were taken.
    pub backups: u32,
    /// Times that the rows were rebuilt from a backup, and the log since.
    pub rebuilt: u32,
    /// Bytes that compactions freed.
    pub freed_bytes: u64,
    /// How often each class of faults has struck.
    pub struck: Struck,
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
        wire: Wire,
        address: SocketAddr,
        rng: SeededRng,
    ) -> anyhow::Result<Self> {
        let door = FrontDoor::open(&*outside.net, address)
            .await
            .context("the front door")?;
        let disk = MemDisk::new();
        disk.watch_commits();
        Ok(Self {
            daemon: Daemon::default(),
            disk,
            attic: Attic::default(),
            config: Arc::new(config),
            outside,
            wire,
            door,
            address,
            rng,
            machine: None,
            starts: 0,
            rotten: None,
            healer: None,
            unhealed: Arc::default(),
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
        let mut tally = self.tally.clone();
        for (class, faults) in [
            (FaultClass::NoSpace, [Fault::NoSpace, Fault::NoSpace]),
            (FaultClass::WriteError, [Fault::Write, Fault::Apply]),
            (FaultClass::SyncError, [Fault::Sync, Fault::Flush]),
            (
                FaultClass::TornWrite,
                [Fault::ShortWrite, Fault::ShortWrite],
            ),
        ] {
            let [one, other] = faults.map(|fault| self.disk.struck(fault));
            let both = if faults[0] == faults[1] {
                one
            } else {
                one + other
            };
            *tally.struck.entry(class).or_default() += both;
        }
        tally
    }

    /// A class of faults has struck.
    pub fn struck(&mut self, class: FaultClass) {
        *self.tally.struck.entry(class).or_default() += 1;
    }

    /// Whether something rots that an operator has not mended yet.
    pub fn is_rotten(&self) -> bool {
        self.rotten.is_some()
    }

    /// Starts the daemon in calm.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.try_start().await
    }

    /// Starts the daemon; these accidents end one start after the other, and then it starts once more.
    pub async fn start_through(&mut self, nested: Nested) -> anyhow::Result<()> {
        for (in_writes, stop) in nested {
            self.disk.stop_in(in_writes, stop);
            // One that is quicker than the accident meets it at one of its first commits.
            if self.started_or_fallen().await? {
                return Ok(());
            }
        }
        // Trouble that waited for a write may have met one of the start's.
        if self.disk.awaits_trouble() && self.started_or_fallen().await? {
            return Ok(());
        }
        self.try_start().await
    }

    /// Whether a start came to its end; else an accident has cut it off.
    async fn started_or_fallen(&mut self) -> anyhow::Result<bool> {
        let Err(why) = self.try_start().await else {
            return Ok(true);
        };
        if !is_of_the_disk(&format!("{why:#}")) {
            return Err(why);
        }
        self.tally.failed_starts += 1;
        self.struck(FaultClass::KillInStart);
        self.fall(Stop::Kill { rows: true }).await;
        Ok(false)
    }

    async fn try_start(&mut self) -> anyhow::Result<()> {
        let unhealed = self.unhealed.lock();
        let unhealed = unhealed.unwrap_or_else(PoisonError::into_inner).take();
        ensure!(unhealed.is_none(), "rows were not healed: {unhealed:?}");
        self.starts += 1;
        let rng = self.rng.stream(&format!("run/{}", self.starts));
        let (store, report) = self.open_or_mend(&rng).context("the store does not open")?;
        self.tally.replayed += report.replayed;
        if report.torn_bytes > 0 {
            self.tally.torn_bytes += report.torn_bytes;
            self.struck(FaultClass::TornWrite);
        }
        if report.rebuilt_from.is_some() {
            self.tally.rebuilt += 1;
        }
        let found = store.verify();
        ensure!(
            found.is_clean() || self.is_rotten(),
            "after recovery: {:?}",
            found.problems
        );
        let mark = store
            .get::<PolicyMark>(&())
            .ok()
            .flatten()
            .map_or(PolicyTime::default(), |mark| mark.at);
        let machine = Machine::new(self.outside.clone(), mark);
        self.machine = Some(machine.clone());
        self.healer = Some(heal(store.clone(), Arc::clone(&self.unhealed)));
        let parts = Parts {
            ports: machine.ports(rng),
            store,
            config: Arc::clone(&self.config),
            smtp: Some(self.door.lead_to(&machine, self.address)),
            smtp_tls: None,
            key_maker: Arc::clone(&self.outside.key_maker),
        };
        let starting = tokio::time::timeout(START_WAIT, Platform::start(parts));
        match starting.await {
            Ok(started) => *self.daemon.lock() = Some(started.context("the tree does not start")?),
            Err(_) => bail!("the tree does not start in {START_WAIT:?}"),
        }
        self.tally.starts += 1;
        Ok(())
    }

    /// Opens the store; when it is refused for what has rotted, that is mended first.
    fn open_or_mend(&mut self, rng: &SeededRng) -> anyhow::Result<(Store, OpenReport)> {
        match self.open(rng) {
            Err(why) if self.is_rotten() && format!("{why:#}").contains("damaged") => {
                self.mend();
                self.open(rng)
            }
            opened => opened,
        }
    }

    /// Opens the store as a start does.
    fn open(&self, rng: &SeededRng) -> anyhow::Result<(Store, OpenReport)> {
        let mut options = Options::new("", Keys::from_bytes([7; 32]));
        options.segment_bytes = SEGMENT_BYTES;
        Ok(Store::in_memory_with(
            &self.disk,
            &options,
            Arc::new(rng.stream("store")),
        )?)
    }

    /// Opens the store of a house that nobody lives in, to look at it.
    pub fn look(&self) -> anyhow::Result<Store> {
        ensure!(self.daemon.platform().is_none(), "somebody lives here");
        Ok(self.open(&self.rng.stream("look"))?.0)
    }

    /// The daemon ends by accident.
    pub async fn accident(&mut self, stop: Stop) {
        self.tally.accidents += 1;
        self.struck(match stop {
            Stop::Power { .. } => FaultClass::PowerCut,
            Stop::Kill { .. } => FaultClass::Kill,
        });
        self.fall(stop).await;
    }

    async fn fall(&mut self, stop: Stop) {
        self.wire.run_ends();
        if let Some(machine) = self.machine.take() {
            machine.lose_power();
        }
        self.door.lead_nowhere();
        self.healer.take().inspect(AbortHandle::abort);
        self.disk.stop(stop);
        // A torn tail cannot be told from rot in the last frames when both come at once: that is two faults.
        if matches!(self.rotten, Some(Rotten::File { .. })) {
            self.mend();
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
        self.healer.take().inspect(AbortHandle::abort);
        self.wire.run_ends();
        self.door.lead_nowhere();
        if let Some(machine) = self.machine.take() {
            machine.lose_power();
        }
    }

    /// Takes the store to the oldest format and to the newest again, perhaps through an accident.
    pub fn migrate(&mut self, cut: Option<u64>) -> anyhow::Result<()> {
        ensure!(self.daemon.platform().is_none(), "somebody lives here");
        if let Some(in_writes) = cut {
            self.disk.stop_in(in_writes, Stop::Power { kept: 0 });
        }
        if let Err(why) = self.there_and_back() {
            ensure!(is_of_the_disk(&format!("{why:#}")), "a migration: {why:#}");
        }
        // A cut that has not met its write is taken back.
        self.disk.stop(Stop::Kill { rows: true });
        self.there_and_back()?;
        self.struck(FaultClass::Format);
        Ok(())
    }

    fn there_and_back(&self) -> anyhow::Result<()> {
        for format in [
            inboxgrove_store::FORMAT_OLDEST,
            inboxgrove_store::FORMAT_NEWEST,
        ] {
            let (store, _) = self.open(&self.rng.stream("migrate"))?;
            store.migrate(format)?;
        }
        Ok(())
    }

    /// Takes a backup, and compacts the log. Nobody does so with something rotten about.
    pub fn back_up(&mut self) -> anyhow::Result<()> {
        let Some(platform) = self.daemon.platform().filter(|_| !self.is_rotten()) else {
            return Ok(());
        };
        let store = platform.store();
        let (now, place) = (platform.ports().clock.policy(), self.attic.next()?);
        let done = store.backup(&place).map_err(anyhow::Error::from);
        if done.is_err() {
            // What is left of it is no backup: the store does not know it, and would find nothing that rots in it.
            Attic::throw_away(&place);
        }
        let done = done.and_then(|_| Ok(store.compact(now)?));
        match done {
            Ok(compacted) => {
                self.tally.backups += 1;
                self.tally.freed_bytes += compacted.freed_bytes;
                Ok(())
            }
            // The disk may meet its fault here as anywhere.
            Err(why) if is_of_the_disk(&format!("{why:#}")) => Ok(()),
            Err(why) => Err(why.context("a backup")),
        }
    }

    /// A bit rots. It must be found by whoever looks for it; whether there was one to rot.
    pub fn rot(&mut self, rot: Rot) -> anyhow::Result<bool> {
        let Some(platform) = self.daemon.platform().filter(|_| !self.is_rotten()) else {
            return Ok(false);
        };
        self.rotten = match rot {
            Rot::Row(which, place) => self.rot_row(which, place),
            Rot::Log(which, place) => self.rot_log(which, place),
            Rot::Backup(which, place) => self.attic.rot(which, place)?.then_some(Rotten::Backup),
        };
        let Some(rotten) = &self.rotten else {
            return Ok(false);
        };
        ensure!(
            !platform.store().verify().is_clean(),
            "{rotten:?} rots, and nobody finds it"
        );
        self.struck(FaultClass::BitFlip);
        Ok(true)
    }

    fn rot_row(&self, which: u64, place: u64) -> Option<Rotten> {
        let keys = self.disk.row_keys();
        let key = keys.get(usize::try_from(which).ok()? % keys.len().max(1))?;
        let len = self.disk.row_len(key)?;
        let place = usize::try_from(place).ok()? % len.max(1);
        self.disk.flip_row(key, place).then_some(Rotten::Row)
    }

    fn rot_log(&self, which: u64, place: u64) -> Option<Rotten> {
        let mut names = self.disk.names();
        names.retain(|name| {
            Path::new(name)
                .extension()
                .is_some_and(|kind| kind == "log")
        });
        let name = names.get(usize::try_from(which).ok()? % names.len().max(1))?;
        // Not in the reserve, which is written over: what rots is put back when it is mended.
        let bytes = self.disk.read(name)?;
        let len = bytes.iter().rposition(|byte| *byte != 0)? + 1;
        let offset = usize::try_from(place).ok()? % len.max(1);
        let name = name.clone();
        self.disk
            .flip(&name, offset)
            .then_some(Rotten::File { name, offset })
    }

    /// An operator mends what rots. Of rows only while the daemon is down.
    pub fn mend(&mut self) {
        match self.rotten.take() {
            Some(Rotten::Row) => self.disk.lose_rows(),
            // Compaction may have written the file anew: then there is nothing to put back.
            Some(Rotten::File { name, offset }) => drop(self.disk.flip(&name, offset)),
            Some(Rotten::Backup) => self.attic.throw_newest_away(),
            None => {}
        }
    }
}

/// What the daemon's upkeep does: when somebody meets a row that is damaged all rows are rebuilt.
fn heal(store: Store, unhealed: Arc<Mutex<Option<String>>>) -> AbortHandle {
    let healing = async move {
        loop {
            let met = store.damage_met().await;
            if let Err(why) = store.rebuild_rows(Some(&met)) {
                let excused = matches!(why, RewriteError::NoRoom { .. } | RewriteError::Failed);
                let why = format!("{met}: {:#}", anyhow::Error::from(why));
                if !excused && !is_of_the_disk(&why) {
                    *unhealed.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                }
                tokio::time::sleep(HEAL_AGAIN).await;
            }
        }
    };
    tokio::spawn(healing).abort_handle()
}

/// Whether a failure is one that a disk can cause. Whoever meets it says so first: the store, or an actor that reads.
pub fn is_of_the_disk(why: &str) -> bool {
    [
        "the store failed",
        "the store has failed",
        "lost power",
        "EIO",
        "(os error 5)",
        "(os error 28)",
    ]
    .iter()
    .any(|cause| why.contains(cause))
}
