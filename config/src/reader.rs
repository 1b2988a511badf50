//! Reads the sources one over the other, remembering where each key came from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use serde_json::{Map, Value};

use crate::{
    check::{self, Problem},
    load::ConfigError,
    schema::{self, Node, Shape},
    sections::Config,
    sense,
};

/// What our variables begin with.
pub(crate) const PREFIX: &str = "INBOXGROVE_";
/// Names the file itself; read by the command line.
const FILE_VARIABLE: &str = "INBOXGROVE_CONFIG";
/// Largest file or credential that is read.
const BYTES_MAX: u64 = 1024 * 1024;

/// What has been read so far.
pub(crate) struct Reader {
    root: Node,
    value: Value,
    /// Which source a key came from, where it was not the file.
    origins: BTreeMap<String, String>,
    /// All sources that give a secret.
    secrets: BTreeMap<String, Vec<String>>,
    problems: Vec<Problem>,
    file: String,
}

// === impl Reader ===

impl Reader {
    pub(crate) fn new() -> Self {
        Self {
            root: schema::root(),
            value: Value::Object(Map::new()),
            origins: BTreeMap::new(),
            secrets: BTreeMap::new(),
            problems: Vec::new(),
            file: String::new(),
        }
    }

    pub(crate) fn file(&mut self, path: &Path) {
        let name = path.display().to_string();
        match read(path) {
            Ok(text) => self.toml(&text, &name),
            Err(why) => self.unreadable(&name, "a readable TOML file", &why),
        }
    }

    pub(crate) fn toml(&mut self, text: &str, name: &str) {
        name.clone_into(&mut self.file);
        match text.parse::<toml::Table>() {
            Ok(table) => self.value = json(toml::Value::Table(table)),
            Err(why) => {
                // Its own rendering quotes the line, which may hold a secret.
                let before = why
                    .span()
                    .and_then(|span| text.get(..span.start))
                    .unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                let problem = Problem::new(
                    "",
                    "TOML",
                    format!("a mistake in line {line}: {}", why.message()),
                );
                self.problems.push(Problem {
                    origin: name.to_owned(),
                    ..problem
                });
            }
        }
        for (path, node) in self.root.paths() {
            let found = path
                .split('.')
                .try_fold(&self.value, |value, name| value.get(name));
            if node.is_secret() && found.is_some_and(|value| value != "") {
                self.secrets.entry(path).or_default().push(name.to_owned());
            }
        }
    }

    pub(crate) fn environment(&mut self, env: &BTreeMap<String, String>) {
        for (name, text) in env {
            let Some(rest) = name.strip_prefix(PREFIX).filter(|_| name != FILE_VARIABLE) else {
                continue;
            };
            let key = rest.to_ascii_lowercase().replace("__", ".");
            let origin = format!("the environment variable {name}");
            let Some(node) = self.root.at(key.split('.')).cloned() else {
                let problem = check::unknown(&self.root, &key);
                self.problems.push(Problem { origin, ..problem });
                continue;
            };
            if node.is_secret() {
                self.secrets
                    .entry(key.clone())
                    .or_default()
                    .push(origin.clone());
            }
            self.set(&key, from_text(&node.shape, text), origin);
        }
    }

    pub(crate) fn credentials(&mut self, directory: &Path) {
        let names = match names_in(directory) {
            Ok(names) => names,
            Err(why) => {
                let name = directory.display().to_string();
                return self.unreadable(&name, "a readable directory of credentials", &why);
            }
        };
        for name in names {
            let path = directory.join(&name);
            let origin = format!("the credential {name}");
            match self.root.at(name.split('.')) {
                Some(node) if node.is_secret() => match read(&path) {
                    Ok(text) => {
                        self.secrets
                            .entry(name.clone())
                            .or_default()
                            .push(origin.clone());
                        let text = text.trim_end_matches(['\r', '\n']);
                        self.set(&name, Value::String(text.to_owned()), origin);
                    }
                    Err(why) => {
                        self.unreadable(&path.display().to_string(), "a readable credential", &why);
                    }
                },
                // Others' credentials may lie here too; only what names a section of ours is a mistake.
                _ if self.names_a_section(&name) => {
                    let problem = Problem::new(
                        name.clone(),
                        format!("a secret ({})", self.secret_names()),
                        "no secret",
                    );
                    self.problems.push(Problem { origin, ..problem });
                }
                _ => {}
            }
        }
    }

    fn names_a_section(&self, name: &str) -> bool {
        name.split_once('.')
            .is_some_and(|(section, _)| self.root.at([section]).is_some())
    }

    fn secret_names(&self) -> String {
        let paths = self.root.paths();
        let names = paths
            .iter()
            .filter(|(_, node)| node.is_secret())
            .map(|(path, _)| format!("`{path}`"));
        names.collect::<Vec<_>>().join(", ")
    }

    /// Puts a value at a key, over what is there.
    fn set(&mut self, key: &str, value: Value, origin: String) {
        let mut at = &mut self.value;
        for name in key.split('.') {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = at
                .as_object_mut()
                .expect("made one")
                .entry(name)
                .or_insert(Value::Null);
        }
        *at = value;
        self.origins.insert(key.to_owned(), origin);
    }

    fn unreadable(&mut self, name: &str, expected: &str, why: &io::Error) {
        let problem = Problem::new("", expected, why.to_string());
        self.problems.push(Problem {
            origin: name.to_owned(),
            ..problem
        });
    }

    pub(crate) fn finish(mut self, state_directory: Option<&str>) -> Result<Config, ConfigError> {
        self.check_secrets();
        let mut found = Vec::new();
        let good = check::structure(&self.root, &self.value, &mut found);
        self.problems.extend(
            found
                .into_iter()
                .map(|problem| located(problem, &self.origins, &self.file)),
        );

        let mut value =
            serde_json::to_value(Config::default()).expect("the defaults have no odd keys");
        // systemd names several directories with colons between them; the first is ours.
        if let Some(first) = state_directory
            .and_then(|all| all.split(':').next())
            .filter(|first| !first.is_empty())
        {
            value["server"]["data_dir"] = first.into();
        }
        merge(&mut value, good);
        match serde_json::from_value::<Config>(value) {
            Ok(config) => self.judge(config),
            Err(why) => {
                let problem = Problem::new("", "values that fit their keys", why.to_string());
                self.problems.push(problem);
                Err(ConfigError {
                    problems: self.problems,
                })
            }
        }
    }

    fn check_secrets(&mut self) {
        let twice = self.secrets.iter().filter(|(_, sources)| sources.len() > 1);
        self.problems.extend(twice.map(|(key, sources)| {
            Problem::new(
                key.clone(),
                "one source for a secret",
                sources.join(" and "),
            )
        }));
    }

    /// Looks at the sense of it, but not of sections that are already known to be broken.
    fn judge(mut self, config: Config) -> Result<Config, ConfigError> {
        let broken: BTreeSet<String> = self
            .problems
            .iter()
            .map(|problem| problem.section().to_owned())
            .collect();
        let senseless = sense::sense(&config).into_iter().filter(|problem| {
            let needs_plans = problem.key == "accounts.default_plan" && broken.contains("plan");
            !broken.contains(problem.section()) && !needs_plans
        });
        self.problems
            .extend(senseless.map(|problem| located(problem, &self.origins, "")));
        if self.problems.is_empty() {
            return Ok(config);
        }
        self.problems.sort_by(|a, b| a.key.cmp(&b.key));
        Err(ConfigError {
            problems: self.problems,
        })
    }
}

/// The problem with the source of its key.
fn located(problem: Problem, origins: &BTreeMap<String, String>, file: &str) -> Problem {
    let under = |key: &str| {
        problem
            .key
            .strip_prefix(key)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let origin = origins
        .iter()
        .find(|(key, _)| under(key))
        .map_or(file, |(_, origin)| origin.as_str());
    Problem {
        origin: origin.to_owned(),
        ..problem
    }
}

/// Puts `over` on `under`: tables are merged, all else is replaced.
fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                merge(under.entry(name).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

/// A variable's text as the value of a key. What cannot be read as such stays a text, and is told as wrong.
fn from_text(shape: &Shape, text: &str) -> Value {
    let as_text = || Value::String(text.to_owned());
    match shape {
        Shape::Text { .. } | Shape::Choice(_) => as_text(),
        Shape::Flag => text.parse().map_or_else(|_| as_text(), Value::Bool),
        Shape::Whole { .. } => text.parse::<i64>().map_or_else(|_| as_text(), Value::from),
        Shape::Real { .. } => text.parse::<f64>().map_or_else(|_| as_text(), Value::from),
        Shape::List { item, .. } => {
            let plain = !text.trim_start().starts_with('[');
            if plain {
                let parts = text
                    .split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty());
                return parts.map(|part| from_text(&item.shape, part)).collect();
            }
            inline(text).unwrap_or_else(as_text)
        }
        Shape::Table { .. } => inline(text).unwrap_or_else(as_text),
    }
}

/// An inline value of TOML.
fn inline(text: &str) -> Option<Value> {
    let table = format!("it = {text}").parse::<toml::Table>().ok()?;
    table.into_iter().next().map(|(_, value)| json(value))
}

fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
        // No key holds a time: as a text it is told as wrong where it stands.
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(json).collect(),
        toml::Value::Table(table) => Value::Object(
            table
                .into_iter()
                .map(|(name, value)| (name, json(value)))
                .collect(),
        ),
    }
}

/// A whole file of text, unless it is absurdly large.
fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > BYTES_MAX {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    fs::read_to_string(path)
}

/// The files of a directory, by name.
fn names_in(directory: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        // A name that is not UTF-8 cannot be one of our keys.
        if let Ok(name) = entry?.file_name().into_string() {
            names.insert(name);
        }
    }
    Ok(names)
}
