//! A look at what is there after an accident: everything that was acknowledged since the last look is looked for through
//! the API, and what became of the letters is heard. Lists are read on from where the last look ended; at the end of a
//! laboratory all of it is looked at once more.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::{Account, Inbox, state_of, text},
    event_reader::EventReader,
    fates::{Doubts, Fates},
    journal::Acknowledgement,
    load::{Ledger, Parties},
    sink::Sink,
};

/// Letters whose bytes are read after each accident; at the end all are.
const READ_AFTER_EACH: usize = 25;
/// Items of a list's page: what an accident adds to a list.
const PAGE: usize = 50;

/// Those who can be asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Witnesses<'a> {
    /// The customer who asks the daemon.
    pub(crate) parties: &'a Parties,
    /// What was acknowledged to it and to others.
    pub(crate) ledger: &'a Ledger,
    /// The mail servers of the others.
    pub(crate) sink: &'a Sink,
}

/// What the looks so far have seen.
#[derive(Debug)]
pub(crate) struct Looks {
    /// Acknowledgements that were looked for.
    checked: usize,
    lists: Lists,
    events: EventReader,
    fates: Fates,
}

/// The lists of the API, read on from look to look.
#[derive(Debug)]
struct Lists {
    /// The messages of each inbox that sends or receives.
    messages: Vec<(Inbox, List)>,
    inboxes: List,
    /// All addresses that were in the list of inboxes.
    addresses: BTreeSet<String>,
}

/// A list and the place up to which it was read.
#[derive(Debug)]
struct List {
    path: String,
    cursor: Option<String>,
}

/// New messages by inbox and subject.
type Messages = BTreeMap<(String, String), Value>;

impl Looks {
    /// Nothing has been looked at.
    pub(crate) fn new(parties: &Parties) -> Result<Self> {
        Ok(Self {
            checked: 0,
            lists: Lists::new(parties),
            events: EventReader::new()?,
            fates: Fates::default(),
        })
    }

    /// Looks for what was acknowledged since the last look, between which and now so many processes have lived.
    pub(crate) async fn look(&mut self, at: Witnesses<'_>, lives: usize) -> Result<()> {
        self.look_and_read(at, lives, READ_AFTER_EACH).await
    }

    /// Looks for everything from the beginning, and reads every letter.
    pub(crate) async fn look_at_all(&mut self, at: Witnesses<'_>, lives: usize) -> Result<()> {
        self.checked = 0;
        self.lists = Lists::new(at.parties);
        self.look_and_read(at, lives, usize::MAX).await
    }

    /// Hears what became of the letters; those that are still on their way.
    pub(crate) async fn hear(&mut self, at: Witnesses<'_>, lives: usize) -> Result<Vec<String>> {
        self.read_on(at, lives).await?;
        Ok(self.fates.on_their_way())
    }

    /// How often nobody knew whether a letter had arrived.
    pub(crate) fn doubts(&self) -> Doubts {
        self.fates.doubts()
    }

    async fn look_and_read(
        &mut self,
        at: Witnesses<'_>,
        lives: usize,
        read_max: usize,
    ) -> Result<()> {
        let owed = at.ledger.journal.since(self.checked);
        let messages = self.read_on(at, lives).await?;
        let arrived = at.sink.arrivals();
        let mut unread = read_max;
        // The youngest first: they are the ones at risk.
        for acknowledged in owed.iter().rev() {
            match acknowledged {
                Acknowledgement::Accepted {
                    inbox,
                    message,
                    subject,
                    text,
                } => {
                    let found = find(&messages, inbox, subject)
                        .with_context(|| format!("LOST: accepted {subject} {message}"))?;
                    let id = &found["id"];
                    ensure!(id == message.as_str(), "{subject} is {id}, not {message}");
                    look_at_fate(found, arrived.contains_key(subject))?;
                    read(&at.parties.account, inbox, found, text, &mut unread).await?;
                }
                Acknowledgement::Received {
                    inbox,
                    subject,
                    text,
                } => {
                    let found = find(&messages, inbox, subject)
                        .with_context(|| format!("LOST: received {subject}"))?;
                    read(&at.parties.account, inbox, found, text, &mut unread).await?;
                }
                Acknowledgement::Asked { job } => look_for_job(&at.parties.account, job).await?,
                Acknowledgement::Made { job, inboxes } => self.lists.look_for(job, inboxes)?,
            }
        }
        self.checked += owed.len();
        Ok(())
    }

    /// Reads the lists and the events on, and compares them with what has arrived. No load runs meanwhile: what arrives
    /// was accepted before. (But letters leave all the time, so the mail servers are asked first and last.)
    async fn read_on(&mut self, at: Witnesses<'_>, lives: usize) -> Result<Messages> {
        let before = at.sink.arrivals();
        let messages = self.lists.read_on(&at.parties.account).await?;
        for ((_, subject), message) in &messages {
            if message["direction"] == "out" {
                self.fates.listed(&text(message, "id")?, subject)?;
            }
        }
        let events = self.read_events(at.parties).await?;
        let after = at.sink.arrivals();
        self.fates.hear(&before, &events, &after, lives)?;
        Ok(messages)
    }

    /// All events up to one that this look makes itself: nothing else gives an inbox a name.
    async fn read_events(&mut self, parties: &Parties) -> Result<Vec<Value>> {
        let named = json!({ "display_name": "Anna" });
        let inbox = parties.free.first().context("somebody sends")?;
        let path = inbox.path();
        let renamed = parties.account.call(Method::PATCH, &path, Some(&named));
        renamed.await?.expect(200)?;
        let is_last = |event: &Value| event["what"] == "display_name";
        self.events.read_until(&parties.account, is_last).await
    }
}

impl Lists {
    fn new(parties: &Parties) -> Self {
        let inboxes = parties.free.iter().chain([&parties.capped]);
        let domain = &parties.domain.id;
        Self {
            messages: inboxes
                .map(|inbox| (inbox.clone(), List::new(inbox.messages_path())))
                .collect(),
            inboxes: List::new(format!("/api/v1/infrastructure/inboxes?domain_id={domain}")),
            addresses: BTreeSet::new(),
        }
    }

    async fn read_on(&mut self, account: &Account) -> Result<Messages> {
        let mut messages = Messages::new();
        for (inbox, list) in &mut self.messages {
            for message in list.read_on(account).await? {
                let subject = text(&message, "subject")?;
                let twin = messages.insert((inbox.id.clone(), subject.clone()), message);
                ensure!(twin.is_none(), "{subject} is in {} twice", inbox.address);
            }
        }
        let inboxes = self.inboxes.read_on(account).await?;
        let addresses = inboxes.iter().map(|inbox| text(inbox, "address"));
        let addresses = addresses.collect::<Result<BTreeSet<String>>>()?;
        ensure!(
            addresses.len() == inboxes.len(),
            "two inboxes have one address: {inboxes:?}"
        );
        self.addresses.extend(addresses);
        Ok(messages)
    }

    fn look_for(&self, job: &str, inboxes: &[Inbox]) -> Result<()> {
        let is_lost = |inbox: &&Inbox| !self.addresses.contains(&inbox.address);
        let lost: Vec<&Inbox> = inboxes.iter().filter(is_lost).collect();
        ensure!(lost.is_empty(), "LOST: inboxes made by {job}: {lost:?}");
        Ok(())
    }
}

impl List {
    fn new(path: String) -> Self {
        Self { path, cursor: None }
    }

    /// All items from the last whole page on: those of a page that has grown come again.
    async fn read_on(&mut self, account: &Account) -> Result<Vec<Value>> {
        let joint = if self.path.contains('?') { '&' } else { '?' };
        let mut items = Vec::new();
        loop {
            let mut page = format!("{}{joint}limit={PAGE}", self.path);
            if let Some(cursor) = &self.cursor {
                page.push_str("&cursor=");
                page.push_str(cursor);
            }
            let answer = account.get(&page).await?.expect(200)?;
            let found = answer["items"].as_array().context("a list has items")?;
            items.extend(found.iter().cloned());
            match answer["next_cursor"].as_str() {
                Some(next) => self.cursor = Some(next.to_owned()),
                None => return Ok(items),
            }
        }
    }
}

fn find<'a>(messages: &'a Messages, inbox: &Inbox, subject: &str) -> Option<&'a Value> {
    messages.get(&(inbox.id.clone(), subject.to_owned()))
}

/// Nothing in this world refuses mail: a letter is on its way, or it has arrived.
fn look_at_fate(found: &Value, has_arrived: bool) -> Result<()> {
    match state_of(found) {
        "queued" | "attempting" | "uncertain" => Ok(()),
        "delivered" => {
            ensure!(has_arrived, "said to be delivered, and never was: {found}");
            Ok(())
        }
        other => bail!("{other}: {found}"),
    }
}

async fn look_for_job(account: &Account, job: &str) -> Result<()> {
    let answer = account.get(&format!("/api/v1/jobs/{job}")).await?;
    let (status, body) = (answer.status, answer.body);
    ensure!(status.is_success(), "LOST: {job}: {status} {body}");
    ensure!(body["state"] != "failed", "{job} failed: {body}");
    Ok(())
}

/// Reads a letter's bytes: all of it, or it is torn.
async fn read(
    account: &Account,
    inbox: &Inbox,
    found: &Value,
    written: &str,
    unread: &mut usize,
) -> Result<()> {
    if *unread == 0 {
        return Ok(());
    }
    *unread -= 1;
    let id = text(found, "id")?;
    let raw = account.raw(inbox, &id).await?;
    ensure!(
        raw.text().contains(written),
        "TORN: {id} is not what was acknowledged:\n{}",
        raw.text()
    );
    Ok(())
}
