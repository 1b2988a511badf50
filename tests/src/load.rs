//! A load on a daemon that will crash: customers who send over the API, strangers who write over SMTP, and a customer who
//! has inboxes made. Each journals what was acknowledged; each ends when the daemon is gone or the load is told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::{sync::watch, task::JoinSet, time::sleep};

use crate::{
    client::{Account, Domain, Inbox, text},
    journal::{Acknowledgement, Journal},
    letterbox::{Letterbox, Posted},
    world::POST,
};

/// Customers' programs that send at the same time.
const SENDERS: usize = 5;
/// Mail servers that customers write to. Each is a site with a pace of its own: a new one takes a letter a second.
pub const SITES: u64 = 64;
/// Strangers' servers that write at the same time.
const STRANGERS: usize = 2;
/// Lines of a letter: some are longer than a page of the disk.
const LINES_MAX: u64 = 120;

/// All parties of a load: the senders, the strangers, and one who has inboxes made.
const PARTIES: usize = SENDERS + STRANGERS + 1;

/// A refused party tries again soon, but leaves the processor to the others.
const AFTER_REFUSAL: Duration = Duration::from_millis(20);

/// Who asks for what.
#[derive(Debug, Clone)]
pub struct Parties {
    /// The customer.
    pub account: Account,
    /// Its domain.
    pub domain: Domain,
    /// Inboxes that may send as much as they want.
    pub free: Vec<Inbox>,
    /// The inbox with a daily limit, which is asked for more than that.
    pub capped: Inbox,
    /// Where the daemon takes mail in.
    pub smtp: SocketAddr,
    /// Where strangers come from.
    pub strangers: IpAddr,
    /// Whether the sites' names can be found. Where not, their letters bounce, and their recipients are spared from then on.
    pub sites: Sites,
}

/// What becomes of letters to the sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sites {
    /// A mail server takes them.
    There,
    /// Nobody knows the sites.
    Unknown,
}

/// How many write at the same time. A lone writer's commits go to disk one by one, those of many in groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// One; which one changes from load to load.
    One,
    /// All of them.
    Eight,
}

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<()>>,
}

/// What the load keeps over all runs: the journal, numbers that make letters unlike each other, and refusals.
#[derive(Debug)]
pub struct Ledger {
    /// What was acknowledged.
    pub journal: Journal,
    letters: AtomicU64,
    /// Inboxes that were noted as made: each is owed once.
    made: Mutex<BTreeSet<String>>,
    refusals: Mutex<BTreeMap<String, u64>>,
}

impl Ledger {
    /// An empty one.
    pub fn new(journal: Journal) -> Self {
        Self {
            journal,
            letters: AtomicU64::new(0),
            made: Mutex::default(),
            refusals: Mutex::default(),
        }
    }

    /// The power went when so many things had been acknowledged: nothing after them was said.
    pub fn power_went_after(&self, acknowledged: usize) -> Result<()> {
        self.made().clear();
        self.journal.truncate(acknowledged)
    }

    /// Those of these inboxes that nobody has noted yet.
    fn not_noted(&self, inboxes: Vec<Inbox>) -> Vec<Inbox> {
        let mut made = self.made();
        inboxes
            .into_iter()
            .filter(|inbox| made.insert(inbox.address.clone()))
            .collect()
    }

    fn made(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.made.lock().expect("nobody panics while counting")
    }

    /// How often the daemon refused, by its words.
    pub fn refusals(&self) -> BTreeMap<String, u64> {
        self.refusals
            .lock()
            .expect("nobody panics while counting")
            .clone()
    }

    fn refused(&self, why: String) {
        *self
            .refusals
            .lock()
            .expect("nobody panics while counting")
            .entry(why)
            .or_default() += 1;
    }

    /// A letter unlike any other: its recipient, its subject and its text.
    fn letter(&self) -> (String, String, String) {
        let number = self.letters.fetch_add(1, Ordering::Relaxed);
        let lines = 1 + number.wrapping_mul(7919) % LINES_MAX;
        let body: Vec<String> = (0..lines)
            .map(|line| format!("letter {number} line {line} of {lines}"))
            .collect();
        let recipient = format!("anna@{}", site(number % SITES));
        (recipient, format!("letter-{number}"), body.join("\n"))
    }
}

impl Load {
    /// Starts all parties.
    pub fn start(parties: &Parties, ledger: &Arc<Ledger>) -> Self {
        Self::start_with(parties, ledger, Writers::Eight, 0)
    }

    /// Starts these; a lone one by its turn.
    pub fn start_with(
        parties: &Parties,
        ledger: &Arc<Ledger>,
        writers: Writers,
        turn: usize,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let numbers = match writers {
            // Not the first: it is refused most of the time.
            Writers::One => {
                let lone = 1 + turn % (PARTIES - 1);
                lone..lone + 1
            }
            Writers::Eight => 0..PARTIES,
        };
        for number in numbers {
            let party = party(number, parties.clone(), ledger.clone());
            tasks.spawn(until(stopped.clone(), party));
        }
        Self { stop, tasks }
    }

    /// Stops it and waits. An error of a party is one of the connection unless the daemon answered nonsense.
    pub async fn end(mut self) -> Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(why) = ended.context("a party of the load panicked")?
                && why.downcast_ref::<Nonsense>().is_some()
            {
                return Err(why);
            }
        }
        Ok(())
    }
}

/// An answer that no crash excuses.
#[derive(Debug)]
struct Nonsense(String);

impl std::fmt::Display for Nonsense {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the daemon answered: {}", self.0)
    }
}

impl std::error::Error for Nonsense {}

/// The domain behind a mail server.
pub fn site(number: u64) -> String {
    format!("s{number}.{POST}")
}

/// What a party does until it is stopped or the daemon is gone.
async fn party(number: usize, parties: Parties, ledger: Arc<Ledger>) -> Result<()> {
    let free = parties.free[number % parties.free.len()].clone();
    match number {
        // One of them asks for more than it may.
        0 => send(parties.account, parties.capped, parties.sites, ledger).await,
        sender if sender < SENDERS => send(parties.account, free, parties.sites, ledger).await,
        stranger if stranger < SENDERS + STRANGERS => write(parties, free, ledger).await,
        _ => make(parties.account, parties.domain, ledger).await,
    }
}

async fn until(
    mut stopped: watch::Receiver<bool>,
    party: impl Future<Output = Result<()>>,
) -> Result<()> {
    tokio::select! {
        biased;
        // The load's own end lets go of the sender: that is a stop, too.
        _ = stopped.wait_for(|stop| *stop) => Ok(()),
        ended = party => ended,
    }
}

async fn send(account: Account, inbox: Inbox, sites: Sites, ledger: Arc<Ledger>) -> Result<()> {
    loop {
        let (recipient, subject, body) = ledger.letter();
        let wanted = json!({ "to": [recipient], "subject": subject, "text": body });
        let answer = account.post(&inbox.messages_path(), &wanted).await?;
        match answer.status.as_u16() {
            202 => {
                let message = text(&answer.body, "id")?;
                let inbox = inbox.clone();
                ledger.journal.note(Acknowledgement::Accepted {
                    inbox,
                    message,
                    subject,
                    text: body,
                })?;
            }
            429 | 503 | 507 => {
                ledger.refused(format!("{} {}", answer.status.as_u16(), answer.code()));
                sleep(AFTER_REFUSAL).await;
            }
            422 if sites == Sites::Unknown && answer.code() == "recipient_suppressed" => {
                ledger.refused(format!("422 {}", answer.code()));
                sleep(AFTER_REFUSAL).await;
            }
            _ => return Err(Nonsense(format!("{} {}", answer.status, answer.body)).into()),
        }
    }
}

async fn write(parties: Parties, inbox: Inbox, ledger: Arc<Ledger>) -> Result<()> {
    let mut letterbox = Letterbox::open(parties.strangers, parties.smtp).await?;
    loop {
        let (_, subject, body) = ledger.letter();
        let lines = body.replace('\n', "\r\n");
        let data = format!(
            "From: anna@post.test\r\nTo: {}\r\nSubject: {subject}\r\nDate: Mon, 05 Jan 2026 10:00:00 +0000\r\n\
             Message-ID: <{subject}@post.test>\r\n\r\n{lines}\r\n",
            inbox.address
        );
        match letterbox
            .post("anna@post.test", &inbox.address, &data)
            .await?
        {
            Posted::Taken => {
                let inbox = inbox.clone();
                ledger.journal.note(Acknowledgement::Received {
                    inbox,
                    subject,
                    text: body,
                })?;
            }
            // A session carries so many letters and no more.
            Posted::Refused(reply) if reply.starts_with("421") => {
                letterbox = Letterbox::open(parties.strangers, parties.smtp).await?;
            }
            Posted::Refused(reply) if reply.starts_with('4') => {
                ledger.refused(reply);
                sleep(AFTER_REFUSAL).await;
            }
            Posted::Refused(reply) => return Err(Nonsense(reply).into()),
        }
    }
}

async fn make(account: Account, domain: Domain, ledger: Arc<Ledger>) -> Result<()> {
    loop {
        let wanted = json!({ "domain_id": domain.id, "count": 2, "naming": "random" });
        let answer = account
            .post("/api/v1/infrastructure/provision", &wanted)
            .await?;
        if [429, 503, 507].contains(&answer.status.as_u16()) {
            ledger.refused(format!("{} {}", answer.status.as_u16(), answer.code()));
            sleep(AFTER_REFUSAL).await;
            continue;
        }
        ensure!(
            answer.status.as_u16() == 202,
            Nonsense(format!("{} {}", answer.status, answer.body))
        );
        let job = text(&answer.body, "id")?;
        ledger
            .journal
            .note(Acknowledgement::Asked { job: job.clone() })?;
        while account.job(&job).await?["state"] != "done" {
            sleep(AFTER_REFUSAL).await;
        }
        let inboxes = ledger.not_noted(account.inboxes(&domain).await?);
        ledger
            .journal
            .note(Acknowledgement::Made { job, inboxes })?;
    }
}
