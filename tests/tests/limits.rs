//! Every limit is a named constant with its reason, and `docs/limits.md` lists them all: it is written from the
//! sources, so it cannot fall behind them.

use std::{collections::BTreeMap, env, fs};

use inboxgrove_tests::checkout::{self, Source};

/// Where limits stand.
const LAYERS: &[&str] = &["daemon", "mail", "providers", "actors", "store", "model"];
/// Parts of them that no daemon runs.
const APART: &[&str] = &["/demo", "/tests"];
/// How the name of a limit ends.
const SUFFIX: &str = "_MAX";
/// What has no bound by itself.
const UNBOUNDED: &[&str] = &["unbounded_channel", "UnboundedSender", "mpsc::unbounded"];

const HEAD: &str = "\
# Limits

Everything that can grow has a limit, and at the limit the edge refuses: nothing waits in memory without a bound, and nothing that was
accepted is dropped. Limits that an operator may move are settings (see [configuration](configuration.md): `api.limits`,
`inbound.limits`, `outbound.caps`, `outbound.concurrency`, `server.memory_mib_max`, `store.free_floor_bytes`, the `limits` of a
`[[plan]]`); all others are constants, listed below as they stand in the sources.

## What a client gets

| where | at the limit | answer |
|---|---|---|
| HTTP | connections in all | the next ones wait in the kernel's queue |
| HTTP | connections of one address | 503 with `Retry-After`, closed |
| HTTP | requests of an address or an account, log-ins, wrong passwords | 429 `rate_limited` with `Retry-After` |
| HTTP | a body, a head, a page | 413, 431, 422 |
| HTTP | large bodies at once, letters under way, letters of one actor, the store's queue, event streams | 503 `busy` with `Retry-After` |
| HTTP | memory above its hard mark (writes only) | 503 `busy` with `Retry-After` |
| HTTP | disk below its floor (writes only) | 507 `storage_full` with `Retry-After` |
| HTTP | a sending budget, a plan | 429 `budget_full` with `Retry-After`, 402 `plan_limit_exceeded` |
| SMTP | sessions in all or of one address | 421 4.7.0 instead of a greeting |
| SMTP | messages, refusals or idle commands of one session | 421 4.7.0 |
| SMTP | recipients of a message | 452 4.5.3 for those beyond |
| SMTP | size of a message | 552 5.3.4 |
| SMTP | memory for messages that come in, the process's memory, the tree's mailboxes | 452 4.3.1 |
| SMTP | disk below its floor | 452 4.3.1 |
| SMTP | what an inbox may receive in a day | 452 4.2.2, at RCPT where it is known by then |
| tree | an actor that fails too often | parked: 503 `parked`, 451 4.3.0, until `admin unpark` |

Due work and mail that waits to be sent lie on disk and have no limit but the plan's and the disk's; in memory there are so many of them
as the constants say.

## Constants

";

/// A constant of the sources.
#[derive(Debug)]
struct Limit {
    name: String,
    value: String,
    reason: String,
}

#[test]
fn the_document_lists_every_limit_of_the_sources() {
    let found = limits();
    let without_reason: Vec<_> = found
        .iter()
        .flat_map(|(file, limits)| limits.iter().map(move |limit| (file, limit)))
        .filter(|(_, limit)| limit.reason.is_empty())
        .map(|(file, limit)| format!("{file}: {}", limit.name))
        .collect();
    assert!(
        without_reason.is_empty(),
        "limits without a reason: {without_reason:#?}"
    );
    let text = document(&found);
    let path = checkout::root().join("docs/limits.md");
    if asked_to_update() {
        fs::write(&path, &text).expect("the documents can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/limits.md is stale: run this test with UPDATE_DOCS=1"
    );
}

#[test]
fn nothing_is_sent_through_a_channel_without_a_bound() {
    for (file, text) in sources() {
        for word in UNBOUNDED {
            assert!(!text.contains(word), "{file} names {word}");
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test is told by its environment to write instead of to compare"
)]
fn asked_to_update() -> bool {
    env::var("UPDATE_DOCS").is_ok()
}

fn document(found: &BTreeMap<String, Vec<Limit>>) -> String {
    let mut text = HEAD.to_owned();
    text.push_str("| limit | value | what and why |\n|---|---|---|\n");
    for (file, limits) in found {
        let place = file.trim_end_matches(".rs").replace("/src/", "/");
        for limit in limits {
            let row = format!(
                "| `{place}` `{}` | `{}` | {} |\n",
                limit.name, limit.value, limit.reason
            );
            text.push_str(&row);
        }
    }
    text
}

/// By file, in the order of the text.
fn limits() -> BTreeMap<String, Vec<Limit>> {
    sources()
        .into_iter()
        .map(|(file, text)| (file, limits_in(&text)))
        .filter(|(_, limits)| !limits.is_empty())
        .collect()
}

fn limits_in(text: &str) -> Vec<Limit> {
    let mut limits = Vec::new();
    let mut reason = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        // Constants stand at the left margin; what is further in belongs to somebody's body or tests.
        if let Some(comment) = line.strip_prefix("///") {
            reason.push(comment.trim().to_owned());
            continue;
        }
        let declared = line
            .split_once("const ")
            .filter(|(before, _)| before.is_empty() || before.starts_with("pub"))
            .and_then(|(_, rest)| rest.split_once(": "))
            .filter(|(name, _)| name.ends_with(SUFFIX));
        if let Some((name, rest)) = declared {
            let mut value = rest
                .split_once(" = ")
                .map_or("", |(_, value)| value)
                .to_owned();
            while !value.ends_with(';')
                && let Some(more) = lines.next()
            {
                value.push(' ');
                value.push_str(more.trim());
            }
            limits.push(Limit {
                name: name.to_owned(),
                value: value.trim().trim_end_matches(';').replace('|', "\\|"),
                reason: std::mem::take(&mut reason).join(" ").replace('|', "\\|"),
            });
        }
        reason.clear();
    }
    limits
}

/// The sources that a daemon is made of, by their place in the checkout.
fn sources() -> BTreeMap<String, String> {
    let is_meant = |source: &Source| {
        let path = source.path.to_string_lossy();
        LAYERS.contains(&source.layer.as_str()) && !APART.iter().any(|part| path.contains(part))
    };
    checkout::sources()
        .into_iter()
        .filter(is_meant)
        .map(|source| (source.path.display().to_string(), source.text))
        .collect()
}

#[test]
fn a_limit_is_read_with_its_value_and_its_reason() {
    let text = "/// So many,\n/// for a reason.\npub(crate) const ITEMS_MAX: usize =\n    4 * 4;\n/// Not one.\nconst OTHER: u8 = 1;\n    const INNER_MAX: u8 = 2;\n";
    let found = limits_in(text);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].name, "ITEMS_MAX");
    assert_eq!(found[0].value, "4 * 4");
    assert_eq!(found[0].reason, "So many, for a reason.");
}
