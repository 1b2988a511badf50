//! People: those who have accounts and write mail, and strangers who write to them. Everything that they were promised
//! goes into the [`Journal`].

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use inboxgrove_actors::{
    Platform, Refusal,
    platform::{IdempotencyKey, NewAccount, NewDomain, NewMessage, Provision},
};
use inboxgrove_mail::smtp::client::{EnvelopeOut, Options, Session};
use inboxgrove_model::{
    DomainId, DomainName, EmailAddress, InboxId, JobId, MessageId, PolicyTime, TenantId,
    domain::{Domain, DomainStatus},
    inbox::{Inbox, InboxStatus},
    job::{Job, JobState, Naming},
    ports::{Clock, Net, Rng},
};
use inboxgrove_sim::{provider::Delivery, rng::SeededRng};
use inboxgrove_store::{ReadError, Scope};

use super::{
    house::Daemon,
    neighbourhood::{INBOUND, Neighbourhood, PROVIDERS, friend},
    weather::{index, wait_minutes},
};

/// Where strangers write from.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 3, 1));
/// How long somebody waits before they ask again.
const ASK_AGAIN: Duration = Duration::from_secs(17);
/// Nobody asks more often than this: a day of asking.
const ASKED_MAX: u32 = 5_000;

/// What people were promised. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    entries: Arc<Mutex<Entries>>,
}

/// The promises.
#[derive(Debug, Clone, Default)]
pub struct Entries {
    /// Accounts that were made.
    pub tenants: Vec<TenantId>,
    /// Domains that were added.
    pub domains: Vec<(TenantId, DomainId)>,
    /// Jobs that were taken on, and how many inboxes each makes.
    pub jobs: Vec<(TenantId, JobId, u32)>,
    /// Messages that were accepted.
    pub sent: Vec<Sent>,
    /// Answers that were no, by their kind.
    pub refused: std::collections::BTreeMap<&'static str, u32>,
}

/// A message that was accepted for sending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Whose.
    pub tenant: TenantId,
    /// From which inbox.
    pub inbox: InboxId,
    /// Which.
    pub message: MessageId,
    /// Its subject, which no other message has.
    pub subject: String,
}

/// Somebody with an account.
#[derive(Clone)]
pub struct Person {
    around: Arc<Neighbourhood>,
    daemon: Daemon,
    journal: Journal,
    rng: Arc<SeededRng>,
    n: usize,
}

/// What somebody with an account has.
#[derive(Debug, Clone)]
pub struct Account {
    /// The account.
    pub tenant: TenantId,
    /// Its domains.
    pub domains: Vec<Domain>,
}

// === impl Journal ===

impl Journal {
    /// Everything so far.
    pub fn entries(&self) -> Entries {
        self.lock().clone()
    }

    /// A message was accepted for sending.
    pub fn add_sent(&self, sent: Sent) {
        self.lock().sent.push(sent);
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Person ===

impl Person {
    /// The n-th person of a world.
    pub fn new(around: &Arc<Neighbourhood>, daemon: &Daemon, journal: &Journal, n: usize) -> Self {
        Self {
            around: Arc::clone(around),
            daemon: daemon.clone(),
            journal: journal.clone(),
            rng: Arc::new(around.rng.stream(&format!("person/{n}"))),
            n,
        }
    }

    fn chance(&self) -> &dyn Rng {
        &*self.rng
    }

    /// Registers, adds domains, publishes their records, has them verified, and has inboxes made that warm up at once.
    pub async fn move_in(&self) -> anyhow::Result<Account> {
        let tenant = self.register().await.context("register")?;
        self.journal.lock().tenants.push(tenant);
        let mut domains = Vec::new();
        for m in 0..=index(self.chance(), 2) {
            let domain = self.add_domain(tenant, m).await.context("add a domain")?;
            self.journal.lock().domains.push((tenant, domain.id));
            let domain = self.prove(&domain).await.context("prove a domain")?;
            let count = 2 + u32::try_from(index(self.chance(), 2))?;
            let job = self.provision(&domain, count).await.context("provision")?;
            self.journal.lock().jobs.push((tenant, job, count));
            self.wait_for(tenant, job).await?;
            domains.push(domain);
        }
        Ok(Account { tenant, domains })
    }

    /// Writes to friends, to strangers and to people of other accounts until a time.
    pub async fn write_until(&self, account: &Account, until: PolicyTime) -> anyhow::Result<()> {
        let clock: &dyn Clock = &*self.around.clock;
        for letter in 0.. {
            wait_minutes(clock, self.chance(), 2, 40).await;
            if clock.policy() >= until {
                break;
            }
            self.write(account, letter).await?;
        }
        Ok(())
    }

    async fn register(&self) -> anyhow::Result<TenantId> {
        let zones = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"];
        let email = EmailAddress::parse(&format!("owner{}@customers.example", self.n))?;
        let account = NewAccount {
            company: format!("Company {}", self.n),
            email: email.clone(),
            password_hash: "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo"
                .to_owned()
                .into(),
            time_zone: zones[(self.n + index(self.chance(), zones.len())) % zones.len()].to_owned(),
        };
        let made = self
            .ask(|platform| {
                let account = account.clone();
                async move { platform.register(account).await }
            })
            .await;
        match made {
            Ok((tenant, _)) => Ok(tenant.id),
            // An earlier question was answered with silence, and had been done.
            Err(Refusal::Conflict {
                code: "email_taken",
                ..
            }) => {
                let found = self.ask(|platform| {
                    let email = email.clone();
                    async move { platform.user_by_email(&email) }
                });
                Ok(found
                    .await?
                    .context("the taken address is nobody's")?
                    .tenant)
            }
            Err(why) => Err(why.into()),
        }
    }

    async fn add_domain(&self, tenant: TenantId, m: usize) -> anyhow::Result<Domain> {
        let provider = PROVIDERS[(self.n + m) % PROVIDERS.len()];
        let name = DomainName::parse(&format!("d{m}.company{}.example", self.n))?;
        self.around
            .world
            .add_domain(&name, provider, Delivery::Relay(INBOUND));
        let hosts = self.around.world.mx_hosts(provider);
        let new = NewDomain {
            name,
            mail_hosts: hosts.iter().map(|host| host.name.to_string()).collect(),
        };
        let key = self.key();
        let made = self.ask(|platform| {
            let new = new.clone();
            async move { platform.add_domain(tenant, new, Some(key)).await }
        });
        Ok(made.await?.value)
    }

    /// Publishes what is asked for and asks for a look until all of it is seen.
    async fn prove(&self, domain: &Domain) -> anyhow::Result<Domain> {
        let (tenant, id) = (domain.tenant, domain.id);
        let records = self
            .ask(|platform| {
                let records = platform.records_to_publish(domain);
                async move { Ok(records) }
            })
            .await?;
        anyhow::ensure!(
            self.around.world.publish(&records),
            "records outside of this world: {records:?}"
        );
        for _ in 0..ASKED_MAX {
            let looked =
                self.ask(|platform| async move { platform.verify_domain(tenant, id).await });
            let domain = looked.await?;
            if domain.status == DomainStatus::Active {
                return Ok(domain);
            }
            self.pause(Duration::from_mins(5)).await;
        }
        bail!("{} was never proven", domain.name)
    }

    async fn provision(&self, domain: &Domain, count: u32) -> anyhow::Result<JobId> {
        let naming = [Naming::FirstnameLastname, Naming::Random, Naming::Numbered];
        let wanted = Provision {
            domain: domain.id,
            count,
            naming: naming[index(self.chance(), naming.len())],
            start_warmup: true,
            time_zone: None,
            daily_limit: None,
        };
        let (tenant, key) = (domain.tenant, self.key());
        let made = self.ask(|platform| {
            let wanted = wanted.clone();
            async move { platform.provision(tenant, wanted, Some(key)).await }
        });
        Ok(made.await?.value.id)
    }

    async fn wait_for(&self, tenant: TenantId, job: JobId) -> anyhow::Result<()> {
        for _ in 0..ASKED_MAX {
            let found = self.ask(|platform| async move {
                Ok(platform.store().existing::<Job>(&(tenant, job))?)
            });
            match found.await?.state {
                JobState::Done => return Ok(()),
                JobState::Failed | JobState::Cancelled => bail!("the job {job} has ended badly"),
                JobState::Pending | JobState::Running => self.pause(Duration::from_secs(20)).await,
            }
        }
        bail!("the job {job} was never done")
    }

    async fn write(&self, account: &Account, letter: u32) -> anyhow::Result<()> {
        let inboxes = self.inboxes(Scope::Tenant(account.tenant)).await?;
        let Some(from) = inboxes.get(index(self.chance(), inboxes.len().max(1))) else {
            bail!("an account without inboxes");
        };
        let subject = format!("Letter {letter} of person {}", self.n);
        let message = NewMessage {
            to: self.recipients().await?,
            subject: subject.clone(),
            text: format!(
                "This is {subject}.\n{}\n",
                "All is well here. ".repeat(index(self.chance(), 60))
            ),
            html: None,
            in_reply_to: None,
            list_unsubscribe: None,
        };
        let (tenant, inbox, key) = (from.tenant, from.id, self.key());
        let accepted = self
            .ask(|platform| {
                let message = message.clone();
                async move { platform.send(tenant, inbox, message, Some(key)).await }
            })
            .await;
        let mut entries = self.journal.lock();
        match accepted {
            Ok(made) => entries.sent.push(Sent {
                tenant,
                inbox,
                message: made.value.id,
                subject,
            }),
            Err(why) => *entries.refused.entry(kind_of(&why)).or_default() += 1,
        }
        Ok(())
    }

    /// One to three people: friends at a provider, people of other accounts, and now and then nobody.
    async fn recipients(&self) -> anyhow::Result<Vec<EmailAddress>> {
        let hosted = self.inboxes(Scope::All).await?;
        let mut to: Vec<EmailAddress> = Vec::new();
        for _ in 0..=index(self.chance(), 3) {
            let provider = PROVIDERS[index(self.chance(), PROVIDERS.len())];
            let next = match self.chance().below(20) {
                0 => EmailAddress::parse(&format!(
                    "nobody{}@friends-at-{provider}.example",
                    self.chance().below(1000)
                ))?,
                1 => EmailAddress::parse("somebody@nowhere.example")?,
                2..=8 if !hosted.is_empty() => {
                    hosted[index(self.chance(), hosted.len())].address.clone()
                }
                _ => friend(provider, index(self.chance(), 9))?,
            };
            if !to.iter().any(|other| other.key() == next.key()) {
                to.push(next);
            }
        }
        Ok(to)
    }

    async fn inboxes(&self, scope: Scope) -> anyhow::Result<Vec<Inbox>> {
        let found = self.ask(|platform| {
            let page = platform.store().page::<Inbox>(&scope, None, 500);
            async move { Ok(page?.items) }
        });
        let mut inboxes = found.await?;
        inboxes.retain(|inbox| inbox.status != InboxStatus::Deleted);
        Ok(inboxes)
    }

    /// Asks until there is an answer, as a client with an idempotency key does. An answer that says no is one.
    async fn ask<T, F>(&self, question: impl Fn(Platform) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        let mut last = Refusal::Unavailable {
            why: "the daemon is down".to_owned(),
        };
        for _ in 0..ASKED_MAX {
            if let Some(platform) = self.daemon.platform() {
                match question(platform).await {
                    Ok(answer) => return Ok(answer),
                    Err(why) if is_passing(&why) => last = why,
                    Err(why) => return Err(why),
                }
            }
            self.pause(ASK_AGAIN).await;
        }
        Err(last)
    }

    async fn pause(&self, wait: Duration) {
        let clock = &self.around.clock;
        clock.sleep_until(clock.policy().after(wait)).await;
    }

    fn key(&self) -> IdempotencyKey {
        let mut key = [0; 32];
        self.rng.fill(&mut key);
        IdempotencyKey { key, body: key }
    }
}

/// Writes to inboxes from outside, and knocks with mail for nobody and for others, until a time.
pub async fn strangers_until(
    around: Arc<Neighbourhood>,
    daemon: Daemon,
    until: PolicyTime,
) -> anyhow::Result<()> {
    let rng = around.rng.stream("strangers");
    let (clock, chance): (&dyn Clock, &dyn Rng) = (&*around.clock, &rng);
    for letter in 0.. {
        wait_minutes(clock, chance, 5, 50).await;
        if clock.policy() >= until {
            break;
        }
        let inboxes = match daemon.platform().map(|platform| inboxes_of(&platform)) {
            Some(Ok(inboxes)) if !inboxes.is_empty() => inboxes,
            _ => continue,
        };
        let to = match chance.below(10) {
            0 => EmailAddress::parse("nobody@d0.company0.example")?,
            1 => EmailAddress::parse("victim@elsewhere.example")?,
            _ => inboxes[index(chance, inboxes.len())].address.clone(),
        };
        let text = format!(
            "From: Stranger <stranger@strangers.example>\r\nTo: {to}\r\nSubject: Hello {letter}\r\nMessage-ID: <hello{letter}@strangers.example>\r\n\r\nHello.\r\n"
        );
        for _ in 0..3 {
            if hand_over(&*around.tapped, &to, text.as_bytes()).await? {
                break;
            }
            wait_minutes(clock, chance, 1, 10).await;
        }
    }
    Ok(())
}

fn inboxes_of(platform: &Platform) -> Result<Vec<Inbox>, ReadError> {
    Ok(platform
        .store()
        .page::<Inbox>(&Scope::All, None, 500)?
        .items)
}

/// Hands a message over at the front door. True when there was an answer for good, whatever it was.
pub async fn hand_over(net: &dyn Net, to: &EmailAddress, text: &[u8]) -> anyhow::Result<bool> {
    let Ok(stream) = net.connect(Some(STRANGER), INBOUND).await else {
        return Ok(false);
    };
    let options = Options::new(
        DomainName::parse("strangers.example")?,
        "mail.grove.example",
    );
    let Ok(mut session) = Session::open(stream, options).await else {
        return Ok(false);
    };
    let envelope = EnvelopeOut {
        mail_from: Some(EmailAddress::parse("stranger@strangers.example")?),
        recipients: vec![to.clone()],
    };
    let outcome = session.send(&envelope, text).await;
    session.quit().await;
    let answer = outcome
        .recipients
        .first()
        .and_then(|recipient| recipient.delivery.reply());
    Ok(answer.is_some_and(|reply| !(400..500).contains(&reply.code())))
}

/// Whether asking again may help.
fn is_passing(why: &Refusal) -> bool {
    matches!(
        why,
        Refusal::Busy { .. }
            | Refusal::DiskLow { .. }
            | Refusal::Unavailable { .. }
            | Refusal::Unknown { .. }
            // A disk without power reads nothing.
            | Refusal::Damaged { .. }
            | Refusal::Parked { .. }
    )
}

fn kind_of(why: &Refusal) -> &'static str {
    match why {
        Refusal::Budget(_) => "budget",
        Refusal::Gated { gate, .. } => gate,
        Refusal::Invalid { field, .. } => field,
        Refusal::NotFound { what } => what,
        Refusal::Conflict { code, .. } => code,
        _ => "other",
    }
}
