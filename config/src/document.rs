//! The documentation of every setting, printed from the schema; and a configuration as it is in force.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::Value;

use crate::{
    schema::{self, Node, Shape, join},
    sections::Config,
};

const PREAMBLE: &str = "\
<!-- Printed from the types by `inboxgrove config docs`. Do not edit. -->

# Settings

Every setting has a default: without any file the daemon runs. Settings are read from, in this order:

1. the TOML file named by `--config` or `INBOXGROVE_CONFIG`;
2. the environment: `INBOXGROVE_<SECTION>__<KEY>`, in capitals, deeper keys with more `__`, as in
   `INBOXGROVE_OUTBOUND__CAPS__GLOBAL_PER_DAY=50000`; lists as `a,b` or in TOML's brackets;
3. for secrets, systemd's credentials directory: a file named after the key, as in
   `LoadCredential=notifier.webhook_secret:/etc/inboxgrove/webhook_secret`.

The environment overrides the file. A secret must have one source only. Unknown keys are errors.
`inboxgrove config check` tells all that is wrong at once; `inboxgrove config show` prints what is in force,
without secrets.
";

/// The documentation of every setting, in Markdown. `docs/configuration.md` is this text.
pub fn docs() -> String {
    let root = schema::root();
    let defaults = serde_json::to_value(Config::default()).expect("the defaults have no odd keys");
    let mut text = PREAMBLE.to_owned();
    for (name, node) in root.keys() {
        section(&mut text, name, node, &defaults[name.as_str()], 2);
    }
    text
}

/// A configuration as it is in force, as TOML, with secrets hidden.
pub fn show(config: &Config) -> String {
    toml::to_string(config).expect("every setting can be written as TOML")
}

/// A section, its table of keys, and the sections below it.
fn section(text: &mut String, path: &str, node: &Node, default: &Value, depth: usize) {
    let hashes = "#".repeat(depth);
    let (title, table) = match &node.shape {
        Shape::List { item, .. } => (format!("`[[{path}]]`"), item.as_ref()),
        _ => (format!("`[{path}]`"), node),
    };
    write_line(
        text,
        format_args!("\n{hashes} {title}\n\n{}\n", node.description),
    );
    let is_section = |node: &Node| match &node.shape {
        Shape::Table { .. } => true,
        Shape::List { item, .. } => matches!(item.shape, Shape::Table { .. }),
        _ => false,
    };
    let (sections, keys): (Vec<_>, Vec<_>) =
        table.keys().iter().partition(|(_, node)| is_section(node));
    if !keys.is_empty() {
        write_line(
            text,
            format_args!("| Key | Default | What may be there | Meaning |\n|---|---|---|---|"),
        );
    }
    for (name, node) in keys {
        let default = shown_default(node, default.get(name));
        let words = node.shape.words();
        write_line(
            text,
            format_args!("| `{name}` | {default} | {words} | {} |", meaning(node)),
        );
    }
    for (name, node) in sections {
        section(
            text,
            &join(path, name),
            node,
            &default[name.as_str()],
            depth + 1,
        );
    }
    if let (Shape::List { .. }, Some(tables)) = (
        &node.shape,
        default.as_array().filter(|list| !list.is_empty()),
    ) {
        let tables: Vec<String> = tables.iter().map(|table| example(path, table)).collect();
        write_line(
            text,
            format_args!("\nDefault:\n\n```toml\n{}\n```", tables.join("\n\n")),
        );
    }
}

fn meaning(node: &Node) -> String {
    let mut meaning = node.description.clone();
    if let Shape::Choice(words) = &node.shape {
        for (word, about) in words.iter().filter(|(_, about)| !about.is_empty()) {
            meaning.extend([" `", word, "`: ", about]);
        }
    }
    if node.is_secret() {
        meaning.push_str(" A secret.");
    }
    meaning
}

fn shown_default(node: &Node, default: Option<&Value>) -> String {
    match default.or(node.default.as_ref()) {
        None => "none: it must be given".into(),
        Some(Value::String(text)) if text.is_empty() => "empty".into(),
        Some(Value::Array(list)) if list.is_empty() => "empty".into(),
        Some(value) => format!("`{value}`"),
    }
}

/// One table of a list, as an operator would write it.
fn example(path: &str, table: &Value) -> String {
    let lines = sorted(table).map(|(name, value)| match value {
        Value::Object(_) => {
            let inner: Vec<String> = sorted(value)
                .map(|(name, value)| format!("{name} = {value}"))
                .collect();
            format!("{name} = {{ {} }}", inner.join(", "))
        }
        plain => format!("{name} = {plain}"),
    });
    format!("[[{path}]]\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// Its keys by name, as the tables list them.
fn sorted(table: &Value) -> impl Iterator<Item = (&String, &Value)> {
    table
        .as_object()
        .into_iter()
        .flatten()
        .collect::<BTreeMap<_, _>>()
        .into_iter()
}

fn write_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("a String takes everything");
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::values::Secret;

    /// With `UPDATE_DOCS=1` the file is written instead.
    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test is told by its environment to rewrite the file"
    )]
    fn the_file_is_what_the_types_say() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        if std::env::var("UPDATE_DOCS").is_ok_and(|value| value == "1") {
            fs::write(&file, docs()).unwrap();
        }
        let found = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            found == docs(),
            "docs/configuration.md is stale: run this test with UPDATE_DOCS=1"
        );
    }

    #[test]
    fn every_key_is_documented() {
        let docs = docs();
        for path in schema::root().paths().keys() {
            let path = path.replace("[]", "");
            let name = path.rsplit('.').next().unwrap();
            let known = docs.contains(&format!("`{name}`")) || docs.contains(&format!("[{path}]"));
            assert!(known, "{path}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_back_and_hides_secrets() {
        let mut config = Config::default();
        config.notifier.webhook_secret = Secret::new("correct horse battery");
        config.dns.port = 5300;
        let shown = show(&config);
        assert!(
            !shown.contains("horse") && shown.contains("webhook_secret = \"(hidden)\""),
            "{shown}"
        );
        let why = Config::from_toml(&shown).unwrap_err().to_string();
        assert!(
            why.contains("notifier.webhook_secret: expected a secret"),
            "{why}"
        );

        config.notifier.webhook_secret = Secret::default();
        let shown = show(&config);
        let again = Config::from_toml(&shown).unwrap();
        assert_eq!(again.dns.port, 5300);
        assert_eq!(show(&again), shown);
    }

    #[test]
    fn the_example_of_the_default_plans_is_a_configuration() {
        let docs = docs();
        let example = docs
            .split("```toml\n")
            .nth(1)
            .and_then(|rest| rest.split("```").next())
            .unwrap();
        let config = Config::from_toml(&example.replace("\": ", "\" = ")).unwrap();
        assert_eq!(config.plan, Config::default().plan);
    }
}
