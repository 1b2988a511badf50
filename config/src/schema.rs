//! The one list of keys: a tree read from the schema that is derived from the types.
//!
//! Unknown keys, types, ranges and formats are checked against it, and the documentation is printed from
//! it, so none of them can say anything that the types do not.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::sections::Config;

/// One key or section.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// Its comment in the types, in one paragraph.
    pub(crate) description: String,
    /// What it is when it is left out; in the tables of lists only, elsewhere the defaults' own value counts.
    pub(crate) default: Option<Value>,
    /// What it may hold.
    pub(crate) shape: Shape,
}

/// What a key may hold.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape {
    /// Further keys.
    Table {
        /// By name, in alphabetical order.
        keys: Vec<(String, Node)>,
        /// Those that must be given where nothing stands in for them: in the tables of a list.
        required: Vec<String>,
    },
    /// Several of one kind.
    List { item: Box<Node>, len: Option<usize> },
    /// One of several words.
    Choice(Vec<(String, String)>),
    /// A text.
    Text {
        format: Option<String>,
        may_be_empty: bool,
        secret: bool,
        len: (u64, Option<u64>),
    },
    /// A whole number.
    Whole { min: i128, max: i128 },
    /// A number.
    Real { min: f64, max: f64 },
    /// Yes or no.
    Flag,
}

/// The root of the tree.
pub(crate) fn root() -> Node {
    let settings = SchemaSettings::default().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<Config>();
    node("", schema.as_value())
}

impl Node {
    /// The node at a path.
    pub(crate) fn at<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Option<&Node> {
        path.into_iter().try_fold(self, |node, name| {
            node.keys()
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, node)| node)
        })
    }

    /// The keys below it, when it is a section.
    pub(crate) fn keys(&self) -> &[(String, Node)] {
        match &self.shape {
            Shape::Table { keys, .. } => keys,
            _ => &[],
        }
    }

    /// All paths below it, sections included; those in lists end in `[]`.
    pub(crate) fn paths(&self) -> BTreeMap<String, &Node> {
        let mut paths = BTreeMap::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect<'a>(&'a self, prefix: &str, paths: &mut BTreeMap<String, &'a Node>) {
        for (name, node) in self.keys() {
            let path = join(prefix, name);
            node.collect(&path, paths);
            if let Shape::List { item, .. } = &node.shape {
                item.collect(&format!("{path}[]"), paths);
            }
            paths.insert(path, node);
        }
    }

    /// Whether it is a secret.
    pub(crate) fn is_secret(&self) -> bool {
        matches!(self.shape, Shape::Text { secret: true, .. })
    }
}

impl Shape {
    /// What it may hold, in words, as in "expected …".
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Table { .. } => "a table".into(),
            Self::List {
                item,
                len: Some(len),
            } => format!("a list of {len}, each {}", item.shape.words()),
            Self::List { item, len: None } => format!("a list, each item {}", item.shape.words()),
            Self::Choice(words) => {
                let words: Vec<String> =
                    words.iter().map(|(word, _)| format!("`{word}`")).collect();
                format!("one of {}", words.join(", "))
            }
            Self::Text { secret: true, .. } => "a secret".into(),
            Self::Text {
                format: Some(format),
                may_be_empty,
                ..
            } => {
                let or_empty = if *may_be_empty {
                    ", or an empty text"
                } else {
                    ""
                };
                format!("{}{or_empty}", format_words(format))
            }
            Self::Text {
                len: (min, Some(max)),
                ..
            } if min == max => format!("a text of {max} characters"),
            Self::Text {
                len: (min, Some(max)),
                ..
            } => format!("a text of {min} to {max} characters"),
            Self::Text { .. } => "a text".into(),
            Self::Whole { min, max } => format!("a whole number from {min} to {max}"),
            Self::Real { min, max } => format!("a number from {min} to {max}"),
            Self::Flag => "`true` or `false`".into(),
        }
    }
}

/// A format in words.
fn format_words(format: &str) -> &'static str {
    match format {
        "cidr" => "a range of addresses, as in `192.0.2.0/24`",
        "domain-name" => "a domain name of at least two labels",
        "ip" => "an IP address",
        "path" => "a path",
        "socket-address" => "an address and a port, as in `127.0.0.1:8080` or `[::1]:8080`",
        "time-zone" => "an IANA time zone, as in `Europe/Berlin`",
        "url" => "a URL that begins with `https://` or `http://`",
        _ => "a text",
    }
}

/// A path and a key below it.
pub(crate) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

fn node(name: &str, schema: &Value) -> Node {
    Node {
        description: schema["description"]
            .as_str()
            .unwrap_or_default()
            .replace('\n', " "),
        default: schema.get("default").cloned(),
        shape: shape(name, schema),
    }
}

fn shape(name: &str, schema: &Value) -> Shape {
    let words = |key: &str| {
        let list = schema[key].as_array().into_iter().flatten();
        list.filter_map(|word| word.as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    if let Some(variants) = schema["oneOf"].as_array() {
        return Shape::Choice(variants.iter().flat_map(choices).collect());
    }
    if schema["enum"].is_array() {
        return Shape::Choice(choices(schema));
    }
    match schema["type"].as_str() {
        Some("object") => Shape::Table {
            keys: keys(schema),
            required: words("required"),
        },
        Some("array") => Shape::List {
            item: Box::new(node(name, &schema["items"])),
            len: schema["minItems"]
                .as_u64()
                .and_then(|len| usize::try_from(len).ok()),
        },
        Some("integer") => Shape::Whole {
            min: whole(&schema["minimum"]).unwrap_or(0),
            max: whole(&schema["maximum"]).unwrap_or_else(|| widest(schema["format"].as_str())),
        },
        Some("number") => Shape::Real {
            min: schema["minimum"].as_f64().unwrap_or(f64::MIN),
            max: schema["maximum"].as_f64().unwrap_or(f64::MAX),
        },
        Some("boolean") => Shape::Flag,
        Some("string") => Shape::Text {
            format: schema["format"].as_str().map(str::to_owned),
            may_be_empty: schema["x-optional"] == true,
            secret: schema["writeOnly"] == true,
            len: (
                schema["minLength"].as_u64().unwrap_or(0),
                schema["maxLength"].as_u64(),
            ),
        },
        _ => unreachable!("the types of the sections derive no other schema; {name} has {schema}"),
    }
}

/// Sorted here: whether the schema keeps the types' order depends on features that other crates turn on.
fn keys(schema: &Value) -> Vec<(String, Node)> {
    let keys = schema["properties"].as_object().into_iter().flatten();
    let mut keys: Vec<_> = keys
        .map(|(name, schema)| (name.clone(), node(name, schema)))
        .collect();
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    keys
}

fn choices(schema: &Value) -> Vec<(String, String)> {
    let about = schema["description"]
        .as_str()
        .unwrap_or_default()
        .replace('\n', " ");
    let consts = schema["const"].as_str().into_iter();
    let listed = schema["enum"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    consts
        .chain(listed)
        .map(|word| (word.to_owned(), about.clone()))
        .collect()
}

/// A bound, however the attribute wrote it.
fn whole(bound: &Value) -> Option<i128> {
    bound
        .as_i64()
        .map(i128::from)
        .or_else(|| bound.as_u64().map(i128::from))
}

fn widest(format: Option<&str>) -> i128 {
    match format {
        Some("uint8") => u8::MAX.into(),
        Some("uint16") => u16::MAX.into(),
        Some("uint32") => u32::MAX.into(),
        // TOML's whole numbers have 64 bits with a sign.
        _ => i64::MAX.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_says_what_it_is() {
        let root = root();
        let paths = root.paths();
        assert!(paths.len() > 120, "{}", paths.len());
        for (path, node) in paths {
            assert!(!node.description.is_empty(), "{path}");
            assert!(
                !node.description.contains('|'),
                "{path} would break its table"
            );
        }
    }

    #[test]
    fn the_tree_knows_ranges_formats_and_secrets() {
        let root = root();
        let at = |path: &str| root.at(path.split('.')).expect(path).shape.words();
        assert_eq!(at("dns.port"), "a whole number from 1 to 65535");
        assert_eq!(
            at("server.time_zone"),
            "an IANA time zone, as in `Europe/Berlin`"
        );
        assert_eq!(at("log.format"), "one of `text`, `json`");
        assert_eq!(
            at("warmup.weekdays"),
            "a list of 7, each a number from 0 to 2"
        );
        assert!(at("inbound.trusted_gateways").starts_with("a list, each item a range"));
        let secrets: Vec<_> = root
            .paths()
            .into_iter()
            .filter(|(_, node)| node.is_secret())
            .map(|(path, _)| path)
            .collect();
        assert_eq!(
            secrets,
            ["notifier.webhook_secret", "store.installation_key"]
        );
    }
}
