//! Opens a damaged store and asks it everything it has ever acknowledged.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use inboxgrove_sim::rng::SeededRng;
use inboxgrove_store::{BackupError, OpenReport, Store, restore};

use super::{
    plant::{Damage, FileKind, What},
    specimen::{self, Fact, Found, Question},
};

/// What came of a damage that was borne as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is there, and `verify` has nothing to say.
    Harmless,
    /// Everything is there, after something was rebuilt or replayed; what.
    Healed(String),
    /// The store does not open, and says why.
    Refused(String),
    /// Verifying names it.
    Verified(String),
    /// Reading names it.
    Read(String),
    /// A sector of the very last commit is zeros, and nothing but the log knew of it: that is what a power cut in the middle of
    /// a commit leaves, and it is cut off as such. The report says so.
    Torn(String),
}

/// What a store says to all facts.
#[derive(Debug, Default)]
struct Answers {
    missing: Vec<String>,
    other: Vec<String>,
    errors: Vec<String>,
}

// === impl Verdict ===

impl Verdict {
    /// The classes, in the order of a table.
    pub const CLASSES: [&'static str; 6] = [
        "harmless",
        "healed",
        "refused to open",
        "named by verify",
        "named by reading",
        "cut as torn",
    ];

    /// Its class.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Harmless => Self::CLASSES[0],
            Self::Healed(_) => Self::CLASSES[1],
            Self::Refused(_) => Self::CLASSES[2],
            Self::Verified(_) => Self::CLASSES[3],
            Self::Read(_) => Self::CLASSES[4],
            Self::Torn(_) => Self::CLASSES[5],
        }
    }
}

/// Opens the damaged store and judges it. An error says what must not be.
pub fn judge(question: &Question, damage: &Damage) -> Result<Verdict> {
    if damage.kind.is_backup() {
        let of_backup = judge_backup(question, damage)?;
        let of_store = judge_store(question, damage)?;
        return Ok(match of_store {
            Verdict::Harmless => of_backup,
            of_store => of_store,
        });
    }
    judge_store(question, damage)
}

fn judge_store(question: &Question, damage: &Damage) -> Result<Verdict> {
    let (store, report) = match specimen::open(&question.place, 2) {
        Ok(opened) => opened,
        Err(why) => {
            let why = format!("{why:#}");
            ensure!(names(&why, damage), "the refusal names nothing: {why}");
            return Ok(Verdict::Refused(why));
        }
    };
    if damage.kind == FileKind::LogLast
        && matches!(damage.what, What::Zero { .. })
        && report.torn_bytes > 0
    {
        return judge_torn(question, &store, &report);
    }
    let answers = Answers::of(&store, &question.facts);
    let verified = store.verify();
    let problems = verified.problems.join("; ");
    ensure!(
        answers.other.is_empty(),
        "wrong answers: {:?}; verify: {problems}; {report:?}",
        answers.other
    );
    ensure!(
        answers.missing.is_empty() || !verified.is_clean(),
        "missing, and verify is clean: {:?}; {report:?}",
        answers.missing
    );
    let nameless = answers.errors.iter().find(|why| !names(why, damage));
    ensure!(nameless.is_none(), "reading names nothing: {nameless:?}");
    goes_on(&store, answers.errors.is_empty() && verified.is_clean())?;
    if let Some(why) = answers.errors.into_iter().next() {
        return Ok(Verdict::Read(why));
    }
    if !verified.is_clean() {
        ensure!(names(&problems, damage), "verify names nothing: {problems}");
        return Ok(Verdict::Verified(problems));
    }
    Ok(healed(&report, question))
}

/// Nothing may be lost but the last commit.
fn judge_torn(question: &Question, store: &Store, report: &OpenReport) -> Result<Verdict> {
    let answers = Answers::of(store, &question.facts);
    if answers.is_sound() {
        return Ok(Verdict::Healed(format!("{report:?}")));
    }
    let answers = Answers::of(store, &question.before_last);
    ensure!(
        answers.is_sound(),
        "more than the last commit is lost: {answers:?}"
    );
    let verified = store.verify();
    ensure!(verified.is_clean(), "{:?}", verified.problems);
    goes_on(store, true)?;
    Ok(Verdict::Torn(format!("{report:?}")))
}

fn healed(report: &OpenReport, question: &Question) -> Verdict {
    let rebuilt = report.moved_aside.is_some() || report.rebuilt_from.is_some();
    // A store that lost power replays what its rows lack, damaged or not.
    let replayed = report.replayed > 0 && !question.behind;
    if rebuilt || replayed || report.torn_bytes > 0 {
        return Verdict::Healed(format!("{report:?}"));
    }
    Verdict::Harmless
}

/// A store that opened takes new work; a sound one without fail.
fn goes_on(store: &Store, sound: bool) -> Result<()> {
    match specimen::commit(store, specimen::note(77_777, "life goes on")) {
        Ok(()) => {
            let found = store.existing::<inboxgrove_model::notice::Notice>(&77_777)?;
            ensure!(found.text == "life goes on", "it reads {found:?}");
        }
        Err(why) if sound => bail!("a sound store takes no commit: {why:#}"),
        Err(_) => {}
    }
    Ok(())
}

/// A damaged backup is not restored, or what it restores is what it was.
fn judge_backup(question: &Question, damage: &Damage) -> Result<Verdict> {
    let backup = damage.path.parent().context("a backup is a folder")?;
    let name = backup.file_name().and_then(|name| name.to_str());
    let name = name.context("its name is plain")?;
    let facts = question.restored.get(name).context("it is a known one")?;
    let into = question.place.join("restored");
    let rng = Arc::new(SeededRng::new(3));
    match restore(backup, specimen::options(&into.join("data")), rng) {
        Ok((store, _)) => {
            let answers = Answers::of(&store, facts);
            store.close();
            fs::remove_dir_all(&into)?;
            ensure!(answers.is_sound(), "restored wrongly: {answers:?}");
            Ok(Verdict::Harmless)
        }
        Err(why) => {
            let why = text(&why);
            ensure!(names(&why, damage), "the refusal names nothing: {why}");
            Ok(Verdict::Refused(why))
        }
    }
}

fn text(why: &BackupError) -> String {
    why.to_string()
}

// === impl Answers ===

impl Answers {
    fn of(store: &Store, facts: &[Fact]) -> Self {
        let mut answers = Self::default();
        for fact in facts {
            match fact.ask(store) {
                Ok(Found::AsItWas) => {}
                Ok(Found::Missing) => answers.missing.push(fact.name.clone()),
                Ok(Found::Other(what)) => answers.other.push(format!("{}: {what}", fact.name)),
                Err(why) => answers.errors.push(why.to_string()),
            }
        }
        answers
    }

    fn is_sound(&self) -> bool {
        self.missing.is_empty() && self.other.is_empty() && self.errors.is_empty()
    }
}

/// Whether a text says where the damage is: the file, or for rows the engine, or a table and a key.
fn names(text: &str, damage: &Damage) -> bool {
    let of = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| text.contains(name))
    };
    let rows = || {
        ["rows", "/", "frame"]
            .iter()
            .any(|word| text.contains(word))
    };
    match damage.kind {
        FileKind::Rows | FileKind::RowsSnapshot | FileKind::RowsSettings => rows(),
        kind if kind.is_backup() => of(&damage.path) || damage.path.parent().is_some_and(of),
        FileKind::LogSealed | FileKind::LogLast => of(&damage.path) || text.contains("frame"),
        _ => of(&damage.path),
    }
}
