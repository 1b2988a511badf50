//! The whole edge over a tree in memory, called as a client would, under a paused clock.
//!
//! The matrix is made from the OpenAPI document: a route that is added is tested by being there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use inboxgrove_actors::platform::{Parts, Platform};
use inboxgrove_config::Config;
use inboxgrove_mail::dkim::RandomKeys;
use inboxgrove_model::{
    MessageId, PolicyTime,
    inbox::Inbox,
    message::{BodyRef, Direction, Folder, Message, MessageClass},
    ports::{Activity, Blocking, BoxFuture, Clock, Http, HttpError, Ports},
};
use inboxgrove_sim::{clock::VirtualClock, dns::Zones, net::MemNet, rng::SeededRng};
use inboxgrove_store::{Batch, Fault, Keys, MemDisk, Scope, Store};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    Api, Options,
    keys::EdgeKeys,
    limits::{Rate, Rates},
    problem::PROBLEM_JSON,
};

/// Blocking work, on the spot.
struct Inline;

impl Blocking for Inline {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(async move { work() })
    }
}

/// No vendor answers.
struct NoVendor;

impl Http for NoVendor {
    fn send(
        &self,
        request: http::Request<bytes::Bytes>,
        _: Duration,
    ) -> BoxFuture<'_, Result<http::Response<bytes::Bytes>, HttpError>> {
        let host = request.uri().to_string();
        let why = "no vendor is here".to_owned();
        Box::pin(async move {
            Err(HttpError {
                host,
                why,
                unsent: true,
            })
        })
    }
}

struct World {
    api: Api,
    disk: MemDisk,
    clock: Arc<VirtualClock>,
}

/// An answer, read whole.
struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|why| panic!("{why}: {}", self.text))
    }

    /// A problem without what differs in each.
    fn problem(&self) -> Value {
        assert_eq!(
            self.headers[header::CONTENT_TYPE],
            PROBLEM_JSON,
            "{}",
            self.text
        );
        let mut problem = self.json();
        problem
            .as_object_mut()
            .unwrap()
            .remove("request_id")
            .expect("a problem has a request id");
        problem
    }
}

impl World {
    async fn new() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(mut options: Options) -> Self {
        options.argon2 = (8, 1, 1);
        let rng = Arc::new(SeededRng::new(7));
        let (disk, clock) = (
            MemDisk::new(),
            Arc::new(VirtualClock::new(PolicyTime::from_millis(
                1_800_000_000_000,
            ))),
        );
        let (store, _) =
            Store::in_memory(disk.clone(), Keys::from_bytes([1; 32]), rng.clone()).unwrap();
        let ports = Ports {
            clock: clock.clone(),
            dns: Arc::new(Zones::new()),
            net: Arc::new(MemNet::new(&rng)),
            rng,
            http: Arc::new(NoVendor),
            blocking: Arc::new(Inline),
            activity: Activity::default(),
        };
        let parts = Parts {
            ports,
            store,
            config: Arc::new(Config::default()),
            smtp: None,
            smtp_tls: None,
            key_maker: Arc::new(RandomKeys),
        };
        let platform = Platform::start(parts).await.unwrap();
        let keys = EdgeKeys::from_bytes(&[2; 32]);
        let api = Api::new(platform, &keys, options, CancellationToken::new()).unwrap();
        Self { api, disk, clock }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method.parse::<Method>().unwrap())
            .uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.exchange(request.body(body).unwrap()).await
    }

    async fn exchange(&self, request: Request<Body>) -> Answer {
        let response = self.api.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    async fn register(&self, name: &str) -> Tenant<'_> {
        let body = json!({
            "company_name": name,
            "company_email": format!("owner@{name}.example"),
            "password": "correct horse",
        });
        let answer = self
            .send("POST", "/api/v1/auth/register", None, Some(body))
            .await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        let tokens = answer.json();
        let word = |key: &str| tokens[key].as_str().unwrap().to_owned();
        Tenant {
            world: self,
            access: word("access_token"),
            refresh: word("refresh_token"),
        }
    }
}

struct Tenant<'a> {
    world: &'a World,
    access: String,
    refresh: String,
}

impl Tenant<'_> {
    async fn get(&self, path: &str) -> Answer {
        self.world.send("GET", path, Some(&self.access), None).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.world
            .send("POST", path, Some(&self.access), Some(body))
            .await
    }

    /// A domain, two inboxes on it and the job that made them: `(domain, inbox, job)`.
    async fn furnish(&self, name: &str) -> (String, String, String) {
        let domain = self.post("/api/v1/domains", json!({ "name": name })).await;
        assert_eq!(domain.status, StatusCode::CREATED, "{}", domain.text);
        let domain = domain.json()["id"].as_str().unwrap().to_owned();
        let wanted = json!({ "domain_id": domain, "count": 2, "naming": "numbered" });
        let job = self.post("/api/v1/infrastructure/provision", wanted).await;
        assert_eq!(job.status, StatusCode::ACCEPTED, "{}", job.text);
        let job = job.json()["id"].as_str().unwrap().to_owned();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let list = self.get("/api/v1/infrastructure/inboxes").await.json();
            let items = list["items"].as_array().unwrap();
            if items.len() == 2 {
                return (domain, items[0]["id"].as_str().unwrap().to_owned(), job);
            }
        }
        panic!(
            "the job did not end: {}",
            self.get(&format!("/api/v1/jobs/{job}")).await.text
        );
    }
}

/// Every operation of the document: path, method, whether it is open to strangers.
fn operations() -> Vec<(String, String, bool)> {
    let document = super::document();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let open = operation["security"] == json!([{}]);
            all.push((path.clone(), method.to_uppercase(), open));
        }
    }
    assert!(all.len() > 30);
    all
}

/// A body that would be taken, for routes that want one.
fn body_for(path: &str, method: &str) -> Option<Value> {
    match (method, path.rsplit('/').next().unwrap()) {
        ("PATCH", _) => Some(json!({ "display_name": "X" })),
        ("POST", "messages") => Some(json!({ "to": ["a@b.example"], "subject": "s", "text": "t" })),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_token_only_the_open_routes_answer() {
    let world = World::new().await;
    for (path, method, open) in operations() {
        let answer = world
            .send(&method, &path.replace(['{', '}'], ""), None, None)
            .await;
        assert_eq!(
            answer.status == StatusCode::UNAUTHORIZED,
            !open,
            "{method} {path}: {}",
            answer.text
        );
        if !open {
            assert_eq!(answer.problem()["code"], "unauthenticated");
            assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer");
        }
        assert_eq!(answer.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
}

#[tokio::test(start_paused = true)]
async fn ids_of_another_account_read_like_ids_that_never_were() {
    let world = World::new().await;
    let (ada, eve) = (world.register("ada").await, world.register("eve").await);
    let (domain, inbox, job) = ada.furnish("ada.example").await;
    let real = BTreeMap::from([
        ("{domain_id}", domain.as_str()),
        ("{inbox_id}", inbox.as_str()),
        ("{job_id}", job.as_str()),
        ("{message_id}", "msg_00000000000000000000000000"),
    ]);
    let none = BTreeMap::from([
        ("{domain_id}", "dom_00000000000000000000000000"),
        ("{inbox_id}", "inb_00000000000000000000000000"),
        ("{job_id}", "job_00000000000000000000000000"),
        ("{message_id}", "msg_00000000000000000000000000"),
    ]);
    let fill = |path: &str, ids: &BTreeMap<&str, &str>| {
        ids.iter()
            .fold(path.to_owned(), |path, (name, id)| path.replace(name, id))
    };
    for (path, method, _) in operations()
        .into_iter()
        .filter(|(path, _, _)| path.contains('{'))
    {
        let body = body_for(&path, &method);
        let theirs = world
            .send(
                &method,
                &fill(&path, &real),
                Some(&eve.access),
                body.clone(),
            )
            .await;
        let nobodys = world
            .send(&method, &fill(&path, &none), Some(&eve.access), body)
            .await;
        assert_eq!(
            theirs.status,
            StatusCode::NOT_FOUND,
            "{method} {path}: {}",
            theirs.text
        );
        assert_eq!(theirs.problem(), nobodys.problem(), "{method} {path}");
    }
    let list = eve.get("/api/v1/infrastructure/inboxes").await.json();
    assert_eq!(list["items"], json!([]));
    let of_domain = eve
        .get(&format!(
            "/api/v1/infrastructure/inboxes?domain_id={domain}"
        ))
        .await
        .json();
    assert_eq!(of_domain["items"], json!([]));
    let started = eve
        .post("/api/v1/warmup/start", json!({ "inbox_ids": [inbox] }))
        .await;
    assert_eq!(started.status, StatusCode::NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn the_bytes_of_a_message_are_shown_to_its_owner_as_they_came() {
    const LETTER: &[u8] = b"Subject: Hello\r\n\r\n<script>..</script>\r\n";
    let world = World::new().await;
    let (ada, eve) = (world.register("ada").await, world.register("eve").await);
    ada.furnish("ada.example").await;
    let store = world.api.store();
    let inboxes = store.page::<Inbox>(&Scope::All, None, 1).unwrap().items;
    let letter = letter_for(&inboxes[0]);
    let path = format!(
        "/api/v1/inboxes/{}/messages/{}/raw",
        letter.inbox, letter.id
    );
    let mut batch = Batch::new();
    let body = batch.body(letter.tenant, bytes::Bytes::from_static(LETTER));
    batch.put_message(letter, body);
    store.commit(batch).await.unwrap();

    let (shown, hidden) = (ada.get(&path).await, eve.get(&path).await);

    assert_eq!(shown.status, StatusCode::OK, "{}", shown.text);
    assert_eq!(shown.text.as_bytes(), LETTER);
    assert_eq!(shown.headers[header::CONTENT_TYPE], "message/rfc822");
    let disposition = shown.headers[header::CONTENT_DISPOSITION].to_str().unwrap();
    assert!(disposition.starts_with("attachment"), "{disposition}");
    assert_eq!(hidden.status, StatusCode::NOT_FOUND, "{}", hidden.text);
}

/// A letter from a stranger, whose bytes the store will name.
fn letter_for(inbox: &Inbox) -> Message {
    Message {
        id: MessageId::from_bytes([7; 16]),
        tenant: inbox.tenant,
        inbox: inbox.id,
        direction: Direction::In,
        class: MessageClass::Person,
        mail_from: None,
        recipients: Vec::new(),
        subject: "Hello".to_owned(),
        message_id: "1@post.example".to_owned(),
        in_reply_to: None,
        thread: "1@post.example".to_owned(),
        body: BodyRef {
            seq: 0,
            index: 0,
            size: 0,
        },
        accepted_at: PolicyTime::from_millis(1_800_000_000_000),
        folder: Folder::Inbox,
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_works_once_and_its_reuse_ends_the_session() {
    let world = World::new().await;
    let ada = world.register("ada").await;
    let refresh = async |token: String| {
        let body = json!({ "refresh_token": token });
        world
            .send("POST", "/api/v1/auth/refresh", None, Some(body))
            .await
    };
    let second = refresh(ada.refresh.clone()).await;
    assert_eq!(second.status, StatusCode::OK, "{}", second.text);
    // An answer that was lost may be asked for again, but not for long.
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(
        refresh(ada.refresh.clone()).await.status,
        StatusCode::UNAUTHORIZED
    );
    let newest = second.json()["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(refresh(newest).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        ada.get("/api/v1/auth/me").await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test(start_paused = true)]
async fn an_access_token_ends_with_its_time_and_with_its_session() {
    let world = World::new().await;
    let (ada, eve) = (world.register("ada").await, world.register("eve").await);
    assert_eq!(
        ada.post("/api/v1/auth/logout", json!({})).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        ada.get("/api/v1/auth/me").await.problem()["code"],
        "invalid_token"
    );
    assert_eq!(eve.get("/api/v1/auth/me").await.status, StatusCode::OK);
    tokio::time::sleep(Duration::from_mins(16)).await;
    assert_eq!(
        eve.get("/api/v1/auth/me").await.problem()["code"],
        "token_expired"
    );
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_and_an_unknown_user_read_alike() {
    let world = World::new().await;
    world.register("ada").await;
    let login = async |email: &str, password: &str| {
        let body = json!({ "email": email, "password": password });
        world
            .send("POST", "/api/v1/auth/login", None, Some(body))
            .await
    };
    assert_eq!(
        login("owner@ada.example", "correct horse").await.status,
        StatusCode::OK
    );
    let wrong = login("owner@ada.example", "wrong horse").await;
    let unknown = login("nobody@ada.example", "wrong horse").await;
    let nonsense = login("\u{0}", "").await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    assert_eq!(wrong.problem(), unknown.problem());
    assert_eq!(wrong.problem(), nonsense.problem());
}

#[tokio::test(start_paused = true)]
async fn an_idempotency_key_guards_one_effect() {
    let world = World::new().await;
    let ada = world.register("ada").await;
    let add = |name: &'static str| {
        let request = Request::builder()
            .method("POST")
            .uri("/api/v1/domains")
            .header(header::AUTHORIZATION, format!("Bearer {}", ada.access))
            .header(header::CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", "one")
            .body(Body::from(json!({ "name": name }).to_string()))
            .unwrap();
        world.exchange(request)
    };
    let (first, again, other) = (
        add("ada.example").await,
        add("ada.example").await,
        add("other.example").await,
    );
    assert_eq!(
        (first.status, again.status),
        (StatusCode::CREATED, StatusCode::CREATED)
    );
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(other.problem()["code"], "idempotency_key_reused");
}

#[tokio::test(start_paused = true)]
async fn pages_follow_each_other_and_cursors_are_sealed() {
    let world = World::new().await;
    let (ada, eve) = (world.register("ada").await, world.register("eve").await);
    ada.furnish("ada.example").await;
    let first = ada
        .get("/api/v1/infrastructure/inboxes?limit=1")
        .await
        .json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let next = format!("/api/v1/infrastructure/inboxes?limit=1&cursor={cursor}");
    let second = ada.get(&next).await.json();
    assert_ne!(first["items"][0]["id"], second["items"][0]["id"]);
    assert_eq!(second["next_cursor"], Value::Null);
    assert_eq!(eve.get(&next).await.problem()["code"], "invalid_cursor");
}

#[tokio::test(start_paused = true)]
async fn bad_requests_get_clear_problems() {
    let world = World::new().await;
    let ada = world.register("ada").await;
    let long = "a".repeat(2 * 1024 * 1024);
    for (body, code) in [
        (json!({ "name": "a b" }), "invalid_input"),
        (json!({ "name": 1 }), "invalid_input"),
        (
            json!({ "name": "a.example", "status": "active" }),
            "invalid_input",
        ),
        (json!({ "name": long }), "body_too_large"),
    ] {
        let answer = ada.post("/api/v1/domains", body).await;
        assert_eq!(answer.problem()["code"], code, "{}", answer.text);
    }
    for (method, path, code) in [
        ("GET", "/api/v1/nothing", "not_found"),
        ("PUT", "/api/v1/domains", "method_not_allowed"),
        ("POST", "/api/v1/domains", "unsupported_media_type"),
        ("GET", "/api/v1/domains?limit=501", "invalid_input"),
        ("GET", "/api/v1/domains?order=x", "invalid_input"),
        ("GET", "/api/v1/domains?cursor=x", "invalid_cursor"),
    ] {
        let answer = world.send(method, path, Some(&ada.access), None).await;
        assert_eq!(answer.problem()["code"], code, "{method} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_that_asks_too_often_waits() {
    let rates = Rates {
        per_tenant: Rate {
            burst: 3.try_into().unwrap(),
            per: Duration::from_secs(3),
        },
        ..Rates::default()
    };
    let world = World::with(Options {
        rates,
        ..Options::default()
    })
    .await;
    let (ada, eve) = (world.register("ada").await, world.register("eve").await);
    for _ in 0..3 {
        assert_eq!(ada.get("/api/v1/auth/me").await.status, StatusCode::OK);
    }
    let refused = ada.get("/api/v1/auth/me").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers[header::RETRY_AFTER], "1");
    assert_eq!(eve.get("/api/v1/auth/me").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_stream_replays_what_was_missed_and_goes_on() {
    let world = World::new().await;
    let ada = world.register("ada").await;
    let request = Request::builder()
        .uri("/api/v1/events")
        .header(header::AUTHORIZATION, format!("Bearer {}", ada.access))
        .header("Last-Event-ID", "0")
        .body(Body::empty())
        .unwrap();
    let response = world.api.router().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let mut text = String::new();
    ada.post("/api/v1/domains", json!({ "name": "ada.example" }))
        .await;
    while !text.contains("domain_added") {
        let frame = tokio::time::timeout(Duration::from_mins(1), body.frame()).await;
        let data = frame.unwrap().unwrap().unwrap().into_data().unwrap();
        text.push_str(std::str::from_utf8(&data).unwrap());
    }
    let (registered, added) = (text.find("tenant_registered"), text.find("domain_added"));
    assert!(registered.unwrap() < added.unwrap(), "{text}");
    world.api.draining.cancel();
    let end = tokio::time::timeout(Duration::from_mins(1), body.collect()).await;
    end.expect("a drain ends streams").unwrap();
}

/// The text of a stream, up to its end or to where `done` holds; it must come within `patience`.
async fn read_stream(body: &mut Body, patience: Duration, done: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    while !done(&text) {
        let frame = tokio::time::timeout(patience, body.frame()).await;
        let Some(frame) = frame.unwrap_or_else(|_| panic!("nothing came behind {text}")) else {
            break;
        };
        let data = frame.unwrap().into_data().unwrap();
        text.push_str(std::str::from_utf8(&data).unwrap());
    }
    text
}

impl Tenant<'_> {
    async fn stream(&self, last_seen: Option<&str>) -> axum::response::Response {
        let mut request = Request::builder()
            .uri("/api/v1/events")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.access));
        if let Some(id) = last_seen {
            request = request.header("Last-Event-ID", id);
        }
        let request = request.body(Body::empty()).unwrap();
        self.world.api.router().oneshot(request).await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_has_so_many_streams_and_no_more() {
    let world = World::new().await;
    let (ada, eve) = (world.register("ada").await, world.register("eve").await);
    let mut open = Vec::new();
    for _ in 0..8 {
        let stream = ada.stream(None).await;
        assert_eq!(stream.status(), StatusCode::OK);
        open.push(stream);
    }
    assert_eq!(
        ada.stream(None).await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(eve.stream(None).await.status(), StatusCode::OK);
    open.pop();
    assert_eq!(ada.stream(None).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_soon_after_its_session() {
    let world = World::new().await;
    let ada = world.register("ada").await;
    let mut body = ada.stream(None).await.into_body();
    ada.post("/api/v1/auth/logout", json!({})).await;
    let began = tokio::time::Instant::now();
    read_stream(&mut body, Duration::from_secs(3), |_| false).await;
    assert!(began.elapsed() <= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn who_missed_a_day_or_comes_from_another_log_reads_its_lists_again() {
    let world = World::new().await;
    world.register("ada").await;
    tokio::time::sleep(Duration::from_hours(25)).await;
    assert!(world.clock.policy() > PolicyTime::from_millis(1_800_000_000_000));
    let eve = world.register("eve").await;
    for last_seen in ["0", "1844674407370955161"] {
        let mut body = eve.stream(Some(last_seen)).await.into_body();
        let told = |text: &str| text.contains("\n\n");
        let text = read_stream(&mut body, Duration::from_secs(5), told).await;
        assert!(text.contains("event: reset"), "{text}");
        let login = json!({ "email": "owner@eve.example", "password": "correct horse" });
        eve.post("/api/v1/auth/login", login).await;
        let logged_in = |text: &str| text.contains("user_logged_in");
        let text = read_stream(&mut body, Duration::from_secs(5), logged_in).await;
        assert!(!text.contains("tenant_registered"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_missed_too_much_of_a_busy_log_reads_its_lists_again() {
    let world = World::with(Options {
        replay_bytes_max: 3 * 1024 * 1024,
        ..Options::default()
    })
    .await;
    let (ada, eve) = (world.register("ada").await, world.register("eve").await);
    ada.furnish("ada.example").await;
    let (store, told) = (world.api.store(), |text: &str| text.contains("\n\n"));
    let inbox = &store.page::<Inbox>(&Scope::All, None, 1).unwrap().items[0];
    let last_seen = store.events_end().to_string();
    for _ in 0..8 {
        let mut batch = Batch::new();
        batch.body(inbox.tenant, bytes::Bytes::from(vec![7; 1024 * 1024]));
        batch.event(store.events(0, 1, None).unwrap().remove(0).event);
        store.commit(batch).await.unwrap();
    }
    for (seen, reset) in [(last_seen, true), (store.events_end().to_string(), false)] {
        let mut body = eve.stream(Some(&seen)).await.into_body();
        let text = read_stream(&mut body, Duration::from_mins(1), told).await;
        assert_eq!(text.contains("event: reset"), reset, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_too_many_is_refused_before_its_body_is_read() {
    let world = World::with(Options {
        rates: Rates {
            per_ip_auth: Rate {
                burst: 1.try_into().unwrap(),
                per: Duration::from_mins(1),
            },
            ..Rates::default()
        },
        ..Options::default()
    })
    .await;
    let ask = |path: &str| {
        let body = futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
        let request = Request::builder()
            .method("POST")
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .extension(super::server::Peer::Net("192.0.2.1:1".parse().unwrap()))
            .body(Body::from_stream(body))
            .unwrap();
        world.exchange(request)
    };
    let first = ask("/api/v1/auth/login").await;
    assert_eq!(first.status, StatusCode::REQUEST_TIMEOUT, "{}", first.text);
    let began = tokio::time::Instant::now();
    let second = ask("/api/v1/auth/register").await;
    assert_eq!(second.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(began.elapsed() < Duration::from_secs(1));
    let refresh = ask("/api/v1/auth/refresh").await;
    assert_eq!(refresh.status, StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn bodies_of_strangers_are_short() {
    let world = World::new().await;
    for path in ["login", "register", "refresh"] {
        let path = format!("/api/v1/auth/{path}");
        let body = json!({ "email": "a".repeat(8 * 1024) });
        let answer = world.send("POST", &path, None, Some(body)).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_passwords_shut_an_account_for_a_while() {
    let world = World::new().await;
    world.register("ada").await;
    let login = async |password: &str| {
        let body = json!({ "email": "Owner@ada.example", "password": password });
        world
            .send("POST", "/api/v1/auth/login", None, Some(body))
            .await
            .status
    };
    for _ in 0..100 {
        assert_eq!(login("wrong horse").await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(login("correct horse").await, StatusCode::TOO_MANY_REQUESTS);
    tokio::time::sleep(Duration::from_secs(37)).await;
    for _ in 0..20 {
        assert_eq!(login("correct horse").await, StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_cannot_write_can_still_be_drained() {
    let world = World::new().await;
    let stop = CancellationToken::new();
    let operators = crate::admin::Operators::default();
    let upkeep = crate::upkeep::Upkeep::new(Arc::new(Inline));
    let admin = crate::admin::Admin::new(world.api.clone(), upkeep, None, stop.clone(), operators);
    world.disk.fail_next(Fault::Sync);
    let request = Request::builder()
        .method("POST")
        .uri("/admin/drain")
        .extension(super::server::Peer::Unix {
            uid: 0,
            gid: 0,
            pid: None,
        })
        .body(Body::empty())
        .unwrap();
    let answer = admin.router().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(stop.is_cancelled());
}
