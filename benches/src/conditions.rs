//! Under what conditions something was measured: without them a figure says nothing.

use std::{fmt, fs, process::Command};

/// The machine, its load and the state of the sources.
#[derive(Debug)]
pub(crate) struct Conditions {
    cores: usize,
    processor: String,
    memory: String,
    kernel: String,
    load: String,
    file_system: String,
    commit: String,
    date: String,
    build: &'static str,
}

// === impl Conditions ===

impl Conditions {
    /// As they are now, before anything is measured.
    pub(crate) fn of_this_machine() -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field("/proc/cpuinfo", "model name"),
            memory: field("/proc/meminfo", "MemTotal"),
            kernel: said("uname", &["-sr"]),
            load: fs::read_to_string("/proc/loadavg")
                .unwrap_or_default()
                .split(' ')
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
            file_system: file_system(),
            commit: commit(),
            date: said("date", &["--utc", "+%Y-%m-%d %H:%M UTC"]),
            build: if cfg!(debug_assertions) {
                "debug: figures of no use but to try the benches"
            } else {
                "release"
            },
        }
    }
}

impl Conditions {
    /// When and of what something was measured, and beside what load.
    pub(crate) fn moment(&self) -> String {
        let or_unknown = |text: &str| match text {
            "" => "unknown".to_owned(),
            text => text.to_owned(),
        };
        format!(
            "{}, sources {}, load before {}",
            or_unknown(&self.date),
            or_unknown(&self.commit),
            or_unknown(&self.load)
        )
    }
}

/// The machine.
impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, value) in [
            ("build", self.build),
            ("cores", self.cores.to_string().as_str()),
            ("processor", &self.processor),
            ("memory", &self.memory),
            ("kernel", &self.kernel),
            ("file system", &self.file_system),
        ] {
            let value = if value.is_empty() { "unknown" } else { value };
            writeln!(f, "- {what}: {value}")?;
        }
        Ok(())
    }
}

// === free functions ===

/// What HEAD is, and whether the sources differ from it; unknown outside of a checkout.
fn commit() -> String {
    let head = said("git", &["rev-parse", "--short=12", "HEAD"]);
    if head.is_empty() {
        return head;
    }
    let changed = said("git", &["status", "--porcelain", "--untracked-files=no"]);
    match changed.lines().count() {
        0 => head,
        files => format!("{head}, and {files} files changed since"),
    }
}

/// Of what kind the disk is on which the stores of the benches lie: that of the binary.
fn file_system() -> String {
    let own = std::env::current_exe().unwrap_or_default();
    said(
        "stat",
        &["--file-system", "--format=%T", &own.to_string_lossy()],
    )
}

/// What a program prints, run in the folder of the benches; nothing when it is absent or fails.
fn said(program: &str, words: &[&str]) -> String {
    Command::new(program)
        .args(words)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

/// The first value of this name in a file of `name: value` lines.
fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}
