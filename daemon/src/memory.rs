//! How much memory the process has, read every few seconds and told to the tree, which acts on it.

use std::{fs, path::Path, time::Duration};

use inboxgrove_actors::platform::Platform;
use inboxgrove_config::Config;
use nix::sys::sysinfo::sysinfo;
use tokio_util::sync::CancellationToken;

/// How often it is read: a flood fills some hundred megabytes in this time at most, within the slack of the marks.
const READ_EVERY: Duration = Duration::from_secs(2);
/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";
const MIB: u64 = 1024 * 1024;

/// Reads until `end`.
pub(crate) async fn watch(platform: Platform, end: CancellationToken) {
    let ceiling = ceiling(platform.config());
    tracing::info!(ceiling_mib = ceiling / MIB, "memory is watched");
    loop {
        match resident() {
            Some(used) => platform.press(used, ceiling),
            None => {
                return tracing::error!(
                    "/proc/self/status says nothing of memory; it is not watched"
                );
            }
        }
        tokio::select! {
            biased;
            () = end.cancelled() => return,
            () = tokio::time::sleep(READ_EVERY) => {}
        }
    }
}

/// What the process may have: what the operator says, or the limit of the control group, or half of the machine.
fn ceiling(config: &Config) -> u64 {
    let set = u64::from(config.server.memory_mib_max) * MIB;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = sysinfo().map_or(0, |info| info.ram_total());
    [Some(set), limit_of_group(&groups), Some(machine / 2)]
        .into_iter()
        .flatten()
        .find(|bytes| *bytes > 0)
        .unwrap_or(0)
}

/// The limit of our control group; groups have lines such as `0::/system.slice/inboxgrove.service`.
fn limit_of_group(groups: &str) -> Option<u64> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = fs::read_to_string(Path::new(GROUPS).join(group).join("memory.max")).ok()?;
    limit.trim().parse().ok()
}

/// What it has now, in bytes.
fn resident() -> Option<u64> {
    resident_in(&fs::read_to_string("/proc/self/status").ok()?)
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_what_linux_says() {
        assert_eq!(
            resident_in("Name:\tinboxgrove\nVmRSS:\t   20480 kB\nThreads:\t4\n"),
            Some(20 * MIB)
        );
        assert_eq!(resident_in("Name:\tinboxgrove\n"), None);
        assert!(resident().is_some_and(|bytes| bytes > MIB));
    }

    #[test]
    fn what_the_operator_sets_comes_before_what_the_machine_has() {
        let mut config = Config::default();
        assert!(ceiling(&config) > 0);
        config.server.memory_mib_max = 300;
        assert_eq!(ceiling(&config), 300 * MIB);
        assert_eq!(limit_of_group("1:cpu:/a\n"), None);
    }
}
