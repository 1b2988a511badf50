//! Cloudflare's JSON, private to the client. Unknown fields are ignored: the API grows.
//! <https://developers.cloudflare.com/api/>

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use inboxgrove_model::{DomainName, ports::RecordData};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Held, text};
use crate::{
    error::{Kind, quoted},
    record,
};

/// `ttl` that leaves the choice to Cloudflare: 300 s.
const TTL_AUTOMATIC: u32 = 1;
/// Longest wait that we take from a `Retry-After`: their block lasts five minutes.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// "Record does not exist."
pub(super) const RECORD_MISSING: u32 = 81044;
/// "An A, AAAA or CNAME record with that host already exists", the same for CNAME, "the record already
/// exists", "an identical record already exists".
pub(super) const OCCUPIED: [u32; 4] = [81053, 81054, 81057, 81058];
/// "Invalid token", "invalid request headers", "unauthorized to access", "authentication error".
const ABOUT_CREDENTIALS: [u32; 4] = [1000, 6003, 9109, 10000];

/// What can be read from a result.
pub(super) trait Wire: DeserializeOwned {}
impl<T: DeserializeOwned> Wire for T {}

/// What every answer is wrapped in. <https://developers.cloudflare.com/fundamentals/api/how-to/make-api-calls/>
#[derive(Debug, Deserialize)]
pub(super) struct Envelope {
    success: bool,
    #[serde(default)]
    errors: Option<Vec<Trouble>>,
    #[serde(default)]
    result: Value,
    #[serde(default)]
    result_info: Option<Page>,
}

#[derive(Debug, Deserialize)]
struct Trouble {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    message: String,
    #[serde(default)]
    error_chain: Option<Vec<Trouble>>,
}

/// Where a list stands.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    total_pages: usize,
}

/// <https://developers.cloudflare.com/api/resources/user/subresources/tokens/methods/verify/>
#[derive(Debug, Deserialize)]
pub(super) struct Verified {
    pub(super) status: String,
}

/// <https://developers.cloudflare.com/api/resources/zones/methods/list/>
#[derive(Debug, Deserialize)]
pub(super) struct Zone {
    id: String,
    pub(super) name: String,
    status: String,
    #[serde(default)]
    name_servers: Vec<String>,
}

/// <https://developers.cloudflare.com/api/resources/dns/subresources/records/methods/list/>
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    priority: Option<u16>,
    #[serde(default)]
    proxied: Option<bool>,
    #[serde(default)]
    comment: Option<String>,
}

/// <https://developers.cloudflare.com/api/resources/dns/subresources/records/methods/create/>, and `edit`.
#[derive(Debug, Serialize)]
pub(super) struct Wanted<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: String,
    content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u16>,
    ttl: u32,
    proxied: bool,
    comment: &'a str,
}

// === impl Envelope ===

impl Envelope {
    /// Reads an answer. `success: false` is a failure whatever the status says.
    pub(super) fn read(answer: &Response<Bytes>) -> Result<Self, Kind> {
        let status = answer.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            let retry_after = retry_after(answer);
            return Err(Kind::Busy { retry_after });
        }
        if status.is_server_error() {
            return Err(Kind::Unavailable {
                status: status.as_u16(),
            });
        }
        match serde_json::from_slice::<Self>(answer.body()) {
            Ok(envelope) if envelope.success && status.is_success() => Ok(envelope),
            Ok(envelope) => Err(envelope.refusal(status)),
            Err(why) if status.is_success() => Err(Kind::Garbled(quoted(&why.to_string()))),
            Err(_) => Err(refused(status, 0, "no reason that we can read")),
        }
    }

    fn refusal(&self, status: StatusCode) -> Kind {
        let Some(first) = self.errors.iter().flatten().next() else {
            return refused(status, 0, "no reason given");
        };
        let chain = first.error_chain.iter().flatten();
        let message = chain.fold(first.message.clone(), |text, next| {
            format!("{text}: {} ({})", next.message, next.code)
        });
        refused(status, first.code, &message)
    }

    /// The result as what it should be.
    pub(super) fn result<T: Wire>(self) -> Result<T, String> {
        serde_json::from_value(self.result).map_err(|why| quoted(&why.to_string()))
    }

    /// A list and where it stands.
    pub(super) fn listed<T: Wire>(mut self) -> Result<(Vec<T>, Page), String> {
        let page = self
            .result_info
            .take()
            .ok_or("a list without result_info")?;
        Ok((self.result()?, page))
    }
}

// === impl Page ===

impl Page {
    pub(super) fn is_last(&self, page: usize) -> bool {
        page >= self.total_pages
    }
}

// === impl Zone ===

impl Zone {
    pub(super) fn read(self, name: DomainName) -> Result<super::Zone, String> {
        Ok(super::Zone {
            id: checked_id(self.id)?,
            name,
            active: self.status == "active",
            name_servers: self.name_servers,
        })
    }
}

// === impl Record ===

impl Record {
    /// The record in our words. One of a known type that cannot be read is kept, without data: it may belong
    /// to anybody, and it must not hide the others.
    pub(super) fn read(self, mark: &str) -> Result<Held, String> {
        Ok(Held {
            id: checked_id(self.id.clone())?,
            name: folded(&self.name),
            data: self.data(),
            proxied: self.proxied.unwrap_or(false),
            ours: self.comment.as_deref() == Some(mark),
            kind: self.kind,
        })
    }

    fn data(&self) -> Option<RecordData> {
        let content = self.content.as_deref()?;
        Some(match self.kind.as_str() {
            "A" => RecordData::A(content.parse().ok()?),
            "AAAA" => RecordData::Aaaa(content.parse().ok()?),
            "MX" => RecordData::Mx {
                preference: self.priority?,
                exchange: folded(content),
            },
            "TXT" => RecordData::Txt(text::unquote(content)?),
            "NS" => RecordData::Ns(folded(content)),
            "CNAME" => RecordData::Cname(folded(content)),
            _ => return None,
        })
    }
}

// === impl Wanted ===

impl<'a> Wanted<'a> {
    pub(super) fn new(record: &'a record::Record, mark: &'a str) -> Self {
        let (content, priority) = match record.data() {
            RecordData::A(address) => (address.to_string(), None),
            RecordData::Aaaa(address) => (address.to_string(), None),
            RecordData::Mx {
                preference,
                exchange,
            } => (exchange.clone(), Some(*preference)),
            RecordData::Txt(words) => (text::quote(words), None),
            RecordData::Ns(name) | RecordData::Cname(name) => (name.clone(), None),
            RecordData::Ptr(_) | RecordData::Soa { .. } => {
                unreachable!("Record::new refuses PTR and SOA")
            }
        };
        Self {
            name: record.name(),
            kind: record.kind().to_string(),
            content,
            priority,
            ttl: TTL_AUTOMATIC,
            proxied: false,
            comment: mark,
        }
    }
}

// === free functions ===

fn refused(status: StatusCode, code: u32, message: &str) -> Kind {
    let credentials = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        || ABOUT_CREDENTIALS.contains(&code);
    Kind::Refused {
        status: status.as_u16(),
        code,
        message: quoted(message),
        credentials,
    }
}

/// Seconds only: Cloudflare sends no dates there.
fn retry_after(answer: &Response<Bytes>) -> Option<Duration> {
    let seconds = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    let wait = Duration::from_secs(seconds.trim().parse().ok()?);
    Some(wait.min(RETRY_AFTER_MAX))
}

/// An id goes into a path: nothing but what Cloudflare documents may stand in it.
fn checked_id(id: String) -> Result<String, String> {
    if id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(id)
    } else {
        Err(format!("{:?} is no id", quoted(&id)))
    }
}

fn folded(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
