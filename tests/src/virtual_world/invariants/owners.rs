//! Every row has one owner: who may write what, judged by the leases that every commit carries.
//!
//! Some rows are made by one actor and owned by another ever after: an inbox by its domain's job, a domain and a job by
//! the tenant, a recipient's place in the queue by the inbox. Everything else is written by its owner alone.

use inboxgrove_store::{Owner, RowChange, RowWrite, TableId, Witnessed};

use super::Inspection;

impl Inspection<'_> {
    /// Every commit wrote only what its owners own.
    pub(super) fn rows_have_one_owner(&mut self, commits: &[Witnessed]) {
        for commit in commits {
            for row in &commit.rows {
                let may = commit.owners.iter().any(|owner| may_write(owner, row));
                self.demand(may, || {
                    let owners: Vec<_> = commit.owners.iter().map(ToString::to_string).collect();
                    format!(
                        "frame {} of {owners:?} has {:?} a row of {}",
                        commit.seq,
                        row.change,
                        row.table.name()
                    )
                });
            }
        }
    }
}

/// Whether an owner may write a row so.
fn may_write(owner: &Owner, row: &RowWrite) -> bool {
    let starts = |id: &[u8]| row.key.starts_with(id);
    let holds = |id: &[u8]| row.key.windows(id.len()).any(|part| part == id);
    let made = row.change == RowChange::Made;
    match (row.table, owner) {
        (TableId::Tenant | TableId::User | TableId::Session, Owner::Tenant(tenant)) => {
            starts(tenant.as_bytes())
        }
        (TableId::Domain | TableId::Job, Owner::Tenant(tenant))
        | (TableId::Inbox | TableId::InboxOfDomain, Owner::Domain(tenant, _)) => {
            made && starts(tenant.as_bytes())
        }
        (TableId::Domain, Owner::Domain(tenant, domain)) => {
            starts(tenant.as_bytes()) && holds(domain.as_bytes())
        }
        (TableId::Job, Owner::Domain(tenant, _)) => !made && starts(tenant.as_bytes()),
        (TableId::Inbox | TableId::Message, Owner::Inbox(tenant, inbox)) => {
            starts(tenant.as_bytes()) && holds(inbox.as_bytes())
        }
        (TableId::Message, Owner::Outbound) => !made,
        (TableId::Queue, Owner::Inbox(..)) | (TableId::Pool, Owner::Domain(..)) => made,
        (TableId::Due, Owner::Tenant(tenant)) => holds(tenant.as_bytes()),
        (TableId::Due, Owner::Domain(tenant, domain)) => {
            holds(domain.as_bytes()) || (made && holds(tenant.as_bytes()))
        }
        (TableId::Due | TableId::Pool, Owner::Inbox(_, inbox)) => holds(inbox.as_bytes()),
        (
            TableId::IdempotentAnswer | TableId::Suppression,
            Owner::Tenant(tenant) | Owner::Inbox(tenant, _),
        ) => starts(tenant.as_bytes()),
        (TableId::SitePace, Owner::Site(_, site)) => row.key.ends_with(site.as_bytes()),
        (TableId::Queue | TableId::Suppression, Owner::Outbound)
        | (TableId::PolicyMark, Owner::Clock)
        | (TableId::Claim, Owner::Tenant(_) | Owner::Domain(..))
        | (TableId::Due | TableId::Notice, Owner::Notifier)
        | (TableId::Secret, Owner::Vault) => true,
        _ => false,
    }
}
