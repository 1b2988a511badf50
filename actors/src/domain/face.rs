//! What the edge may ask of a domain. What the rows already refuse wakes nobody.

use std::time::Duration;

use inboxgrove_mail::dns;
use inboxgrove_model::{
    DomainId, JobId, TenantId,
    domain::{Domain, RecordToPublish},
    job::Job,
};

use super::{DomainMsg, wanted};
use crate::{
    directory::{self, Address, Letter},
    platform::Platform,
    refusal::Refusal,
};

/// How long somebody waits for a look: a little longer than it takes, so that they hear how it ended.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(25);

impl Platform {
    /// Asks DNS now, at every authoritative server, and waits for the result.
    ///
    /// Errors: [`Refusal::Conflict`] `domain_claimed` when another account has proven the name meanwhile.
    pub async fn verify_domain(
        &self,
        tenant: TenantId,
        domain: DomainId,
    ) -> Result<Domain, Refusal> {
        self.existing_domain(tenant, domain)?;
        let (reply, answered) = tokio::sync::oneshot::channel();
        let mut refused = directory::route(
            &self.cx,
            Address::Domain(tenant, domain),
            Letter::Domain(DomainMsg::Verify(reply)),
        )?;
        match tokio::time::timeout(VERIFY_TIMEOUT, answered).await {
            Ok(Ok(result)) => result,
            _ => Err(refused.try_recv().unwrap_or(Refusal::Unknown {
                who: format!("domain/{domain}"),
            })),
        }
    }

    /// Removes a domain without inboxes.
    pub async fn remove_domain(&self, tenant: TenantId, domain: DomainId) -> Result<(), Refusal> {
        self.existing_domain(tenant, domain)?;
        directory::ask(&self.cx, Address::Domain(tenant, domain), |reply| {
            Letter::Domain(DomainMsg::Remove(reply))
        })
        .await
    }

    /// What the domain's owner has to publish.
    pub fn records_to_publish(&self, domain: &Domain) -> Vec<RecordToPublish> {
        dns::records_to_publish(&wanted(&self.cx, domain))
    }

    /// Stops a job; what it has made stays.
    pub async fn cancel_job(&self, tenant: TenantId, job: JobId) -> Result<Job, Refusal> {
        let row = self
            .cx
            .store
            .get::<Job>(&(tenant, job))?
            .ok_or(Refusal::NotFound { what: "job" })?;
        let inboxgrove_model::job::JobWork::Provision { domain, .. } = row.work;
        // The domain itself may be gone.
        directory::ask(&self.cx, Address::Domain(tenant, domain), |reply| {
            Letter::Domain(DomainMsg::CancelJob(job, reply))
        })
        .await
    }

    /// Whether there is such a domain: an actor is not woken for one that a stranger made up.
    fn existing_domain(&self, tenant: TenantId, domain: DomainId) -> Result<Domain, Refusal> {
        self.cx
            .store
            .get::<Domain>(&(tenant, domain))?
            .ok_or(Refusal::NotFound { what: "domain" })
    }
}
