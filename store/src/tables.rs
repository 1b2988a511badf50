//! Doing something with the record type of a table that is known by its number only.

use inboxgrove_model::{
    claim::Claim,
    domain::Domain,
    due::DueRow,
    idempotency::IdempotentAnswer,
    inbox::{Inbox, PoolMember},
    job::Job,
    message::{Message, QueueEntry},
    notice::Notice,
    site::SitePace,
    suppression::Suppression,
    tenant::{Session, Tenant, User},
};

use crate::{
    EvidenceRow, InboxOfDomain, PolicyMark, Record, RowError, SecretRow, TableId, budgets,
};

/// Reads a row in clear and encodes it as of a format; tells of rows that are none. `key` is without the
/// table's byte.
pub(crate) fn recode(
    table: TableId,
    key: &[u8],
    row: &[u8],
    format: u8,
) -> Result<Vec<u8>, RowError> {
    fn of<R: Record>(key: &[u8], row: &[u8], format: u8) -> Result<Vec<u8>, RowError> {
        Ok(R::from_row(key, row)?.to_row_at(format))
    }
    let recode = match table {
        TableId::Meta => return Ok(row.to_vec()),
        TableId::Budget => return budgets::from_row(row).map(budgets::to_row),
        TableId::Tenant => of::<Tenant>,
        TableId::User => of::<User>,
        TableId::Session => of::<Session>,
        TableId::Domain => of::<Domain>,
        TableId::Inbox => of::<Inbox>,
        TableId::InboxOfDomain => of::<InboxOfDomain>,
        TableId::Message => of::<Message>,
        TableId::Queue => of::<QueueEntry>,
        TableId::Due => of::<DueRow>,
        TableId::Job => of::<Job>,
        TableId::Evidence => of::<EvidenceRow>,
        TableId::Pool => of::<PoolMember>,
        TableId::Claim => of::<Claim>,
        TableId::Secret => of::<SecretRow>,
        TableId::IdempotentAnswer => of::<IdempotentAnswer>,
        TableId::SitePace => of::<SitePace>,
        TableId::Suppression => of::<Suppression>,
        TableId::Notice => of::<Notice>,
        TableId::PolicyMark => of::<PolicyMark>,
    };
    recode(key, row, format)
}
