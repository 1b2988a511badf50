//! Tables: which there are, what a record must know about itself, how keys are built.
//!
//! A key in the engine is `table u8 | key bytes`. Keys are built so that the order of bytes is the order
//! of what they mean: ids are big-endian by nature, numbers and times are written big-endian with the
//! sign bit flipped, a text may only stand last. A value is a frame around `Record::to_row` (see
//! `row.rs`), sealed with the data key of `Record::seal_with` if there is one.
//!
//! What the core takes from `records`: an `impl Record` for every table below except `Meta` and `Budget`
//! (the core's own); the types `SecretRow`, `InboxOfDomain`, `PolicyMark { at }` and
//! `EvidenceRow { tenant, inbox, day: EvidenceDay }`; and `records::events::{to_row(&Event) -> Vec<u8>,
//! from_row(&[u8]) -> Result<Event, RowError>}`, version byte first as in rows.

use std::{fmt, net::IpAddr};

use inboxgrove_model::{DomainId, InboxId, PolicyTime, TenantId};

use crate::seal::NameKey;

/// The tables. A number is never given twice and never changes: it is the first byte of every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TableId {
    /// The store's own: log position, format.
    Meta = 0,
    /// Accounts.
    Tenant = 1,
    /// People.
    User = 2,
    /// Log-ins.
    Session = 3,
    /// Sending domains.
    Domain = 4,
    /// Mailboxes.
    Inbox = 5,
    /// Index: the inboxes of a domain.
    InboxOfDomain = 6,
    /// Messages.
    Message = 7,
    /// Recipients that wait for an attempt.
    Queue = 8,
    /// Work for a time.
    Due = 9,
    /// Long work.
    Job = 10,
    /// Rollups of outcomes by inbox, day and provider.
    Evidence = 11,
    /// Inboxes that take part in warmup.
    Pool = 12,
    /// Unique names.
    Claim = 13,
    /// The vault.
    Secret = 14,
    /// Answers to requests with an idempotency key.
    IdempotentAnswer = 15,
    /// The pace of sites.
    SitePace = 16,
    /// Addresses not to be written to.
    Suppression = 17,
    /// The outbox of notices.
    Notice = 18,
    /// The highest policy time seen.
    PolicyMark = 19,
    /// Counters of budgets.
    Budget = 20,
}

impl TableId {
    /// All tables, in the order of their keys.
    pub const ALL: [Self; 21] = [
        Self::Meta,
        Self::Tenant,
        Self::User,
        Self::Session,
        Self::Domain,
        Self::Inbox,
        Self::InboxOfDomain,
        Self::Message,
        Self::Queue,
        Self::Due,
        Self::Job,
        Self::Evidence,
        Self::Pool,
        Self::Claim,
        Self::Secret,
        Self::IdempotentAnswer,
        Self::SitePace,
        Self::Suppression,
        Self::Notice,
        Self::PolicyMark,
        Self::Budget,
    ];

    /// The table whose keys start with `byte`.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// The first byte of its keys.
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// Its name, as errors and statistics show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Tenant => "tenants",
            Self::User => "users",
            Self::Session => "sessions",
            Self::Domain => "domains",
            Self::Inbox => "inboxes",
            Self::InboxOfDomain => "inboxes_of_domain",
            Self::Message => "messages",
            Self::Queue => "queue",
            Self::Due => "due",
            Self::Job => "jobs",
            Self::Evidence => "evidence",
            Self::Pool => "pool",
            Self::Claim => "claims",
            Self::Secret => "secrets",
            Self::IdempotentAnswer => "idempotent_answers",
            Self::SitePace => "site_paces",
            Self::Suppression => "suppressions",
            Self::Notice => "notices",
            Self::PolicyMark => "policy_mark",
            Self::Budget => "budgets",
        }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A record of a table: what the core must know to keep it.
pub trait Record: Sized + Clone + Send + 'static {
    /// Its table.
    const TABLE: TableId;
    /// What names one record.
    type Key: Clone + Send + Sync + 'static;

    /// This record's key.
    fn key(&self) -> Self::Key;

    /// The bytes of a key, without the table's byte. Personal names go in as [`NameKey::hash`] only:
    /// keys are not sealed.
    fn key_bytes(key: &Self::Key, names: &NameKey) -> Vec<u8>;

    /// The tenant whose data key seals the row; `None` leaves it in clear.
    fn seal_with(&self) -> Option<TenantId>;

    /// The newest version of its row, in clear: a version byte, then the archive.
    fn to_row(&self) -> Vec<u8>;

    /// The row as daemons of store format `format` read it. A table whose newest version came later
    /// overrides this; see `migrate.rs`.
    fn to_row_at(&self, format: u8) -> Vec<u8> {
        // Every version so far is as old as the first format.
        debug_assert!(format >= 1, "formats start at 1");
        self.to_row()
    }

    /// Reads any version of a row back. `key` is what [`Record::key_bytes`] made.
    fn from_row(key: &[u8], row: &[u8]) -> Result<Self, RowError>;
}

/// Why the bytes of a row are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// There is nothing.
    #[error("the row is empty")]
    Empty,
    /// A newer daemon wrote it.
    #[error("version {0} is not known to this daemon")]
    UnknownVersion(u8),
    /// The frame, the archive or a field is not as it was written.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The frame's checksum does not match.
    #[error("its checksum is {found:08x}, expected {expected:08x}")]
    Checksum {
        /// Of the bytes that are there.
        found: u32,
        /// Of the bytes that were written.
        expected: u32,
    },
    /// It cannot be unsealed.
    #[error("it cannot be unsealed: {0}")]
    Sealed(String),
}

impl RowError {
    /// Whether rebuilt rows may have it whole. What cannot be unsealed is as it was written: its tenant's key was erased.
    pub(crate) fn may_heal(&self) -> bool {
        !matches!(self, Self::Sealed(_))
    }

    /// A damaged row, and how.
    pub fn damaged(why: impl fmt::Display) -> Self {
        Self::Damaged(why.to_string())
    }
}

/// Which records of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All.
    All,
    /// Those of a tenant.
    Tenant(TenantId),
    /// Those of a domain; for tables whose keys start with tenant and domain.
    Domain(TenantId, DomainId),
    /// Those of an inbox; for tables whose keys start with tenant and inbox.
    Inbox(TenantId, InboxId),
    /// Those due at or before a time; for tables whose keys start with a time.
    Before(PolicyTime),
    /// Those due after a time; for tables whose keys start with a time.
    After(PolicyTime),
}

/// Builds the bytes of a key.
#[derive(Debug, Clone, Default)]
pub struct KeyBytes(Vec<u8>);

/// Takes the bytes of a key apart again.
#[derive(Debug, Clone)]
pub struct KeyParts<'a>(&'a [u8]);

// === impl Scope ===

impl Scope {
    /// First key and the end (exclusive) of the scope's keys in `table`; no end means the end of keys.
    pub(crate) fn range(&self, table: TableId) -> (Vec<u8>, Option<Vec<u8>>) {
        let start = |rest: KeyBytes| [&[table.byte()], rest.finish().as_slice()].concat();
        let prefix = match self {
            Self::All | Self::Before(_) | Self::After(_) => KeyBytes::new(),
            Self::Tenant(tenant) => KeyBytes::new().id(tenant.as_bytes()),
            Self::Domain(tenant, domain) => {
                KeyBytes::new().id(tenant.as_bytes()).id(domain.as_bytes())
            }
            Self::Inbox(tenant, inbox) => {
                KeyBytes::new().id(tenant.as_bytes()).id(inbox.as_bytes())
            }
        };
        let from = start(prefix);
        let to = match self {
            Self::Before(at) => after_prefix(&start(KeyBytes::new().time(*at))),
            _ => after_prefix(&from),
        };
        let from = match self {
            Self::After(at) => after_prefix(&start(KeyBytes::new().time(*at))).unwrap_or(from),
            _ => from,
        };
        (from, to)
    }
}

// === impl KeyBytes ===

impl KeyBytes {
    /// Nothing yet, and room for what most keys hold: the table, two ids and a time.
    pub fn new() -> Self {
        Self(Vec::with_capacity(48))
    }

    /// One byte: a kind.
    #[must_use]
    pub fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    /// The bytes of an id.
    #[must_use]
    pub fn id(mut self, id: &[u8; 16]) -> Self {
        self.0.extend_from_slice(id);
        self
    }

    /// A number.
    #[must_use]
    pub fn number(mut self, n: u64) -> Self {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }

    /// A small number.
    #[must_use]
    pub fn small(mut self, n: u16) -> Self {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }

    /// A signed number, ordered by its value.
    #[must_use]
    pub fn signed(self, n: i64) -> Self {
        self.number(n.cast_unsigned() ^ (1 << 63))
    }

    /// A time.
    #[must_use]
    pub fn time(self, at: PolicyTime) -> Self {
        self.signed(at.as_millis())
    }

    /// An address: a byte for its family, then its octets.
    #[must_use]
    pub fn ip(mut self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => {
                self.0.push(4);
                self.0.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.0.push(6);
                self.0.extend_from_slice(&ip.octets());
            }
        }
        self
    }

    /// Any bytes; only at the end, or when their number is always the same.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A text; only at the end.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// The key.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

// === impl KeyParts ===

impl<'a> KeyParts<'a> {
    /// The parts of `key`, from its start.
    pub const fn of(key: &'a [u8]) -> Self {
        Self(key)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], RowError> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or_else(|| RowError::damaged("the key is too short"))?;
        self.0 = rest;
        Ok(*head)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8, RowError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// The next id.
    pub fn id(&mut self) -> Result<[u8; 16], RowError> {
        self.array()
    }

    /// The next number.
    pub fn number(&mut self) -> Result<u64, RowError> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next small number.
    pub fn small(&mut self) -> Result<u16, RowError> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next signed number.
    pub fn signed(&mut self) -> Result<i64, RowError> {
        self.number().map(|n| (n ^ (1 << 63)).cast_signed())
    }

    /// The next time.
    pub fn time(&mut self) -> Result<PolicyTime, RowError> {
        self.signed().map(PolicyTime::from_millis)
    }

    /// The next address.
    pub fn ip(&mut self) -> Result<IpAddr, RowError> {
        match self.byte()? {
            4 => self.array::<4>().map(IpAddr::from),
            6 => self.array::<16>().map(IpAddr::from),
            other => Err(RowError::damaged(format!("{other} is no address family"))),
        }
    }

    /// What is left, as text.
    pub fn text(self) -> Result<String, RowError> {
        String::from_utf8(self.0.to_vec()).map_err(RowError::damaged)
    }

    /// What is left.
    pub const fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// The least key that is greater than every key with this prefix; `None` when there is none.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// A key as errors show it: at most 48 bytes in hexadecimal.
pub(crate) fn show_key(key: &[u8]) -> String {
    const SHOWN_MAX: usize = 48;
    let shown = &key[..key.len().min(SHOWN_MAX)];
    let dots = if shown.len() < key.len() { "…" } else { "" };
    format!("{}{dots}", data_encoding::HEXLOWER.encode(shown))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_table_is_found_by_its_byte() {
        for table in TableId::ALL {
            assert_eq!(TableId::from_byte(table.byte()), Some(table));
        }
        assert_eq!(TableId::from_byte(200), None);
    }

    #[test]
    fn the_end_of_a_prefix_is_the_next_key() {
        for (prefix, end) in [
            (&[1_u8, 2][..], Some(vec![1, 3])),
            (&[1, 255][..], Some(vec![2])),
            (&[255, 255][..], None),
            (&[][..], None),
        ] {
            assert_eq!(after_prefix(prefix), end);
        }
    }

    #[test]
    fn before_a_time_means_at_or_before() {
        let (from, to) = Scope::Before(PolicyTime::from_millis(5)).range(TableId::Due);
        let to = to.expect("a time has an end");
        let key = |millis| {
            [
                vec![TableId::Due.byte()],
                KeyBytes::new()
                    .time(PolicyTime::from_millis(millis))
                    .number(u64::MAX)
                    .finish(),
            ]
            .concat()
        };
        assert!(from <= key(-9) && key(-9) < to);
        assert!(key(5) < to && key(6) >= to);
    }

    proptest! {
        #[test]
        fn signed_numbers_keep_their_order(a: i64, b: i64) {
            let key = |n| KeyBytes::new().signed(n).finish();
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
            prop_assert_eq!(KeyParts::of(&key(a)).signed(), Ok(a));
        }

        #[test]
        fn addresses_survive_their_key(octets: [u8; 16]) {
            let ip = IpAddr::from(octets);
            prop_assert_eq!(KeyParts::of(&KeyBytes::new().ip(ip).finish()).ip(), Ok(ip));
        }
    }
}
