//! What operators see of rows: flat JSON, read by people through the command line and by scripts.

use inboxgrove_actors::platform::Why;
use inboxgrove_model::{domain::Domain, inbox::Inbox, message::QueueEntry, tenant::Tenant};
use inboxgrove_store::{
    BackupReport, CompactionReport, RewriteReport, Store, StoreStats, VerifyReport,
};
use serde_json::{Value, json};

pub(crate) use super::jobs::JobView;
use super::{
    auth::TenantView,
    domains::purpose,
    infrastructure::InboxView,
    messages::class,
    wire::{CheckOutcomeView, DomainStatusView, word},
};

/// An account.
pub(crate) fn tenant(tenant: &Tenant) -> Value {
    json!(TenantView::from(tenant))
}

/// A domain with its checks.
pub(crate) fn domain(domain: &Domain) -> Value {
    let checks: Vec<_> = domain
        .checks
        .iter()
        .map(|check| {
            json!({
                "kind": purpose(&check.kind),
                "outcome": CheckOutcomeView::from(check.outcome),
                "subject": check.subject,
                "expected": check.expected,
                "found": check.found,
                "fix": check.fix,
            })
        })
        .collect();
    json!({
        "id": domain.id.to_string(),
        "tenant": domain.tenant.to_string(),
        "name": domain.name.to_string(),
        "status": word(DomainStatusView::from(domain.status)),
        "reason": domain.reason,
        "inboxes": domain.inboxes_count,
        "created_at": domain.created_at.to_string(),
        "verified_at": domain.verified_at.map(|at| at.to_string()),
        "checked_at": domain.checked_at.map(|at| at.to_string()),
        "checks": checks,
    })
}

/// An inbox.
pub(crate) fn inbox(inbox: &Inbox) -> Value {
    let mut view = json!(InboxView::from(inbox));
    view["tenant"] = json!(inbox.tenant.to_string());
    view
}

/// A recipient's place in the queue.
pub(crate) fn queue_entry(entry: &QueueEntry) -> Value {
    json!({
        "due_at": entry.due_at.to_string(),
        "message": entry.message.to_string(),
        "recipient": entry.recipient,
        "tenant": entry.tenant.to_string(),
        "inbox": entry.inbox.to_string(),
        "class": class(entry.class),
        "attempts": entry.attempts,
        "attempting": entry.attempting,
        "held": entry.held,
    })
}

/// Every gate, the first closed one in the summary.
pub(crate) fn why(why: &Why) -> Value {
    let gates: Vec<_> = why
        .gates
        .iter()
        .map(|gate| {
            json!({
                "gate": gate.name,
                "open": gate.open,
                "limit": gate.limit,
                "used": gate.used,
                "lifts_at": gate.lifts_at.map(|at| at.to_string()),
                "evidence": gate.evidence,
            })
        })
        .collect();
    json!({ "subject": why.subject, "summary": why.summary, "gates": gates })
}

/// Figures of the store.
pub(crate) fn store_stats(stats: &StoreStats) -> Value {
    json!({
        "position": stats.position,
        "commits": stats.commits,
        "groups": stats.groups,
        "committed_bytes": stats.committed_bytes,
        "segments": stats.segments,
        "log_bytes": stats.log_bytes,
        "rows_bytes": stats.rows_bytes,
        "free_bytes": stats.free_bytes,
        "backups": stats.backups,
        "backup_position": stats.backup_position,
        "engine_syncs": stats.engine_syncs,
        "format": stats.format,
    })
}

/// What a verification found.
pub(crate) fn store_verify(report: &VerifyReport) -> Value {
    json!({
        "good": report.problems_count == 0,
        "frames": report.frames,
        "rows": report.rows,
        "erased_rows": report.erased_rows,
        "backup": report.backup,
        "compared_rows": report.compared_rows,
        "damaged_rows": report.damaged_rows,
        "damaged_files": report.damaged_files,
        "problems_count": report.problems_count,
        "problems": report.problems,
    })
}

/// What the start found of the store, and whether its rows are trusted.
pub(crate) fn store_opened(store: &Store) -> Value {
    let opened = store.opened();
    let aside = opened.moved_aside.as_ref();
    json!({
        "created": opened.created,
        "replayed": opened.replayed,
        "torn_bytes": opened.torn_bytes,
        "rebuilt": opened.rebuilt,
        "rebuilt_from": opened.rebuilt_from,
        "moved_aside": aside.map(|(path, _)| path),
        "warning": opened.warning,
        "distrusted": store.distrusted(),
    })
}

/// What a compaction has done.
pub(crate) fn store_compaction(report: &CompactionReport) -> Value {
    json!({
        "segments": report.segments,
        "changed": report.changed,
        "freed_bytes": report.freed_bytes,
        "all": report.all,
    })
}

/// What a rewrite or a rebuild has done.
pub(crate) fn store_rewrite(report: &RewriteReport) -> Value {
    json!({
        "rows": report.rows,
        "from": report.from,
        "replayed": report.replayed,
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "held_ms": u64::try_from(report.held.as_millis()).unwrap_or(u64::MAX),
        "moved_aside": report.moved_aside,
    })
}

/// A backup that was made.
pub(crate) fn store_backup(report: &BackupReport) -> Value {
    json!({
        "path": report.path,
        "start": report.start,
        "end": report.end,
        "rows": report.rows,
        "log_bytes": report.log_bytes,
    })
}
