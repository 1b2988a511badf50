//! What holds for every row, for the tests beside them: it comes back, its released bytes stand, damage
//! is an error. And some of everything that records are made of.

use data_encoding::HEXLOWER;

use super::codec::ROW_BYTES_MAX;
use crate::{
    seal::NameKey,
    table::{Record, RowError},
};

/// The same key of names in every test.
pub(crate) fn names() -> NameKey {
    NameKey::new(&[9; 32])
}

/// The bytes of a key.
pub(crate) fn key<R: Record>(key: &R::Key) -> Vec<u8> {
    R::key_bytes(key, &names())
}

/// The bytes of a record's key.
pub(crate) fn key_of<R: Record>(record: &R) -> Vec<u8> {
    key::<R>(&record.key())
}

/// What comes back of a record, cut where it must be to fit.
pub(crate) fn round_trip<R: Record>(record: &R) -> R {
    let row = record.to_row();
    assert!(row.len() <= ROW_BYTES_MAX, "{} bytes", row.len());
    let back = R::from_row(&key_of(record), &row).expect("what was written is read");
    assert_eq!(
        back.to_row(),
        row,
        "a record that was read makes the same bytes"
    );
    assert_eq!(key_of(&back), key_of(record), "and the same key");
    back
}

/// Keys and rows of `records` are those of the golden file, and the file's rows are readable.
///
/// A file has two lines for each record, `key` and `row`, in hexadecimal. It is written once, at
/// release, by hand from what this prints; afterwards a change of the bytes is a new version, never a
/// new file.
pub(crate) fn golden<R: Record>(records: &[R], file: &str) {
    let made: Vec<String> = records
        .iter()
        .map(|record| {
            let key = HEXLOWER.encode(&key_of(record));
            format!("key {key}\nrow {}\n", HEXLOWER.encode(&record.to_row()))
        })
        .collect();
    let made = made.concat();
    assert_eq!(made, file, "GOLDEN {}\n{made}", R::TABLE);
    let lines: Vec<&str> = file.lines().collect();
    for pair in lines.chunks(2) {
        let (key, row) = (part(pair[0], "key "), part(pair[1], "row "));
        let back = R::from_row(&key, &row).expect("a released row is readable");
        assert_eq!((key_of(&back), back.to_row()), (key, row));
    }
}

fn part(line: &str, name: &str) -> Vec<u8> {
    let hex = line.strip_prefix(name).expect("lines have names");
    HEXLOWER.decode(hex.as_bytes()).expect("it is hexadecimal")
}

/// No damage panics; nothing, too little and a version to come are told apart.
pub(crate) fn damage<R: Record>(record: &R) {
    let (key, row) = (key_of(record), record.to_row());
    let read = |row: &[u8]| R::from_row(&key, row).err();
    assert_eq!(read(&[]), Some(RowError::Empty));
    for version in [0, 200] {
        let other = [&[version], &row[1..]].concat();
        assert_eq!(read(&other), Some(RowError::UnknownVersion(version)));
    }
    assert!(matches!(read(&row[..1]), Some(RowError::Damaged(_))));
    for at in 0..row.len() {
        // The frame's checksum is what finds every flipped bit; here each must only be survived.
        for bit in [0x01, 0x80] {
            let mut flipped = row.clone();
            flipped[at] ^= bit;
            drop(R::from_row(&key, &flipped));
        }
        drop(R::from_row(&key, &row[..at]));
    }
}

/// Some of everything that records are made of.
pub(crate) mod some {
    use std::net::IpAddr;

    use inboxgrove_model::{
        DomainId, EmailAddress, InboxId, JobId, MessageId, PolicyTime, SecretId, SessionId,
        TenantId, UserId, WallTime,
    };
    use proptest::{prelude::*, sample::select, string::string_regex};

    use crate::records::codes::Code;

    pub(crate) const TENANT: TenantId = TenantId::from_bytes([1; 16]);
    pub(crate) const USER: UserId = UserId::from_bytes([2; 16]);
    pub(crate) const DOMAIN: DomainId = DomainId::from_bytes([3; 16]);
    pub(crate) const INBOX: InboxId = InboxId::from_bytes([4; 16]);
    pub(crate) const MESSAGE: MessageId = MessageId::from_bytes([5; 16]);
    pub(crate) const JOB: JobId = JobId::from_bytes([6; 16]);
    pub(crate) const SESSION: SessionId = SessionId::from_bytes([7; 16]);
    pub(crate) const SECRET: SecretId = SecretId::from_bytes([8; 16]);

    macro_rules! ids {
        ($($any:ident, $id:ident;)*) => {$(
            /// Any id.
            pub(crate) fn $any() -> impl Strategy<Value = $id> {
                any::<[u8; 16]>().prop_map($id::from_bytes)
            }
        )*};
    }

    ids! {
        tenant, TenantId;
        user, UserId;
        domain, DomainId;
        inbox, InboxId;
        message, MessageId;
        job, JobId;
        session, SessionId;
        secret, SecretId;
    }

    /// The id whose bytes are all this one.
    pub(crate) fn tenant_id(byte: u8) -> TenantId {
        TenantId::from_bytes([byte; 16])
    }

    /// The id whose bytes are all this one.
    pub(crate) fn user_id(byte: u8) -> UserId {
        UserId::from_bytes([byte; 16])
    }

    /// The id whose bytes are all this one.
    pub(crate) fn domain_id(byte: u8) -> DomainId {
        DomainId::from_bytes([byte; 16])
    }

    /// The id whose bytes are all this one.
    pub(crate) fn inbox_id(byte: u8) -> InboxId {
        InboxId::from_bytes([byte; 16])
    }

    /// The id whose bytes are all this one.
    pub(crate) fn message_id(byte: u8) -> MessageId {
        MessageId::from_bytes([byte; 16])
    }

    /// A day of 2026, counted from its first.
    pub(crate) fn at(day: i64) -> PolicyTime {
        PolicyTime::from_millis(1_767_225_600_000 + day * 86_400_000)
    }

    pub(crate) fn wall_at(day: i64) -> WallTime {
        WallTime::from_millis(at(day).as_millis())
    }

    pub(crate) fn ada() -> EmailAddress {
        EmailAddress::parse("ada.lovelace@example.com").expect("it is an address")
    }

    /// The longest address there is, different for each `n` below ten.
    pub(crate) fn longest_address(n: usize) -> EmailAddress {
        let label = "d".repeat(60);
        let text = format!("{n}{}@{label}.{label}.{label}.example", "l".repeat(62));
        EmailAddress::parse(&text).expect("it is an address")
    }

    pub(crate) fn policy() -> impl Strategy<Value = PolicyTime> {
        any::<i64>().prop_map(PolicyTime::from_millis)
    }

    pub(crate) fn wall() -> impl Strategy<Value = WallTime> {
        any::<i64>().prop_map(WallTime::from_millis)
    }

    pub(crate) fn ip() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from)
        ]
    }

    pub(crate) fn code<C: Code + std::fmt::Debug + 'static>() -> impl Strategy<Value = C> {
        select(C::ALL)
    }

    /// Text of up to `max` bytes.
    pub(crate) fn text(max: usize) -> impl Strategy<Value = String> {
        string_regex(&format!("\\PC{{0,{}}}", max / 4)).expect("it is a pattern")
    }

    pub(crate) fn zone() -> impl Strategy<Value = String> {
        select(&["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"][..])
            .prop_map(str::to_owned)
    }

    pub(crate) fn host() -> impl Strategy<Value = String> {
        "[a-z]{1,12}(-[a-z]{1,5})?\\.(com|example|xn--bcher-kva\\.example)"
    }

    pub(crate) fn address() -> impl Strategy<Value = EmailAddress> {
        ("[a-zA-ZäÜ]{1,10}(\\.[a-z0-9]{1,10})?", host()).prop_map(|(local, host)| {
            EmailAddress::parse(&format!("{local}@{host}")).expect("it is an address")
        })
    }
}
