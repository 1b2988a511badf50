//! Sending domains: what we believe about their DNS.

use std::fmt;

use crate::{DomainId, DomainName, PolicyTime, SecretId, TenantId};

/// A name mail is sent from. Its row belongs to `domain/<id>`.
#[derive(Debug, Clone, PartialEq)]
pub struct Domain {
    /// Which.
    pub id: DomainId,
    /// Whose.
    pub tenant: TenantId,
    /// The name.
    pub name: DomainName,
    /// What it may do.
    pub status: DomainStatus,
    /// Why it is what it is, in a sentence for its owner.
    pub reason: String,
    /// Its DKIM keys, the one in use for each algorithm first.
    pub selectors: Vec<DkimSelector>,
    /// Random text that, published in TXT at `_inboxgrove.<name>`, proves ownership.
    pub ownership_token: String,
    /// Hosts its MX records should name; empty means the installation's own.
    pub mail_hosts: Vec<String>,
    /// The latest result of each check.
    pub checks: Vec<Check>,
    /// When it was added.
    pub created_at: PolicyTime,
    /// When ownership and records were first proven.
    pub verified_at: Option<PolicyTime>,
    /// When the checks last ran to the end.
    pub checked_at: Option<PolicyTime>,
    /// How many inboxes it has, deleted ones left out.
    pub inboxes_count: u32,
}

/// What a domain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DomainStatus {
    /// Being bought.
    PendingPurchase,
    /// Its records are not proven yet: nothing is sent.
    PendingDns,
    /// Proven: mail may leave.
    Active,
    /// Was proven, and a record it needs has since failed: people's mail leaves, warmup is held.
    Degraded,
    /// Stopped by an operator or with its tenant.
    Suspended,
    /// Its claim ran out unproven, or its registration ended.
    Expired,
}

/// One DKIM key of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DkimSelector {
    /// The selector, as in `<selector>._domainkey.<domain>`.
    pub name: String,
    /// Its algorithm.
    pub algorithm: DkimAlgorithm,
    /// The `p=` value: base64 of the public key (RFC 6376 §3.6.1, RFC 8463 §4).
    pub public_key: String,
    /// Where the vault keeps the private key.
    pub secret: SecretId,
}

/// The algorithms we sign with (RFC 8301, RFC 8463).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DkimAlgorithm {
    /// `rsa-sha256` with 2048 bits.
    Rsa2048,
    /// `ed25519-sha256`.
    Ed25519,
}

/// A record that a domain's owner has to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordToPublish {
    /// What it is for.
    pub purpose: CheckKind,
    /// Full owner name.
    pub name: String,
    /// MX, TXT ….
    pub kind: crate::ports::RecordType,
    /// The data, as a zone file's last field without quotes (`10 mx.example.net` for MX).
    pub value: String,
    /// Whether mail waits for it.
    pub required: bool,
}

/// One question to DNS and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was asked.
    pub kind: CheckKind,
    /// Pass, fail or unknown.
    pub outcome: CheckOutcome,
    /// The owner name asked, or the address for PTR.
    pub subject: String,
    /// What should be there.
    pub expected: String,
    /// What is there; empty when unknown.
    pub found: String,
    /// What to do about it; empty when it passed.
    pub fix: String,
    /// When it was asked.
    pub at: PolicyTime,
    /// When it last passed.
    pub passed_at: Option<PolicyTime>,
}

/// What is asked of DNS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckKind {
    /// The ownership token.
    Ownership,
    /// Where mail for the domain goes.
    Mx,
    /// Who may send for it (RFC 7208), with its lookup count.
    Spf,
    /// The public key at this selector (RFC 6376).
    Dkim(String),
    /// Its policy (RFC 9989, RFC 7489).
    Dmarc,
    /// The name of a source address, confirmed forward.
    Ptr,
}

/// What people call it, as in `DKIM ig1`.
impl fmt::Display for CheckKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ownership => f.write_str("ownership"),
            Self::Mx => f.write_str("MX"),
            Self::Spf => f.write_str("SPF"),
            Self::Dkim(selector) => write!(f, "DKIM {selector}"),
            Self::Dmarc => f.write_str("DMARC"),
            Self::Ptr => f.write_str("PTR"),
        }
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CheckOutcome {
    /// What is published is what should be.
    Pass,
    /// Every server asked was sure of something else.
    Fail,
    /// Somebody did not answer, or the servers do not agree yet. Never lowers a standing.
    Unknown,
}
