//! Cloudflare's API v4 as a DNS host: verify a token, find a zone, list, ensure and remove records.
//!
//! Calls: `GET /user/tokens/verify`, `GET /zones`, `GET|POST|PATCH|DELETE /zones/{zone}/dns_records`. The
//! token needs the permissions Zone:Read and DNS:Edit for the zone.
//!
//! **Rate limit.** Cloudflare allows 1,200 requests per five minutes and user, over all of their tokens, and
//! refuses *every* call for the next five minutes once that is exceeded. One `ensure` costs two calls. This
//! client does not count: its caller holds one token bucket per user of Cloudflare (1,200 per 300 s, and some
//! headroom for the user's own tools) and takes from it before each call; a 429 that comes all the same ends
//! as [`Verdict::RetryAfter`](crate::Verdict::RetryAfter) when Cloudflare says how long.
//!
//! **Whose records.** Records made here carry the owner's mark in their comment, and only those are ever
//! changed or removed. A record of somebody else's that says the same is left as it is and is enough; one
//! that says something else where ours should go is a conflict, for the owner of the zone to settle: merging
//! an SPF policy or adding an MX beside another one changes what their mail does.

mod plan;
mod text;
mod wire;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use inboxgrove_model::{
    DomainName,
    ports::{Http, RecordData},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use self::{
    plan::{Plan, plan},
    wire::{Page, Wire},
};
use crate::{
    error::{Kind, ProviderError},
    record::Record,
};

/// Where the API lives unless a setting says otherwise.
pub const BASE: &str = "https://api.cloudflare.com/client/v4";

/// What this provider is called in errors.
const PROVIDER: &str = "cloudflare";
/// Their API answers within a second or two; beyond this it hangs.
const DEADLINE: Duration = Duration::from_secs(20);
/// Records a page.
const PER_PAGE: usize = 100;
/// Pages that we read: 10,000 records is 10 times what a zone of a small plan holds.
const PAGES_MAX: usize = 100;
/// Longest comment that every plan allows, less the mark's own letters.
const OWNER_LEN_MAX: usize = 80;

/// What a client is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Base URL, [`BASE`] outside of tests.
    pub base: String,
    /// An API token.
    pub token: SecretString,
    /// Who we are in this zone, as in `dom_…`: what marks a record as ours. Letters, digits, `_` and `-`.
    pub owner: String,
}

/// A client of one user's Cloudflare. Cheap to clone.
#[derive(Clone)]
pub struct Cloudflare {
    http: Arc<dyn Http>,
    base: String,
    authorization: HeaderValue,
    mark: String,
}

/// Whether a token works. It says nothing about the token's permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenStatus {
    /// It works.
    Active,
    /// Its owner has switched it off.
    Disabled,
    /// Its time is over.
    Expired,
}

/// A zone at Cloudflare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Cloudflare's id: 32 hexadecimal digits.
    pub id: String,
    /// Its apex.
    pub name: DomainName,
    /// Whether the registrar points at Cloudflare, so that what it holds is served.
    pub active: bool,
    /// The name servers that the registrar should name.
    pub name_servers: Vec<String>,
}

/// A record as Cloudflare holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Cloudflare's id: 32 hexadecimal digits.
    pub id: String,
    /// Full owner name, lower case.
    pub name: String,
    /// Its type, as in `TXT`.
    pub kind: String,
    /// What it says; `None` for types that we do not read.
    pub data: Option<RecordData>,
    /// Whether Cloudflare answers with its own addresses instead: never right for a mail host.
    pub proxied: bool,
    /// Whether it carries our mark.
    pub ours: bool,
}

/// What `ensure` found or did. Holds Cloudflare's id of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// There was none.
    Created(String),
    /// Ours said something else.
    Changed(String),
    /// It was there already, ours or not.
    Unchanged(String),
}

/// What `remove` found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// Ours was there and is gone.
    Done,
    /// There was none.
    Absent,
    /// There is one, but somebody else put it there: it was left.
    NotOurs,
}

// === impl Cloudflare ===

impl Cloudflare {
    /// A client over a port.
    pub fn new(http: Arc<dyn Http>, settings: &Settings) -> Result<Self, ProviderError> {
        let unfit =
            |why: &str| ProviderError::new(PROVIDER, "settings", Kind::Unfit(why.to_owned()));
        let base = settings.base.trim_end_matches('/').to_owned();
        let parsed: Uri = base
            .parse()
            .map_err(|_| unfit("the base address is no URL"))?;
        if parsed.host().is_none() || parsed.query().is_some() {
            return Err(unfit("the base address is no URL of a host and a path"));
        }
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if settings.owner.is_empty()
            || settings.owner.len() > OWNER_LEN_MAX
            || !settings.owner.bytes().all(is_plain)
        {
            return Err(unfit(
                "the owner's mark is not of 1 to 80 letters, digits, _ and -",
            ));
        }
        let bearer = format!("Bearer {}", settings.token.expose_secret());
        let mut authorization = HeaderValue::try_from(bearer)
            .map_err(|_| unfit("the token holds characters that no token has"))?;
        authorization.set_sensitive(true);
        Ok(Self {
            http,
            base,
            authorization,
            mark: format!("inboxgrove:{}", settings.owner),
        })
    }

    /// Whether the token works. One call.
    pub async fn verify_token(&self) -> Result<TokenStatus, ProviderError> {
        let call = "verify token";
        let verified: wire::Verified = self.ask(call, "/user/tokens/verify").await?;
        match verified.status.as_str() {
            "active" => Ok(TokenStatus::Active),
            "disabled" => Ok(TokenStatus::Disabled),
            "expired" => Ok(TokenStatus::Expired),
            _ => Err(garbled(call, "an unknown status of the token")),
        }
    }

    /// The zone that holds `domain`: its own or the nearest above it that the token can see. One call for
    /// each label.
    pub async fn find_zone(&self, domain: &DomainName) -> Result<Option<Zone>, ProviderError> {
        let call = "find zone";
        for name in std::iter::once(domain.clone()).chain(domain.parents()) {
            let found: Vec<wire::Zone> = self
                .ask(call, &format!("/zones?name={name}&per_page=50"))
                .await?;
            let exact = found
                .into_iter()
                .find(|zone| zone.name.eq_ignore_ascii_case(name.as_str()));
            if let Some(zone) = exact {
                return zone.read(name).map(Some).map_err(|why| garbled(call, why));
            }
        }
        Ok(None)
    }

    /// All records of a zone. One call for each hundred.
    pub async fn records(&self, zone: &Zone) -> Result<Vec<Held>, ProviderError> {
        self.list(zone, "").await
    }

    /// Makes the zone hold this record; running it twice changes nothing. Two calls at most, three when
    /// somebody else did the same at the same moment. An unanswered call may or may not have had its effect:
    /// call again.
    pub async fn ensure(&self, zone: &Zone, record: &Record) -> Result<Applied, ProviderError> {
        let call = "ensure record";
        within(call, zone, record)?;
        match plan(record, &self.list_at(zone, record).await?) {
            Plan::Keep(id) => Ok(Applied::Unchanged(id)),
            Plan::Create => self.create(call, zone, record).await,
            Plan::Replace(id) => {
                let path = format!("/zones/{}/dns_records/{id}", zone.id);
                let body = wire::Wanted::new(record, &self.mark);
                let changed: wire::Record = self.tell(call, Method::PATCH, &path, &body).await?;
                Ok(Applied::Changed(changed.id))
            }
            Plan::Refuse(found) => Err(conflict(call, record, found)),
        }
    }

    /// Takes our record out of the zone; a record of others that says the same is left. Running it twice
    /// changes nothing.
    pub async fn remove(&self, zone: &Zone, record: &Record) -> Result<Removed, ProviderError> {
        let call = "remove record";
        within(call, zone, record)?;
        let same: Vec<_> = self
            .list_at(zone, record)
            .await?
            .into_iter()
            .filter(|held| held.data.as_ref() == Some(record.data()))
            .collect();
        let foreign = same.iter().any(|held| !held.ours);
        let mut removed = if foreign {
            Removed::NotOurs
        } else {
            Removed::Absent
        };
        for held in same.iter().filter(|held| held.ours) {
            let path = format!("/zones/{}/dns_records/{}", zone.id, held.id);
            match self.send(call, Method::DELETE, &path, Bytes::new()).await {
                Ok(_) => removed = Removed::Done,
                Err(error) if error.code() == Some(wire::RECORD_MISSING) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    async fn create(
        &self,
        call: &'static str,
        zone: &Zone,
        record: &Record,
    ) -> Result<Applied, ProviderError> {
        let path = format!("/zones/{}/dns_records", zone.id);
        let body = wire::Wanted::new(record, &self.mark);
        let refused = match self
            .tell::<wire::Record>(call, Method::POST, &path, &body)
            .await
        {
            Ok(created) => return Ok(Applied::Created(created.id)),
            Err(error) => error,
        };
        if !refused
            .code()
            .is_some_and(|code| wire::OCCUPIED.contains(&code))
        {
            return Err(refused);
        }
        // Somebody was faster, perhaps ourselves in a call that was never answered: look once more.
        match plan(record, &self.list_at(zone, record).await?) {
            Plan::Keep(id) => Ok(Applied::Unchanged(id)),
            Plan::Refuse(found) => Err(conflict(call, record, found)),
            Plan::Create | Plan::Replace(_) => Err(refused),
        }
    }

    async fn list_at(&self, zone: &Zone, record: &Record) -> Result<Vec<Held>, ProviderError> {
        // A record's name needs no escaping.
        self.list(zone, &format!("&name.exact={}", record.name()))
            .await
    }

    async fn list(&self, zone: &Zone, filter: &str) -> Result<Vec<Held>, ProviderError> {
        let call = "list records";
        let mut all = Vec::new();
        for page in 1..=PAGES_MAX {
            let path = format!(
                "/zones/{}/dns_records?page={page}&per_page={PER_PAGE}{filter}",
                zone.id
            );
            let answer = self.send(call, Method::GET, &path, Bytes::new()).await?;
            let (records, pages): (Vec<wire::Record>, Page) =
                answer.listed().map_err(|why| garbled(call, why))?;
            for record in records {
                all.push(record.read(&self.mark).map_err(|why| garbled(call, why))?);
            }
            if pages.is_last(page) {
                return Ok(all);
            }
        }
        let why = format!(
            "{} has more than {} records",
            zone.name,
            PER_PAGE * PAGES_MAX
        );
        Err(ProviderError::new(PROVIDER, call, Kind::Unfit(why)))
    }

    async fn ask<T: Wire>(&self, call: &'static str, path: &str) -> Result<T, ProviderError> {
        let answer = self.send(call, Method::GET, path, Bytes::new()).await?;
        answer.result().map_err(|why| garbled(call, why))
    }

    async fn tell<T: Wire>(
        &self,
        call: &'static str,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ProviderError> {
        let body = serde_json::to_vec(body).expect("strings and numbers always serialize");
        let answer = self.send(call, method, path, body.into()).await?;
        answer.result().map_err(|why| garbled(call, why))
    }

    async fn send(
        &self,
        call: &'static str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<wire::Envelope, ProviderError> {
        let failed = |kind| ProviderError::new(PROVIDER, call, kind);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::ACCEPT, "application/json");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(body)
            .expect("the base was parsed, and ids and names need no escaping");
        let answer = self
            .http
            .send(request, DEADLINE)
            .await
            .map_err(|error| failed(Kind::Unanswered(error)))?;
        wire::Envelope::read(&answer).map_err(failed)
    }
}

impl fmt::Debug for Cloudflare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloudflare")
            .field("base", &self.base)
            .field("mark", &self.mark)
            .finish_non_exhaustive()
    }
}

// === free functions ===

/// A record outside of the zone would be put somewhere below it: Cloudflare appends the zone's name.
fn within(call: &'static str, zone: &Zone, record: &Record) -> Result<(), ProviderError> {
    let is_within = record
        .name()
        .strip_suffix(zone.name.as_str())
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if is_within {
        return Ok(());
    }
    let why = format!("{} does not lie in the zone {}", record.name(), zone.name);
    Err(ProviderError::new(PROVIDER, call, Kind::Unfit(why)))
}

fn garbled(call: &'static str, why: impl Into<String>) -> ProviderError {
    ProviderError::new(PROVIDER, call, Kind::Garbled(why.into()))
}

fn conflict(call: &'static str, record: &Record, found: String) -> ProviderError {
    let name = record.name().to_owned();
    ProviderError::new(PROVIDER, call, Kind::Conflict { name, found })
}

#[cfg(test)]
mod tests;
