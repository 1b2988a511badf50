//! What sealed items of the log belong to: the additional data of their blobs. Compaction keeps sequence
//! numbers, so a blob that moves to another file still opens, and one that moves to another frame does not.

use inboxgrove_model::TenantId;

/// What an event's blob belongs to.
pub(crate) fn event_belongs(id: u64) -> Vec<u8> {
    [b"event".as_slice(), &id.to_be_bytes()].concat()
}

/// What a body's blob belongs to.
pub(crate) fn body_belongs(tenant: TenantId, seq: u64, index: u32) -> Vec<u8> {
    [
        b"body".as_slice(),
        tenant.as_bytes(),
        &seq.to_be_bytes(),
        &index.to_be_bytes(),
    ]
    .concat()
}
