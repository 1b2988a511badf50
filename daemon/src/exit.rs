//! How the process ends, as a number for whoever starts it: 0 when somebody asked, otherwise why not, in the
//! numbers of sysexits.h. `docs/runbook.md` lists them; the units restart after those that a restart can cure.

use std::{error::Error as StdError, io, process::ExitCode};

use inboxgrove_config::ConfigError;
use inboxgrove_store::{DataKeysError, KeyFileError, LogError, OpenError};
use nix::errno::Errno;

/// Why the process ends with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something that has no number of its own.
    Other = 1,
    /// `EX_DATAERR`: what is stored is damaged, and could not be rebuilt. A restart does not help.
    Damaged = 65,
    /// `EX_UNAVAILABLE`: an address or the data directory is in use by another process.
    InUse = 69,
    /// `EX_SOFTWARE`: a fatal part of the tree died.
    Died = 70,
    /// `EX_IOERR`: the disk failed, is full or read-only. What was acknowledged is on it; a start brings it back.
    Disk = 74,
    /// `EX_NOPERM`: the key of the installation is not the one that sealed this data. A restart does not help.
    WrongKey = 77,
    /// `EX_CONFIG`: the settings are wrong. A restart does not help.
    Settings = 78,
}

/// The end of a daemon that ran, and had to stop.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Failed {
    /// The number.
    pub exit: Exit,
    /// The reason, for people.
    pub why: String,
}

// === impl Exit ===

impl Exit {
    /// The number of an error that ends the process.
    pub fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(of_cause).unwrap_or(Self::Other)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

// === free functions ===

fn of_cause(cause: &(dyn StdError + 'static)) -> Option<Exit> {
    if let Some(failed) = cause.downcast_ref::<Failed>() {
        return Some(failed.exit);
    }
    if cause.is::<ConfigError>() {
        return Some(Exit::Settings);
    }
    if let Some(why) = cause.downcast_ref::<OpenError>() {
        return Some(of_opening(why));
    }
    if let Some(why) = cause.downcast_ref::<KeyFileError>() {
        return Some(of_key_file(why));
    }
    cause.downcast_ref::<io::Error>().and_then(of_io)
}

fn of_opening(why: &OpenError) -> Exit {
    match why {
        OpenError::WrongKey(_) => Exit::WrongKey,
        OpenError::KeyFile(why) => of_key_file(why),
        OpenError::Dir { source, .. } => of_io(source).unwrap_or(Exit::Disk),
        OpenError::DataKeys(DataKeysError::Io(_))
        | OpenError::Log(LogError::Io { .. })
        | OpenError::Engine(_) => Exit::Disk,
        OpenError::DataKeys(_)
        | OpenError::Log(_)
        | OpenError::LogBehind { .. }
        | OpenError::Format { .. }
        | OpenError::NoRebuild { .. } => Exit::Damaged,
        OpenError::Thread(_) => Exit::Other,
    }
}

fn of_key_file(why: &KeyFileError) -> Exit {
    match why {
        KeyFileError::Io { source, .. } => of_io(source).unwrap_or(Exit::Disk),
        KeyFileError::Length { .. } => Exit::WrongKey,
    }
}

/// What the system says, where it is the disk or somebody else's hold on something.
fn of_io(why: &io::Error) -> Option<Exit> {
    match why.kind() {
        io::ErrorKind::StorageFull
        | io::ErrorKind::QuotaExceeded
        | io::ErrorKind::ReadOnlyFilesystem => Some(Exit::Disk),
        io::ErrorKind::AddrInUse | io::ErrorKind::ResourceBusy => Some(Exit::InUse),
        _ if why.raw_os_error() == Some(Errno::EIO as i32) => Some(Exit::Disk),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_cause_is_found_behind_what_was_said_about_it() {
        let io = |errno: Errno| io::Error::from_raw_os_error(errno as i32);
        let dir = |source| OpenError::Dir {
            dir: "/data".into(),
            source,
        };
        let log = |source| {
            OpenError::Log(LogError::Io {
                segment: "1.log".into(),
                what: "sync",
                source,
            })
        };
        let failed = Failed {
            exit: Exit::Died,
            why: "the clock died".into(),
        };
        for (error, exit) in [
            (anyhow::Error::from(io(Errno::EIO)), Exit::Disk),
            (io(Errno::EROFS).into(), Exit::Disk),
            (io(Errno::ENOSPC).into(), Exit::Disk),
            (io(Errno::EADDRINUSE).into(), Exit::InUse),
            (io(Errno::EACCES).into(), Exit::Other),
            (dir(io(Errno::EACCES)).into(), Exit::Disk),
            (dir(io::ErrorKind::ResourceBusy.into()).into(), Exit::InUse),
            (log(io(Errno::EIO)).into(), Exit::Disk),
            (
                OpenError::LogBehind { rows: 2, log: 1 }.into(),
                Exit::Damaged,
            ),
            (failed.into(), Exit::Died),
            (anyhow::anyhow!("nobody knows"), Exit::Other),
        ] {
            assert_eq!(Exit::of(&error), exit, "{error:#}");
        }
        let said = Err::<(), _>(io(Errno::EADDRINUSE)).context("cannot listen at 127.0.0.1:25");
        assert_eq!(Exit::of(&said.expect_err("an error")), Exit::InUse);
    }
}
