//! What the edge may ask of an inbox. What the rows already refuse wakes nobody.

use inboxgrove_model::{InboxId, TenantId, inbox::Inbox, message::Message};
use inboxgrove_policy::score;

use super::{InboxMsg, beliefs};
use crate::{
    context::Reply,
    directory::{self, Address, Letter},
    platform::{Health, IdempotencyKey, InboxChange, Made, NewMessage, Platform, ShownCredential},
    refusal::Refusal,
};

impl Platform {
    /// Changes what its owner may change of an inbox.
    pub async fn change_inbox(
        &self,
        tenant: TenantId,
        inbox: InboxId,
        change: InboxChange,
    ) -> Result<Inbox, Refusal> {
        self.inbox(tenant, inbox, |reply| {
            InboxMsg::Change(Box::new(change), reply)
        })
        .await
    }

    /// Deletes an inbox. Its address stays taken, so that nobody gets another's replies.
    pub async fn delete_inbox(&self, tenant: TenantId, inbox: InboxId) -> Result<(), Refusal> {
        self.inbox(tenant, inbox, InboxMsg::Delete).await
    }

    /// Shows a password that has never been shown.
    ///
    /// Errors: [`Refusal::Conflict`] `already_shown`.
    pub async fn show_credential(
        &self,
        tenant: TenantId,
        inbox: InboxId,
    ) -> Result<ShownCredential, Refusal> {
        self.inbox(tenant, inbox, InboxMsg::ShowCredential).await
    }

    /// Makes a password anew and shows it, this once.
    pub async fn rotate_credential(
        &self,
        tenant: TenantId,
        inbox: InboxId,
    ) -> Result<ShownCredential, Refusal> {
        self.inbox(tenant, inbox, InboxMsg::RotateCredential).await
    }

    /// Starts an inbox's warmup, or goes on with it.
    pub async fn start_warmup(&self, tenant: TenantId, inbox: InboxId) -> Result<Inbox, Refusal> {
        self.inbox(tenant, inbox, InboxMsg::StartWarmup).await
    }

    /// Pauses an inbox's warmup.
    pub async fn pause_warmup(&self, tenant: TenantId, inbox: InboxId) -> Result<Inbox, Refusal> {
        self.inbox(tenant, inbox, InboxMsg::PauseWarmup).await
    }

    /// Accepts a message for sending: on disk, with its takes, when this resolves.
    pub async fn send(
        &self,
        tenant: TenantId,
        inbox: InboxId,
        message: NewMessage,
        key: Option<IdempotencyKey>,
    ) -> Result<Made<Message>, Refusal> {
        self.inbox(tenant, inbox, |reply| {
            InboxMsg::Send(Box::new(message), key, reply)
        })
        .await
    }

    /// What we believe about an inbox. Read from rows; wakes nobody.
    pub fn health(&self, tenant: TenantId, inbox: InboxId) -> Result<Health, Refusal> {
        let row = self.existing_inbox(tenant, inbox)?;
        let beliefs = beliefs(&self.cx, tenant, inbox)?;
        Ok(Health {
            inbox: row,
            score: score(&beliefs),
            beliefs,
        })
    }

    /// Makes an inbox's actor fail, as a bug would. For tests of supervision, and for operators who want to see it.
    pub fn fail_inbox(&self, tenant: TenantId, inbox: InboxId, why: &str) -> Result<(), Refusal> {
        self.existing_inbox(tenant, inbox)?;
        let letter = Letter::Inbox(InboxMsg::Fail(why.to_owned()));
        directory::route(&self.cx, Address::Inbox(tenant, inbox), letter).map(drop)
    }

    async fn inbox<T>(
        &self,
        tenant: TenantId,
        inbox: InboxId,
        msg: impl FnOnce(Reply<T>) -> InboxMsg,
    ) -> Result<T, Refusal> {
        self.existing_inbox(tenant, inbox)?;
        directory::ask(&self.cx, Address::Inbox(tenant, inbox), |reply| {
            Letter::Inbox(msg(reply))
        })
        .await
    }

    /// Whether there is such an inbox: an actor is not woken for one that a stranger made up.
    fn existing_inbox(&self, tenant: TenantId, inbox: InboxId) -> Result<Inbox, Refusal> {
        self.cx
            .store
            .get::<Inbox>(&(tenant, inbox))?
            .ok_or(Refusal::NotFound { what: "inbox" })
    }
}
