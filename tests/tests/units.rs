//! The systemd units: how exposed they are, by systemd's own judgement, and that they fit together.

use std::{fs, process::Command};

use inboxgrove_tests::checkout;

/// Unit → the highest exposure it may have, in tenths (FACTS: 1.2 with sockets, 1.5 when it binds by itself).
const EXPOSURE_MAX: &[(&str, u32)] = &[
    ("inboxgrove.service", 12),
    ("inboxgrove-standalone.service", 15),
];

#[test]
fn the_services_are_locked_up() {
    for (unit, exposure_max) in EXPOSURE_MAX {
        let output = Command::new("systemd-analyze")
            .args([
                "security",
                "--offline=true",
                &format!("--threshold={exposure_max}"),
            ])
            .arg(checkout::root().join("systemd").join(unit))
            .output()
            .expect("systemd-analyze is there (Debian package systemd)");
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{unit} is exposed more than {exposure_max} tenths:\n{report}"
        );
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(
            complaints.trim().is_empty(),
            "{unit} is not understood:\n{complaints}"
        );
    }
}

#[test]
fn the_peer_check_of_the_admin_socket_is_not_blinded() {
    for (unit, _) in EXPOSURE_MAX {
        assert_eq!(
            setting(&read(unit), "PrivateUsers"),
            None,
            "{unit}: callers would all look like nobody"
        );
    }
}

#[test]
fn the_sockets_are_named_as_the_daemon_asks_for_them() {
    for (unit, name) in [
        ("inboxgrove.socket", "api"),
        ("inboxgrove-smtp.socket", "smtp"),
        ("inboxgrove-admin.socket", "admin"),
    ] {
        let text = read(unit);
        assert_eq!(
            setting(&text, "FileDescriptorName").as_deref(),
            Some(name),
            "{unit}"
        );
        assert_eq!(
            setting(&text, "Service").as_deref(),
            Some("inboxgrove.service"),
            "{unit}"
        );
    }
    assert_eq!(
        setting(&read("inboxgrove-admin.socket"), "SocketMode").as_deref(),
        Some("0660")
    );
}

#[test]
fn readiness_watchdog_and_drain_are_asked_for() {
    for (unit, _) in EXPOSURE_MAX {
        let text = read(unit);
        assert_eq!(setting(&text, "Type").as_deref(), Some("notify"), "{unit}");
        assert_eq!(
            setting(&text, "WatchdogSec").as_deref(),
            Some("30"),
            "{unit}"
        );
        let stop_secs: u32 = setting(&text, "TimeoutStopSec")
            .and_then(|secs| secs.parse().ok())
            .unwrap_or(0);
        assert!(
            stop_secs > 25,
            "{unit}: a drain takes up to 25 s, systemd waits {stop_secs} s"
        );
    }
}

#[test]
fn the_two_services_differ_only_in_how_they_bind() {
    let by_itself = settings(&read("inboxgrove-standalone.service"));
    let with_sockets = settings(&read("inboxgrove.service"));
    let differing: Vec<String> = with_sockets
        .iter()
        .filter(|line| !by_itself.contains(line))
        .map(|line| line.split('=').next().unwrap_or_default().to_owned())
        .collect();
    let expected = [
        "Description",
        "Requires",
        "After",
        "Conflicts",
        "RuntimeDirectoryPreserve",
        "CapabilityBoundingSet",
        "AmbientCapabilities",
        "Also",
    ];
    assert_eq!(differing, expected);
}

/// The value of a setting that stands in the unit once.
fn setting(unit: &str, name: &str) -> Option<String> {
    settings(unit)
        .iter()
        .find_map(|line| line.strip_prefix(&format!("{name}=")).map(str::to_owned))
}

fn settings(unit: &str) -> Vec<String> {
    unit.lines()
        .filter(|line| line.contains('=') && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn read(unit: &str) -> String {
    let path = checkout::root().join("systemd").join(unit);
    fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}
