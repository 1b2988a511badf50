//! JSON as text for people: one `key: value` a line, lists as tables.

use std::fmt::Write;

use serde_json::{Map, Value};

/// Longest cell of a table.
const CELL_CHARS_MAX: usize = 60;

/// The text of an answer.
pub(crate) fn render(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value, 0);
    text
}

fn write(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(fields) => fields_of(text, fields, depth),
        Value::Array(items) => table(text, items, depth),
        leaf => line(text, depth, &word(leaf)),
    }
}

fn fields_of(text: &mut String, fields: &Map<String, Value>, depth: usize) {
    let plain = |value: &Value| !value.is_object() && !value.is_array();
    let wide = fields
        .iter()
        .filter(|(_, value)| plain(value))
        .map(|(key, _)| key.len())
        .max()
        .unwrap_or(0);
    for (key, value) in fields.iter().filter(|(_, value)| plain(value)) {
        line(text, depth, &format!("{key:wide$}  {}", word(value)));
    }
    for (key, value) in fields.iter().filter(|(_, value)| !plain(value)) {
        if key != "items" || fields.len() > 2 {
            line(text, depth, &format!("{key}:"));
            write(text, value, depth + 1);
        } else {
            write(text, value, depth);
        }
    }
}

/// A table of objects with the columns of the first one; anything else is a list.
fn table(text: &mut String, items: &[Value], depth: usize) {
    let Some(first) = items.first() else {
        return line(text, depth, "(none)");
    };
    let Some(columns) = first.as_object() else {
        for item in items {
            write(text, item, depth);
        }
        return;
    };
    let columns: Vec<&String> = columns
        .iter()
        .filter(|(_, value)| !value.is_object() && !value.is_array())
        .map(|(key, _)| key)
        .collect();
    let cell = |item: &Value, column: &str| {
        let word = word(&item[column]);
        word.chars().take(CELL_CHARS_MAX).collect::<String>()
    };
    let widths: Vec<usize> = columns
        .iter()
        .map(|column| {
            let cells = items.iter().map(|item| cell(item, column).chars().count());
            cells.chain([column.len()]).max().unwrap_or(0)
        })
        .collect();
    let row = |cells: Vec<String>| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, wide)| format!("{cell:wide$}"));
        padded.collect::<Vec<_>>().join("  ")
    };
    line(
        text,
        depth,
        &row(columns.iter().map(|column| column.to_uppercase()).collect()),
    );
    for item in items {
        line(
            text,
            depth,
            &row(columns.iter().map(|column| cell(item, column)).collect()),
        );
    }
}

fn line(text: &mut String, depth: usize, content: &str) {
    writeln!(text, "{:1$}{2}", "", depth * 2, content.trim_end()).expect("a string takes any text");
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        // A terminal must not be steered by what a stranger wrote.
        Value::String(text) => text.replace(char::is_control, " "),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_lines_and_tables() {
        let answer = json!({
            "version": "1", "draining": false,
            "components": [{ "name": "store", "ok": true }, { "name": "vault", "ok": false }],
        });
        let expected =
            "draining  no\nversion   1\ncomponents:\n  NAME   OK\n  store  yes\n  vault  no\n";
        assert_eq!(render(&answer), expected);
        assert_eq!(
            render(&json!({ "items": [], "more": false })),
            "more  no\n(none)\n"
        );
    }

    #[test]
    fn no_text_steers_the_terminal() {
        assert!(!render(&json!({ "note": "\u{1b}[2J" })).contains('\u{1b}'));
    }
}
