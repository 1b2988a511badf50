//! The API's documentation page: rendered from the OpenAPI document, one file, no script, no outside asset.

use std::fmt::Write;

use serde_json::Value;

/// The page's only style sheet; the policy of the response allows exactly this text.
pub(super) const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2733}\
code,pre{font:14px/1.4 ui-monospace,monospace;background:#f2f5f7;border-radius:4px}code{padding:.1em .3em}\
pre{padding:.8rem;overflow:auto}table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;\
padding:.3rem .6rem;border-bottom:1px solid #dde4ea}h2{margin-top:3rem;border-bottom:2px solid #2f6f4f}\
h3 b{display:inline-block;min-width:4.5rem;color:#2f6f4f}nav a{margin-right:1rem}";

/// The methods, in the order in which they are shown.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// The page.
pub(super) fn page(document: &Value) -> String {
    let mut page = String::new();
    render(&mut page, document).expect("a string takes any text");
    page
}

fn render(page: &mut String, document: &Value) -> std::fmt::Result {
    let info = &document["info"];
    write!(
        page,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>InboxGrove API</title><style>{STYLE}</style><h1>InboxGrove API {}</h1>",
        text(&info["version"])
    )?;
    paragraphs(page, &info["description"])?;
    page.push_str(
        "<p>The same as a document: <a href=\"/api/v1/openapi.json\">openapi.json</a>.</p><nav>",
    );
    let tags = tags(document);
    for tag in &tags {
        write!(page, "<a href=\"#tag-{0}\">{0}</a>", escape(tag))?;
    }
    page.push_str("<a href=\"#schemas\">schemas</a></nav>");
    for tag in &tags {
        write!(page, "<h2 id=\"tag-{0}\">{0}</h2>", escape(tag))?;
        for (path, method, operation) in
            operations(document).filter(|found| tag_of(found.2) == *tag)
        {
            operation_section(page, path, method, operation)?;
        }
    }
    schemas(page, document)
}

fn operation_section(
    page: &mut String,
    path: &str,
    method: &str,
    operation: &Value,
) -> std::fmt::Result {
    write!(
        page,
        "<h3><b>{}</b> <code>{}</code></h3><p>{}</p>",
        method.to_uppercase(),
        escape(path),
        text(&operation["summary"])
    )?;
    paragraphs(page, &operation["description"])?;
    if let Some(parameters) = operation["parameters"]
        .as_array()
        .filter(|all| !all.is_empty())
    {
        page.push_str("<table><tr><th>parameter<th>in<th>type<th>");
        for parameter in parameters {
            write!(
                page,
                "<tr><td><code>{}</code><td>{}<td>{}<td>{}",
                text(&parameter["name"]),
                text(&parameter["in"]),
                kind(&parameter["schema"]),
                text(&parameter["description"])
            )?;
        }
        page.push_str("</table>");
    }
    if let Some(content) = operation["requestBody"]["content"].as_object() {
        for (media, body) in content {
            write!(
                page,
                "<p>Body: {} as <code>{}</code></p>",
                kind(&body["schema"]),
                escape(media)
            )?;
        }
    }
    page.push_str("<p>Answers: ");
    let responses = operation["responses"].as_object();
    for (status, response) in responses.into_iter().flatten() {
        let bodies = response["content"].as_object().into_iter().flatten();
        let bodies: Vec<_> = bodies.map(|(_, body)| kind(&body["schema"])).collect();
        write!(
            page,
            "<code>{}</code> {} ",
            escape(status),
            bodies.join(", ")
        )?;
    }
    page.push_str("</p>");
    Ok(())
}

fn schemas(page: &mut String, document: &Value) -> std::fmt::Result {
    page.push_str("<h2 id=schemas>schemas</h2>");
    let schemas = document["components"]["schemas"].as_object();
    for (name, schema) in schemas.into_iter().flatten() {
        write!(page, "<h3 id=\"{0}\">{0}</h3>", escape(name))?;
        paragraphs(page, &schema["description"])?;
        if let Some(words) = schema["enum"].as_array() {
            let words: Vec<_> = words
                .iter()
                .map(|word| format!("<code>{}</code>", text(word)))
                .collect();
            write!(page, "<p>One of {}</p>", words.join(", "))?;
        }
        let Some(fields) = schema["properties"].as_object() else {
            continue;
        };
        page.push_str("<table>");
        for (field, schema) in fields {
            write!(
                page,
                "<tr><td><code>{}</code><td>{}<td>{}",
                escape(field),
                kind(schema),
                text(&schema["description"])
            )?;
        }
        page.push_str("</table>");
    }
    Ok(())
}

/// Every operation with its path and method, in the document's order.
fn operations(document: &Value) -> impl Iterator<Item = (&str, &'static str, &Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        METHODS.into_iter().filter_map(move |method| {
            item.get(method)
                .map(|operation| (path.as_str(), method, operation))
        })
    })
}

fn tag_of(operation: &Value) -> &str {
    operation["tags"][0].as_str().unwrap_or("other")
}

fn tags(document: &Value) -> Vec<&str> {
    let mut tags = Vec::new();
    for (_, _, operation) in operations(document) {
        let tag = tag_of(operation);
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    tags
}

/// A schema in a word: a link to a named one, an array of it, or its type.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|path| path.rsplit('/').next())
    {
        return format!("<a href=\"#{0}\">{0}</a>", escape(name));
    }
    for choices in ["oneOf", "anyOf", "allOf"] {
        if let Some(schemas) = schema[choices].as_array() {
            let all: Vec<_> = schemas.iter().map(kind).collect();
            return all.join(" or ");
        }
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().map(text).collect::<Vec<_>>().join(" or "),
        one => text(one),
    };
    if schema["type"] == "array" {
        format!("array of {}", kind(&schema["items"]))
    } else {
        types
    }
}

/// Paragraphs of a description.
fn paragraphs(page: &mut String, description: &Value) -> std::fmt::Result {
    let description = description.as_str().unwrap_or_default();
    for paragraph in description
        .split("\n\n")
        .filter(|text| !text.trim().is_empty())
    {
        write!(page, "<p>{}</p>", escape(paragraph))?;
    }
    Ok(())
}

fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_every_operation_and_loads_nothing() {
        let document = super::super::document();
        let page = page(&document);
        for (path, _, _) in operations(&document) {
            assert!(page.contains(&escape(path)), "{path} is missing");
        }
        for outside in ["<script", "http://", "https://", "src=", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
