//! A program that runs beside a test: its output goes to a file, and it ends with the test.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use crate::wait::eventually;

/// How many lines of output an error shows.
const TAIL_LINES: usize = 40;

/// A program that runs. Dropping it ends it and waits for it.
#[derive(Debug)]
pub struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
    last_word: Signal,
    ended: bool,
}

impl Running {
    /// Starts the program; both outputs are appended to `log`, its id is kept beside it. On drop it gets `last_word`.
    pub fn start(
        name: &'static str,
        command: &mut Command,
        log: &Path,
        last_word: Signal,
    ) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("{}", log.display()))?;
        let err = out.try_clone().context("a file can be opened twice")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        // For the janitor, should this test be killed.
        let id = log.with_extension("pid");
        fs::write(&id, child.id().to_string()).with_context(|| format!("{}", id.display()))?;
        Ok(Self {
            name,
            child,
            log: log.to_owned(),
            last_word,
            ended: false,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a process id fits")?;
        signal::kill(Pid::from_raw(pid), signal)
            .with_context(|| format!("{} cannot be signalled", self.name))
    }

    /// Sends a signal to it and to the processes that it has started.
    pub fn signal_family(&self, signal: Signal) -> Result<()> {
        let family = family_of(self.child.id())?;
        for id in family {
            let id = i32::try_from(id).context("a process id fits")?;
            signal::kill(Pid::from_raw(id), signal)
                .with_context(|| format!("{} cannot be signalled", self.name))?;
        }
        Ok(())
    }

    /// Ends it as a power cut would, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("{} cannot be killed", self.name))?;
        self.child
            .wait()
            .with_context(|| format!("{} cannot be waited for", self.name))?;
        self.ended = true;
        Ok(())
    }

    /// Asks it to end and waits for it.
    pub async fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.exit(within).await
    }

    /// Waits until it has ended by itself.
    pub async fn exit(&mut self, within: Duration) -> Result<ExitStatus> {
        let name = self.name;
        let status = eventually(&format!("the end of {name}"), within, async || {
            Ok(self.child.try_wait()?)
        })
        .await?;
        self.ended = true;
        Ok(status)
    }

    /// How it ended, when it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("{} cannot be waited for", self.name))
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines it printed, for an error.
    pub fn tail(&self) -> String {
        tail(&self.output())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended || matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // One that is stopped hears nothing until it goes on.
        let told = self
            .signal(self.last_word)
            .and_then(|()| self.signal(Signal::SIGCONT));
        if told.is_err() || self.child.wait().is_err() {
            eprintln_lossy(self.name);
        }
    }
}

/// A process and its descendants, as the kernel lists them.
fn family_of(id: u32) -> Result<Vec<u32>> {
    let mut family = vec![id];
    let mut at = 0;
    while let Some(id) = family.get(at) {
        let children = format!("/proc/{id}/task/{id}/children");
        let listed = fs::read_to_string(&children).with_context(|| children.clone())?;
        for child in listed.split_whitespace() {
            family.push(child.parse().context("a process id is a number")?);
        }
        at += 1;
    }
    Ok(family)
}

/// The last lines of a text.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[expect(
    clippy::print_stderr,
    reason = "a test's own output is where its failures are read"
)]
fn eprintln_lossy(name: &str) {
    eprintln!("{name} could not be ended");
}
