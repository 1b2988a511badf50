//! What the edge may ask of an account: reads of committed rows, and questions to its actor. What the rows
//! already refuse wakes nobody.

use std::net::IpAddr;

use inboxgrove_model::{
    EmailAddress, SessionId, TenantId, UserId, WallTime,
    claim::{Claim, ClaimHolder, ClaimName},
    domain::Domain,
    job::Job,
    tenant::{Session, SuspensionReason, Tenant, User},
};
use secrecy::SecretString;

use super::{
    TenantMsg,
    additions::may_add_domain,
    sessions::{BAD_REFRESH, Refresh, live_session, refresh_of},
};
use crate::{
    context::Reply,
    directory::{self, Address, Letter},
    platform::{IdempotencyKey, Made, NewAccount, NewDomain, Platform, Provision},
    refusal::Refusal,
};

impl Platform {
    /// Makes an account with its first user.
    ///
    /// Errors: [`Refusal::Conflict`] `email_taken`.
    pub async fn register(&self, new: NewAccount) -> Result<(Tenant, User), Refusal> {
        let tenant = TenantId::from_bytes(self.cx.new_id());
        let user = UserId::from_bytes(self.cx.new_id());
        directory::ask(&self.cx, Address::Tenant(tenant), |reply| {
            Letter::Tenant(TenantMsg::Register(Box::new(new), user, reply))
        })
        .await
    }

    /// Who logs in with this address.
    pub fn user_by_email(&self, email: &EmailAddress) -> Result<Option<User>, Refusal> {
        let claim = self
            .cx
            .store
            .get::<Claim>(&ClaimName::UserEmail(email.key()))?;
        match claim.map(|claim| claim.holder) {
            Some(ClaimHolder::User(tenant, user)) => {
                Ok(self.cx.store.get::<User>(&(tenant, user))?)
            }
            _ => Ok(None),
        }
    }

    /// Starts a family of refresh tokens; commits the log-in.
    pub async fn open_session(
        &self,
        user: &User,
        refresh_hash: [u8; 32],
        expires_at: WallTime,
        from: Option<IpAddr>,
    ) -> Result<Session, Refusal> {
        let user_id = user.id;
        self.tenant(user.tenant, |reply| TenantMsg::OpenSession {
            user: user_id,
            refresh_hash,
            expires_at,
            from,
            reply,
        })
        .await
    }

    /// Exchanges a refresh token. The reuse of a spent one revokes the whole family; one that was never
    /// issued changes nothing and wakes nobody.
    pub async fn rotate_session(
        &self,
        tenant: TenantId,
        session: SessionId,
        spent: [u8; 32],
        fresh: [u8; 32],
        expires_at: WallTime,
    ) -> Result<Session, Refusal> {
        let found = live_session(&self.cx, tenant, session)?;
        if refresh_of(&found, &spent, self.cx.ports.clock.wall()) == Refresh::Foreign {
            return Err(BAD_REFRESH);
        }
        self.tenant(tenant, |reply| TenantMsg::RotateSession {
            session,
            spent,
            fresh,
            expires_at,
            reply,
        })
        .await
    }

    /// Ends a log-in. Ending it again changes nothing.
    pub async fn end_session(&self, tenant: TenantId, session: SessionId) -> Result<(), Refusal> {
        if self
            .cx
            .store
            .get::<Session>(&(tenant, session))?
            .is_none_or(|session| session.revoked_at.is_some())
        {
            return Ok(());
        }
        self.tenant(tenant, |reply| TenantMsg::EndSession(session, reply))
            .await
    }

    /// Keeps a better hash of the same password.
    pub async fn upgrade_password(
        &self,
        tenant: TenantId,
        user: UserId,
        hash: SecretString,
    ) -> Result<(), Refusal> {
        self.tenant(tenant, |reply| {
            TenantMsg::UpgradePassword(user, hash, reply)
        })
        .await
    }

    /// Suspends an account: reads go on, mail is held.
    pub async fn suspend(
        &self,
        tenant: TenantId,
        reason: SuspensionReason,
        note: String,
    ) -> Result<Tenant, Refusal> {
        self.tenant(tenant, |reply| TenantMsg::Suspend(reason, note, reply))
            .await
    }

    /// Gives an account back what it was.
    pub async fn resume(&self, tenant: TenantId) -> Result<Tenant, Refusal> {
        self.tenant(tenant, TenantMsg::Resume).await
    }

    /// Adds a domain that its owner has; makes its DKIM keys. It sends nothing until its records are proven.
    ///
    /// Errors: [`Refusal::Conflict`] `domain_exists`, `domain_claimed`; [`Refusal::PlanLimit`].
    pub async fn add_domain(
        &self,
        tenant: TenantId,
        new: NewDomain,
        key: Option<IdempotencyKey>,
    ) -> Result<Made<Domain>, Refusal> {
        let row = self.existing_tenant(tenant)?;
        if let Some(before) = may_add_domain(&self.cx, &row, &new, key)? {
            return Ok(before);
        }
        let keys = self
            .cx
            .vault
            .ask(|reply| crate::vault::VaultMsg::MakeDkimKeys(tenant, reply))
            .await?;
        let secrets: Vec<_> = keys.iter().map(|selector| selector.secret).collect();
        let made = self
            .tenant(tenant, |reply| {
                TenantMsg::AddDomain(Box::new(new), keys, key, reply)
            })
            .await;
        if !matches!(&made, Ok(made) if !made.replayed)
            && !matches!(&made, Err(Refusal::Unknown { .. }))
        {
            // The keys made in advance are not needed.
            crate::vault::forget(&self.cx, tenant, secrets);
        }
        made
    }

    /// Makes inboxes on a domain, as a job.
    pub async fn provision(
        &self,
        tenant: TenantId,
        wanted: Provision,
        key: Option<IdempotencyKey>,
    ) -> Result<Made<Job>, Refusal> {
        self.tenant(tenant, |reply| {
            TenantMsg::Provision(Box::new(wanted), key, reply)
        })
        .await
    }

    async fn tenant<T>(
        &self,
        id: TenantId,
        msg: impl FnOnce(Reply<T>) -> TenantMsg,
    ) -> Result<T, Refusal> {
        self.existing_tenant(id)?;
        directory::ask(&self.cx, Address::Tenant(id), |reply| {
            Letter::Tenant(msg(reply))
        })
        .await
    }

    /// The account, read: an actor is not woken for one that a stranger made up.
    fn existing_tenant(&self, id: TenantId) -> Result<Tenant, Refusal> {
        self.cx
            .store
            .get::<Tenant>(&id)?
            .ok_or(Refusal::NotFound { what: "tenant" })
    }
}
