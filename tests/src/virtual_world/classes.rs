//! The classes of faults that must be covered, F1 to F14, and which of them a seed meets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use inboxgrove_model::ports::Rng;

/// A class of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultClass {
    /// The process is killed, anywhere.
    Kill,
    /// It is killed, or its power fails, while it starts and recovers.
    KillInStart,
    /// The power fails.
    PowerCut,
    /// A write is torn by an accident, or is short.
    TornWrite,
    /// The disk is full, or nearly.
    NoSpace,
    /// A write fails.
    WriteError,
    /// A sync fails.
    SyncError,
    /// Bits rot in rows, log and backups.
    BitFlip,
    /// The wall clock is set by a day.
    ClockStep,
    /// DNS fails, hangs, or is forged.
    Dns,
    /// Peers refuse, reset, stall, are far away, or send a byte at a time.
    Peer,
    /// A vendor puts off, breaks, hangs, or does what it does not confirm.
    Vendor,
    /// Actors fail, hang, or are flooded.
    Actor,
    /// The store goes to another format and back.
    Format,
}

/// How often each class has struck.
pub type Struck = BTreeMap<FaultClass, u64>;

/// Share of the classes that a seed meets.
const SHARE: f64 = 0.65;

// === impl FaultClass ===

impl FaultClass {
    /// All of them, F1 first.
    pub const ALL: [Self; 14] = [
        Self::Kill,
        Self::KillInStart,
        Self::PowerCut,
        Self::TornWrite,
        Self::NoSpace,
        Self::WriteError,
        Self::SyncError,
        Self::BitFlip,
        Self::ClockStep,
        Self::Dns,
        Self::Peer,
        Self::Vendor,
        Self::Actor,
        Self::Format,
    ];

    /// Which of them a seed meets. Always takes as many numbers.
    pub fn draw(chance: &dyn Rng) -> BTreeSet<Self> {
        let met = Self::ALL.map(|class| (class, chance.unit() < SHARE));
        let met = met.into_iter().filter(|(_, met)| *met);
        met.map(|(class, _)| class).collect()
    }
}

impl fmt::Display for FaultClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = Self::ALL.iter().position(|class| class == self);
        write!(f, "F{} {self:?}", n.map_or(0, |n| n + 1))
    }
}
