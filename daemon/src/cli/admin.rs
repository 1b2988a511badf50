//! `inboxgrove admin`: a client of the admin socket.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use clap::{Args, Subcommand};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::UnixStream, time::timeout};

use super::{Process, print, text};
use crate::serve::admin_path;

/// Reads answer at once; a verification of a large store takes minutes.
const ANSWER_WAIT: Duration = Duration::from_hours(1);

/// How to reach the daemon, and what to ask.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    /// The daemon's admin socket; without it the one of the settings
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// How the daemon is
    Status,
    /// Services, sites and actors: those in trouble first, then the deepest, then the busiest
    Tree {
        /// A kind (service, site, tenant, domain, inbox), a state (parked, …), `failed`, a tenant's id, or an address
        #[arg(default_value = "")]
        of: String,
        /// Most of each part that is listed
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Why something is not sent: every gate with its limit, use and evidence
    Why {
        /// An address, a domain, a message's id, or tenant/inbox
        subject: String,
    },
    /// An account; without an id, the first 500
    Tenant {
        /// Its id
        id: Option<String>,
    },
    /// A domain and its checks
    Domain {
        /// Its name when it is proven, or tenant/domain
        subject: String,
    },
    /// An inbox
    Inbox {
        /// Its address, or tenant/inbox
        subject: String,
    },
    /// What waits to be sent: the first 500
    Queue,
    /// The jobs of an account, or one of them
    Job {
        /// The account's id
        tenant: String,
        /// The job's id
        id: Option<String>,
    },
    /// Suspend an account: reads work, mail is held
    Suspend {
        /// Its id
        tenant: String,
        /// What its owner reads
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Let a suspended account go on
    Resume {
        /// Its id
        tenant: String,
    },
    /// Put a parked actor back into service
    Unpark {
        /// Its address, as in `admin tree`
        address: String,
    },
    /// End an actor that hangs; it is back at once, within its budget
    Kill {
        /// Its address, as in `admin tree`
        address: String,
    },
    /// Show or set what is logged
    LogLevel {
        /// As in `info` or `warn,inboxgrove=debug`
        level: Option<String>,
    },
    /// End the daemon gracefully
    Drain,
}

/// One request to the daemon.
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
}

// === impl Ask ===

impl Ask {
    /// A read.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            body: None,
        }
    }

    /// A change.
    pub(crate) fn post(path: impl Into<String>, body: Value) -> Self {
        Self {
            method: Method::POST,
            path: path.into(),
            body: Some(body),
        }
    }
}

impl AdminCommand {
    fn ask(&self) -> Ask {
        match self {
            Self::Status => Ask::get("/admin/status"),
            Self::Tree { of, limit } => {
                let limit = limit.map(|limit| format!("&limit={limit}"));
                let (of, limit) = (encoded(of), limit.unwrap_or_default());
                Ask::get(format!("/admin/tree?of={of}{limit}"))
            }
            Self::Why { subject } => about("why", subject),
            Self::Tenant { id: Some(id) } => about("tenant", id),
            Self::Tenant { id: None } => Ask::get("/admin/tenants"),
            Self::Domain { subject } => about("domain", subject),
            Self::Inbox { subject } => about("inbox", subject),
            Self::Queue => Ask::get("/admin/queue"),
            Self::Job { tenant, id: None } => {
                Ask::get(format!("/admin/job?tenant={}", encoded(tenant)))
            }
            Self::Job {
                tenant,
                id: Some(id),
            } => {
                let (tenant, id) = (encoded(tenant), encoded(id));
                Ask::get(format!("/admin/job?tenant={tenant}&job={id}"))
            }
            Self::Suspend { tenant, note } => {
                Ask::post("/admin/suspend", json!({ "tenant": tenant, "note": note }))
            }
            Self::Resume { tenant } => Ask::post("/admin/resume", json!({ "subject": tenant })),
            Self::Unpark { address } => Ask::post("/admin/unpark", json!({ "subject": address })),
            Self::Kill { address } => Ask::post("/admin/kill", json!({ "subject": address })),
            Self::LogLevel { level: None } => Ask::get("/admin/log-level"),
            Self::LogLevel { level: Some(level) } => {
                Ask::post("/admin/log-level", json!({ "level": level }))
            }
            Self::Drain => Ask::post("/admin/drain", json!({})),
        }
    }
}

// === free functions ===

/// Asks the daemon and prints its answer.
pub(crate) fn run(args: &AdminArgs, process: &Process) -> anyhow::Result<ExitCode> {
    let socket = match &args.socket {
        Some(path) => path.clone(),
        None => admin_path(&process.config()?),
    };
    let (status, answer) = ask(&socket, args.command.ask())?;
    show(status, &answer, args.json)
}

/// Prints an answer; a refusal is a failure of the command.
pub(crate) fn show(status: StatusCode, answer: &Value, as_json: bool) -> anyhow::Result<ExitCode> {
    if as_json {
        print(&serde_json::to_string_pretty(answer)?)?;
    } else if status.is_success() {
        print(&text::render(answer))?;
    } else {
        let word = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        anyhow::bail!("{} ({})", word("detail"), word("code"));
    }
    Ok(if status.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Sends one request over the socket and reads the whole answer.
pub(crate) fn ask(socket: &Path, ask: Ask) -> anyhow::Result<(StatusCode, Value)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let answer = timeout(ANSWER_WAIT, exchange(socket, ask)).await;
        answer.context("the daemon did not answer")?
    })
}

async fn exchange(socket: &Path, ask: Ask) -> anyhow::Result<(StatusCode, Value)> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("no daemon answers at {}; is it running?", socket.display()))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let body = ask.body.map(|body| body.to_string()).unwrap_or_default();
    let request = Request::builder()
        .method(ask.method)
        .uri(ask.path)
        .header(header::HOST, "admin")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok((status, serde_json::from_slice(&body)?))
}

fn about(what: &str, subject: &str) -> Ask {
    Ask::get(format!("/admin/{what}?subject={}", encoded(subject)))
}

/// Percent-encoded for a query (RFC 3986 §2.1).
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_cannot_become_another_parameter() {
        assert_eq!(encoded("a+b@c.d&x=1"), "a%2Bb%40c.d%26x%3D1");
    }
}
