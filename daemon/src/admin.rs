//! The admin socket: HTTP over a Unix socket, for `inboxgrove admin` and for operators' scripts.
//!
//! The kernel vouches for who is at the other end; everything that changes something is written to the
//! log with that user's number. Answers are JSON; the command line makes text of it.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Extension, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use inboxgrove_actors::platform::{Platform, Subject, TreeNode, TreeQuery, Why};
use inboxgrove_model::{
    DomainId, DomainName, EmailAddress, InboxId, JobId, MessageId, PolicyTime, TenantId, WallTime,
    claim::{Claim, ClaimHolder, ClaimName},
    domain::Domain,
    inbox::Inbox,
    job::Job,
    limits::PAGE_MAX,
    message::QueueEntry,
    tenant::{SuspensionReason, Tenant},
};
use inboxgrove_policy::SLACK;
use inboxgrove_store::{Record, Scope, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    backups,
    http::{
        Api,
        admin_views::{self as views, JobView},
        input::{Input, Query},
        problem::{ApiError, Code, Detail, finish},
        server::Peer,
    },
    logging::LogLevel,
    serve::is_member,
    upkeep::{self, Chore, Upkeep},
};

/// Who may come in, root beside.
#[derive(Debug, Clone, Copy, Default)]
pub struct Operators {
    /// The user the daemon runs as.
    pub uid: u32,
    /// The group it runs as, which is the socket's; its members may come in.
    pub gid: u32,
}

/// What the routes have.
#[derive(Clone)]
pub struct Admin {
    shared: Arc<Shared>,
}

struct Shared {
    platform: Platform,
    api: Api,
    upkeep: Upkeep,
    log: Option<LogLevel>,
    stop: CancellationToken,
    operators: Operators,
    started: Instant,
}

/// An operator, as the kernel named them.
#[derive(Debug, Clone, Copy)]
struct Operator {
    uid: u32,
}

type Answer = Result<Json<Value>, ApiError>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    subject: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfTree {
    #[serde(default)]
    of: String,
    #[serde(default)]
    limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfTenant {
    tenant: String,
    #[serde(default)]
    job: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Suspend {
    tenant: String,
    #[serde(default)]
    note: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Level {
    level: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    #[serde(default)]
    to: Option<std::path::PathBuf>,
}

// === impl Operators ===

impl Operators {
    /// Whether this user may come in. The mode of the socket keeps others out already; this is the
    /// second lock, for a socket whose mode somebody widened.
    fn admit(self, uid: u32, gid: u32, is_member: impl Fn(u32, u32) -> bool) -> bool {
        uid == 0 || uid == self.uid || gid == self.gid || is_member(uid, self.gid)
    }
}

// === impl Admin ===

impl Admin {
    pub(crate) fn new(
        api: Api,
        upkeep: Upkeep,
        log: Option<LogLevel>,
        stop: CancellationToken,
        operators: Operators,
    ) -> Self {
        let shared = Shared {
            platform: api.platform.clone(),
            api,
            upkeep,
            log,
            stop,
            operators,
            started: Instant::now(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// All routes, behind the check of the peer.
    pub(crate) fn router(&self) -> Router {
        Router::new()
            .route("/admin/status", get(status))
            .route("/admin/tree", get(tree))
            .route("/admin/why", get(why))
            .route("/admin/tenants", get(tenants))
            .route("/admin/tenant", get(tenant))
            .route("/admin/domain", get(domain))
            .route("/admin/inbox", get(inbox))
            .route("/admin/queue", get(queue))
            .route("/admin/job", get(job))
            .route("/admin/suspend", post(suspend))
            .route("/admin/resume", post(resume))
            .route("/admin/unpark", post(unpark))
            .route("/admin/kill", post(kill))
            .route("/admin/log-level", get(level).post(set_level))
            .route("/admin/drain", post(drain))
            .route("/admin/store/stats", get(store_stats))
            .route("/admin/store/verify", get(store_verify))
            .route("/admin/store/backup", post(store_backup))
            .route("/admin/store/compact", post(store_compact))
            .route("/admin/store/rewrite", post(store_rewrite))
            .route("/admin/store/rebuild", post(store_rebuild))
            .fallback(nothing_here)
            .layer(middleware::from_fn_with_state(self.clone(), pass))
            .with_state(self.clone())
    }

    /// Writes down that an operator did something, then does it no later than now.
    async fn audit(&self, verb: &str, subject: &str, who: Operator) -> Result<(), ApiError> {
        tracing::info!(verb, subject, uid = who.uid, "an operator acts");
        let written = self.shared.platform.audit(verb, subject, who.uid);
        self.shared.api.ask(written).await
    }

    /// As [`audit`](Self::audit), for what an operator needs most when nothing can be written any more:
    /// then only the process's log has it.
    async fn audit_if_possible(&self, verb: &str, subject: &str, who: Operator) {
        if let Err(why) = self.audit(verb, subject, who).await {
            tracing::error!(
                verb,
                subject,
                uid = who.uid,
                why = why.detail(),
                "done without an audit"
            );
        }
    }

    /// Does a chore and answers with what came of it.
    async fn work(
        &self,
        chore: Chore,
        work: impl FnOnce(&Store) -> anyhow::Result<Value> + Send + 'static,
    ) -> Answer {
        let done = self.shared.upkeep.work(&self.shared.platform, chore, work);
        let done = done.await;
        done.map(Json)
            .map_err(|why| ApiError::new(Code::Unavailable, format!("{why:#}")))
    }

    fn row<R: Record>(&self, key: &R::Key, what: &str) -> Result<R, ApiError> {
        self.shared.api.row(key, what)
    }
}

// === the layer ===

async fn pass(State(admin): State<Admin>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let path = request.uri().path().to_owned();
    let response = match peer {
        Some(Peer::Unix { uid, gid, pid }) if admin.shared.operators.admit(uid, gid, is_member) => {
            tracing::info!(uid, gid, pid, %path, "admin request");
            request.extensions_mut().insert(Operator { uid });
            next.run(request).await
        }
        other => {
            tracing::warn!(peer = ?other, %path, "admin request refused");
            ApiError::new(Code::Forbidden, "This user is no operator.").into_response()
        }
    };
    finish(response, "admin", Detail::Logged)
}

async fn nothing_here() -> ApiError {
    ApiError::new(Code::NotFound, "There is nothing at this path.")
}

// === reads ===

async fn status(State(admin): State<Admin>) -> Answer {
    let platform = &admin.shared.platform;
    let clock = &platform.ports().clock;
    let (policy, wall) = (clock.policy(), clock.wall());
    let components = platform.components();
    let parts: Vec<_> = components
        .iter()
        .map(|part| json!({ "name": part.name, "ok": part.ok, "detail": part.detail }))
        .collect();
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ok": components.iter().all(|part| part.ok),
        "draining": platform.draining(),
        "uptime_seconds": admin.shared.started.elapsed().as_secs(),
        "policy_time": policy.to_string(),
        "wall_time": wall.to_string(),
        "clock": about_clock(policy, wall),
        "components": parts,
        "store": views::store_opened(platform.store()),
        "upkeep": admin.shared.upkeep.view(),
    })))
}

async fn tree(State(admin): State<Admin>, Query(of): Query<OfTree>) -> Answer {
    let query = TreeQuery {
        of: of.of,
        limit: of.limit.unwrap_or(TreeQuery::LIMIT).min(PAGE_MAX),
    };
    let tree = admin.shared.platform.tree(&query).await;
    let items: Vec<_> = tree.nodes.iter().map(node).collect();
    let of = |(now, most): (usize, usize)| format!("{now} of {most}");
    Ok(Json(json!({
        "letters": of(tree.letters),
        "in_flight": of(tree.in_flight),
        "tasks": tree.tasks,
        "left_out": tree.left_out,
        "items": items,
    })))
}

/// Whether policy time is with the wall; where not, why.
fn about_clock(policy: PolicyTime, wall: WallTime) -> String {
    let slack = i64::try_from(SLACK.as_secs()).expect("half a minute fits");
    match (wall.as_millis() - policy.as_millis()) / 1000 {
        ahead if ahead > slack => format!(
            "the wall clock jumped forward by {ahead} s; policy time waits five minutes, then follows"
        ),
        behind if behind < -slack => format!(
            "the wall clock is {} s behind policy time, which goes at half speed until it has caught up",
            -behind
        ),
        _ => "ok".to_owned(),
    }
}

fn node(node: &TreeNode) -> Value {
    json!({
        "address": node.address,
        "state": node.state,
        "depth": node.depth,
        "recent": node.recent,
        "restarts": node.restarts,
        "last_failure": node.last_failure,
    })
}

async fn why(State(admin): State<Admin>, Query(about): Query<About>) -> Answer {
    let subject = subject(&about.subject)?;
    let why: Why = admin
        .shared
        .api
        .known(admin.shared.platform.why(&subject))?;
    Ok(Json(views::why(&why)))
}

/// What a text names: `inb_…` needs its tenant before a slash, for inboxes are kept by tenant.
fn subject(text: &str) -> Result<Subject, ApiError> {
    let wrong = |why: &dyn std::fmt::Display| ApiError::invalid("subject", why);
    if let Some((tenant, inbox)) = text.split_once('/') {
        let tenant: TenantId = tenant.parse().map_err(|why| wrong(&why))?;
        let inbox: InboxId = inbox.parse().map_err(|why| wrong(&why))?;
        return Ok(Subject::Inbox(tenant, inbox));
    }
    if text.starts_with(MessageId::PREFIX) && !text.contains('.') {
        return text
            .parse()
            .map(Subject::Message)
            .map_err(|why| wrong(&why));
    }
    if text.contains('@') {
        let address = EmailAddress::parse(text).map_err(|why| wrong(&why))?;
        return Ok(Subject::Address(address));
    }
    let domain = DomainName::parse(text).map_err(|why| wrong(&why))?;
    Ok(Subject::Domain(domain))
}

async fn tenants(State(admin): State<Admin>) -> Answer {
    let page = admin
        .shared
        .platform
        .store()
        .page::<Tenant>(&Scope::All, None, PAGE_MAX);
    let page = admin.shared.api.known(page)?;
    let items: Vec<_> = page.items.iter().map(views::tenant).collect();
    Ok(Json(json!({ "items": items, "more": page.next.is_some() })))
}

async fn tenant(State(admin): State<Admin>, Query(about): Query<About>) -> Answer {
    let tenant: Tenant = admin.row(&tenant_id(&about.subject)?, "tenant")?;
    Ok(Json(views::tenant(&tenant)))
}

async fn domain(State(admin): State<Admin>, Query(about): Query<About>) -> Answer {
    let (tenant, domain) = match about.subject.split_once('/') {
        Some((tenant, domain)) => {
            let wrong = |why| ApiError::invalid("subject", why);
            (
                tenant_id(tenant)?,
                domain.parse::<DomainId>().map_err(wrong)?,
            )
        }
        None => domain_of(&admin, &about.subject)?,
    };
    let domain: Domain = admin.row(&(tenant, domain), "domain")?;
    Ok(Json(views::domain(&domain)))
}

/// The proven holder of a name. An unproven one is named by `tenant/domain`.
fn domain_of(admin: &Admin, name: &str) -> Result<(TenantId, DomainId), ApiError> {
    let name = DomainName::parse(name).map_err(|why| ApiError::invalid("subject", why))?;
    let claim: Claim = admin.row(&ClaimName::Domain(name.to_string()), "proven domain")?;
    match claim.holder {
        ClaimHolder::Domain(tenant, domain) | ClaimHolder::Inbox(tenant, domain, _) => {
            Ok((tenant, domain))
        }
        ClaimHolder::User(..) => Err(ApiError::not_found("domain")),
    }
}

async fn inbox(State(admin): State<Admin>, Query(about): Query<About>) -> Answer {
    let (tenant, id) = match subject(&about.subject)? {
        Subject::Inbox(tenant, id) => (tenant, id),
        Subject::Address(address) => {
            let claim: Claim = admin.row(&ClaimName::Address(address.key()), "inbox")?;
            match claim.holder {
                ClaimHolder::Inbox(tenant, _, inbox) => (tenant, inbox),
                _ => return Err(ApiError::not_found("inbox")),
            }
        }
        _ => {
            return Err(ApiError::invalid(
                "subject",
                "expected an address or tenant/inbox",
            ));
        }
    };
    let inbox: Inbox = admin.row(&(tenant, id), "inbox")?;
    Ok(Json(views::inbox(&inbox)))
}

async fn queue(State(admin): State<Admin>) -> Answer {
    let page = admin
        .shared
        .platform
        .store()
        .page::<QueueEntry>(&Scope::All, None, PAGE_MAX);
    let page = admin.shared.api.known(page)?;
    let items: Vec<_> = page.items.iter().map(views::queue_entry).collect();
    Ok(Json(json!({ "items": items, "more": page.next.is_some() })))
}

async fn job(State(admin): State<Admin>, Query(of): Query<OfTenant>) -> Answer {
    let tenant = tenant_id(&of.tenant)?;
    if let Some(id) = of.job {
        let id: JobId = id.parse().map_err(|why| ApiError::invalid("job", why))?;
        let job: Job = admin.row(&(tenant, id), "job")?;
        return rendered(JobView::from(&job));
    }
    let page = admin
        .shared
        .platform
        .store()
        .page::<Job>(&Scope::Tenant(tenant), None, PAGE_MAX);
    let page = admin.shared.api.known(page)?;
    let items: Vec<_> = page.items.iter().map(JobView::from).collect();
    rendered(json!({ "items": items, "more": page.next.is_some() }))
}

// === changes ===

async fn suspend(
    State(admin): State<Admin>,
    Extension(who): Extension<Operator>,
    wanted: Input<Suspend>,
) -> Answer {
    let tenant = tenant_id(&wanted.body.tenant)?;
    admin.audit("suspend", &tenant.to_string(), who).await?;
    let note = wanted.body.note;
    let suspended = admin
        .shared
        .platform
        .suspend(tenant, SuspensionReason::Manual, note);
    let tenant = admin.shared.api.ask(suspended).await?;
    Ok(Json(views::tenant(&tenant)))
}

async fn resume(
    State(admin): State<Admin>,
    Extension(who): Extension<Operator>,
    wanted: Input<About>,
) -> Answer {
    let tenant = tenant_id(&wanted.body.subject)?;
    admin.audit("resume", &tenant.to_string(), who).await?;
    let resumed = admin.shared.platform.resume(tenant);
    let tenant = admin.shared.api.ask(resumed).await?;
    Ok(Json(views::tenant(&tenant)))
}

async fn unpark(
    State(admin): State<Admin>,
    Extension(who): Extension<Operator>,
    wanted: Input<About>,
) -> Answer {
    let address = wanted.body.subject;
    admin.audit("unpark", &address, who).await?;
    let freed = admin.shared.platform.unpark(&address);
    admin.shared.api.ask(freed).await?;
    Ok(Json(json!({ "unparked": address })))
}

async fn kill(
    State(admin): State<Admin>,
    Extension(who): Extension<Operator>,
    wanted: Input<About>,
) -> Answer {
    let address = wanted.body.subject;
    admin.audit("kill", &address, who).await?;
    let why = format!("killed by user {}", who.uid);
    let killed = admin.shared.platform.kill(&address, &why);
    admin.shared.api.ask(killed).await?;
    Ok(Json(json!({ "killed": address })))
}

async fn level(State(admin): State<Admin>) -> Answer {
    let level = admin.shared.log.as_ref().map(LogLevel::get);
    Ok(Json(json!({ "level": level })))
}

async fn set_level(
    State(admin): State<Admin>,
    Extension(who): Extension<Operator>,
    wanted: Input<Level>,
) -> Answer {
    let level = wanted.body.level;
    let log = admin.shared.log.as_ref();
    let log =
        log.ok_or_else(|| ApiError::new(Code::Conflict, "The log cannot be changed here."))?;
    admin.audit_if_possible("log-level", &level, who).await;
    log.set(&level)
        .map_err(|why| ApiError::invalid("level", why))?;
    Ok(Json(json!({ "level": log.get() })))
}

async fn drain(State(admin): State<Admin>, Extension(who): Extension<Operator>) -> Answer {
    admin.audit_if_possible("drain", "daemon", who).await;
    admin.shared.stop.cancel();
    Ok(Json(json!({ "draining": true })))
}

// === the store ===

async fn store_stats(State(admin): State<Admin>) -> Answer {
    let store = admin.shared.platform.store();
    let mut view = views::store_stats(&store.stats());
    view["opened"] = views::store_opened(store);
    view["upkeep"] = admin.shared.upkeep.view();
    Ok(Json(view))
}

async fn store_verify(State(admin): State<Admin>) -> Answer {
    let verify = |store: &Store| Ok(views::store_verify(&store.verify()));
    admin.work(Chore::Verification, verify).await
}

async fn store_backup(
    State(admin): State<Admin>,
    Extension(who): Extension<Operator>,
    wanted: Input<Target>,
) -> Answer {
    let platform = &admin.shared.platform;
    let to = wanted
        .body
        .to
        .unwrap_or_else(|| backups::next_path(platform));
    admin
        .audit("backup", &to.display().to_string(), who)
        .await?;
    let make = move |store: &Store| Ok(views::store_backup(&backups::make(store, &to)?));
    admin.work(Chore::Backup, make).await
}

async fn store_compact(State(admin): State<Admin>, Extension(who): Extension<Operator>) -> Answer {
    admin.audit("compact", "the log", who).await?;
    let now = admin.shared.platform.ports().clock.policy();
    let compact = move |store: &Store| upkeep::compact(store, now);
    admin.work(Chore::Compaction, compact).await
}

async fn store_rewrite(State(admin): State<Admin>, Extension(who): Extension<Operator>) -> Answer {
    admin.audit("rewrite", "the rows", who).await?;
    admin.work(Chore::Rewrite, upkeep::rewrite).await
}

async fn store_rebuild(State(admin): State<Admin>, Extension(who): Extension<Operator>) -> Answer {
    admin.audit("rebuild", "the rows", who).await?;
    let rebuild = |store: &Store| upkeep::rebuild(store, "an operator asked for it");
    admin.work(Chore::Rebuild, rebuild).await
}

// === free functions ===

fn tenant_id(text: &str) -> Result<TenantId, ApiError> {
    text.parse().map_err(|why| ApiError::invalid("tenant", why))
}

fn rendered(view: impl Serialize) -> Answer {
    serde_json::to_value(view)
        .map(Json)
        .map_err(ApiError::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_root_ourselves_and_the_group() {
        let operators = Operators { uid: 500, gid: 600 };
        let is_member = |uid, gid| (uid, gid) == (700, 600);
        for (uid, gid, admitted) in [
            (0, 0, true),
            (500, 1, true),
            (1, 600, true),
            (700, 1, true),
            (1, 1, false),
        ] {
            assert_eq!(
                operators.admit(uid, gid, is_member),
                admitted,
                "{uid}:{gid}"
            );
        }
    }

    #[test]
    fn a_subject_is_known_by_its_shape() {
        let tenant = TenantId::from_bytes([1; 16]);
        let inbox = InboxId::from_bytes([2; 16]);
        let message = MessageId::from_bytes([3; 16]);
        let address = EmailAddress::parse("ada@acme.example").unwrap();
        let domain = DomainName::parse("msg.example").unwrap();
        for (text, expected) in [
            (format!("{tenant}/{inbox}"), Subject::Inbox(tenant, inbox)),
            (message.to_string(), Subject::Message(message)),
            ("ada@acme.example".to_owned(), Subject::Address(address)),
            ("msg.example".to_owned(), Subject::Domain(domain)),
        ] {
            assert_eq!(subject(&text).unwrap(), expected, "{text}");
        }
        assert!(subject("nothing").is_err());
    }
}
