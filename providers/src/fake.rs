//! A Cloudflare in memory, behind the `Http` port: for tests, and for worlds without the network.
//!
//! It keeps zones and records, checks the token, pages its lists, refuses what Cloudflare refuses with the
//! same codes, and remembers every request. What it has no rule for is answered 404 with code 7003.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use inboxgrove_model::ports::{BoxFuture, Http, HttpError};
use serde_json::{Value, json};

/// The path under which it serves: part of the base URL to give to a client.
const PREFIX: &str = "/client/v4";

/// Cloudflare in memory.
#[derive(Debug)]
pub struct FakeCloudflare {
    token: String,
    state: Mutex<State>,
}

/// What befalls the next request, in the place of a true answer.
#[derive(Debug, Clone)]
pub enum Fate {
    /// It never arrives.
    Lost,
    /// It has its effect, but the answer does not arrive.
    Unanswered,
    /// This answer comes, and the request has no effect.
    Answer {
        /// Its status.
        status: u16,
        /// Seconds of a `Retry-After`.
        retry_after: Option<u64>,
        /// Its body.
        body: String,
    },
    /// A true answer: lets a later fate befall a later request.
    None,
}

#[derive(Debug, Default)]
struct State {
    /// Zone id to name.
    zones: BTreeMap<String, String>,
    /// Record id to zone id and record.
    records: BTreeMap<String, (String, Value)>,
    fates: VecDeque<Fate>,
    seen: Vec<String>,
    ids: u128,
}

// === impl FakeCloudflare ===

impl FakeCloudflare {
    /// A Cloudflare with one user, whose token is this, and no zones.
    pub fn new(token: &str) -> Self {
        Self {
            token: token.to_owned(),
            state: Mutex::default(),
        }
    }

    /// The base URL to give to a client. Nothing listens there: this fake is behind the port.
    pub fn base(&self) -> String {
        format!("https://cloudflare.example{PREFIX}")
    }

    /// Gives the user a zone; returns its id.
    pub fn add_zone(&self, name: &str) -> String {
        let mut state = self.lock();
        let id = state.next_id();
        state.zones.insert(id.clone(), name.to_owned());
        id
    }

    /// Puts a record into a zone as its owner would by hand: `{"type", "name", "content", …}`. Returns its id.
    pub fn add_record(&self, zone: &str, record: Value) -> String {
        let mut state = self.lock();
        state.put(zone, record)
    }

    /// The records of all zones, by id.
    pub fn records(&self) -> Vec<Value> {
        self.lock()
            .records
            .values()
            .map(|(_, record)| record.clone())
            .collect()
    }

    /// What befalls the requests to come, in order.
    pub fn befall(&self, fates: impl IntoIterator<Item = Fate>) {
        self.lock().fates.extend(fates);
    }

    /// Every request so far, as in `GET /zones?name=acme.example`; forgets them.
    pub fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().seen)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut state = self.lock();
        let path = request.uri().path();
        let path = path.strip_prefix(PREFIX).unwrap_or(path).to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let mark = if query.is_empty() { "" } else { "?" };
        state
            .seen
            .push(format!("{} {path}{mark}{query}", request.method()));
        let bearer = format!("Bearer {}", self.token);
        let known = request
            .headers()
            .get(header::AUTHORIZATION)
            .is_some_and(|given| given.as_bytes() == bearer.as_bytes());
        match state.fates.pop_front().unwrap_or(Fate::None) {
            Fate::Lost => return Err(lost(request, true)),
            Fate::Answer {
                status,
                retry_after,
                body,
            } => return Ok(raw(status, retry_after, body)),
            Fate::Unanswered if known => {
                state.serve(request.method(), &path, &query, request.body());
                return Err(lost(request, false));
            }
            Fate::Unanswered => return Err(lost(request, false)),
            Fate::None => {}
        }
        if !known {
            return Ok(refusal(
                403,
                9109,
                "Unauthorized to access requested resource",
            ));
        }
        Ok(state.serve(request.method(), &path, &query, request.body()))
    }
}

impl Http for FakeCloudflare {
    fn send(
        &self,
        request: Request<Bytes>,
        _deadline: Duration,
    ) -> BoxFuture<'_, Result<Response<Bytes>, HttpError>> {
        Box::pin(async move { self.answer(&request) })
    }
}

// === impl State ===

impl State {
    fn serve(&mut self, method: &Method, path: &str, query: &str, body: &[u8]) -> Response<Bytes> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (method.as_str(), &parts[..]) {
            ("GET", ["user", "tokens", "verify"]) => {
                success(&json!({ "id": "t", "status": "active" }))
            }
            ("GET", ["zones"]) => self.list_zones(query),
            ("GET", ["zones", zone, "dns_records"]) => self.list_records(zone, query),
            ("POST", ["zones", zone, "dns_records"]) => self.create(zone, body),
            ("PATCH", ["zones", zone, "dns_records", id]) => self.change(zone, id, body),
            ("DELETE", ["zones", _, "dns_records", id]) => match self.records.remove(*id) {
                Some(_) => success(&json!({ "id": id })),
                None => refusal(404, 81044, "Record does not exist."),
            },
            _ => refusal(404, 7003, "Could not route to that path"),
        }
    }

    fn list_zones(&self, query: &str) -> Response<Bytes> {
        let wanted = parameter(query, "name");
        let zones = self
            .zones
            .iter()
            .filter(|(_, name)| wanted.is_none_or(|wanted| wanted == *name));
        let zones: Vec<Value> = zones
            .map(|(id, name)| {
                json!({ "id": id, "name": name, "status": "active", "type": "full", "paused": false,
                "name_servers": ["ada.ns.example", "bob.ns.example"], "original_registrar": null })
            })
            .collect();
        page(&zones, query)
    }

    fn list_records(&self, zone: &str, query: &str) -> Response<Bytes> {
        if !self.zones.contains_key(zone) {
            return refusal(404, 7003, "Could not route to that zone");
        }
        let wanted = parameter(query, "name.exact");
        let records: Vec<Value> = self
            .records
            .values()
            .filter(|(of, record)| {
                of == zone && wanted.is_none_or(|wanted| record["name"] == *wanted)
            })
            .map(|(_, record)| record.clone())
            .collect();
        page(&records, query)
    }

    fn create(&mut self, zone: &str, body: &[u8]) -> Response<Bytes> {
        let Ok(wanted) = serde_json::from_slice::<Value>(body) else {
            return refusal(400, 9207, "Request body is invalid.");
        };
        let at_name: Vec<&Value> = self
            .records
            .values()
            .filter(|(of, _)| of == zone)
            .map(|(_, record)| record)
            .filter(|record| record["name"] == wanted["name"])
            .collect();
        let same = |record: &&Value| {
            ["type", "content", "priority"]
                .iter()
                .all(|field| record[field] == wanted[field])
        };
        if at_name.iter().copied().any(|record| same(&record)) {
            return refusal(400, 81058, "An identical record already exists.");
        }
        if at_name.iter().any(|record| record["type"] == "CNAME") {
            return refusal(400, 81054, "A CNAME record with that host already exists.");
        }
        if wanted["type"] == "CNAME" && !at_name.is_empty() {
            return refusal(
                400,
                81053,
                "An A, AAAA, or CNAME record with that host already exists.",
            );
        }
        let id = self.put(zone, wanted);
        success(&self.records[&id].1)
    }

    fn change(&mut self, zone: &str, id: &str, body: &[u8]) -> Response<Bytes> {
        let Ok(Value::Object(changes)) = serde_json::from_slice(body) else {
            return refusal(400, 9207, "Request body is invalid.");
        };
        match self.records.get_mut(id) {
            Some((of, Value::Object(record))) if of == zone => {
                record.extend(changes);
                success(&Value::Object(record.clone()))
            }
            _ => refusal(404, 81044, "Record does not exist."),
        }
    }

    fn put(&mut self, zone: &str, mut record: Value) -> String {
        let id = self.next_id();
        if let Value::Object(fields) = &mut record {
            fields.insert("id".to_owned(), json!(id));
        }
        self.records.insert(id.clone(), (zone.to_owned(), record));
        id
    }

    fn next_id(&mut self) -> String {
        self.ids += 1;
        format!("{:032x}", self.ids)
    }
}

// === free functions ===

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn page(items: &[Value], query: &str) -> Response<Bytes> {
    let number = |name, default| {
        parameter(query, name)
            .and_then(|text| text.parse().ok())
            .filter(|number| *number > 0)
            .unwrap_or(default)
    };
    let (page, per_page) = (number("page", 1), number("per_page", 20));
    let shown: Vec<&Value> = items
        .iter()
        .skip((page - 1) * per_page)
        .take(per_page)
        .collect();
    let body = json!({ "success": true, "errors": [], "messages": [], "result": shown,
        "result_info": { "page": page, "per_page": per_page, "count": shown.len(),
            "total_count": items.len(), "total_pages": items.len().div_ceil(per_page) } });
    raw(200, None, body.to_string())
}

fn success(result: &Value) -> Response<Bytes> {
    let body = json!({ "success": true, "errors": [], "messages": [], "result": result });
    raw(200, None, body.to_string())
}

fn refusal(status: u16, code: u32, message: &str) -> Response<Bytes> {
    let body = json!({ "success": false, "errors": [{ "code": code, "message": message }],
        "messages": [], "result": null });
    raw(status, None, body.to_string())
}

fn raw(status: u16, retry_after: Option<u64>, body: String) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(body));
    *answer.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(seconds) = retry_after {
        answer
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    answer
}

fn lost(request: &Request<Bytes>, unsent: bool) -> HttpError {
    HttpError {
        host: request.uri().host().unwrap_or_default().to_owned(),
        why: "the fake lost it".to_owned(),
        unsent,
    }
}
