//! The `Http` port for real: HTTP/1.1 and HTTP/2 over TLS by reqwest.
//!
//! Follows no redirect, uses no proxy of the environment, reads at most [`ANSWER_BYTES_MAX`], ends at the
//! caller's deadline and never tries again. Unless private addresses are allowed, only `https` URLs are
//! requested, and only addresses of the public internet are connected to.

mod names;

use std::{error::Error, fmt, net::IpAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use inboxgrove_model::{
    net,
    ports::{BoxFuture, Dns, Http, HttpError},
};
use reqwest::{Url, redirect};
use tokio::time::timeout;

use self::names::CheckedNames;

/// Longest answer that is read. The largest one expected is a page of 100 DNS records, some 100 KB.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// An idle connection is kept for this long: shorter than what vendors close after (60 s and more), so that
/// a request is hardly ever written into a dying connection.
const IDLE_KEPT: Duration = Duration::from_secs(30);
/// Idle connections kept to one host. Callers are few: one actor per vendor.
const IDLE_PER_HOST_MAX: usize = 4;
/// How we name ourselves to vendors.
const USER_AGENT: &str = concat!("inboxgrove/", env!("CARGO_PKG_VERSION"));

/// Where requests may go.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// Whether addresses outside the public internet, and plain `http`, are allowed (`network.allow_private`).
    pub allow_private: bool,
    /// The installation's own public addresses: never to be reached, whatever `allow_private` says.
    pub own: Vec<IpAddr>,
}

/// Requests to vendors over the network. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    reach: Arc<Reach>,
    /// The error text when TLS could not be set up: the daemon runs without vendors then, and says why at
    /// each call.
    inner: Result<reqwest::Client, Arc<str>>,
}

// === impl Reach ===

impl Reach {
    /// Refuses an address that must not be reached.
    fn check(&self, address: IpAddr) -> Result<(), Forbidden> {
        let why = if self.own.contains(&address.to_canonical()) {
            "an address of this installation"
        } else if self.allow_private || net::is_public(address) {
            return Ok(());
        } else {
            "not an address of the public internet (network.allow_private)"
        };
        Err(Forbidden { address, why })
    }
}

/// An address that must not be reached.
#[derive(Debug, thiserror::Error)]
#[error("{address} is {why}")]
struct Forbidden {
    address: IpAddr,
    why: &'static str,
}

// === impl Client ===

impl Client {
    /// A client that finds hosts through `dns`. Trusts the certificate authorities of the system.
    pub fn new(dns: Arc<dyn Dns>, reach: Reach) -> Self {
        let reach = Arc::new(reach);
        let inner = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .pool_idle_timeout(IDLE_KEPT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .dns_resolver(CheckedNames::new(dns, Arc::clone(&reach)))
            .build()
            .map_err(|error| Arc::from(told(error).as_str()));
        if let Err(why) = &inner {
            tracing::warn!(%why, "requests to vendors will fail: TLS cannot be set up; are the system's CA certificates installed?");
        }
        Self { reach, inner }
    }

    async fn exchange(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, Failed> {
        let inner = self.inner.as_ref().map_err(|why| Failed::unsent(why))?;
        let mut request =
            reqwest::Request::try_from(request).map_err(|error| Failed::unsent(&told(error)))?;
        // Checked in the form that is connected to: the parser has turned `0x7f.1` into `127.0.0.1`.
        self.check_url(request.url())?;
        *request.timeout_mut() = None;
        let answer = inner.execute(request).await.map_err(|error| Failed {
            unsent: error.is_connect() || error.is_builder(),
            why: told(error),
        })?;
        read_whole(answer).await
    }

    /// What can be refused before a name is looked up. Names are checked by [`CheckedNames`], where their
    /// addresses are known and cannot change any more.
    fn check_url(&self, url: &Url) -> Result<(), Failed> {
        if url.scheme() != "https" && !(self.reach.allow_private && url.scheme() == "http") {
            return Err(Failed::unsent(
                "only https is allowed (network.allow_private)",
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Failed::unsent("a URL may not hold credentials"));
        }
        let host = url.host_str().unwrap_or_default();
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => self
                .reach
                .check(address)
                .map_err(|why| Failed::unsent(&why.to_string())),
            Err(_) => Ok(()),
        }
    }
}

impl Http for Client {
    fn send(
        &self,
        request: http::Request<Bytes>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<http::Response<Bytes>, HttpError>> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        Box::pin(async move {
            let ended = timeout(deadline, self.exchange(request)).await;
            let failed = match ended {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failed)) => failed,
                // Nobody can tell how far it came.
                Err(_) => Failed::midway(format!("nothing within {} s", deadline.as_secs_f32())),
            };
            Err(HttpError {
                host,
                why: failed.why,
                unsent: failed.unsent,
            })
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("reach", &self.reach)
            .finish_non_exhaustive()
    }
}

/// How an exchange failed, before the host's name is added.
#[derive(Debug)]
struct Failed {
    why: String,
    unsent: bool,
}

// === impl Failed ===

impl Failed {
    fn unsent(why: &str) -> Self {
        Self {
            why: why.to_owned(),
            unsent: true,
        }
    }

    fn midway(why: String) -> Self {
        Self { why, unsent: false }
    }
}

// === free functions ===

async fn read_whole(mut answer: reqwest::Response) -> Result<http::Response<Bytes>, Failed> {
    let too_long = || {
        Failed::midway(format!(
            "the answer is longer than {ANSWER_BYTES_MAX} bytes"
        ))
    };
    let promised = answer.content_length().unwrap_or(0);
    if usize::try_from(promised).map_or(true, |bytes| bytes > ANSWER_BYTES_MAX) {
        return Err(too_long());
    }
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut body = BytesMut::new();
    while let Some(piece) = answer
        .chunk()
        .await
        .map_err(|error| Failed::midway(told(error)))?
    {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(too_long());
        }
        body.extend_from_slice(&piece);
    }
    let mut whole = http::Response::new(body.freeze());
    *whole.status_mut() = status;
    *whole.headers_mut() = headers;
    Ok(whole)
}

/// The error with its causes, without the URL: a query may hold a secret.
fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests;
