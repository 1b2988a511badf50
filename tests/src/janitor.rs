//! Clears up after a test that was killed: a destructor does not run then. A shell in a process group of its own waits
//! for the end of the test's process, however it comes, and ends what the test's folder still holds: programs by the ids
//! they left there, mounts, the folder itself. After a test that has ended well there is no folder, and nothing to do.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};

/// `$1` is the folder, `$2` says whether it stays. An id is trusted only while its process still names the folder: it may
/// have been given to somebody else. The live disk lies on the shelf, so it goes first.
const SCRIPT: &str = r#"
read -r _
[ -d "$1" ] || exit 0
end() {
    find "$1" -xdev -name '*.pid' -type f | while read -r file; do
        id=$(tr -dc 0-9 <"$file")
        if [ -n "$id" ] && grep -qsaF "$1" "/proc/$id/cmdline" "/proc/$id/environ"; then kill "-$2" "$id"; fi
    done
}
end "$1" TERM
sleep 2
end "$1" KILL
for mount in disk shelf; do
    if grep -qs " $1/$mount " /proc/mounts; then umount --lazy "$1/$mount"; fi
done
[ "$2" = stays ] || rm -rf "$1"
"#;

/// The pipes whose ends tell the janitors that this process is gone.
static LINES: Mutex<Vec<ChildStdin>> = Mutex::new(Vec::new());

/// A janitor that waits. Dropping it is what the end of the process is.
#[derive(Debug)]
pub struct Janitor {
    line: ChildStdin,
}

impl Janitor {
    /// One for this folder.
    pub fn start(folder: &Path, stays: bool) -> Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT, "janitor"])
            .arg(folder)
            .arg(if stays { "stays" } else { "goes" })
            .current_dir("/")
            // Whoever stops the test stops its group.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("a shell for clearing up")?;
        let line = child.stdin.take().context("a pipe was asked for")?;
        Ok(Self { line })
    }

    /// Lets it wait for the end of this process.
    pub fn until_the_end(self) {
        LINES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.line);
    }
}
