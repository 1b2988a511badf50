//! Folders are layers: which way the arrows go, and who may name which crate. Read from `cargo metadata` and from the
//! sources, so that a wrong arrow fails here before it is argued about.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use inboxgrove_tests::checkout;

/// Package → the packages of ours it may depend on. `tests` and `benches` stand above everything and may know all.
const ARROWS: &[(&str, &[&str])] = &[
    ("inboxgrove-model", &[]),
    ("inboxgrove-policy", &["inboxgrove-model"]),
    ("inboxgrove-config", &["inboxgrove-model"]),
    (
        "inboxgrove-store",
        &["inboxgrove-model", "inboxgrove-policy", "inboxgrove-config"],
    ),
    (
        "inboxgrove-mail",
        &["inboxgrove-model", "inboxgrove-policy", "inboxgrove-config"],
    ),
    (
        "inboxgrove-providers",
        &["inboxgrove-model", "inboxgrove-policy", "inboxgrove-config"],
    ),
    (
        "inboxgrove-actors",
        &[
            "inboxgrove-model",
            "inboxgrove-policy",
            "inboxgrove-config",
            "inboxgrove-store",
            "inboxgrove-mail",
            "inboxgrove-providers",
        ],
    ),
    (
        "inboxgrove-sim",
        &["inboxgrove-model", "inboxgrove-policy", "inboxgrove-mail"],
    ),
    (
        "inboxgrove",
        &[
            "inboxgrove-model",
            "inboxgrove-policy",
            "inboxgrove-config",
            "inboxgrove-store",
            "inboxgrove-mail",
            "inboxgrove-providers",
            "inboxgrove-actors",
            "inboxgrove-sim",
        ],
    ),
];

/// Foreign crate → the packages that alone may name it, with the reason.
const NAMED_BY: &[(&str, &[&str], &str)] = &[
    (
        "sled",
        &["inboxgrove-store"],
        "the engine can be changed in one place",
    ),
    (
        "rkyv",
        &["inboxgrove-store"],
        "stored shapes stay in the store",
    ),
    (
        "ractor",
        &["inboxgrove-actors", "inboxgrove"],
        "actors are an affair of the tree",
    ),
    (
        "hyper",
        &["inboxgrove", "inboxgrove-sim", "inboxgrove-benches"],
        "only the daemon serves HTTP, the small internet plays vendors, and a bench has a bare server beside it",
    ),
    (
        "hyper-util",
        &["inboxgrove", "inboxgrove-sim", "inboxgrove-benches"],
        "as hyper",
    ),
    ("axum", &["inboxgrove"], "routes are the daemon's"),
    (
        "utoipa",
        &["inboxgrove"],
        "the API document is the daemon's",
    ),
    (
        "jsonwebtoken",
        &["inboxgrove", "inboxgrove-actors"],
        "tokens are made at the edge or by an account's owner",
    ),
    ("clap", &["inboxgrove"], "only the daemon sees arguments"),
    ("anyhow", &["inboxgrove"], "libraries name their errors"),
    (
        "reqwest",
        &["inboxgrove-providers"],
        "only providers call vendors",
    ),
    (
        "mail-auth",
        &["inboxgrove-mail"],
        "only mail knows mail's bytes",
    ),
    (
        "mail-builder",
        &["inboxgrove-mail"],
        "only mail knows mail's bytes",
    ),
    (
        "mail-parser",
        &["inboxgrove-mail"],
        "only mail knows mail's bytes",
    ),
    (
        "mail-send",
        &["inboxgrove-mail"],
        "only mail knows mail's bytes",
    ),
    (
        "smtp-proto",
        &["inboxgrove-mail"],
        "only mail knows mail's bytes",
    ),
    (
        "hickory-resolver",
        &["inboxgrove-mail"],
        "only mail asks the DNS",
    ),
    (
        "hickory-server",
        &["inboxgrove-sim"],
        "only the small internet answers it",
    ),
    (
        "tracing-subscriber",
        &["inboxgrove"],
        "where the log goes is decided once",
    ),
];

/// Package → the crates it must not name, with the reason.
const NEVER: &[(&str, &[&str], &str)] = &[
    (
        "inboxgrove-model",
        &["serde", "rkyv", "serde_json"],
        "stored, domain and wire types are three sets",
    ),
    (
        "inboxgrove-policy",
        &["tokio", "tokio-util", "tracing", "reqwest"],
        "decisions are pure",
    ),
    (
        "inboxgrove-config",
        &["tokio", "tokio-util"],
        "what an operator may set is data",
    ),
];

/// Names in the code → the folders that alone may use them, with the reason.
const WORDS: &[(&str, &[&str], &str)] = &[
    (
        "std::env::",
        &["daemon", "tests", "benches"],
        "only the command line reads arguments and the environment",
    ),
    (
        "tokio::signal",
        &["daemon", "tests"],
        "only the daemon sees signals",
    ),
    (
        "SystemTime::now",
        &["daemon", "tests", "benches"],
        "time comes from the Clock port",
    ),
    (
        "sled::",
        &["store"],
        "the engine can be changed in one place",
    ),
    ("rkyv::", &["store"], "stored shapes stay in the store"),
    (
        "ractor::",
        &["actors", "daemon"],
        "actors are an affair of the tree",
    ),
    (
        "hyper::",
        &["daemon", "sim", "benches"],
        "only the daemon serves HTTP, and a bench has a bare server beside it",
    ),
    (
        "reqwest::",
        &["providers", "tests"],
        "only providers call vendors",
    ),
];

/// The only files with unsafe code, with the reason.
const UNSAFE: &[(&str, &str)] = &[
    (
        "store/src/shim.rs",
        "replaces libc's sync_file_range, without which sled loses data at a power cut",
    ),
    (
        "daemon/src/notify.rs",
        "takes over the descriptors that systemd passes",
    ),
];

/// Packages above all layers.
const ABOVE: &[&str] = &["inboxgrove-tests", "inboxgrove-benches"];

#[test]
fn arrows_go_one_way() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in ours(&metadata) {
        if ABOVE.contains(&package.name.as_str()) {
            continue;
        }
        let Some(allowed) = allowed.get(package.name.as_str()) else {
            wrong.push(format!("{} has no row in ARROWS", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            if name.starts_with("inboxgrove") && !allowed.contains(&name) {
                wrong.push(format!("{} → {name} ({:?})", package.name, dependency.kind));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_workspace_lists_its_members_bottom_up() {
    let metadata = metadata();
    let order: BTreeMap<String, usize> = checkout::layers()
        .into_iter()
        .enumerate()
        .map(|(at, folder)| (folder, at))
        .collect();
    let at = |package: &Package| {
        let folder = package
            .manifest_path
            .parent()
            .and_then(|folder| folder.file_name());
        order[folder.expect("a package has a folder")]
    };
    let packages = ours(&metadata);
    let mut wrong = Vec::new();
    for package in &packages {
        for dependency in package
            .dependencies
            .iter()
            .filter(|found| found.kind == DependencyKind::Normal)
        {
            let Some(below) = packages.iter().find(|other| *other.name == dependency.name) else {
                continue;
            };
            if at(below) >= at(package) {
                wrong.push(format!(
                    "{} stands above {} that it uses",
                    package.name, below.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_crate_is_named_only_where_it_belongs() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in ours(&metadata) {
        let name = package.name.as_str();
        if ABOVE.contains(&name) {
            continue;
        }
        // What only its tests name is not in the crate.
        let named: BTreeSet<&str> = package
            .dependencies
            .iter()
            .filter(|found| found.kind != DependencyKind::Development)
            .map(|found| found.name.as_str())
            .collect();
        for (foreign, owners, reason) in NAMED_BY {
            if named.contains(foreign) && !owners.contains(&name) {
                wrong.push(format!("{name} names {foreign}: {reason}"));
            }
        }
        for (_, banned, reason) in NEVER.iter().filter(|(package, ..)| *package == name) {
            for foreign in banned.iter().filter(|foreign| named.contains(*foreign)) {
                wrong.push(format!("{name} names {foreign}: {reason}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_name_is_used_only_where_it_belongs() {
    let mut wrong = Vec::new();
    for source in checkout::sources() {
        for (word, folders, reason) in WORDS
            .iter()
            .filter(|(_, folders, _)| !folders.contains(&source.layer.as_str()))
        {
            for (line, _) in source
                .shipped_code()
                .filter(|(_, code)| has_path(code, word))
            {
                let owners = folders.join(", ");
                wrong.push(format!(
                    "{}:{line}: {word} belongs to {owners}: {reason}",
                    source.path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stands_only_where_it_must() {
    let strangers: Vec<String> = checkout::sources()
        .iter()
        .filter(|source| !UNSAFE.iter().any(|(path, _)| source.path.ends_with(path)))
        .flat_map(|source| {
            let path = source.path.display().to_string();
            let lines = source.code().filter(|(_, code)| is_unsafe(code));
            lines
                .map(|(line, _)| format!("{path}:{line}"))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(strangers.is_empty(), "unsafe code at: {strangers:?}");
}

#[test]
fn every_file_opens_by_saying_what_it_is() {
    let silent: Vec<String> = checkout::sources()
        .iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "no //! at the top of: {silent:?}");
}

#[test]
fn a_module_stands_beside_its_folder() {
    let folded: Vec<String> = checkout::sources()
        .iter()
        .filter(|source| source.path.ends_with("mod.rs"))
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(
        folded.is_empty(),
        "mod.rs instead of a file beside its folder: {folded:?}"
    );
}

#[test]
fn no_test_is_switched_off() {
    let ignored: Vec<String> = checkout::sources()
        .iter()
        .filter(|source| {
            source
                .code()
                .any(|(_, code)| code.trim_start().starts_with("#[ignore"))
        })
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(ignored.is_empty(), "ignored tests in: {ignored:?}");
}

#[test]
fn a_panic_unwinds_in_every_profile() {
    let manifest = std::fs::read_to_string(checkout::root().join("Cargo.toml"))
        .expect("the workspace has a manifest");
    let manifest: toml::Table = manifest.parse().expect("the manifest is TOML");
    for profile in ["dev", "release"] {
        assert_eq!(
            manifest["profile"][profile]["panic"].as_str(),
            Some("unwind"),
            "profile {profile}: without unwinding nothing is supervised"
        );
    }
}

fn is_unsafe(code: &str) -> bool {
    [
        "unsafe {",
        "unsafe fn ",
        "unsafe impl ",
        "unsafe extern ",
        "unsafe(",
    ]
    .iter()
    .any(|form| has_path(code, form))
}

/// Whether the code uses the word as a whole: `sled::` is not in `unsled::`.
fn has_path(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
    })
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(checkout::root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo knows the workspace")
}

fn ours(metadata: &Metadata) -> Vec<&Package> {
    metadata.workspace_packages()
}
