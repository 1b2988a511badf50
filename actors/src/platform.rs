//! The face of the tree: what the daemon may ask for. Every method is a question to an owner or a read of
//! committed rows; none answers before its commit resolved.

use std::sync::Arc;

use inboxgrove_config::Config;
use inboxgrove_mail::dkim::KeyMaker;
use inboxgrove_model::{
    DomainId, DomainName, EmailAddress, InboxId, MessageId, TenantId,
    inbox::Inbox,
    job::Naming,
    ports::{Listener, Ports},
};
use inboxgrove_policy::{Beliefs, Gate, Score};
use inboxgrove_store::Store;
use secrecy::SecretString;

pub use crate::refusal::Refusal;

/// What the tree is built from.
pub struct Parts {
    /// Time, chance and the outside.
    pub ports: Ports,
    /// Opened before the tree.
    pub store: Store,
    /// What the operator set.
    pub config: Arc<Config>,
    /// Where mail comes in (port 25). None: no mail is received.
    pub smtp: Option<Box<dyn Listener>>,
    /// TLS for STARTTLS on port 25.
    pub smtp_tls: Option<Arc<rustls::ServerConfig>>,
    /// Who makes DKIM keys.
    pub key_maker: Arc<dyn KeyMaker>,
}

/// A new account.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// The company's name.
    pub company: String,
    /// How its owner logs in.
    pub email: EmailAddress,
    /// PHC string of argon2id: hashed at the edge, on the blocking pool.
    pub password_hash: SecretString,
    /// IANA name.
    pub time_zone: String,
}

/// An idempotency key as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// SHA-256 of route and key.
    pub key: [u8; 32],
    /// SHA-256 of the body.
    pub body: [u8; 32],
}

/// What a creating call made, or had made before under the same idempotency key.
#[derive(Debug, Clone)]
pub struct Made<T> {
    /// The thing, as it is now.
    pub value: T,
    /// Whether it had been made before.
    pub replayed: bool,
}

/// A domain to add.
#[derive(Debug, Clone)]
pub struct NewDomain {
    /// Its name.
    pub name: DomainName,
    /// Hosts its MX should name, when mail comes in through somebody else's filter; empty: this host.
    pub mail_hosts: Vec<String>,
}

/// Inboxes to make.
#[derive(Debug, Clone)]
pub struct Provision {
    /// Where.
    pub domain: DomainId,
    /// How many: 1 to 1,000.
    pub count: u32,
    /// How they are called.
    pub naming: Naming,
    /// Whether their warmup starts at once.
    pub start_warmup: bool,
    /// IANA name; the tenant's when `None`.
    pub time_zone: Option<String>,
    /// Most recipients a day; the plan's when `None`.
    pub daily_limit: Option<u32>,
}

/// What an owner may change of an inbox. `None` leaves it as it is.
#[derive(Debug, Clone, Default)]
pub struct InboxChange {
    /// The name in front of the address.
    pub display_name: Option<String>,
    /// Most recipients a day, at most the plan's.
    pub daily_limit: Option<u32>,
    /// Most recipients an hour.
    pub hourly_limit: Option<u32>,
    /// IANA name.
    pub time_zone: Option<String>,
    /// Pause or resume all sending.
    pub paused: Option<bool>,
}

/// A password that is shown this once.
#[derive(Debug, Clone)]
pub struct ShownCredential {
    /// The name to log in with.
    pub username: EmailAddress,
    /// The password.
    pub password: SecretString,
}

/// A message to send.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// To whom: 1 to 10.
    pub to: Vec<EmailAddress>,
    /// Decoded.
    pub subject: String,
    /// The text part.
    pub text: String,
    /// The HTML part.
    pub html: Option<String>,
    /// The message this answers: one that the inbox received or sent.
    pub in_reply_to: Option<MessageId>,
    /// An https URL for RFC 8058 one-click unsubscribe.
    pub list_unsubscribe: Option<String>,
}

/// What we believe about an inbox.
#[derive(Debug, Clone)]
pub struct Health {
    /// The inbox.
    pub inbox: Inbox,
    /// 0 to 100 with interval, drivers and advice.
    pub score: Score,
    /// The posteriors behind it.
    pub beliefs: Beliefs,
}

/// Who or what `why` asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// An inbox, by its address.
    Address(EmailAddress),
    /// An inbox, by its id.
    Inbox(TenantId, InboxId),
    /// A domain, by its name.
    Domain(DomainName),
    /// A message.
    Message(MessageId),
}

/// The answer to `why`.
#[derive(Debug, Clone)]
pub struct Why {
    /// What it is about.
    pub subject: String,
    /// One sentence: the first closed gate, or that nothing stops it.
    pub summary: String,
    /// Every gate, in the order in which they are asked.
    pub gates: Vec<Gate>,
}

/// Which nodes of the tree are asked for.
#[derive(Debug, Clone)]
pub struct TreeQuery {
    /// A kind (`service`, `site`, `tenant`, `domain`, `inbox`), a state (`parked`, …), [`TreeQuery::FAILED`], a
    /// tenant's id, or an address; empty for all.
    pub of: String,
    /// Most nodes of each part of the tree: services, sites, actors.
    pub limit: usize,
}

/// The tree as operators see it.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Services, then sites, then the others; in each part those in trouble first, then the deepest, then the
    /// busiest.
    pub nodes: Vec<TreeNode>,
    /// Nodes that match and are not listed.
    pub left_out: usize,
    /// Letters under way, and how many may be.
    pub letters: (usize, usize),
    /// Recipients being routed or tried, and how many may be.
    pub in_flight: (usize, usize),
    /// Tasks of the tree.
    pub tasks: usize,
}

/// What one part of the tree knows.
#[derive(Debug, Clone)]
pub(crate) struct TreePart {
    pub(crate) nodes: Vec<TreeNode>,
    /// Of how many these are the first.
    pub(crate) matching: usize,
}

/// One node of the tree, for operators.
#[derive(Debug, Clone)]
pub struct TreeNode {
    /// As in `inbox/inb_…`.
    pub address: String,
    /// `running`, `restarting`, `stopping`, `asleep`, `parked`.
    pub state: &'static str,
    /// Letters waiting; at a site, deliveries waiting and under way.
    pub depth: usize,
    /// Letters handled within the last quarter of a minute or so.
    pub recent: u64,
    /// Failures since the start.
    pub restarts: u32,
    /// The last failure.
    pub last_failure: Option<String>,
}

/// One component of readiness.
#[derive(Debug, Clone)]
pub struct Component {
    /// `store`, `clock`, `outbound`, ….
    pub name: &'static str,
    /// Whether it works.
    pub ok: bool,
    /// What is wrong, or a figure.
    pub detail: String,
}

impl TreeQuery {
    /// Asks for those that have failed since the start.
    pub const FAILED: &'static str = "failed";
    /// Nodes of each part that a person can look through.
    pub const LIMIT: usize = 50;
}

impl Default for TreeQuery {
    fn default() -> Self {
        Self {
            of: String::new(),
            limit: Self::LIMIT,
        }
    }
}

impl From<&str> for TreeQuery {
    fn from(of: &str) -> Self {
        Self {
            of: of.to_owned(),
            ..Self::default()
        }
    }
}

/// The whole tree, cheap to clone. Its methods stand in the files of their owners; lists and single rows are
/// read from [`Platform::store`], which wakes nobody.
#[derive(Clone)]
pub struct Platform {
    pub(crate) cx: crate::context::Cx,
    pub(crate) life: Arc<crate::life::Life>,
}
