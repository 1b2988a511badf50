//! Log-ins: families of refresh tokens.

use std::{net::IpAddr, time::Duration};

use inboxgrove_model::{
    SessionId, TenantId, UserId, WallTime,
    event::EventKind,
    tenant::{Session, User},
};
use secrecy::SecretString;

use super::TenantState;
use crate::{context::Context, refusal::Refusal};

/// A log-in that was ended stays this long, for who wants to know why.
const REVOKED_KEPT: Duration = Duration::from_hours(7 * 24);
/// A refresh token that was exchanged may come once more within this time: its answer may have been lost, or
/// two windows of one browser asked at once. Later it is a copy.
const EXCHANGE_AGAIN: Duration = Duration::from_secs(10);
/// Longest log-in, however often its token is exchanged.
const SESSION_LONGEST: Duration = Duration::from_hours(90 * 24);

pub(super) const BAD_REFRESH: Refusal = Refusal::Unauthenticated {
    why: "this refresh token is not good",
};

/// What a refresh token is to its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refresh {
    /// The one that is good, or the one before it within the time in which that is no harm.
    Good,
    /// The one before, too late: somebody has a copy.
    Reused,
    /// Never issued, or long ago: no reason to end the log-in, or anybody could.
    Foreign,
}

impl TenantState {
    pub(super) async fn open_session(
        &self,
        user: UserId,
        refresh_hash: [u8; 32],
        expires_at: WallTime,
        from: Option<IpAddr>,
    ) -> Result<Session, Refusal> {
        let mut user = self
            .cx
            .store
            .get::<User>(&(self.id, user))?
            .ok_or(Refusal::NotFound { what: "user" })?;
        let now = self.cx.ports.clock.wall();
        user.last_login_at = Some(now);
        let session = Session {
            id: SessionId::from_bytes(self.cx.new_id()),
            tenant: self.id,
            user: user.id,
            refresh_hash,
            previous_hash: None,
            rotated_at: None,
            expires_at: expires_at.min(now.after(SESSION_LONGEST)),
            created_at: now,
            revoked_at: None,
        };
        let mut batch = self.batch();
        batch.put(&user);
        batch.put_new(&session);
        batch.event(self.event(EventKind::UserLoggedIn {
            user: user.id,
            from,
        }));
        self.cx.store.commit(batch).await?;
        Ok(session)
    }

    pub(super) async fn rotate_session(
        &self,
        session: SessionId,
        spent: [u8; 32],
        fresh: [u8; 32],
        expires_at: WallTime,
    ) -> Result<Session, Refusal> {
        let mut session = live_session(&self.cx, self.id, session)?;
        let now = self.cx.ports.clock.wall();
        let mut batch = self.batch();
        match refresh_of(&session, &spent, now) {
            Refresh::Foreign => Err(BAD_REFRESH),
            Refresh::Reused => {
                // Somebody holds a token that was exchanged before: either of the two is a thief.
                session.revoked_at = Some(now);
                batch.event(self.event(EventKind::RefreshReused { user: session.user }));
                batch.put(&session).essential();
                self.cx.store.commit(batch).await?;
                Err(BAD_REFRESH)
            }
            Refresh::Good => {
                session.previous_hash = Some(session.refresh_hash);
                session.rotated_at = Some(now);
                session.refresh_hash = fresh;
                session.expires_at = expires_at.min(session.created_at.after(SESSION_LONGEST));
                batch.put(&session);
                self.cx.store.commit(batch).await?;
                Ok(session)
            }
        }
    }

    pub(super) async fn end_session(&self, session: SessionId) -> Result<(), Refusal> {
        let Some(mut session) = self.cx.store.get::<Session>(&(self.id, session))? else {
            return Ok(());
        };
        session.revoked_at = Some(self.cx.ports.clock.wall());
        let mut batch = self.batch();
        batch.put(&session);
        self.cx.store.commit(batch).await?;
        Ok(())
    }

    pub(super) async fn upgrade_password(
        &self,
        user: UserId,
        hash: SecretString,
    ) -> Result<(), Refusal> {
        let mut user = self
            .cx
            .store
            .get::<User>(&(self.id, user))?
            .ok_or(Refusal::NotFound { what: "user" })?;
        user.password_hash = hash;
        let mut batch = self.batch();
        batch.put(&user);
        self.cx.store.commit(batch).await?;
        Ok(())
    }
}

/// Whether a log-in may be forgotten.
pub(super) fn is_over(session: &Session, now: WallTime) -> bool {
    session.expires_at <= now
        || session
            .revoked_at
            .is_some_and(|at| at.after(REVOKED_KEPT) <= now)
}

/// What a refresh token that hashes to `spent` is to a live session.
pub(super) fn refresh_of(session: &Session, spent: &[u8; 32], now: WallTime) -> Refresh {
    if session.refresh_hash == *spent {
        return Refresh::Good;
    }
    if session.previous_hash != Some(*spent) {
        return Refresh::Foreign;
    }
    match session.rotated_at {
        Some(at) if now <= at.after(EXCHANGE_AGAIN) => Refresh::Good,
        _ => Refresh::Reused,
    }
}

/// A session that is neither ended nor over.
pub(super) fn live_session(
    cx: &Context,
    tenant: TenantId,
    id: SessionId,
) -> Result<Session, Refusal> {
    let now = cx.ports.clock.wall();
    let session = cx.store.get::<Session>(&(tenant, id))?;
    session
        .filter(|session| {
            session.revoked_at.is_none()
                && session.expires_at > now
                && session.created_at.after(SESSION_LONGEST) > now
        })
        .ok_or(BAD_REFRESH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime::from_millis(1_000_000_000);

    fn session() -> Session {
        Session {
            id: SessionId::from_bytes([1; 16]),
            tenant: TenantId::from_bytes([2; 16]),
            user: UserId::from_bytes([3; 16]),
            refresh_hash: [2; 32],
            previous_hash: Some([1; 32]),
            rotated_at: Some(NOW),
            expires_at: NOW.after(Duration::from_hours(24)),
            created_at: NOW,
            revoked_at: None,
        }
    }

    #[test]
    fn only_a_token_that_was_issued_and_exchanged_long_ago_is_a_copy() {
        let soon = NOW.after(EXCHANGE_AGAIN);
        let late = NOW.after(EXCHANGE_AGAIN + Duration::from_millis(1));
        for (spent, at, expected) in [
            ([2; 32], NOW, Refresh::Good),
            ([2; 32], late, Refresh::Good),
            ([1; 32], soon, Refresh::Good),
            ([1; 32], late, Refresh::Reused),
            ([9; 32], soon, Refresh::Foreign),
            ([9; 32], late, Refresh::Foreign),
        ] {
            assert_eq!(refresh_of(&session(), &spent, at), expected, "{spent:?}");
        }
        let first = Session {
            previous_hash: None,
            rotated_at: None,
            ..session()
        };
        assert_eq!(refresh_of(&first, &[1; 32], late), Refresh::Foreign);
    }

    #[test]
    fn log_ins_are_forgotten_when_over_or_ended_a_week_ago() {
        let ended = |at| Session {
            revoked_at: Some(at),
            ..session()
        };
        assert!(!is_over(&session(), NOW));
        assert!(is_over(&session(), session().expires_at));
        assert!(!is_over(&ended(NOW), NOW));
        assert!(is_over(&ended(NOW.before(REVOKED_KEPT)), NOW));
    }
}
