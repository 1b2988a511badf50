//! The OpenAPI document: made of the route list, completed with what every route shares, served with a
//! page for people.

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use data_encoding::BASE64;
use http::{HeaderValue, header};
use serde_json::{Value, json};
use utoipa::{PartialSchema, ToSchema, openapi};

use super::{
    Api, BASE, documentation,
    problem::{Code, FieldError, PROBLEM_JSON, Problem},
    tokens::sha256,
};

/// The methods of a path item that are operations.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// What is served, made once.
pub(crate) struct Texts {
    json: Bytes,
    html: Bytes,
    /// Allows the page its one style sheet, and nothing else.
    html_policy: HeaderValue,
}

// === impl Texts ===

impl Texts {
    pub(crate) fn new() -> Self {
        let document = document();
        let style = BASE64.encode(&sha256(documentation::STYLE.as_bytes()));
        let policy =
            format!("default-src 'none'; style-src 'sha256-{style}'; frame-ancestors 'none'");
        Self {
            json: serde_json::to_vec_pretty(&document)
                .expect("a value is JSON")
                .into(),
            html: documentation::page(&document).into(),
            html_policy: HeaderValue::from_str(&policy).expect("base64 fits a header"),
        }
    }
}

// === free functions ===

/// The whole document.
pub fn document() -> Value {
    let (_, routes) = super::routes().split_for_parts();
    let mut document = serde_json::to_value(routes).expect("a document is JSON");
    document["openapi"] = json!("3.1.0");
    document["security"] = json!([{ "bearer": [] }]);
    document["components"]["securitySchemes"] = json!({
        "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" }
    });
    for (name, schema) in [
        (Problem::name(), Problem::schema()),
        (FieldError::name(), FieldError::schema()),
        (Code::name(), Code::schema()),
    ] {
        document["components"]["schemas"][name.as_ref()] =
            serde_json::to_value(schema).expect("a schema is JSON");
    }
    each_operation(&mut document, |operation| {
        // Handlers are named within their file; an id must be unique in the whole document.
        let (tag, name) = (&operation["tags"][0], &operation["operationId"]);
        operation["operationId"] = json!(format!("{}_{}", word(tag), word(name)));
        operation["responses"]["default"] = json!({
            "description": "A problem (RFC 9457); `code` names its cause.",
            "content": { PROBLEM_JSON: { "schema": { "$ref": "#/components/schemas/Problem" } } }
        });
    });
    document
}

/// What the route list starts from.
pub(super) fn head() -> openapi::OpenApi {
    let mut info = openapi::Info::new("InboxGrove", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Runs mail infrastructure: domains, inboxes, sending, warmup, health.\n\n\
         JSON in snake_case. Lists hold `items` and `next_cursor`. Times are RFC 3339 in UTC. \
         Failures are problems (RFC 9457) with a stable `code`. A POST that makes something takes an \
         `Idempotency-Key`. No answer of 2xx comes before its effect is on disk."
            .to_owned(),
    );
    openapi::OpenApiBuilder::new().info(info).build()
}

/// The document and its page. They are not in the document themselves.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route(&format!("{BASE}/openapi.json"), get(serve_json))
        .route("/docs", get(serve_page))
}

async fn serve_json(State(api): State<Api>) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], api.document.json.clone()).into_response()
}

async fn serve_page(State(api): State<Api>) -> Response {
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    let policy = api.document.html_policy.clone();
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    (headers, api.document.html.clone()).into_response()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn each_operation(document: &mut Value, mut change: impl FnMut(&mut Value)) {
    let paths = document["paths"].as_object_mut();
    for item in paths.into_iter().flat_map(serde_json::Map::values_mut) {
        for method in METHODS {
            if let Some(operation) = item.get_mut(method) {
                change(operation);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_is_in_the_document() {
        let document = document();
        let listed = document["components"]["schemas"]["Code"].to_string();
        for code in Code::ALL {
            assert!(listed.contains(code.text()), "{} is missing", code.text());
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let text = document.to_string();
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(
                document["components"]["schemas"].get(name).is_some(),
                "{name} is missing"
            );
        }
    }

    #[test]
    fn operation_ids_are_unique_and_every_operation_has_a_summary() {
        let mut document = document();
        let mut ids = BTreeSet::new();
        each_operation(&mut document, |operation| {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(operation["summary"].is_string(), "{id} says nothing");
            assert!(ids.insert(id.clone()), "{id} is there twice");
        });
        assert!(ids.len() > 25);
    }
}
