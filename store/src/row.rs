//! The frame around a row's value, in the engine and in the log.
//!
//! `version u8 | kind u8 | flags u8 | length u32 | crc32c u32 | payload`, little-endian. The kind is the
//! table's byte; the payload is the record's row, sealed when the flag says so. Checked before anything
//! looks at the payload. What a sealed payload belongs to is its whole key.

use inboxgrove_model::TenantId;
use zeroize::Zeroizing;

use crate::{
    data_keys::DataKeys,
    seal::SealingKey,
    table::{RowError, TableId},
};

/// Bytes before the payload.
pub(crate) const ROW_HEAD_LEN: usize = 11;

const VERSION: u8 = 1;
const SEALED: u8 = 1;

/// Frames a row for its place, sealing it with `key` if there is one.
pub(crate) fn frame(
    table: TableId,
    whole_key: &[u8],
    row: &[u8],
    key: Option<&SealingKey>,
    rng: &dyn inboxgrove_model::ports::Rng,
) -> Vec<u8> {
    let (flags, payload) = match key {
        Some(key) => (SEALED, key.seal(&belongs(whole_key), row, rng)),
        None => (0, row.to_vec()),
    };
    let len = u32::try_from(payload.len()).expect("rows are held far below 4 GiB");
    let mut value = Vec::with_capacity(ROW_HEAD_LEN + payload.len());
    value.extend_from_slice(&[VERSION, table.byte(), flags]);
    value.extend_from_slice(&len.to_le_bytes());
    value.extend_from_slice(&[0; 4]);
    value.extend_from_slice(&payload);
    let crc = checksum(&value);
    value[7..ROW_HEAD_LEN].copy_from_slice(&crc.to_le_bytes());
    value
}

/// Checks the frame of a value and unseals it: the record's row.
pub(crate) fn unframe(
    table: TableId,
    whole_key: &[u8],
    value: &[u8],
    keys: &DataKeys,
) -> Result<Zeroizing<Vec<u8>>, RowError> {
    unframe_whose(table, whole_key, value, keys).map(|(_tenant, row)| row)
}

/// As [`unframe`]; also whose key had sealed it.
pub(crate) fn unframe_whose(
    table: TableId,
    whole_key: &[u8],
    value: &[u8],
    keys: &DataKeys,
) -> Result<(Option<TenantId>, Zeroizing<Vec<u8>>), RowError> {
    let (flags, payload) = check(table, value)?;
    if flags & SEALED == 0 {
        return Ok((None, Zeroizing::new(payload.to_vec())));
    }
    keys.open_blob(&belongs(whole_key), payload)
        .map(|(tenant, row)| (Some(tenant), row))
        .map_err(|why| RowError::Sealed(why.to_string()))
}

/// Checks the frame of a value only: its flags and its payload.
pub(crate) fn check(table: TableId, value: &[u8]) -> Result<(u8, &[u8]), RowError> {
    if value.is_empty() {
        return Err(RowError::Empty);
    }
    let (head, payload) = value
        .split_first_chunk::<ROW_HEAD_LEN>()
        .ok_or_else(|| RowError::damaged("the frame is cut off"))?;
    let [version, kind, flags, a, b, c, d, crc @ ..] = *head;
    let (found, expected) = (checksum(value), u32::from_le_bytes(crc));
    if found != expected {
        return Err(RowError::Checksum { found, expected });
    }
    if version != VERSION {
        return Err(RowError::UnknownVersion(version));
    }
    if kind != table.byte() {
        return Err(RowError::damaged(format!("it belongs to table {kind}")));
    }
    if usize::try_from(u32::from_le_bytes([a, b, c, d])) != Ok(payload.len()) {
        return Err(RowError::damaged("its length is not as it says"));
    }
    Ok((flags, payload))
}

fn checksum(value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&value[..7]), &value[ROW_HEAD_LEN..])
}

fn belongs(whole_key: &[u8]) -> Vec<u8> {
    [b"row", whole_key].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Zeros;
    impl inboxgrove_model::ports::Rng for Zeros {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }

    #[test]
    fn a_clear_row_is_framed_and_checked() {
        let value = frame(TableId::Due, b"\x09key", b"row", None, &Zeros);
        assert_eq!(check(TableId::Due, &value), Ok((0, &b"row"[..])));
        assert!(check(TableId::Job, &value).is_err(), "another table's row");
    }

    #[test]
    fn damage_is_named() {
        let good = frame(TableId::Due, b"\x09key", b"row", None, &Zeros);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(matches!(
                check(TableId::Due, &bad),
                Err(RowError::Checksum { .. })
            ));
        }
        assert_eq!(check(TableId::Due, &[]), Err(RowError::Empty));
        assert!(check(TableId::Due, &good[..5]).is_err());
    }
}
