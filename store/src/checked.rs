//! Small files of JSON that say by themselves whether they are as they were written.
//!
//! A member `crc32c` holds the checksum of the others, written without spaces. Files of daemons that did not
//! write it have none, and are believed.

use std::io;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

const MEMBER: &str = "crc32c";

/// The bytes of a file. `of` must be a struct.
pub(crate) fn encode(of: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut value = serde_json::to_value(of)?;
    let crc = checksum(&value)?;
    let members = value.as_object_mut();
    let members =
        members.ok_or_else(|| io::Error::other("only a struct has room for a checksum"))?;
    members.insert(MEMBER.to_owned(), crc.into());
    Ok(serde_json::to_vec_pretty(&value)?)
}

/// What [`encode`] was given; says what is wrong with the bytes otherwise.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(|why| why.to_string())?;
    let written = value.as_object_mut().and_then(|it| it.remove(MEMBER));
    if let Some(written) = written
        && written != checksum(&value).map_err(|why| why.to_string())?
    {
        return Err("its checksum does not match".to_owned());
    }
    serde_json::from_value(value).map_err(|why| why.to_string())
}

fn checksum(value: &Value) -> io::Result<u32> {
    Ok(crc32c::crc32c(&serde_json::to_vec(value)?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn whatever_bit_is_flipped_it_is_seen_or_means_the_same() {
        let of: BTreeMap<String, u64> =
            [("start".to_owned(), 4711), ("end".to_owned(), 4800)].into();
        let good = encode(&of).expect("encoded");
        assert_eq!(decode::<BTreeMap<String, u64>>(&good), Ok(of.clone()));
        for at in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            if let Ok(found) = decode::<BTreeMap<String, u64>>(&bad) {
                // Only the member's own name can be flipped away, and then it is one member too many.
                assert!(found == of || found.len() > of.len(), "bit {at}: {found:?}");
            }
        }
    }

    #[test]
    fn files_without_a_checksum_are_believed() {
        let found: BTreeMap<String, u64> = decode(br#"{"start": 1}"#).expect("read");
        assert_eq!(found["start"], 1);
    }
}
