//! Domain names and e-mail addresses: parsed once, then trusted.

use std::{fmt, str::FromStr};

use unicode_normalization::UnicodeNormalization;

/// Longest domain name in its A-label form (RFC 1035 §2.3.4, less the root's length byte).
pub const DOMAIN_LEN_MAX: usize = 253;
/// Longest label of a domain name (RFC 1035 §2.3.4).
pub const LABEL_LEN_MAX: usize = 63;
/// Longest local part of an address (RFC 5321 §4.5.3.1.1).
pub const LOCAL_LEN_MAX: usize = 64;
/// Longest address (RFC 5321 §4.5.3.1.3: a path of 256 octets less its brackets).
pub const ADDRESS_LEN_MAX: usize = 254;

/// Why a text is no name or address. Shows at most 80 characters of what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {kind}: {why}")]
pub struct NameError {
    kind: &'static str,
    found: String,
    why: &'static str,
}

impl NameError {
    fn new(kind: &'static str, found: &str, why: &'static str) -> Self {
        Self {
            kind,
            found: found.chars().take(80).collect(),
            why,
        }
    }

    /// What was expected, without the text that was found.
    pub fn why(&self) -> &'static str {
        self.why
    }
}

/// A domain name of at least two labels: A-labels, lower case, no final dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(String);

impl DomainName {
    /// Parses a name as people write it: any case, U-labels or A-labels (IDNA 2008 by UTS 46,
    /// non-transitional, STD3 rules), a final dot allowed.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let bad = |why| NameError::new("a domain name", text, why);
        let trimmed = text.strip_suffix('.').unwrap_or(text);
        if trimmed.is_empty() {
            return Err(bad("it is empty"));
        }
        if trimmed.len() > 4 * DOMAIN_LEN_MAX {
            return Err(bad("it is longer than 253 characters"));
        }
        let ascii = idna::domain_to_ascii_strict(trimmed)
            .map_err(|_| bad("expected letters, digits and hyphens in labels of 1 to 63 characters, joined by dots"))?;
        if ascii.len() > DOMAIN_LEN_MAX {
            return Err(bad("it is longer than 253 characters"));
        }
        if !ascii.contains('.') {
            return Err(bad("expected at least two labels, as in example.com"));
        }
        if ascii
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
        {
            return Err(bad("its last label is a number, as in an IP address"));
        }
        Ok(Self(ascii))
    }

    /// The A-label form, lower case, without a final dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The U-label form, to show to people.
    pub fn to_unicode(&self) -> String {
        idna::domain_to_unicode(&self.0).0
    }

    /// Whether this name is `other` or lies below it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0 == other.0
            || self
                .0
                .strip_suffix(other.as_str())
                .is_some_and(|rest| rest.ends_with('.'))
    }

    /// The names above this one that still have two labels, nearest first.
    pub fn parents(&self) -> impl Iterator<Item = Self> + '_ {
        let dots = self.0.match_indices('.').map(|(at, _)| at + 1);
        dots.map(|at| &self.0[at..])
            .filter(|rest| rest.contains('.'))
            .map(|rest| Self(rest.to_owned()))
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for DomainName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

/// An e-mail address (RFC 5321 Mailbox with a dot-atom local part; RFC 6531 letters allowed).
///
/// Quoted local parts, address literals, comments and source routes are refused: nobody needs them
/// and each has carried an injection. The local part keeps its case; [`EmailAddress::key`] folds it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EmailAddress {
    text: String,
    at: usize,
}

impl EmailAddress {
    /// Parses `local@domain`; the domain is kept as A-labels.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let bad = |why| NameError::new("an e-mail address", text, why);
        let (local, domain) = text
            .rsplit_once('@')
            .ok_or_else(|| bad("expected local-part@domain"))?;
        let domain = DomainName::parse(domain).map_err(|why| bad(why.why))?;
        Self::new(local, &domain).map_err(|why| bad(why.why))
    }

    /// The address of `local` on `domain`.
    pub fn new(local: &str, domain: &DomainName) -> Result<Self, NameError> {
        let bad = |why| NameError::new("an e-mail address", local, why);
        if local.is_empty() || local.len() > LOCAL_LEN_MAX {
            return Err(bad("expected a local part of 1 to 64 octets"));
        }
        if local
            .split('.')
            .any(|atom| atom.is_empty() || !atom.chars().all(is_atext))
        {
            return Err(bad(
                "expected a local part of letters, digits and !#$%&'*+-/=?^_`{|}~ with single dots between",
            ));
        }
        let text = format!("{local}@{domain}");
        if text.len() > ADDRESS_LEN_MAX {
            return Err(bad("it is longer than 254 octets"));
        }
        Ok(Self {
            at: local.len(),
            text,
        })
    }

    /// `local@domain`, the domain as A-labels.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the `@`, in its own case.
    pub fn local(&self) -> &str {
        &self.text[..self.at]
    }

    /// The domain, as A-labels.
    pub fn domain(&self) -> DomainName {
        DomainName(self.text[self.at + 1..].to_owned())
    }

    /// The form under which an address is unique: NFKC, lower case.
    pub fn key(&self) -> String {
        self.text.nfkc().collect::<String>().to_lowercase()
    }

    /// Whether it needs SMTPUTF8 (RFC 6531): its local part is not ASCII.
    pub fn needs_smtputf8(&self) -> bool {
        !self.text.is_ascii()
    }
}

/// RFC 5322 atext, with the letters and digits that RFC 6532 adds.
fn is_atext(c: char) -> bool {
    c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl FromStr for EmailAddress {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_domain_is_kept_as_lower_case_a_labels() {
        for (given, kept) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(DomainName::parse(given).unwrap().as_str(), kept);
        }
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        for given in [
            "",
            ".",
            "com",
            "a..b",
            "-a.com",
            "a_b.com",
            "1.2.3.4",
            "a b.com",
            "a\r\n.com",
            &"a.".repeat(200),
            "[::1]",
            "exa\u{0}mple.com",
        ] {
            assert!(DomainName::parse(given).is_err(), "{given:?}");
        }
    }

    #[test]
    fn parents_come_nearest_first() {
        let name = DomainName::parse("a.b.example.com").unwrap();
        let parents: Vec<_> = name.parents().map(|p| p.to_string()).collect();
        assert_eq!(parents, ["b.example.com", "example.com"]);
        assert!(name.is_within(&DomainName::parse("example.com").unwrap()));
        assert!(
            !DomainName::parse("badexample.com")
                .unwrap()
                .is_within(&DomainName::parse("example.com").unwrap())
        );
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for given in [
            "",
            "a",
            "@example.com",
            "a@",
            "a@b",
            "a b@example.com",
            "a@b@example.com",
            "\"a b\"@example.com",
            "a..b@example.com",
            ".a@example.com",
            "a.@example.com",
            "a@[127.0.0.1]",
            "a\r\nRCPT TO:<x>@example.com",
            "@relay:a@example.com",
            "a%b@c@example.com",
            "a<b>@example.com",
            "a\u{0}@example.com",
        ] {
            assert!(EmailAddress::parse(given).is_err(), "{given:?}");
        }
    }

    #[test]
    fn the_key_folds_case_and_width() {
        let key = |text: &str| EmailAddress::parse(text).unwrap().key();
        assert_eq!(
            key("Ada.Lovelace@Example.com"),
            key("ada.lovelace@example.COM")
        );
        assert_eq!(key("Ａda@example.com"), key("ada@example.com"));
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent(text in "\\PC{0,80}") {
            if let Ok(once) = EmailAddress::parse(&text) {
                let twice = EmailAddress::parse(once.as_str()).unwrap();
                prop_assert_eq!(once, twice);
            }
        }

        #[test]
        fn nothing_parsed_can_end_a_line_or_a_path(text in "[\\x00-\\x7f]{0,40}@[a-z]{1,10}\\.[a-z]{2,5}") {
            if let Ok(address) = EmailAddress::parse(&text) {
                prop_assert!(!address.as_str().contains(|c: char| c.is_ascii_control() || " <>()[]\\,;:\"".contains(c)));
            }
        }
    }
}
