//! Everything a store holds, to be compared.

use std::fmt::Debug;

use inboxgrove_model::{
    claim::Claim,
    domain::Domain,
    due::DueRow,
    event::LoggedEvent,
    idempotency::IdempotentAnswer,
    inbox::{Inbox, PoolMember},
    job::Job,
    message::{Message, QueueEntry},
    notice::Notice,
    site::SitePace,
    suppression::Suppression,
    tenant::{Session, Tenant, User},
};
use inboxgrove_store::{EvidenceRow, InboxOfDomain, PolicyMark, ReadError, Record, Scope, Store};

/// Rows and events read at a time.
const PAGE: usize = 500;

/// All records of a table.
pub fn all<R: Record>(store: &Store) -> Result<Vec<R>, ReadError> {
    let (mut records, mut after) = (Vec::new(), None::<Vec<u8>>);
    loop {
        let page = store.page::<R>(&Scope::All, after.as_deref(), PAGE)?;
        records.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(records),
        }
    }
}

/// All events after an id.
pub fn events_after(store: &Store, after: u64) -> Result<Vec<LoggedEvent>, ReadError> {
    let mut events = Vec::new();
    let mut after = after;
    loop {
        let more = store.events(after, PAGE, None)?;
        match more.last() {
            Some(last) => after = last.id,
            None => return Ok(events),
        }
        events.extend(more);
    }
}

/// Every row as a line of text. Secrets are left out: they hide themselves.
pub fn lines(store: &Store) -> Result<Vec<String>, ReadError> {
    let mut lines = Vec::new();
    add::<Tenant>(store, &mut lines)?;
    add::<User>(store, &mut lines)?;
    add::<Session>(store, &mut lines)?;
    add::<Domain>(store, &mut lines)?;
    add::<Inbox>(store, &mut lines)?;
    add::<InboxOfDomain>(store, &mut lines)?;
    add::<Message>(store, &mut lines)?;
    add::<QueueEntry>(store, &mut lines)?;
    add::<DueRow>(store, &mut lines)?;
    add::<Job>(store, &mut lines)?;
    add::<EvidenceRow>(store, &mut lines)?;
    add::<PoolMember>(store, &mut lines)?;
    add::<Claim>(store, &mut lines)?;
    add::<IdempotentAnswer>(store, &mut lines)?;
    add::<SitePace>(store, &mut lines)?;
    add::<Suppression>(store, &mut lines)?;
    add::<Notice>(store, &mut lines)?;
    add::<PolicyMark>(store, &mut lines)?;
    Ok(lines)
}

fn add<R: Record + Debug>(store: &Store, lines: &mut Vec<String>) -> Result<(), ReadError> {
    lines.extend(
        all::<R>(store)?
            .iter()
            .map(|record| format!("{}: {record:?}", R::TABLE)),
    );
    Ok(())
}

/// The first line in which two lists differ, for people.
pub fn first_difference(one: &[String], other: &[String]) -> Option<String> {
    let differ = |at: &usize| one.get(*at) != other.get(*at);
    let at = (0..one.len().max(other.len())).find(differ)?;
    let line = |lines: &[String]| {
        lines
            .get(at)
            .cloned()
            .unwrap_or_else(|| "(nothing)".to_owned())
    };
    Some(format!("line {at}:\n  {}\n  {}", line(one), line(other)))
}
