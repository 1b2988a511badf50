//! `/api/v1/auth`: a company registers, its people log in and out.

use std::net::IpAddr;

use axum::{
    Json,
    extract::{FromRequestParts, State},
};
use http::{StatusCode, request::Parts};
use inboxgrove_actors::platform::NewAccount;
use inboxgrove_model::{
    EmailAddress, SessionId,
    tenant::{Session, Tenant, User},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    caller::{Caller, LoggedIn},
    input::{Fields, Input},
    passwords,
    problem::{ApiError, Code},
    server::Peer,
    tokens::{RefreshSecret, RefreshToken},
    wire::{RoleView, SuspensionReasonView, TenantStatusView, Time},
};

/// Longest name of a company.
const COMPANY_CHARS_MAX: usize = 200;

/// All routes, as the OpenAPI document lists them.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(login))
        .routes(routes!(refresh))
        .routes(routes!(logout))
        .routes(routes!(me))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Register {
    /// The company's name.
    #[schema(min_length = 1, max_length = 200, example = "Acme")]
    company_name: String,
    /// How its owner logs in.
    #[schema(format = Email, example = "ada@acme.example")]
    company_email: String,
    /// At least 8 characters, at most 256 bytes.
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 256)]
    password: SecretString,
    /// IANA name of the zone in which its days are counted; UTC when left out.
    #[serde(default)]
    #[schema(example = "Europe/Berlin")]
    time_zone: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Login {
    #[schema(format = Email)]
    email: String,
    #[schema(value_type = String, format = Password, max_length = 256)]
    password: SecretString,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Refresh {
    /// The newest refresh token. An older one ends the session: it may have been stolen.
    #[schema(value_type = String)]
    refresh_token: SecretString,
}

/// Tokens of a session.
#[derive(Debug, Serialize, ToSchema)]
struct TokensView {
    /// For `Authorization: Bearer …`.
    access_token: String,
    /// For the next pair, once.
    refresh_token: String,
    /// Always `Bearer`.
    token_type: &'static str,
    /// Seconds that the access token lives.
    expires_in: u64,
    tenant_id: String,
    user_id: String,
}

/// Who is logged in.
#[derive(Debug, Serialize, ToSchema)]
struct MeView {
    user: UserView,
    tenant: TenantView,
}

#[derive(Debug, Serialize, ToSchema)]
struct UserView {
    id: String,
    email: String,
    role: RoleView,
    created_at: Time,
    last_login_at: Option<Time>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TenantView {
    id: String,
    company_name: String,
    plan: String,
    status: TenantStatusView,
    suspension: Option<SuspensionView>,
    time_zone: String,
    created_at: Time,
    trial_ends_at: Option<Time>,
    domains_count: u32,
    inboxes_count: u32,
}

#[derive(Debug, Serialize, ToSchema)]
struct SuspensionView {
    reason: SuspensionReasonView,
    note: String,
    since: Time,
}

/// An attempt to get in that the limit of its address let pass. Stands before the body in a handler's
/// list, so that nobody's body is read whose attempt is refused.
#[derive(Debug)]
struct Attempt {
    /// Where it came from.
    from: Option<IpAddr>,
}

/// A refresh that the limit of its address let pass.
#[derive(Debug)]
struct RefreshAttempt;

/// Registers a company and logs its owner in.
///
/// 409 when the e-mail address is taken. Safe to repeat: the second time fails so.
#[utoipa::path(post, path = "/api/v1/auth/register", tag = "auth", security(()), request_body = Register,
    responses((status = 201, body = TokensView)))]
async fn register(
    State(api): State<Api>,
    Attempt { from }: Attempt,
    wanted: Input<Register>,
) -> Result<(StatusCode, Json<TokensView>), ApiError> {
    if !api.options.registration_open {
        return Err(ApiError::new(
            Code::RegistrationClosed,
            "Ask the operator of this installation.",
        ));
    }
    let (mut account, password) = checked(wanted.body, api.options.password_chars_min)?;
    account.password_hash = api.passwords.hash(password).await?;
    let (_, user) = api.ask(api.platform.register(account)).await?;
    Ok((StatusCode::CREATED, open(&api, &user, from).await?))
}

/// Logs a user in.
#[utoipa::path(post, path = "/api/v1/auth/login", tag = "auth", security(()), request_body = Login,
    responses((status = 200, body = TokensView)))]
async fn login(
    State(api): State<Api>,
    Attempt { from }: Attempt,
    given: Input<Login>,
) -> Result<Json<TokensView>, ApiError> {
    let Login { email, password } = given.body;
    // Nobody has such a password: nothing is looked at, and nothing counted, or it would be a cheap way to fill the count.
    if password.expose_secret().len() > passwords::BYTES_MAX {
        return Err(wrong_credentials());
    }
    // What cannot be an address costs the same as what is not the right one.
    let address = EmailAddress::parse(&email).ok();
    let account = address.as_ref().map_or(email, EmailAddress::key);
    let guess = api.guesses.begin(&account, from)?;
    let user = match &address {
        Some(email) => api.known(api.platform.user_by_email(email))?,
        None => None,
    };
    let known = user.as_ref().map(|user| user.password_hash.clone());
    let checked = api.passwords.check(password, known).await;
    if checked.as_ref().map_or(true, |checked| checked.good) {
        api.guesses.forgive(&guess);
    }
    let checked = checked?;
    let user = user
        .filter(|_| checked.good)
        .ok_or_else(wrong_credentials)?;
    if let Some(better) = checked.upgrade {
        let kept = api.platform.upgrade_password(user.tenant, user.id, better);
        if let Err(why) = kept.await {
            // The old hash still works; the next log-in tries again.
            tracing::warn!(user = %user.id, %why, "a better password hash was not kept");
        }
    }
    open(&api, &user, from).await
}

/// Trades a refresh token for a new pair. Each works once.
#[utoipa::path(post, path = "/api/v1/auth/refresh", tag = "auth", security(()), request_body = Refresh,
    responses((status = 200, body = TokensView)))]
async fn refresh(
    State(api): State<Api>,
    _attempt: RefreshAttempt,
    given: Input<Refresh>,
) -> Result<Json<TokensView>, ApiError> {
    let spent = RefreshToken::parse(&given.body.refresh_token)?;
    let fresh = RefreshSecret::new(&*api.platform.ports().rng);
    let rotated = api.platform.rotate_session(
        spent.tenant,
        spent.session,
        spent.secret.hash(),
        fresh.hash(),
        api.wall().after(api.tokens.lifetimes().refresh),
    );
    let session = api.ask(rotated).await.map_err(|why| match why.code() {
        // A session that never was reads like one that ended.
        Code::NotFound => ApiError::new(Code::InvalidToken, "Log in again."),
        _ => why,
    })?;
    render(&api, &session, &fresh)
}

/// Ends this session: its access token stops working at once.
#[utoipa::path(post, path = "/api/v1/auth/logout", tag = "auth", responses((status = 204)))]
async fn logout(State(api): State<Api>, who: Caller<LoggedIn>) -> Result<StatusCode, ApiError> {
    let ended = api.platform.end_session(who.tenant, who.session);
    api.ask(ended).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who is logged in, and how their account stands.
#[utoipa::path(get, path = "/api/v1/auth/me", tag = "auth", responses((status = 200, body = MeView)))]
async fn me(State(api): State<Api>, who: Caller<LoggedIn>) -> Result<Json<MeView>, ApiError> {
    let user: User = api.row(&(who.tenant, who.user), "user")?;
    let tenant: Tenant = api.row(&who.tenant, "account")?;
    Ok(Json(MeView {
        user: UserView::from(&user),
        tenant: TenantView::from(&tenant),
    }))
}

// === impl attempts ===

impl FromRequestParts<Api> for Attempt {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let from = counted(parts, |ip| api.limits.auth(ip))?;
        Ok(Self { from })
    }
}

impl FromRequestParts<Api> for RefreshAttempt {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        counted(parts, |ip| api.limits.refresh(ip))?;
        Ok(Self)
    }
}

// === impl views ===

impl From<&User> for UserView {
    fn from(user: &User) -> Self {
        Self {
            id: user.id.to_string(),
            email: user.email.to_string(),
            role: user.role.into(),
            created_at: user.created_at.into(),
            last_login_at: user.last_login_at.map(Time::from),
        }
    }
}

impl From<&Tenant> for TenantView {
    fn from(tenant: &Tenant) -> Self {
        Self {
            id: tenant.id.to_string(),
            company_name: tenant.company.clone(),
            plan: tenant.plan.clone(),
            status: tenant.status.into(),
            suspension: tenant.suspension.as_ref().map(|it| SuspensionView {
                reason: it.reason.into(),
                note: it.note.clone(),
                since: it.since.into(),
            }),
            time_zone: tenant.time_zone.clone(),
            created_at: tenant.created_at.into(),
            trial_ends_at: tenant.trial_ends_at.map(Time::from),
            domains_count: tenant.domains_count,
            inboxes_count: tenant.inboxes_count,
        }
    }
}

// === free functions ===

/// Counts whoever asks, and tells where they are. A Unix socket's peers are nowhere.
fn counted(
    parts: &Parts,
    count: impl FnOnce(IpAddr) -> Result<(), ApiError>,
) -> Result<Option<IpAddr>, ApiError> {
    let Some(peer) = parts.extensions.get::<Peer>() else {
        return Ok(None);
    };
    if let Some(ip) = peer.limited_by() {
        count(ip)?;
    }
    Ok(match peer {
        Peer::Net(at) => Some(at.ip()),
        Peer::Unix { .. } => None,
    })
}

fn checked(wanted: Register, chars_min: usize) -> Result<(NewAccount, SecretString), ApiError> {
    let mut fields = Fields::default();
    let company = wanted.company_name.trim().to_owned();
    let chars = company.chars().count();
    fields.check(
        "company_name",
        (1..=COMPANY_CHARS_MAX).contains(&chars) && !company.chars().any(char::is_control),
        "expected 1 to 200 characters without control characters",
    );
    let email = fields.take("company_email", EmailAddress::parse(&wanted.company_email));
    if let Some(why) = passwords::weakness(&wanted.password, &wanted.company_email, chars_min) {
        fields.wrong("password", &why);
    }
    let time_zone = wanted.time_zone.unwrap_or_else(|| "UTC".to_owned());
    fields.take("time_zone", zone(&time_zone));
    fields.done()?;
    let account = NewAccount {
        company,
        email: email.expect("a wrong field ended it above"),
        password_hash: SecretString::default(),
        time_zone,
    };
    Ok((account, wanted.password))
}

/// Whether this is the name of a time zone.
pub(super) fn zone(name: &str) -> Result<(), &'static str> {
    jiff::tz::TimeZone::get(name)
        .map(drop)
        .map_err(|_| "expected the IANA name of a time zone, as in Europe/Berlin")
}

fn wrong_credentials() -> ApiError {
    ApiError::new(
        Code::InvalidCredentials,
        "No account has this e-mail address with this password.",
    )
}

async fn open(api: &Api, user: &User, from: Option<IpAddr>) -> Result<Json<TokensView>, ApiError> {
    let secret = RefreshSecret::new(&*api.platform.ports().rng);
    let expires_at = api.wall().after(api.tokens.lifetimes().refresh);
    let opened = api
        .platform
        .open_session(user, secret.hash(), expires_at, from);
    let session = api.ask(opened).await?;
    render(api, &session, &secret)
}

fn render(
    api: &Api,
    session: &Session,
    secret: &RefreshSecret,
) -> Result<Json<TokensView>, ApiError> {
    let (tenant, user, id): (_, _, SessionId) = (session.tenant, session.user, session.id);
    let rng = &*api.platform.ports().rng;
    let access = api.tokens.access((tenant, user, id), api.wall(), rng)?;
    Ok(Json(TokensView {
        access_token: access.expose_secret().to_owned(),
        refresh_token: secret.token(tenant, id).expose_secret().to_owned(),
        token_type: "Bearer",
        expires_in: api.tokens.lifetimes().access.as_secs(),
        tenant_id: tenant.to_string(),
        user_id: user.to_string(),
    }))
}
