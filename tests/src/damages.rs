//! The damage laboratory: a store with known content is copied, one damage is planted in one of its files, and the store is
//! opened as the daemon opens it. Then everything that was ever acknowledged is asked for.
//!
//! A damage may be *harmless* (all is there, `verify` is clean), *healed* (rows were rebuilt, all is there) or *detected* (the
//! store refuses to open, `verify` or the reading itself says what is wrong, and where). A wrong answer, a thing that is
//! missing while `verify` is clean, and a panic are none of the three: they fail the trial.
//!
//! `specimen` makes the store and its copies, `plant` damages one file of a copy, `judge` opens it and asks.

use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow};
use inboxgrove_model::ports::Rng;
use inboxgrove_sim::rng::SeededRng;

pub mod judge;
pub mod plant;
pub mod specimen;

use judge::Verdict;
use plant::{Damage, FileKind};
use specimen::{Specimen, State};

/// Longest trial: a store of a megabyte that opens for longer has met a loop without end.
const TRIAL_MAX: Duration = Duration::from_mins(1);

/// A bench with one specimen of each state, for one worker.
#[derive(Debug)]
pub struct Bench {
    specimens: Vec<Specimen>,
}

/// How many damages of each kind of file came to which class.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    rows: BTreeMap<FileKind, BTreeMap<&'static str, u32>>,
}

/// What one trial has found.
#[derive(Debug)]
pub struct Trial {
    /// What was planted.
    pub damage: Damage,
    /// What came of it.
    pub verdict: Verdict,
}

// === impl Bench ===

impl Bench {
    /// Makes the specimens in a folder.
    pub fn new(folder: &Path) -> Result<Self> {
        let specimens = State::ALL
            .into_iter()
            .map(|state| Specimen::make(&folder.join(state.name()), state));
        Ok(Self {
            specimens: specimens.collect::<Result<_>>()?,
        })
    }

    /// Plants the damage of this seed and judges what comes of it. An error says what is wrong with the store.
    pub fn trial(&self, seed: u64) -> Result<Trial> {
        let rng = SeededRng::new(seed);
        let rng: &dyn Rng = &rng;
        // The number itself goes round the kinds, so that a short run meets each of them.
        let kind = FileKind::of_turn(seed);
        let specimens: Vec<&Specimen> = self
            .specimens
            .iter()
            .filter(|specimen| specimen.has(kind))
            .collect();
        let at = usize::try_from(rng.below(specimens.len() as u64))?;
        let specimen = specimens.get(at).context("some specimen has each kind")?;
        let place = specimen.copy()?;
        let damage = plant::plant(&place, kind, rng)?;
        let told = format!("{:?}, {damage}", specimen.state());
        let verdict = within(TRIAL_MAX, specimen, &damage).with_context(|| told)?;
        Ok(Trial { damage, verdict })
    }
}

/// Judges on a thread of its own, so that neither a panic nor a loop ends the run unnamed.
fn within(limit: Duration, specimen: &Specimen, damage: &Damage) -> Result<Verdict> {
    let (answer, answered) = std::sync::mpsc::channel();
    let (question, damage) = (specimen.question(), damage.clone());
    let judge = std::thread::spawn(move || {
        // Whoever asked waits below, or has given up and said so.
        answer.send(judge::judge(&question, &damage)).ok();
    });
    match answered.recv_timeout(limit) {
        Ok(verdict) => verdict,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
            Err(anyhow!("no end after {} s", limit.as_secs()))
        }
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            let why = judge.join().err();
            let why = why.and_then(|why| {
                let text = why.downcast_ref::<String>().cloned();
                text.or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            });
            Err(anyhow!(
                "a panic reached the caller: {}",
                why.unwrap_or_default()
            ))
        }
    }
}

// === impl Tally ===

impl Tally {
    /// Counts a trial.
    pub fn count(&mut self, trial: &Trial) {
        let row = self.rows.entry(trial.damage.kind).or_default();
        *row.entry(trial.verdict.class()).or_default() += 1;
    }

    /// Adds what another worker has counted.
    pub fn add(&mut self, other: &Self) {
        for (kind, classes) in &other.rows {
            for (class, count) in classes {
                *self
                    .rows
                    .entry(*kind)
                    .or_default()
                    .entry(class)
                    .or_default() += count;
            }
        }
    }

    /// How many there were.
    pub fn total(&self) -> u32 {
        self.rows.values().flat_map(BTreeMap::values).sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| damaged |")?;
        for class in Verdict::CLASSES {
            write!(f, " {class} |")?;
        }
        writeln!(f, "\n|---|{}", "---|".repeat(Verdict::CLASSES.len()))?;
        for (kind, classes) in &self.rows {
            write!(f, "| {} |", kind.name())?;
            for class in Verdict::CLASSES {
                write!(f, " {} |", classes.get(class).copied().unwrap_or_default())?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
