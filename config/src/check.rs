//! What is wrong with the structure of a configuration, checked against the schema.

use std::net::{IpAddr, SocketAddr};

use inboxgrove_model::DomainName;
use serde_json::{Map, Value};

use crate::{
    schema::{Node, Shape, join},
    values::{Cidr, HIDDEN},
};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key's path, as in `outbound.sources[0].address`; empty when it is about a whole source.
    pub key: String,
    /// What should be there.
    pub expected: String,
    /// What is there; never a secret.
    pub found: String,
    /// Where it was read: a file, an environment variable, a credential; empty when several have a part in it.
    pub origin: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "expected {}, found {}", self.expected, self.found)?;
        if !self.origin.is_empty() {
            write!(f, " (in {})", self.origin)?;
        }
        Ok(())
    }
}

impl Problem {
    pub(crate) fn new(
        key: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            expected: expected.into(),
            found: found.into(),
            origin: String::new(),
        }
    }

    /// The section that it is about.
    pub(crate) fn section(&self) -> &str {
        self.key.split(['.', '[']).next().unwrap_or_default()
    }
}

/// Characters of a wrong value that are shown.
const FOUND_CHARS_MAX: usize = 60;
/// Edits at which a key still counts as a slip of another.
const SLIP_MAX: usize = 3;

/// Checks the structure of a value. Gives back what is good of it, so that sense can be checked too.
pub(crate) fn structure(root: &Node, value: &Value, problems: &mut Vec<Problem>) -> Value {
    let mut walk = Walk { root, problems };
    walk.value(root, value, "", false)
        .unwrap_or_else(|| Value::Object(Map::new()))
}

struct Walk<'a> {
    root: &'a Node,
    problems: &'a mut Vec<Problem>,
}

impl Walk<'_> {
    fn value(&mut self, node: &Node, value: &Value, path: &str, in_list: bool) -> Option<Value> {
        match (&node.shape, value) {
            (Shape::Table { keys, required }, Value::Object(found)) => {
                let required = if in_list { required.as_slice() } else { &[] };
                Some(self.table(keys, required, found, path))
            }
            (Shape::List { item, len }, Value::Array(found)) => {
                if len.is_some_and(|len| len != found.len()) {
                    return self.wrong(node, path, &format!("a list of {}", found.len()));
                }
                let before = self.problems.len();
                let items = found
                    .iter()
                    .enumerate()
                    .filter_map(|(place, value)| {
                        self.value(item, value, &format!("{path}[{place}]"), true)
                    })
                    .collect();
                (self.problems.len() == before).then_some(Value::Array(items))
            }
            (shape, value) if fits(shape, value) => Some(value.clone()),
            (_, value) => {
                let found = if node.is_secret() {
                    HIDDEN.to_owned()
                } else {
                    shown(value)
                };
                self.wrong(node, path, &found)
            }
        }
    }

    fn table(
        &mut self,
        keys: &[(String, Node)],
        required: &[String],
        found: &Map<String, Value>,
        path: &str,
    ) -> Value {
        let mut good = Map::new();
        for (name, value) in found {
            let path = join(path, name);
            match keys.iter().find(|(key, _)| key == name) {
                Some((_, node)) => {
                    if let Some(value) = self.value(node, value, &path, false) {
                        good.insert(name.clone(), value);
                    }
                }
                None => self.problems.push(unknown(self.root, &path)),
            }
        }
        for name in required.iter().filter(|name| !found.contains_key(*name)) {
            let expected = keys
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, node)| node.shape.words());
            self.problems.push(Problem::new(
                join(path, name),
                expected.unwrap_or_default(),
                "nothing",
            ));
        }
        Value::Object(good)
    }

    fn wrong(&mut self, node: &Node, path: &str, found: &str) -> Option<Value> {
        self.problems
            .push(Problem::new(path, node.shape.words(), found));
        None
    }
}

/// Whether a plain value fits.
fn fits(shape: &Shape, value: &Value) -> bool {
    match (shape, value) {
        // What `config show` prints in the place of a secret is none.
        (Shape::Text { secret: true, .. }, Value::String(text)) => text != HIDDEN,
        (Shape::Choice(words), Value::String(text)) => words.iter().any(|(word, _)| word == text),
        (
            Shape::Text {
                format,
                may_be_empty,
                len: (min, max),
                ..
            },
            Value::String(text),
        ) => {
            let chars = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
            let fits_len = chars >= *min && max.is_none_or(|max| chars <= max);
            let fits_format = format
                .as_deref()
                .is_none_or(|format| fits_format(format, text));
            (text.is_empty() && *may_be_empty) || (fits_len && fits_format)
        }
        (Shape::Whole { min, max }, Value::Number(number)) => {
            let number = number
                .as_i64()
                .map(i128::from)
                .or_else(|| number.as_u64().map(i128::from));
            number.is_some_and(|number| (*min..=*max).contains(&number))
        }
        (Shape::Real { min, max }, Value::Number(number)) => number
            .as_f64()
            .is_some_and(|number| number >= *min && number <= *max),
        (Shape::Flag, Value::Bool(_)) => true,
        _ => false,
    }
}

fn fits_format(format: &str, text: &str) -> bool {
    match format {
        "cidr" => text.parse::<Cidr>().is_ok(),
        "domain-name" => DomainName::parse(text).is_ok(),
        "ip" => text.parse::<IpAddr>().is_ok(),
        "socket-address" => text.parse::<SocketAddr>().is_ok(),
        "time-zone" => jiff::tz::TimeZone::get(text).is_ok(),
        "url" => {
            let rest = text
                .strip_prefix("https://")
                .or_else(|| text.strip_prefix("http://"));
            let plain = |text: &str| text.chars().all(|sign| sign.is_ascii_graphic());
            rest.is_some_and(|rest| {
                plain(rest) && !rest.is_empty() && !rest.starts_with(['/', '?', '#', ':'])
            })
        }
        _ => true,
    }
}

/// A key that does not exist, with the nearest one that does.
pub(crate) fn unknown(root: &Node, path: &str) -> Problem {
    let plain = without_places(path);
    let paths = root.paths();
    let leaf = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let depth = |path: &str| path.matches('.').count();
    let slip = paths
        .keys()
        .filter(|known| depth(known) == depth(&plain))
        .map(|known| (strsim::damerau_levenshtein(known, &plain), known))
        .min()
        .filter(|(edits, known)| *edits <= SLIP_MAX.min(known.len() / 2))
        .map(|(_, known)| known);
    let moved = || {
        paths
            .keys()
            .find(|known| depth(known) > 0 && leaf(known) == leaf(&plain))
    };
    let expected = match slip.or_else(moved) {
        Some(known) => format!("a known key; did you mean `{known}`?"),
        None => match plain
            .rsplit_once('.')
            .and_then(|(parent, _)| root.at(parent.split('.')))
        {
            Some(parent) => format!("one of the keys {}", names(parent)),
            None => format!("one of the sections {}", names(root)),
        },
    };
    Problem::new(path, expected, "an unknown key")
}

fn names(node: &Node) -> String {
    let names: Vec<String> = node
        .keys()
        .iter()
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    names.join(", ")
}

/// `plan[3].key` as the tree has it: `plan[].key`.
fn without_places(path: &str) -> String {
    path.chars()
        .filter({
            let mut inside = false;
            move |sign| {
                inside = (inside || *sign == '[') && *sign != ']';
                !inside || *sign == '['
            }
        })
        .collect()
}

/// A wrong value, cut.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Object(_) => "a table".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        plain => plain.to_string(),
    };
    if text.chars().count() <= FOUND_CHARS_MAX {
        return text;
    }
    text.chars().take(FOUND_CHARS_MAX).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn slips_are_told_from_strangers() {
        let root = schema::root();
        let table = [
            ("server.hostnme", "did you mean `server.hostname`?"),
            ("outbuond", "did you mean `outbound`?"),
            ("server.mx_port", "did you mean `outbound.mx_port`?"),
            ("plan[2].trail_days", "did you mean `plan[].trial_days`?"),
            (
                "outbound.caps.global_per_huor",
                "did you mean `outbound.caps.global_per_hour`?",
            ),
            ("dns.zebra", "one of the keys `"),
            ("zebra", "one of the sections `"),
        ];
        for (path, expected) in table {
            let problem = unknown(&root, path).to_string();
            assert!(
                problem.starts_with(path) && problem.contains(expected),
                "{problem}"
            );
        }
    }

    #[test]
    fn urls_are_told_from_other_texts() {
        for good in ["https://example.com/hook", "http://127.0.0.1:9000/"] {
            assert!(fits_format("url", good), "{good}");
        }
        for bad in [
            "example.com",
            "https://",
            "https:///x",
            "ftp://example.com",
            "https://a b",
        ] {
            assert!(!fits_format("url", bad), "{bad}");
        }
    }
}
