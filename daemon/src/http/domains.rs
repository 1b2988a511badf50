//! `/api/v1/domains`: a tenant adds its domains, publishes their records, has them verified.

use axum::{Json, extract::State};
use http::StatusCode;
use inboxgrove_actors::platform::{NewDomain, Platform};
use inboxgrove_model::{
    DomainId, DomainName,
    domain::{Check, CheckKind, DkimAlgorithm, Domain, RecordToPublish},
};
use inboxgrove_store::Scope;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    caller::{Caller, Reads, Writes},
    idempotency::{Created, guard},
    input::{Fields, IdempotencyKey, Input, Path, Query},
    paging::{ListView, PageQuery},
    problem::ApiError,
    wire::{CheckOutcomeView, DomainStatusView, RecordTypeView, Time},
};

/// Most MX hosts of one domain that is filtered elsewhere.
const MAIL_HOSTS_MAX: usize = 8;

/// All routes, as the OpenAPI document lists them.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(show, remove))
        .routes(routes!(records))
        .routes(routes!(verify))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AddDomain {
    /// The name; letters of any script.
    #[schema(max_length = 253, example = "acme.example")]
    name: String,
    /// Hosts that its MX records should name, when its mail comes in through a filter of somebody else.
    #[serde(default)]
    #[schema(max_items = 8)]
    mail_hosts: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct DomainView {
    id: String,
    name: String,
    /// The name in its own script.
    display_name: String,
    status: DomainStatusView,
    /// Why, in a sentence.
    reason: String,
    selectors: Vec<SelectorView>,
    mail_hosts: Vec<String>,
    checks: Vec<CheckView>,
    records: Vec<RecordView>,
    inboxes_count: u32,
    created_at: Time,
    verified_at: Option<Time>,
    checked_at: Option<Time>,
}

#[derive(Debug, Serialize, ToSchema)]
struct SelectorView {
    name: String,
    /// `rsa-sha256` or `ed25519-sha256`.
    algorithm: &'static str,
    /// Base64 of the public key.
    public_key: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct CheckView {
    /// `ownership`, `mx`, `spf`, `dkim`, `dmarc` or `ptr`.
    kind: &'static str,
    /// The selector, for DKIM.
    selector: Option<String>,
    outcome: CheckOutcomeView,
    /// The name or address that was asked.
    subject: String,
    expected: String,
    found: String,
    /// What to do about it.
    fix: String,
    at: Time,
    passed_at: Option<Time>,
}

/// A DNS record to publish.
#[derive(Debug, Serialize, ToSchema)]
struct RecordView {
    purpose: &'static str,
    name: String,
    #[serde(rename = "type")]
    kind: RecordTypeView,
    value: String,
    /// Whether mail waits for it.
    required: bool,
}

/// The records to publish.
#[derive(Debug, Serialize, ToSchema)]
struct RecordsView {
    items: Vec<RecordView>,
}

/// The domains of the account.
#[utoipa::path(get, path = "/api/v1/domains", tag = "domains", params(PageQuery),
    responses((status = 200, body = ListView<DomainView>)))]
async fn list(
    State(api): State<Api>,
    who: Caller<Reads>,
    Query(page): Query<PageQuery>,
) -> Result<Json<ListView<DomainView>>, ApiError> {
    let scope = Scope::Tenant(who.tenant);
    api.page(("domains", who.tenant), &scope, &page, |domain: &Domain| {
        Ok(Some(DomainView::new(domain, &api.platform)))
    })
}

/// Adds a domain; the answer holds the records to publish.
///
/// 409 when the account has it already, 402 above the plan's limit.
#[utoipa::path(post, path = "/api/v1/domains", tag = "domains", request_body = AddDomain,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe for 24 hours")),
    responses((status = 201, body = DomainView)))]
async fn add(
    State(api): State<Api>,
    who: Caller<Writes>,
    key: Option<IdempotencyKey>,
    wanted: Input<AddDomain>,
) -> Result<Created<DomainView>, ApiError> {
    let guard = guard("POST /domains", key.as_ref(), &wanted);
    let domain = checked(&wanted.body)?;
    let added = api.platform.add_domain(who.tenant, domain, guard);
    let made = api.ask(added).await?;
    let view = DomainView::new(&made.value, &api.platform);
    Ok(Created::new(StatusCode::CREATED, view, made.replayed))
}

/// One domain, with its checks and the records to publish.
#[utoipa::path(get, path = "/api/v1/domains/{domain_id}", tag = "domains", params(("domain_id" = String, Path)),
    responses((status = 200, body = DomainView)))]
async fn show(
    State(api): State<Api>,
    who: Caller<Reads>,
    Path(id): Path<DomainId>,
) -> Result<Json<DomainView>, ApiError> {
    let domain: Domain = api.row(&(who.tenant, id), "domain")?;
    Ok(Json(DomainView::new(&domain, &api.platform)))
}

/// Removes a domain. 409 while inboxes hang on it.
#[utoipa::path(delete, path = "/api/v1/domains/{domain_id}", tag = "domains", params(("domain_id" = String, Path)),
    responses((status = 204)))]
async fn remove(
    State(api): State<Api>,
    who: Caller<Writes>,
    Path(id): Path<DomainId>,
) -> Result<StatusCode, ApiError> {
    api.ask(api.platform.remove_domain(who.tenant, id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The DNS records to publish for a domain.
#[utoipa::path(get, path = "/api/v1/domains/{domain_id}/records", tag = "domains", params(("domain_id" = String, Path)),
    responses((status = 200, body = RecordsView)))]
async fn records(
    State(api): State<Api>,
    who: Caller<Reads>,
    Path(id): Path<DomainId>,
) -> Result<Json<RecordsView>, ApiError> {
    let domain: Domain = api.row(&(who.tenant, id), "domain")?;
    let records = api.platform.records_to_publish(&domain);
    let items = records.iter().map(RecordView::from).collect();
    Ok(Json(RecordsView { items }))
}

/// Asks DNS now, at every authoritative server; the answer holds each check with its fix.
#[utoipa::path(post, path = "/api/v1/domains/{domain_id}/verify", tag = "domains", params(("domain_id" = String, Path)),
    responses((status = 200, body = DomainView)))]
async fn verify(
    State(api): State<Api>,
    who: Caller<Writes>,
    Path(id): Path<DomainId>,
) -> Result<Json<DomainView>, ApiError> {
    let domain = api.ask(api.platform.verify_domain(who.tenant, id)).await?;
    Ok(Json(DomainView::new(&domain, &api.platform)))
}

// === impl views ===

impl DomainView {
    fn new(domain: &Domain, platform: &Platform) -> Self {
        let records = platform.records_to_publish(domain);
        Self {
            id: domain.id.to_string(),
            name: domain.name.to_string(),
            display_name: domain.name.to_unicode(),
            status: domain.status.into(),
            reason: domain.reason.clone(),
            selectors: domain.selectors.iter().map(SelectorView::from).collect(),
            mail_hosts: domain.mail_hosts.clone(),
            checks: domain.checks.iter().map(CheckView::from).collect(),
            records: records.iter().map(RecordView::from).collect(),
            inboxes_count: domain.inboxes_count,
            created_at: domain.created_at.into(),
            verified_at: domain.verified_at.map(Time::from),
            checked_at: domain.checked_at.map(Time::from),
        }
    }
}

impl From<&inboxgrove_model::domain::DkimSelector> for SelectorView {
    fn from(selector: &inboxgrove_model::domain::DkimSelector) -> Self {
        Self {
            name: selector.name.clone(),
            algorithm: match selector.algorithm {
                DkimAlgorithm::Rsa2048 => "rsa-sha256",
                DkimAlgorithm::Ed25519 => "ed25519-sha256",
            },
            public_key: selector.public_key.clone(),
        }
    }
}

impl From<&Check> for CheckView {
    fn from(check: &Check) -> Self {
        Self {
            kind: purpose(&check.kind),
            selector: match &check.kind {
                CheckKind::Dkim(selector) => Some(selector.clone()),
                _ => None,
            },
            outcome: check.outcome.into(),
            subject: check.subject.clone(),
            expected: check.expected.clone(),
            found: check.found.clone(),
            fix: check.fix.clone(),
            at: check.at.into(),
            passed_at: check.passed_at.map(Time::from),
        }
    }
}

impl From<&RecordToPublish> for RecordView {
    fn from(record: &RecordToPublish) -> Self {
        Self {
            purpose: purpose(&record.purpose),
            name: record.name.clone(),
            kind: record.kind.into(),
            value: record.value.clone(),
            required: record.required,
        }
    }
}

// === free functions ===

/// The word of what is asked of DNS.
pub(super) fn purpose(kind: &CheckKind) -> &'static str {
    match kind {
        CheckKind::Ownership => "ownership",
        CheckKind::Mx => "mx",
        CheckKind::Spf => "spf",
        CheckKind::Dkim(_) => "dkim",
        CheckKind::Dmarc => "dmarc",
        CheckKind::Ptr => "ptr",
    }
}

fn checked(wanted: &AddDomain) -> Result<NewDomain, ApiError> {
    let mut fields = Fields::default();
    let name = fields.take("name", DomainName::parse(&wanted.name));
    let few = wanted.mail_hosts.len() <= MAIL_HOSTS_MAX;
    fields.check("mail_hosts", few, "expected at most 8 hosts");
    let hosts = wanted.mail_hosts.iter().take(MAIL_HOSTS_MAX).enumerate();
    let mail_hosts = hosts
        .filter_map(|(at, host)| fields.take(&format!("mail_hosts[{at}]"), DomainName::parse(host)))
        .map(|host| host.to_string())
        .collect();
    fields.done()?;
    Ok(NewDomain {
        name: name.expect("a wrong field ended it above"),
        mail_hosts,
    })
}
