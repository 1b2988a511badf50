//! Where the programs are that the tests run, and how much the long ones shall do. A program that is absent is an error
//! that says what to install: nothing is skipped in silence.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::checkout;

/// Where Debian keeps what only root needs; not in everybody's `PATH`.
const ROOTS_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A program of the system by its name.
pub fn system(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(ROOTS_FOLDERS.map(PathBuf::from));
    folders
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .with_context(|| {
            format!("{name} is not installed: run scripts/setup, or make test, which does")
        })
}

/// The binary under test, beside the test binary in the target folder.
pub fn inboxgrove() -> Result<PathBuf> {
    let test = env::current_exe().context("a test knows its own binary")?;
    // …/target/debug/deps/main-0123 → …/target/debug/inboxgrove
    let binary = test
        .parent()
        .and_then(Path::parent)
        .context("the test binary lies in a target folder")?
        .join("inboxgrove");
    ensure!(
        binary.is_file(),
        "{} is not built: run cargo build -p inboxgrove (make build does)",
        binary.display()
    );
    Ok(binary)
}

/// The Python of the peers' virtual environment.
pub fn peers_python() -> Result<PathBuf> {
    in_checkout(".venv/bin/python")
}

/// Schemathesis, in an environment of its own.
pub fn schemathesis() -> Result<PathBuf> {
    in_checkout(".venv-api/bin/schemathesis")
}

/// A script of `tests/peers`.
pub fn peer_script(name: &str) -> Result<PathBuf> {
    in_checkout(&format!("tests/peers/{name}"))
}

/// How many trials a long test shall make: from the environment, as the Makefile sets it, or the number given here.
pub fn trials(variable: &str, otherwise: u32) -> Result<u32> {
    match env::var_os(variable) {
        None => Ok(otherwise),
        Some(text) => text
            .to_str()
            .and_then(|text| text.parse().ok())
            .with_context(|| format!("{variable} is no number: {}", OsStr::display(&text))),
    }
}

/// Whether the folders of tests shall stay, for a look at what went wrong: `GROVE_TESTS_KEEP` is set.
pub fn keeps_folders() -> bool {
    env::var_os("GROVE_TESTS_KEEP").is_some()
}

/// Whether this process may mount file systems.
pub fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// For what only root can do.
pub fn demand_root(what: &str) -> Result<()> {
    if !is_root() {
        bail!("{what} needs root: run make test as root, or leave it out by CUTS=0 NESTED=0");
    }
    Ok(())
}

fn in_checkout(path: &str) -> Result<PathBuf> {
    let full = checkout::root().join(path);
    ensure!(
        full.exists(),
        "{path} is not there: run scripts/setup, or make test, which does"
    );
    Ok(full)
}
