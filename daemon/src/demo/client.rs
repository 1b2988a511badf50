//! The demo as a user of the API: plain HTTP requests with JSON, and the stream of events.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::timeout;

use super::ledger::Event;

/// Longest wait for an answer: registering hashes a password, adding a domain makes an RSA key.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// Longest event that is read; real ones have a few hundred bytes.
const EVENT_BYTES_MAX: usize = 64 * 1024;

/// A user of the API, logged in or not.
pub(super) struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
    base: String,
    token: Option<String>,
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// The API said no.
    #[error("{what} was refused with {status} {code}: {detail}")]
    Refused {
        /// Method and path.
        what: String,
        /// The status.
        status: StatusCode,
        /// The stable code of the cause.
        code: String,
        /// The cause in words.
        detail: String,
    },
    /// No answer came.
    #[error("{what} was not answered")]
    Unanswered {
        /// Method and path.
        what: String,
        /// What happened.
        #[source]
        why: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not what was expected.
    #[error("the answer to {what} is not understood")]
    Unreadable {
        /// Method and path.
        what: String,
        /// What is wrong with it.
        #[source]
        why: serde_json::Error,
    },
}

/// The stream of what happens in the account.
pub(super) struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

/// A problem as RFC 9457 has it, as far as it is told on.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    detail: String,
}

// === impl Client ===

impl Client {
    /// A client of the API at this address that is not logged in.
    pub(super) fn new(at: SocketAddr) -> Self {
        Self {
            pool: Pool::builder(TokioExecutor::new()).build(HttpConnector::new()),
            base: format!("http://{at}/api/v1"),
            token: None,
        }
    }

    /// Where the API is.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Sends this access token from now on.
    pub(super) fn log_in(&mut self, token: String) {
        self.token = Some(token);
    }

    /// Reads something.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None).await
    }

    /// Makes or does something.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<T, ClientError> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Listens to what happens from now on.
    pub(super) async fn events(&self) -> Result<Events, ClientError> {
        let what = "GET /events".to_owned();
        let (status, body) = self.send(&what, Method::GET, "/events", None).await?;
        if !status.is_success() {
            return Err(refused(
                what,
                status,
                &collect(body).await.unwrap_or_default(),
            ));
        }
        Ok(Events {
            body,
            buffer: Vec::new(),
        })
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, ClientError> {
        let what = format!("{method} {path}");
        let answered = timeout(ANSWER_WAIT, async {
            let (status, body) = self.send(&what, method, path, body).await?;
            let bytes = collect(body).await.map_err(|why| unanswered(&what, why))?;
            Ok((status, bytes))
        });
        let (status, bytes) = answered.await.map_err(|late| unanswered(&what, late))??;
        if !status.is_success() {
            return Err(refused(what, status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|why| ClientError::Unreadable { what, why })
    }

    async fn send(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Incoming), ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let bytes = match body {
            None => Bytes::new(),
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
        };
        let request = request
            .body(Full::new(bytes))
            .map_err(|why| unanswered(what, why))?;
        let response = self.pool.request(request).await;
        let response = response.map_err(|why| unanswered(what, why))?;
        Ok((response.status(), response.into_body()))
    }
}

// === impl ClientError ===

impl ClientError {
    /// The stable code of a refusal.
    pub(super) fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            Self::Unanswered { .. } | Self::Unreadable { .. } => None,
        }
    }
}

// === impl Events ===

impl Events {
    /// The next event; none when the stream has ended. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(block) = next_block(&mut self.buffer) {
                if let Some(event) = parse(&block) {
                    return Some(event);
                }
            }
            let frame = self.body.frame().await?.ok()?;
            // Trailers are of no use here.
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
            if self.buffer.len() > EVENT_BYTES_MAX {
                return None;
            }
        }
    }
}

// === free functions ===

/// Takes the first whole block, up to its empty line, out of what was read.
fn next_block(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = buffer.windows(2).position(|pair| pair == b"\n\n")?;
    Some(buffer.drain(..end + 2).collect())
}

/// The event of a block. Comments keep the connection alive and say nothing.
fn parse(block: &[u8]) -> Option<Event> {
    let text = std::str::from_utf8(block).ok()?;
    let data: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(|data| data.strip_prefix(' ').unwrap_or(data))
        .collect();
    serde_json::from_str(&data.join("\n")).ok()
}

async fn collect(body: Incoming) -> Result<Bytes, hyper::Error> {
    Ok(body.collect().await?.to_bytes())
}

fn unanswered(what: &str, why: impl std::error::Error + Send + Sync + 'static) -> ClientError {
    ClientError::Unanswered {
        what: what.to_owned(),
        why: Box::new(why),
    }
}

fn refused(what: String, status: StatusCode, body: &[u8]) -> ClientError {
    let Problem { code, detail } = serde_json::from_slice(body).unwrap_or_default();
    ClientError::Refused {
        what,
        status,
        code,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_at_empty_lines_wherever_the_chunks_end() {
        let wire = ": alive\n\nid: 7\nevent: message_placed\ndata: {\"id\":7,\"type\":\"message_placed\",\
                    \"at\":\"2026-11-23T10:00:00Z\",\"spam\":true}\n\nid: 8\ndata: {";
        for size in [1, 2, 7, wire.len()] {
            let (mut buffer, mut found) = (Vec::new(), Vec::new());
            for chunk in wire.as_bytes().chunks(size) {
                buffer.extend_from_slice(chunk);
                while let Some(block) = next_block(&mut buffer) {
                    found.extend(parse(&block));
                }
            }
            assert_eq!(found.len(), 1, "chunks of {size}");
            assert_eq!(
                (found[0].kind.as_str(), found[0].spam),
                ("message_placed", Some(true))
            );
            assert_eq!(buffer, b"id: 8\ndata: {");
        }
    }

    #[test]
    fn a_refusal_keeps_its_code() {
        let problem =
            br#"{"type":"urn:x","status":409,"code":"gate_closed","detail":"quarantined"}"#;
        let error = refused("POST /x".into(), StatusCode::CONFLICT, problem);
        assert_eq!(error.code(), Some("gate_closed"));
        assert!(error.to_string().contains("quarantined"), "{error}");
        assert_eq!(
            refused("GET /x".into(), StatusCode::BAD_GATEWAY, b"<html>").code(),
            Some("")
        );
    }
}
