//! Who asks: the bearer of an access token, checked against committed rows at every request.

use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use http::{header, request::Parts};
use inboxgrove_model::{
    SessionId, TenantId, UserId, WallTime,
    tenant::{Role, Session, Tenant, TenantStatus, User},
};

use super::{
    Api,
    problem::{ApiError, Code},
};

/// Somebody who may do what `A` says.
#[derive(Debug)]
pub(crate) struct Caller<A> {
    pub(crate) tenant: TenantId,
    pub(crate) user: UserId,
    pub(crate) session: SessionId,
    /// When the access token ends; streams end with it.
    pub(crate) expires_at: WallTime,
    access: PhantomData<A>,
}

/// What a route asks of its caller.
pub(crate) trait Access: Send {
    /// Whether the role may.
    fn allows(role: Role) -> bool;
    /// Whether the account must be allowed to act.
    const ACTS: bool;
}

/// Only logged in: one's own name, logging out.
#[derive(Debug)]
pub(crate) struct LoggedIn;

/// Reads of domains, inboxes, messages. Works in a suspended account too.
#[derive(Debug)]
pub(crate) struct Reads;

/// Changes of domains, inboxes, warmup; messages.
#[derive(Debug)]
pub(crate) struct Writes;

// === impl Access ===

impl Access for LoggedIn {
    const ACTS: bool = false;

    fn allows(_: Role) -> bool {
        true
    }
}

impl Access for Reads {
    const ACTS: bool = false;

    fn allows(role: Role) -> bool {
        match role {
            Role::Owner | Role::Admin | Role::Member | Role::Viewer => true,
            Role::Billing => false,
        }
    }
}

impl Access for Writes {
    const ACTS: bool = true;

    fn allows(role: Role) -> bool {
        match role {
            Role::Owner | Role::Admin | Role::Member => true,
            Role::Billing | Role::Viewer => false,
        }
    }
}

// === impl Caller ===

impl<A: Access> FromRequestParts<Api> for Caller<A> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let bearer = api.tokens.check(token(parts)?, api.wall())?;
        // Before it is counted: whoever was logged out takes nothing from those who are not.
        admitted::<A>(api, bearer.tenant, bearer.session, bearer.user)?;
        api.limits.tenant(bearer.tenant)?;
        Ok(Self {
            tenant: bearer.tenant,
            user: bearer.user,
            session: bearer.session,
            expires_at: bearer.expires_at,
            access: PhantomData,
        })
    }
}

// === free functions ===

/// Whether the session still is, and its user and account may do what `A` says, by committed rows.
pub(crate) fn admitted<A: Access>(
    api: &Api,
    tenant: TenantId,
    session: SessionId,
    user: UserId,
) -> Result<(), ApiError> {
    api.known(api.store().hot::<Session>(&(tenant, session)))?
        .filter(|session| session.user == user)
        .filter(|session| session.revoked_at.is_none())
        .ok_or_else(ended)?;
    let user = api
        .known(api.store().hot::<User>(&(tenant, user)))?
        .ok_or_else(ended)?;
    let tenant = api
        .known(api.store().hot::<Tenant>(&tenant))?
        .ok_or_else(ended)?;
    may_act::<A>(&tenant)?;
    if !A::allows(user.role) {
        return Err(ApiError::new(
            Code::Forbidden,
            "Ask an owner or admin of the account.",
        ));
    }
    Ok(())
}

/// The token of `Authorization: Bearer …` (RFC 6750 §2.1).
fn token(parts: &Parts) -> Result<&str, ApiError> {
    let missing = || ApiError::new(Code::Unauthenticated, "Send Authorization: Bearer <token>.");
    let value = parts
        .headers
        .get(header::AUTHORIZATION)
        .ok_or_else(missing)?;
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing());
    }
    Ok(token.trim())
}

fn ended() -> ApiError {
    ApiError::new(Code::InvalidToken, "The session has ended. Log in again.")
}

fn may_act<A: Access>(tenant: &Tenant) -> Result<(), ApiError> {
    if tenant.status == TenantStatus::Closed {
        return Err(ApiError::new(
            Code::TenantSuspended,
            "The account is closed.",
        ));
    }
    if A::ACTS && !tenant.status.may_act() {
        let why = tenant
            .suspension
            .as_ref()
            .map_or("", |suspension| suspension.note.as_str());
        let detail = format!("Reads work; changes and mail wait. {why}");
        return Err(ApiError::new(
            Code::TenantSuspended,
            detail.trim().to_owned(),
        ));
    }
    Ok(())
}
