//! What a start finds of the rows, and how they become usable: as they are, or rebuilt.
//!
//! Rows that do not open, are gone, have not what the log lacks, or were found damaged before, are
//! rebuilt into a fresh engine from the newest backup that is whole and the log since, or from the log alone
//! when it reaches back to the beginning. Only when that is done the file that names the engine in use is
//! replaced and the old rows are put aside: a crash meanwhile leads to a rebuild again.

use std::{io, path::PathBuf, sync::Arc};

use crate::{
    BackupError, EngineError, LogError, OpenError, OpenReport,
    backup::{self, BackupList},
    engine::{Engine, EngineOpenError, Shelf},
    generations::{self, Fresh, Generations, Pointer, number_of},
    log::Log,
    media::Media,
    migrate,
    open::replay,
};

/// The rows as they were found.
pub(crate) struct Found {
    pointer: Pointer,
    state: State,
    warning: Option<String>,
}

enum State {
    /// They open; how far they have come.
    Open(Arc<dyn Engine>, u64),
    /// There are none.
    Gone,
    /// They cannot be used, and why.
    Broken(String),
    /// They open perhaps, but are not trusted, and why.
    Distrusted(String),
}

/// Why it could not be found out.
pub(crate) enum FindError {
    Io(io::Error),
    Engine(EngineError),
}

impl From<io::Error> for FindError {
    fn from(why: io::Error) -> Self {
        Self::Io(why)
    }
}

/// Looks for the rows and opens them, if they open. What nobody uses is removed.
pub(crate) fn find_rows(
    media: &dyn Media,
    shelf: &dyn Shelf,
    new: bool,
) -> Result<Found, FindError> {
    let (mut pointer, warning) = match Pointer::read(media)? {
        Ok(pointer) => (pointer, None),
        Err(why) => {
            let rows = likely(shelf)?;
            let warning = format!(
                "{}: {why}; the rows in {rows} were taken",
                generations::POINTER
            );
            tracing::error!("{warning}");
            (Pointer::to(rows), Some(warning))
        }
    };
    tidy(media, shelf, &mut pointer, warning.is_some())?;
    let there = shelf.names()?.contains(&pointer.rows);
    let state = match pointer.distrusted.take() {
        Some(why) if there => State::Distrusted(why),
        _ if !there && !new => State::Gone,
        _ => match shelf.open(&pointer.rows) {
            Ok(engine) => match engine.position() {
                Ok(position) => State::Open(engine, position.unwrap_or(0)),
                Err(why) => State::Broken(why.to_string()),
            },
            Err(EngineOpenError::Broken(why)) => State::Broken(why.to_string()),
            Err(EngineOpenError::Unusable(why)) => return Err(FindError::Engine(why)),
        },
    };
    Ok(Found {
        pointer,
        state,
        warning,
    })
}

/// The rows that were most likely in use: the newest that know a position, which they get when they are
/// complete.
fn likely(shelf: &dyn Shelf) -> io::Result<String> {
    let mut names = shelf.names()?;
    names.sort_by_key(|name| number_of(name));
    for name in names.iter().rev() {
        if let Ok(engine) = shelf.open(name)
            && let Ok(Some(1..)) = engine.position()
        {
            return Ok(name.clone());
        }
    }
    Ok(generations::FIRST.to_owned())
}

/// Puts aside what was to be put aside, and removes what was being made or had been replaced; nothing is
/// removed where it is only a guess which rows are in use.
fn tidy(
    media: &dyn Media,
    shelf: &dyn Shelf,
    pointer: &mut Pointer,
    guessed: bool,
) -> io::Result<()> {
    let mut names = shelf.names()?;
    names.retain(|name| *name != pointer.rows);
    for name in names {
        if guessed || pointer.aside.as_deref() == Some(&name) {
            let aside = shelf.put_aside(&name)?;
            tracing::warn!(aside = %aside.display(), "rows were put aside");
        } else {
            tracing::info!(name, "rows that nobody uses are removed");
            shelf.remove(&name)?;
        }
    }
    if guessed || pointer.aside.take().is_some() {
        pointer.write(media)?;
    }
    Ok(())
}

// === impl Found ===

impl Found {
    /// The highest frame that is known to have been acknowledged: what is damaged up to it is no torn tail.
    pub(crate) fn acknowledged(&self, media: &dyn Media) -> u64 {
        let backed_up = BackupList::read(media).newest_first();
        let backed_up = backed_up.first().map_or(0, |backup| backup.end);
        match self.state {
            State::Open(_, position) => position.max(backed_up),
            _ => backed_up,
        }
    }

    /// Brings the rows to where the log is, or rebuilds them.
    pub(crate) fn settle(
        self,
        media: &Arc<dyn Media>,
        shelf: &Arc<dyn Shelf>,
        log: &Log,
        report: &mut OpenReport,
    ) -> Result<Generations, OpenError> {
        let Self {
            pointer,
            state,
            warning,
        } = self;
        report.warning = warning;
        let generations = |pointer, engine| {
            Generations::new(Arc::clone(media), Arc::clone(shelf), pointer, engine)
        };
        let mut distrusted = false;
        let why = match state {
            // Rows of which nothing had reached the disk yet are made from the log, if that goes back to the beginning.
            State::Open(engine, _) => match take_up(log, engine.as_ref(), report) {
                Ok(()) => return Ok(generations(pointer, engine)),
                Err(OpenError::Engine(why)) => why.to_string(),
                Err(OpenError::Log(why @ LogError::RowsGone { .. })) => why.to_string(),
                Err(why) => return Err(why),
            },
            State::Gone if log.next_seq() == 1 => {
                let engine = shelf.open(&pointer.rows).map_err(EngineOpenError::why)?;
                return Ok(generations(pointer, engine));
            }
            State::Gone => "they are gone".to_owned(),
            State::Broken(why) => why,
            State::Distrusted(why) => {
                distrusted = true;
                why
            }
        };
        tracing::error!(%why, rows = pointer.rows, "the rows cannot be used: rebuilding them");
        match rebuild(media.as_ref(), shelf.as_ref(), log, &pointer, &why, report) {
            Ok((pointer, engine)) => Ok(generations(pointer, engine)),
            // A damaged row is an error of its own; the others are good.
            Err(cannot) if distrusted => {
                let engine = shelf.open(&pointer.rows).map_err(EngineOpenError::why)?;
                take_up(log, engine.as_ref(), report)?;
                let warning =
                    format!("the rows are damaged ({why}) and were not rebuilt: {cannot}");
                tracing::error!("{warning}");
                report.warning = Some(warning);
                let distrusted = Some(why);
                let pointer = Pointer {
                    distrusted,
                    ..pointer
                };
                Ok(generations(pointer, engine))
            }
            Err(cannot) => Err(cannot),
        }
    }
}

/// Applies what the rows lack and looks whether they can be read.
fn take_up(log: &Log, engine: &dyn Engine, report: &mut OpenReport) -> Result<(), OpenError> {
    report.replayed = replay(log, engine)?;
    if report.replayed > 0 {
        engine.flush()?;
    }
    migrate::stored_format(engine).map(|_format| ())
}

/// Makes fresh rows and puts them into the place of those that `pointer` names.
fn rebuild(
    media: &dyn Media,
    shelf: &dyn Shelf,
    log: &Log,
    pointer: &Pointer,
    why: &str,
    report: &mut OpenReport,
) -> Result<(Pointer, Arc<dyn Engine>), OpenError> {
    let Fresh { name, engine } =
        generations::fresh(shelf, &pointer.rows).map_err(EngineOpenError::why)?;
    let filled = fill(media, log, engine.as_ref(), || {}).and_then(|from| {
        let replayed = replay(log, engine.as_ref()).map_err(|why| no_rebuild(media, &why))?;
        engine.flush()?;
        Ok((from, replayed))
    });
    let (from, replayed) = match filled {
        Ok(filled) => filled,
        Err(why) => {
            drop(engine);
            // At every start another try is made: what it leaves must not pile up.
            if let Err(why) = shelf.remove(&name) {
                tracing::warn!(name, %why, "rows that were not finished could not be removed");
            }
            return Err(why);
        }
    };
    let failed = |why: io::Error| EngineError::new("take the place of the old rows", why);
    let old = shelf.names().map_err(failed)?.contains(&pointer.rows);
    let mut next = Pointer {
        aside: old.then(|| pointer.rows.clone()),
        ..Pointer::to(name)
    };
    next.write(media).map_err(failed)?;
    if old {
        let aside = shelf.put_aside(&pointer.rows).map_err(failed)?;
        report.moved_aside = Some((aside, why.to_owned()));
        next.aside = None;
        next.write(media).map_err(failed)?;
    }
    report.replayed = replayed;
    report.rebuilt = Some(why.to_owned());
    report.rebuilt_from = from;
    Ok((next, engine))
}

/// Fills empty rows from the newest backup that is whole; from none when the log reaches back to the
/// beginning. Their position is set last. `rest` is called between pieces.
pub(crate) fn fill(
    media: &dyn Media,
    log: &Log,
    engine: &dyn Engine,
    mut rest: impl FnMut(),
) -> Result<Option<PathBuf>, OpenError> {
    let backups = BackupList::read(media).newest_first();
    if let Some(newest) = backups.first()
        && newest.end >= log.next_seq()
    {
        let (from, to) = (log.next_seq(), newest.end);
        return Err(no_rebuild(media, &LogError::Missing { from, to }));
    }
    for entry in backups {
        let manifest = match backup::verify(&entry.path) {
            Ok(manifest) => manifest,
            Err(why) => {
                tracing::warn!(backup = %entry.path.display(), %why, "a backup cannot be used");
                continue;
            }
        };
        return match backup::load_rows_of(&entry.path, &manifest, engine, &mut rest) {
            Ok(()) => Ok(Some(entry.path)),
            Err(BackupError::Engine(why)) => Err(why.into()),
            Err(why) => Err(no_rebuild(media, &why)),
        };
    }
    let rows_from = log.rows_from();
    if rows_from > 1 {
        let why = format!(
            "no backup can be used, and the log has rows from frame {rows_from} on only; \
             `inboxgrove store restore` a backup into an empty data directory"
        );
        return Err(OpenError::NoRebuild { why });
    }
    Ok(None)
}

/// The error that says what stands in the way of a rebuild, and what an operator can do.
pub(crate) fn no_rebuild(media: &dyn Media, why: &dyn std::fmt::Display) -> OpenError {
    let newest = BackupList::read(media).newest_first().into_iter().next();
    let advice = newest.map_or_else(
        || "no backup is known here: look for one elsewhere".to_owned(),
        |backup| {
            format!(
                "`inboxgrove store restore {}` into an empty data directory gives all up to frame {}",
                backup.path.display(),
                backup.end
            )
        },
    );
    OpenError::NoRebuild {
        why: format!("{why}; {advice}"),
    }
}
