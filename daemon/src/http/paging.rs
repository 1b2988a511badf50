//! Lists: at most 500 items a page, and a cursor that only we can read.
//!
//! A cursor is the last key of the page, sealed with the list's name and its owner as associated data:
//! it tells nothing about our keys and works for no other list and no other account.

use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use data_encoding::BASE64URL_NOPAD;
use inboxgrove_model::{TenantId, limits::PAGE_MAX, ports::Rng};
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::{IntoParams, ToSchema};

use super::{
    keys::EdgeKeys,
    problem::{ApiError, Code},
};

/// Items in a page when the client does not say.
const LIMIT_DEFAULT: usize = 100;
/// Longest cursor that is looked at.
const CURSOR_LEN_MAX: usize = 1024;

/// Which page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    /// Most items in the page.
    #[serde(default, deserialize_with = "number")]
    #[param(minimum = 1, maximum = 500, default = 100, value_type = Option<u32>)]
    pub(crate) limit: Option<usize>,
    /// Where to go on: `next_cursor` of the page before.
    #[serde(default)]
    pub(crate) cursor: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListView<T> {
    /// The items, in the order of their creation.
    pub(crate) items: Vec<T>,
    /// Where to go on; null at the end.
    pub(crate) next_cursor: Option<String>,
}

/// Seals and opens cursors.
pub(crate) struct Cursors {
    key: LessSafeKey,
}

// === impl PageQuery ===

impl PageQuery {
    /// How many items.
    pub(crate) fn limit(&self) -> Result<usize, ApiError> {
        match self.limit.unwrap_or(LIMIT_DEFAULT) {
            limit @ 1..=PAGE_MAX => Ok(limit),
            _ => Err(ApiError::invalid("limit", "expected 1 to 500")),
        }
    }
}

// === impl Cursors ===

impl Cursors {
    pub(crate) fn new(keys: &EdgeKeys) -> Self {
        let key =
            UnboundKey::new(&AES_256_GCM, &*keys.cursors).expect("32 bytes are an AES-256 key");
        Self {
            key: LessSafeKey::new(key),
        }
    }

    /// The cursor that goes on after `key` in this list of this tenant.
    pub(crate) fn seal(&self, list: &str, tenant: TenantId, key: &[u8], rng: &dyn Rng) -> String {
        let mut nonce = [0; NONCE_LEN];
        rng.fill(&mut nonce);
        let mut sealed = key.to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(scope(list, tenant)),
                &mut sealed,
            )
            .expect("a short text can be sealed");
        let mut whole = nonce.to_vec();
        whole.append(&mut sealed);
        BASE64URL_NOPAD.encode(&whole)
    }

    /// The key in a cursor of this list of this tenant.
    pub(crate) fn open(
        &self,
        list: &str,
        tenant: TenantId,
        cursor: &str,
    ) -> Result<Vec<u8>, ApiError> {
        let wrong = || ApiError::new(Code::InvalidCursor, "Start again without a cursor.");
        if cursor.len() > CURSOR_LEN_MAX {
            return Err(wrong());
        }
        let whole = BASE64URL_NOPAD
            .decode(cursor.as_bytes())
            .map_err(|_| wrong())?;
        let (nonce, sealed) = whole.split_at_checked(NONCE_LEN).ok_or_else(wrong)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| wrong())?;
        let mut sealed = sealed.to_vec();
        let aad = Aad::from(scope(list, tenant));
        self.key
            .open_in_place(nonce, aad, &mut sealed)
            .map(|key| key.to_vec())
            .map_err(|_| wrong())
    }
}

// === free functions ===

fn scope(list: &str, tenant: TenantId) -> Vec<u8> {
    [list.as_bytes(), b"\0", tenant.as_bytes()].concat()
}

/// A number of a query: plain text there, so that its refusal can name it.
pub(crate) fn number<'de, D: Deserializer<'de>, T: FromStr>(
    from: D,
) -> Result<Option<T>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .map_err(|_| de::Error::custom("expected a number"))
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::ports::Rng;
    use proptest::prelude::*;

    use super::*;

    struct Ones;
    impl Rng for Ones {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(1);
        }
    }

    fn cursors() -> Cursors {
        Cursors::new(&EdgeKeys::from_bytes(&[1; 32]))
    }

    #[test]
    fn a_cursor_opens_in_its_own_list_only() {
        let (one, two) = (TenantId::from_bytes([1; 16]), TenantId::from_bytes([2; 16]));
        let cursor = cursors().seal("domains", one, b"last key", &Ones);
        assert_eq!(
            cursors().open("domains", one, &cursor).unwrap(),
            b"last key"
        );
        assert!(cursors().open("domains", two, &cursor).is_err());
        assert!(cursors().open("inboxes", one, &cursor).is_err());
    }

    #[test]
    fn a_limit_stays_within_a_page() {
        for (limit, good) in [
            (None, true),
            (Some(0), false),
            (Some(1), true),
            (Some(500), true),
            (Some(501), false),
        ] {
            let query = PageQuery {
                limit,
                cursor: None,
            };
            assert_eq!(query.limit().is_ok(), good, "{limit:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_opens(text in "[A-Za-z0-9_-]{0,120}") {
            prop_assert!(cursors().open("domains", TenantId::from_bytes([1; 16]), &text).is_err());
        }
    }
}
