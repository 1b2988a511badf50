//! `/api/v1/infrastructure`: inboxes are made, changed, handed out, deleted.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State, response::Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use inboxgrove_actors::platform::{InboxChange, Provision, ShownCredential};
use inboxgrove_model::{
    DomainId, InboxId, TenantId,
    inbox::{Inbox, InboxStatus},
    limits::PAGE_MAX,
};
use inboxgrove_store::{Scope, records::InboxOfDomain};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    auth::zone,
    caller::{Caller, Reads, Writes},
    csv,
    idempotency::{Created, guard},
    input::{Fields, IdempotencyKey, Input, Path, Query},
    jobs::JobView,
    paging::{ListView, PageQuery, number},
    problem::ApiError,
    warmup::WarmupView,
    wire::{InboxStatusView, NamingView, Time, word},
};

/// Most inboxes of one job.
const COUNT_MAX: u32 = 1000;
/// Longest name in front of an address.
const DISPLAY_NAME_CHARS_MAX: usize = 100;
/// Above this no mailbox provider lets a person send.
const LIMIT_MAX: u32 = 100_000;

/// All routes, as the OpenAPI document lists them.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(provision))
        .routes(routes!(list))
        .routes(routes!(show, change, remove))
        .routes(routes!(credentials))
        .routes(routes!(show_password))
        .routes(routes!(rotate))
        .routes(routes!(export_csv))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ProvisionInboxes {
    /// On which domain.
    domain_id: String,
    /// How many.
    #[schema(minimum = 1, maximum = 1000)]
    count: u32,
    /// How they are called.
    naming: NamingView,
    /// Whether their warmup starts as soon as the domain is verified.
    #[serde(default)]
    start_warmup: bool,
    /// IANA name of the zone they live in; the account's when left out.
    #[serde(default)]
    time_zone: Option<String>,
    /// Most recipients a day, warmup included; the plan's when left out.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100_000)]
    daily_limit: Option<u32>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeInbox {
    /// The name in front of the address.
    #[serde(default)]
    #[schema(max_length = 100)]
    display_name: Option<String>,
    /// Most recipients a day, warmup included.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100_000)]
    daily_limit: Option<u32>,
    /// Most recipients an hour, warmup included.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100_000)]
    hourly_limit: Option<u32>,
    /// IANA name of the zone it lives in.
    #[serde(default)]
    time_zone: Option<String>,
    /// Pauses or resumes all sending.
    #[serde(default)]
    paused: Option<bool>,
}

/// Which inboxes.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct InboxesQuery {
    /// Only those on this domain.
    #[serde(default)]
    domain_id: Option<String>,
    /// Most items in the page.
    #[serde(default, deserialize_with = "number")]
    #[param(minimum = 1, maximum = 500, default = 100, value_type = Option<u32>)]
    limit: Option<usize>,
    /// Where to go on: `next_cursor` of the page before.
    #[serde(default)]
    cursor: Option<String>,
}

/// Which inboxes to export.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ExportQuery {
    /// Only those on this domain.
    #[serde(default)]
    domain_id: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InboxView {
    id: String,
    domain_id: String,
    address: String,
    display_name: String,
    status: InboxStatusView,
    /// Why, in a sentence.
    reason: String,
    daily_limit: u32,
    hourly_limit: u32,
    time_zone: String,
    warmup: WarmupView,
    credential: CredentialView,
    created_at: Time,
}

/// What is known of a password, not the password.
#[derive(Debug, Serialize, ToSchema)]
struct CredentialView {
    /// The name to log in with.
    username: String,
    /// Whether the password has been shown. After that it can only be rotated.
    shown: bool,
    rotated_at: Time,
}

/// A password, shown this once.
#[derive(Debug, Serialize, ToSchema)]
struct PasswordView {
    username: String,
    password: String,
}

/// Makes inboxes on a domain: a job to follow.
#[utoipa::path(post, path = "/api/v1/infrastructure/provision", tag = "infrastructure", request_body = ProvisionInboxes,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe for 24 hours")),
    responses((status = 202, body = JobView)))]
async fn provision(
    State(api): State<Api>,
    who: Caller<Writes>,
    key: Option<IdempotencyKey>,
    wanted: Input<ProvisionInboxes>,
) -> Result<Created<JobView>, ApiError> {
    let guard = guard("POST /infrastructure/provision", key.as_ref(), &wanted);
    let wanted = checked(wanted.body)?;
    let asked = api.platform.provision(who.tenant, wanted, guard);
    let made = api.ask(asked).await?;
    let view = JobView::from(&made.value);
    Ok(Created::new(StatusCode::ACCEPTED, view, made.replayed))
}

/// The inboxes of the account, or of one domain. Deleted ones are left out.
#[utoipa::path(get, path = "/api/v1/infrastructure/inboxes", tag = "infrastructure", params(InboxesQuery),
    responses((status = 200, body = ListView<InboxView>)))]
async fn list(
    State(api): State<Api>,
    who: Caller<Reads>,
    Query(query): Query<InboxesQuery>,
) -> Result<Json<ListView<InboxView>>, ApiError> {
    let page = PageQuery {
        limit: query.limit,
        cursor: query.cursor,
    };
    let Some(domain) = query.domain_id else {
        let scope = Scope::Tenant(who.tenant);
        return api.page(("inboxes", who.tenant), &scope, &page, |inbox: &Inbox| {
            Ok(live(inbox).map(InboxView::from))
        });
    };
    let domain = domain_id(&domain)?;
    let (list, scope) = (
        format!("inboxes of {domain}"),
        Scope::Domain(who.tenant, domain),
    );
    api.page(
        (&list, who.tenant),
        &scope,
        &page,
        |entry: &InboxOfDomain| {
            let inbox: Option<Inbox> = api.known(api.store().get(&(who.tenant, entry.inbox)))?;
            Ok(inbox.as_ref().and_then(live).map(InboxView::from))
        },
    )
}

/// One inbox.
#[utoipa::path(get, path = "/api/v1/infrastructure/inboxes/{inbox_id}", tag = "infrastructure",
    params(("inbox_id" = String, Path)), responses((status = 200, body = InboxView)))]
async fn show(
    State(api): State<Api>,
    who: Caller<Reads>,
    Path(id): Path<InboxId>,
) -> Result<Json<InboxView>, ApiError> {
    Ok(Json(InboxView::from(&*existing(&api, who.tenant, id)?)))
}

/// Changes what is given, leaves the rest.
#[utoipa::path(patch, path = "/api/v1/infrastructure/inboxes/{inbox_id}", tag = "infrastructure", request_body = ChangeInbox,
    params(("inbox_id" = String, Path)), responses((status = 200, body = InboxView)))]
async fn change(
    State(api): State<Api>,
    who: Caller<Writes>,
    Path(id): Path<InboxId>,
    wanted: Input<ChangeInbox>,
) -> Result<Json<InboxView>, ApiError> {
    let change = checked_change(wanted.body)?;
    let changed = api.platform.change_inbox(who.tenant, id, change);
    Ok(Json(InboxView::from(&api.ask(changed).await?)))
}

/// Deletes an inbox; its address stays taken.
#[utoipa::path(delete, path = "/api/v1/infrastructure/inboxes/{inbox_id}", tag = "infrastructure",
    params(("inbox_id" = String, Path)), responses((status = 204)))]
async fn remove(
    State(api): State<Api>,
    who: Caller<Writes>,
    Path(id): Path<InboxId>,
) -> Result<StatusCode, ApiError> {
    api.ask(api.platform.delete_inbox(who.tenant, id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is known of an inbox's password.
#[utoipa::path(get, path = "/api/v1/infrastructure/inboxes/{inbox_id}/credentials", tag = "infrastructure",
    params(("inbox_id" = String, Path)), responses((status = 200, body = CredentialView)))]
async fn credentials(
    State(api): State<Api>,
    who: Caller<Reads>,
    Path(id): Path<InboxId>,
) -> Result<Json<CredentialView>, ApiError> {
    let inbox = existing(&api, who.tenant, id)?;
    Ok(Json(CredentialView::from(&*inbox)))
}

/// Shows the password, once. 410 after that: rotate it.
#[utoipa::path(post, path = "/api/v1/infrastructure/inboxes/{inbox_id}/credentials/show", tag = "infrastructure",
    params(("inbox_id" = String, Path)), responses((status = 200, body = PasswordView)))]
async fn show_password(
    State(api): State<Api>,
    who: Caller<Writes>,
    Path(id): Path<InboxId>,
) -> Result<Json<PasswordView>, ApiError> {
    let shown = api
        .ask(api.platform.show_credential(who.tenant, id))
        .await?;
    Ok(Json(PasswordView::from(&shown)))
}

/// Makes a new password and shows it. The old one stops working.
#[utoipa::path(post, path = "/api/v1/infrastructure/inboxes/{inbox_id}/credentials/rotate", tag = "infrastructure",
    params(("inbox_id" = String, Path)), responses((status = 200, body = PasswordView)))]
async fn rotate(
    State(api): State<Api>,
    who: Caller<Writes>,
    Path(id): Path<InboxId>,
) -> Result<Json<PasswordView>, ApiError> {
    let shown = api
        .ask(api.platform.rotate_credential(who.tenant, id))
        .await?;
    Ok(Json(PasswordView::from(&shown)))
}

/// The inboxes as CSV, without passwords.
#[utoipa::path(get, path = "/api/v1/infrastructure/export-csv", tag = "infrastructure", params(ExportQuery),
    responses((status = 200, body = String, content_type = "text/csv")))]
async fn export_csv(
    State(api): State<Api>,
    who: Caller<Reads>,
    Query(query): Query<ExportQuery>,
) -> Result<Response, ApiError> {
    let scope = match query.domain_id {
        Some(id) => Scope::Domain(who.tenant, domain_id(&id)?),
        None => Scope::Tenant(who.tenant),
    };
    let mut response = Response::new(csv_body(api, who.tenant, scope));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/csv; charset=utf-8; header=present"),
    );
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment; filename=\"inboxes.csv\""),
    );
    Ok(response)
}

// === impl views ===

impl From<&Inbox> for InboxView {
    fn from(inbox: &Inbox) -> Self {
        Self {
            id: inbox.id.to_string(),
            domain_id: inbox.domain.to_string(),
            address: inbox.address.to_string(),
            display_name: inbox.display_name.clone(),
            status: inbox.status.into(),
            reason: inbox.reason.clone(),
            daily_limit: inbox.daily_limit,
            hourly_limit: inbox.hourly_limit,
            time_zone: inbox.time_zone.clone(),
            warmup: WarmupView::from(inbox),
            credential: CredentialView::from(inbox),
            created_at: inbox.created_at.into(),
        }
    }
}

impl From<&Inbox> for CredentialView {
    fn from(inbox: &Inbox) -> Self {
        Self {
            username: inbox.address.to_string(),
            shown: inbox.credential.shown,
            rotated_at: inbox.credential.rotated_at.into(),
        }
    }
}

impl From<&ShownCredential> for PasswordView {
    fn from(shown: &ShownCredential) -> Self {
        Self {
            username: shown.username.to_string(),
            password: shown.password.expose_secret().to_owned(),
        }
    }
}

// === free functions ===

/// The inbox, unless it is deleted.
pub(super) fn live(inbox: &Inbox) -> Option<&Inbox> {
    (inbox.status != InboxStatus::Deleted).then_some(inbox)
}

/// The inbox of this tenant; a deleted one reads like one that never was.
pub(super) fn existing(api: &Api, tenant: TenantId, id: InboxId) -> Result<Arc<Inbox>, ApiError> {
    let inbox = api.known(api.store().hot::<Inbox>(&(tenant, id)))?;
    inbox
        .filter(|inbox| live(inbox).is_some())
        .ok_or_else(|| ApiError::not_found("inbox"))
}

fn domain_id(text: &str) -> Result<DomainId, ApiError> {
    text.parse()
        .map_err(|why| ApiError::invalid("domain_id", why))
}

fn checked(wanted: ProvisionInboxes) -> Result<Provision, ApiError> {
    let mut fields = Fields::default();
    let domain = fields.take("domain_id", wanted.domain_id.parse());
    let count = (1..=COUNT_MAX).contains(&wanted.count);
    fields.check("count", count, "expected 1 to 1000");
    check_zone_and_limit(&mut fields, wanted.time_zone.as_deref(), wanted.daily_limit);
    fields.done()?;
    Ok(Provision {
        domain: domain.expect("a wrong field ended it above"),
        count: wanted.count,
        naming: wanted.naming.into(),
        start_warmup: wanted.start_warmup,
        time_zone: wanted.time_zone,
        daily_limit: wanted.daily_limit,
    })
}

fn checked_change(wanted: ChangeInbox) -> Result<InboxChange, ApiError> {
    let mut fields = Fields::default();
    if let Some(name) = &wanted.display_name {
        let short = name.chars().count() <= DISPLAY_NAME_CHARS_MAX;
        // A line break would start another header field (RFC 5322 §2.2).
        let plain = !name.chars().any(char::is_control);
        let why = "expected at most 100 characters without control characters";
        fields.check("display_name", short && plain, why);
    }
    check_zone_and_limit(&mut fields, wanted.time_zone.as_deref(), wanted.daily_limit);
    let hourly = wanted
        .hourly_limit
        .is_none_or(|n| (1..=LIMIT_MAX).contains(&n));
    fields.check("hourly_limit", hourly, "expected 1 to 100000");
    fields.done()?;
    Ok(InboxChange {
        display_name: wanted.display_name,
        daily_limit: wanted.daily_limit,
        hourly_limit: wanted.hourly_limit,
        time_zone: wanted.time_zone,
        paused: wanted.paused,
    })
}

fn check_zone_and_limit(fields: &mut Fields, time_zone: Option<&str>, daily_limit: Option<u32>) {
    if let Some(name) = time_zone {
        fields.take("time_zone", zone(name));
    }
    let daily = daily_limit.is_none_or(|n| (1..=LIMIT_MAX).contains(&n));
    fields.check("daily_limit", daily, "expected 1 to 100000");
}

/// Where an export stands.
enum Export {
    Head,
    After(Option<Vec<u8>>),
    Done,
}

/// The file, read and written page by page.
fn csv_body(api: Api, tenant: TenantId, scope: Scope) -> Body {
    let pages = stream::unfold(Export::Head, move |at| {
        let step = csv_step(&api, tenant, &scope, at);
        async move { step }
    });
    Body::from_stream(pages)
}

fn csv_step(
    api: &Api,
    tenant: TenantId,
    scope: &Scope,
    at: Export,
) -> Option<(Result<Bytes, std::io::Error>, Export)> {
    let after = match at {
        Export::Head => {
            let head = csv::line([
                "email",
                "display_name",
                "domain_id",
                "inbox_id",
                "status",
                "daily_limit",
                "time_zone",
                "created_at",
            ]);
            return Some((Ok(head.into()), Export::After(None)));
        }
        Export::After(after) => after,
        Export::Done => return None,
    };
    let read = match scope {
        Scope::Domain(..) => inboxes_of_domain(api, tenant, scope, after.as_deref()),
        _ => inboxes(api, scope, after.as_deref()),
    };
    match read {
        Ok((lines, next)) => Some((
            Ok(lines.into()),
            next.map_or(Export::Done, |next| Export::After(Some(next))),
        )),
        // The head is out already: a body that breaks off is the only way left to say so.
        Err(why) => Some((Err(std::io::Error::other(format!("{why:?}"))), Export::Done)),
    }
}

type Lines = (Vec<u8>, Option<Vec<u8>>);

fn inboxes(api: &Api, scope: &Scope, after: Option<&[u8]>) -> Result<Lines, ApiError> {
    let page = api.known(api.store().page::<Inbox>(scope, after, PAGE_MAX))?;
    let lines = page.items.iter().filter_map(live).flat_map(csv_line);
    Ok((lines.collect(), page.next))
}

fn inboxes_of_domain(
    api: &Api,
    tenant: TenantId,
    scope: &Scope,
    after: Option<&[u8]>,
) -> Result<Lines, ApiError> {
    let page = api.known(api.store().page::<InboxOfDomain>(scope, after, PAGE_MAX))?;
    let mut lines = Vec::new();
    for entry in &page.items {
        let inbox: Option<Inbox> = api.known(api.store().get(&(tenant, entry.inbox)))?;
        lines.extend(
            inbox
                .as_ref()
                .and_then(live)
                .map(csv_line)
                .unwrap_or_default(),
        );
    }
    Ok((lines, page.next))
}

fn csv_line(inbox: &Inbox) -> Vec<u8> {
    csv::line([
        inbox.address.as_str(),
        &inbox.display_name,
        &inbox.domain.to_string(),
        &inbox.id.to_string(),
        &word(InboxStatusView::from(inbox.status)),
        &inbox.daily_limit.to_string(),
        &inbox.time_zone,
        &inbox.created_at.to_string(),
    ])
}
