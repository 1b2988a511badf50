//! What a user does with the product, over the public API only: registers, proves domains, makes inboxes,
//! lets them warm up, writes letters, and looks at what became of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::bail;
use inboxgrove_model::{
    DomainName, EmailAddress,
    domain::{CheckKind, RecordToPublish},
    ports::{RecordType, Rng},
};
use inboxgrove_policy::provider_of;
use inboxgrove_sim::provider::{Delivery, Provider};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use super::{
    client::{Client, ClientError, Events},
    ledger::{Answered, Ledger},
    letters::{CUSTOMERS, Letter, Letters},
    report::{BoughtList, InboxLine, Interval},
    stage::{self, Stage},
};
use crate::ports::OsRng;

/// The user's own domains, one behind each provider.
const DOMAINS: [&str; 3] = ["oakmail.example", "fernpost.example", "birchnote.example"];
/// Where the customers are, one behind each provider.
const CUSTOMER_DOMAINS: [&str; 3] = ["harbour.example", "millpond.example", "lantern.example"];
/// How the user logs in.
const EMAIL: &str = "ada@grove.example";
/// Times a domain is asked to be verified: what DNS said before may be remembered for a while.
const VERIFY_TRIES: u32 = 6;
/// Policy time between two such times: more than an absence is remembered for.
const VERIFY_PAUSE: Duration = Duration::from_mins(6);
/// Looks at a job before it is given up.
const JOB_LOOKS: u32 = 600;
/// Real time between two looks.
const JOB_PAUSE: Duration = Duration::from_millis(20);
/// Real time without an event after which no more are under way.
const EVENTS_QUIET: Duration = Duration::from_millis(40);
/// One in so many letters of a bought list that arrive is called spam by its reader.
const COMPLAINS: u64 = 3;

/// The user, and everything that is theirs.
pub(super) struct Story<'a> {
    stage: &'a Stage,
    client: Client,
    password: String,
    domains: Vec<Domain>,
    inboxes: Vec<Inbox>,
    letters: Letters,
    ledger: Arc<Mutex<Ledger>>,
    refused: u32,
    /// Letters to the bought list: taken, not taken.
    bought: (u32, u32),
    /// Ends with the story.
    listening: Option<AbortHandle>,
}

/// A domain of the user.
struct Domain {
    id: String,
    name: DomainName,
    provider: String,
}

/// An inbox of the user.
#[derive(Debug, Clone)]
pub(super) struct Inbox {
    pub(super) id: String,
    pub(super) address: String,
    provider: String,
}

/// What a provider's readers do shows in its opinion of a sender.
struct Readers {
    /// Providers by the name that events give them.
    providers: BTreeMap<String, Provider>,
    /// Domains by the inboxes on them.
    domains: BTreeMap<String, DomainName>,
}

#[derive(Deserialize)]
struct TokensView {
    access_token: String,
}

#[derive(Deserialize)]
struct DomainView {
    id: String,
    status: String,
    records: Vec<RecordView>,
    checks: Vec<CheckView>,
}

#[derive(Deserialize)]
struct RecordView {
    purpose: String,
    name: String,
    #[serde(rename = "type")]
    kind: String,
    value: String,
    required: bool,
}

#[derive(Deserialize)]
struct CheckView {
    kind: String,
    outcome: String,
    subject: String,
    fix: String,
}

#[derive(Deserialize)]
struct JobView {
    id: String,
    state: String,
    #[serde(default)]
    errors: Vec<String>,
}

#[derive(Deserialize)]
struct InboxView {
    id: String,
    address: String,
}

#[derive(Deserialize)]
struct HealthView {
    status: String,
    band: String,
    reason: String,
    score: f64,
    interval: Interval,
}

#[derive(Deserialize)]
struct ListView<T> {
    items: Vec<T>,
    next_cursor: Option<String>,
}

// === impl Story ===

impl<'a> Story<'a> {
    /// Everything up to the first morning: an account, proven domains, inboxes whose warmup has started.
    pub(super) async fn begin(stage: &'a Stage, inboxes: u32, days: u32) -> anyhow::Result<Self> {
        let rng = stage.world.rng().stream("letters");
        let customers = CUSTOMER_DOMAINS.map(String::from).to_vec();
        let count = usize::try_from(inboxes).expect("a few hundred fit");
        let mut story = Self {
            stage,
            client: Client::new(stage.api()),
            password: password(),
            domains: Vec::new(),
            inboxes: Vec::new(),
            letters: Letters::new(rng, customers, count, days),
            ledger: Arc::new(Mutex::new(Ledger::new(stage.first_day()))),
            refused: 0,
            bought: (0, 0),
            listening: None,
        };
        story.people_the_world()?;
        story.register().await?;
        let events = story.client.events().await?;
        let providers: Vec<String> = stage
            .world
            .providers()
            .map(|provider| provider.name().to_owned())
            .collect();
        for (name, provider) in DOMAINS.into_iter().zip(&providers) {
            story.add_domain(name, provider).await?;
        }
        story.provision(inboxes).await?;
        story.listen(events);
        Ok(story)
    }

    /// The letters of half a day.
    pub(super) async fn write_letters(&mut self, day: u32) -> anyhow::Result<()> {
        if self.letters.is_tempting(day) {
            let place = self.best_inbox().await?;
            self.letters.tempt(place);
        }
        for letter in self.letters.of(day) {
            let Some(inbox) = self.inboxes.get(letter.from) else {
                continue;
            };
            let path = format!("/inboxes/{}/messages", inbox.id);
            let body = json!({ "to": [letter.to], "subject": letter.subject, "text": letter.text });
            let answer: Result<Value, ClientError> = self.client.post(&path, &body).await;
            match answer {
                Ok(_) => {
                    self.bought.0 += u32::from(letter.bought);
                    self.read_as_spam(&letter);
                }
                Err(why) if why.code() == Some("gate_closed") => {
                    self.refused += 1;
                    self.bought.1 += u32::from(letter.bought);
                }
                // The caps of the hour are part of the product; the letter is not written.
                Err(why) if matches!(why.code(), Some("budget_full" | "recipient_suppressed")) => {}
                Err(why) => return Err(why.into()),
            }
        }
        Ok(())
    }

    /// The place of the inbox with the best score: who has earned a name can lose one.
    async fn best_inbox(&self) -> Result<usize, ClientError> {
        let lines = self.inbox_lines().await?;
        let places = lines.iter().enumerate();
        let best = places.max_by(|(_, one), (_, other)| one.score.total_cmp(&other.score));
        Ok(best.map_or(0, |(place, _)| place))
    }

    /// The books. Not to be held across an await.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Resolves when the events of what has happened are booked.
    pub(super) async fn settle(&self) {
        let mut seen = self.ledger().seen();
        loop {
            tokio::time::sleep(EVENTS_QUIET).await;
            let now = self.ledger().seen();
            if now == seen {
                return;
            }
            seen = now;
        }
    }

    /// What each provider thinks of the user's domains, 0 to 100.
    pub(super) fn standings(&self) -> Vec<(String, f64)> {
        let providers = self.stage.world.providers();
        providers
            .map(|provider| (provider.name().to_owned(), self.standing_at(provider)))
            .collect()
    }

    /// All inboxes, with what the API says of their health.
    pub(super) async fn inbox_lines(&self) -> Result<Vec<InboxLine>, ClientError> {
        let mut lines = Vec::new();
        for inbox in &self.inboxes {
            let health: HealthView = self
                .client
                .get(&format!("/inboxes/{}/health", inbox.id))
                .await?;
            lines.push(InboxLine {
                id: inbox.id.clone(),
                address: inbox.address.clone(),
                provider: inbox.provider.clone(),
                score: health.score,
                interval: health.interval,
                status: health.status,
                band: health.band,
                reason: health.reason,
            });
        }
        Ok(lines)
    }

    /// The address of an inbox.
    pub(super) fn address_of(&self, id: &str) -> Option<&str> {
        let found = self.inboxes.iter().find(|inbox| inbox.id == id);
        found.map(|inbox| inbox.address.as_str())
    }

    /// Letters that a closed gate kept back.
    pub(super) fn refused(&self) -> u32 {
        self.refused
    }

    /// What became of the letters to the bought list, when anybody bought one.
    pub(super) fn bought_list(&self) -> Option<BoughtList> {
        let inbox = self.inboxes.get(self.letters.black_sheep()?)?;
        let (written, refused) = self.bought;
        Some(BoughtList {
            address: inbox.address.clone(),
            inbox_id: inbox.id.clone(),
            written,
            refused,
        })
    }

    /// Where the API is.
    pub(super) fn api(&self) -> &str {
        self.client.base()
    }

    /// How to log in: e-mail address and password.
    pub(super) fn login(&self) -> (&str, &str) {
        (EMAIL, &self.password)
    }

    /// Customers and their providers, before anybody writes to them.
    fn people_the_world(&self) -> anyhow::Result<()> {
        let world = &self.stage.world;
        for (name, provider) in CUSTOMER_DOMAINS.into_iter().zip(world.providers()) {
            let domain = DomainName::parse(name)?;
            world.add_domain(&domain, provider.name(), Delivery::Keep);
            for customer in CUSTOMERS {
                world.add_user(&EmailAddress::new(customer, &domain)?);
            }
        }
        Ok(())
    }

    async fn register(&mut self) -> anyhow::Result<()> {
        let account = json!({
            "company_name": "Oak, Fern & Birch", "company_email": EMAIL, "password": self.password, "time_zone": "UTC",
        });
        let tokens: TokensView = self.client.post("/auth/register", &account).await?;
        self.client.log_in(tokens.access_token);
        Ok(())
    }

    /// Adds a domain, publishes what it is told to publish, and has it verified.
    async fn add_domain(&mut self, name: &str, provider: &str) -> anyhow::Result<()> {
        let world = &self.stage.world;
        let domain = DomainName::parse(name)?;
        world.add_domain(&domain, provider, Delivery::Relay(self.stage.smtp()?));
        let hosts: Vec<String> = world
            .mx_hosts(provider)
            .iter()
            .map(|host| host.name.to_string())
            .collect();
        let added: DomainView = self
            .client
            .post("/domains", &json!({ "name": name, "mail_hosts": hosts }))
            .await?;
        let records: Vec<RecordToPublish> = added
            .records
            .iter()
            .map(RecordView::to_publish)
            .collect::<anyhow::Result<_>>()?;
        if !world.publish(&records) {
            bail!("the records of {name} do not all lie in zones of this world");
        }
        self.verify(&added.id, name).await?;
        self.domains.push(Domain {
            id: added.id,
            name: domain,
            provider: provider.to_owned(),
        });
        Ok(())
    }

    async fn verify(&self, id: &str, name: &str) -> anyhow::Result<()> {
        let path = format!("/domains/{id}/verify");
        let mut last = Vec::new();
        for _ in 0..VERIFY_TRIES {
            let domain: DomainView = self.client.post(&path, &json!({})).await?;
            if domain.status == "active" {
                return Ok(());
            }
            last = domain.checks;
            self.stage.wait(VERIFY_PAUSE).await;
        }
        let failed = last.iter().filter(|check| check.outcome != "pass");
        let failed: Vec<String> = failed
            .map(|check| {
                format!(
                    "{} at {}: {} ({})",
                    check.kind, check.subject, check.outcome, check.fix
                )
            })
            .collect();
        bail!("{name} was not verified: {}", failed.join("; "))
    }

    /// Makes the inboxes, spread over the domains, and waits for the jobs.
    async fn provision(&mut self, inboxes: u32) -> anyhow::Result<()> {
        for (domain, count) in self.domains.iter().zip(shares(inboxes)) {
            if count == 0 {
                continue;
            }
            let wanted = json!({
                "domain_id": domain.id, "count": count, "naming": "firstname_lastname", "start_warmup": true,
            });
            let job: JobView = self
                .client
                .post("/infrastructure/provision", &wanted)
                .await?;
            self.follow(job).await?;
        }
        let mut by_domain = Vec::new();
        for domain in &self.domains {
            by_domain.push(self.inboxes_of(domain).await?);
        }
        // In turn from each domain, so that neighbours in the list are not neighbours on a domain.
        let longest = by_domain.iter().map(Vec::len).max().unwrap_or(0);
        for place in 0..longest {
            let row = by_domain.iter().filter_map(|inboxes| inboxes.get(place));
            self.inboxes.extend(row.cloned());
        }
        let found = u32::try_from(self.inboxes.len()).unwrap_or(u32::MAX);
        if found != inboxes {
            bail!("{inboxes} inboxes were asked for, {found} are there");
        }
        Ok(())
    }

    async fn follow(&self, mut job: JobView) -> anyhow::Result<()> {
        let path = format!("/jobs/{}", job.id);
        for _ in 0..JOB_LOOKS {
            match job.state.as_str() {
                "done" => return Ok(()),
                "failed" | "cancelled" => break,
                _ => {}
            }
            tokio::time::sleep(JOB_PAUSE).await;
            self.stage.wait(Duration::from_secs(1)).await;
            job = self.client.get(&path).await?;
        }
        bail!("job {} is {}: {}", job.id, job.state, job.errors.join("; "))
    }

    async fn inboxes_of(&self, domain: &Domain) -> anyhow::Result<Vec<Inbox>> {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!(
                "/infrastructure/inboxes?domain_id={}&limit=500{cursor}",
                domain.id
            );
            let page: ListView<InboxView> = self.client.get(&path).await?;
            found.extend(page.items.into_iter().map(|inbox| Inbox {
                id: inbox.id,
                address: inbox.address,
                provider: domain.provider.clone(),
            }));
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(found),
            }
        }
    }

    /// Books events until the story ends, and lets readers at the providers act on them.
    fn listen(&mut self, mut events: Events) {
        let readers = self.readers();
        let ledger = Arc::clone(&self.ledger);
        let listening = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let answered = lock(&ledger).take(&event);
                if let Some(answered) = answered {
                    readers.answered(&answered);
                }
            }
        });
        self.listening = Some(listening.abort_handle());
    }

    fn readers(&self) -> Readers {
        let providers = self.stage.world.providers().map(|provider| {
            let host = provider.rules().hosts.first().copied().unwrap_or_default();
            (provider_of(host), provider.clone())
        });
        let domain_of = |inbox: &Inbox| {
            let address = EmailAddress::parse(&inbox.address).ok()?;
            Some((inbox.id.clone(), address.domain()))
        };
        Readers {
            providers: providers.collect(),
            domains: self.inboxes.iter().filter_map(domain_of).collect(),
        }
    }

    /// Some people call a letter that they never asked for spam.
    fn read_as_spam(&self, letter: &Letter) {
        let chance: &dyn Rng = self.stage.world.rng();
        if !letter.bought || chance.below(COMPLAINS) != 0 {
            return;
        }
        let sender = self.inboxes.get(letter.from);
        let sender = sender.and_then(|inbox| EmailAddress::parse(&inbox.address).ok());
        let (Some(sender), Ok(reader)) = (sender, EmailAddress::parse(&letter.to)) else {
            return;
        };
        for provider in self
            .stage
            .world
            .providers()
            .filter(|provider| provider.hosts(&reader.domain()))
        {
            provider.complained(stage::source(), &sender.domain());
        }
    }

    fn standing_at(&self, provider: &Provider) -> f64 {
        let scores = self
            .domains
            .iter()
            .map(|domain| provider.standing(stage::source(), &domain.name).score);
        let count = f64::from(u32::try_from(self.domains.len().max(1)).unwrap_or(u32::MAX));
        100.0 * scores.sum::<f64>() / count
    }
}

impl Drop for Story<'_> {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.abort();
        }
    }
}

// === impl Readers ===

impl Readers {
    fn answered(&self, answered: &Answered) {
        let provider = self.providers.get(&answered.provider);
        if let (Some(provider), Some(domain)) = (provider, self.domains.get(&answered.inbox_id)) {
            provider.engaged(stage::source(), domain);
        }
    }
}

// === impl RecordView ===

impl RecordView {
    fn to_publish(&self) -> anyhow::Result<RecordToPublish> {
        let kind = match self.kind.as_str() {
            "A" => RecordType::A,
            "AAAA" => RecordType::Aaaa,
            "MX" => RecordType::Mx,
            "TXT" => RecordType::Txt,
            "NS" => RecordType::Ns,
            "CNAME" => RecordType::Cname,
            "PTR" => RecordType::Ptr,
            other => bail!("nobody publishes {other} records"),
        };
        let purpose = match self.purpose.as_str() {
            "ownership" => CheckKind::Ownership,
            "mx" => CheckKind::Mx,
            "spf" => CheckKind::Spf,
            "dmarc" => CheckKind::Dmarc,
            "ptr" => CheckKind::Ptr,
            "dkim" => CheckKind::Dkim(self.name.split('.').next().unwrap_or_default().to_owned()),
            other => bail!("what is a record for {other}?"),
        };
        Ok(RecordToPublish {
            purpose,
            name: self.name.clone(),
            kind,
            value: self.value.clone(),
            required: self.required,
        })
    }
}

// === free functions ===

/// How many inboxes each domain gets: as even as can be, the first ones more.
fn shares(inboxes: u32) -> Vec<u32> {
    let domains = u32::try_from(DOMAINS.len()).expect("a handful");
    (0..domains)
        .map(|place| (inboxes + domains - 1 - place) / domains)
        .collect()
}

/// A password for people to log in with at the end.
fn password() -> String {
    let mut bytes = [0; 10];
    OsRng::default().fill(&mut bytes);
    data_encoding::BASE32_NOPAD.encode(&bytes).to_lowercase()
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inboxes_are_spread_evenly() {
        for (inboxes, expected) in [
            (1, [1, 0, 0]),
            (2, [1, 1, 0]),
            (12, [4, 4, 4]),
            (14, [5, 5, 4]),
        ] {
            assert_eq!(shares(inboxes), expected, "{inboxes}");
        }
    }

    #[test]
    fn records_are_understood_as_they_are_told() {
        let record = |purpose: &str, kind: &str| RecordView {
            purpose: purpose.into(),
            name: "s1._domainkey.oakmail.example".into(),
            kind: kind.into(),
            value: "v=DKIM1".into(),
            required: true,
        };
        let dkim = record("dkim", "TXT").to_publish().unwrap();
        assert_eq!(
            (dkim.purpose, dkim.kind),
            (CheckKind::Dkim("s1".into()), RecordType::Txt)
        );
        assert!(record("dkim", "SOA").to_publish().is_err());
        assert!(record("luck", "TXT").to_publish().is_err());
    }
}
