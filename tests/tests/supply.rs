//! What comes into the tree from outside: licences and bans of `deny.toml`, held here too, because cargo-deny is not on
//! every machine.

use std::{collections::BTreeSet, fs, process::Command};

use cargo_metadata::{Metadata, MetadataCommand, PackageId};
use inboxgrove_tests::checkout;

#[test]
fn every_licence_is_on_the_list() {
    let allowed: BTreeSet<String> = strings(&deny_toml()["licenses"]["allow"]);
    let metadata = metadata();
    let resolved = resolved(&metadata);
    let refused: Vec<String> = metadata
        .packages
        .iter()
        .filter(|package| resolved.contains(&package.id))
        .filter(|package| {
            !package
                .license
                .as_deref()
                .is_some_and(|licence| is_allowed(licence, &allowed))
        })
        .map(|package| {
            format!(
                "{} {}: {:?}",
                package.name, package.version, package.license
            )
        })
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn no_banned_crate_is_in_the_tree() {
    let metadata = metadata();
    let built = built();
    let nodes = &metadata
        .resolve
        .as_ref()
        .expect("metadata was resolved")
        .nodes;
    let name_of = |id: &PackageId| metadata[id].name.to_string();
    let deny = deny_toml();
    let mut wrong = Vec::new();
    for ban in deny["bans"]["deny"].as_array().expect("bans is a list") {
        let banned = ban["crate"].as_str().expect("a ban names its crate");
        if !built.contains(banned) {
            continue;
        }
        let wrappers = ban.get("wrappers").map(strings).unwrap_or_default();
        for node in nodes {
            let user = name_of(&node.id);
            let brings = node.dependencies.iter().any(|id| name_of(id) == banned);
            if brings && built.contains(&user) && !wrappers.contains(&user) {
                wrong.push(format!("{user} brings {banned}: {}", ban["reason"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn everything_comes_from_the_one_registry() {
    let strangers: Vec<String> = metadata()
        .packages
        .iter()
        .filter_map(|package| package.source.as_ref().map(|source| (package, source)))
        .filter(|(_, source)| !source.is_crates_io())
        .map(|(package, source)| format!("{} from {source}", package.name))
        .collect();
    assert!(strangers.is_empty(), "{}", strangers.join("\n"));
}

#[test]
fn a_licence_expression_is_read_as_it_is_meant() {
    let allowed: BTreeSet<String> = ["MIT", "Apache-2.0", "ISC"].map(str::to_owned).into();
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("(GPL-3.0 OR ISC) AND MIT", true),
        ("(GPL-3.0 OR LGPL-2.1) AND MIT", false),
        ("MIT/Apache-2.0", true),
        ("GPL-2.0 / MIT", true),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}

/// Whether an SPDX expression can be met by allowed licences. `/` is the old way to write OR. `WITH` binds to its licence.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let met = either(&mut words, allowed);
    met && words.peek().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = both(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        // Not `||`: the right side must be read in any case.
        met |= both(words, allowed);
    }
    met
}

fn both(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let Some(word) = words.next() else {
        return false;
    };
    if word == "(" {
        let met = either(words, allowed);
        return words.next_if_eq(&")").is_some() && met;
    }
    let mut licence = word.to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        licence = format!("{licence} WITH {}", words.next().unwrap_or_default());
    }
    allowed.contains(&licence)
}

fn deny_toml() -> toml::Table {
    let text = fs::read_to_string(checkout::root().join("deny.toml")).expect("deny.toml is there");
    text.parse().expect("deny.toml is TOML")
}

fn strings(list: &toml::Value) -> BTreeSet<String> {
    let list = list.as_array().expect("a list");
    list.iter()
        .map(|word| word.as_str().expect("a word").to_owned())
        .collect()
}

/// The names of all crates that are built for this platform. `cargo metadata` also resolves optional ones that nobody
/// switched on.
fn built() -> BTreeSet<String> {
    let output = Command::new("cargo")
        .args([
            "tree",
            "--workspace",
            "--locked",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .args(["--edges", "normal,build,dev"])
        .current_dir(checkout::root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let listed = String::from_utf8_lossy(&output.stdout);
    listed
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

fn resolved(metadata: &Metadata) -> BTreeSet<PackageId> {
    let resolve = metadata.resolve.as_ref().expect("metadata was resolved");
    resolve.nodes.iter().map(|node| node.id.clone()).collect()
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(checkout::root().join("Cargo.toml"))
        .other_options(
            ["--filter-platform", "x86_64-unknown-linux-gnu", "--locked"].map(str::to_owned),
        )
        .exec()
        .expect("cargo knows the workspace")
}
