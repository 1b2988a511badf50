//! A mailbox provider: it takes mail by SMTP, forms an opinion of who sends it, and hands it on to the
//! domain's own host with its verdict in `X-Spam-Flag`, as a filtering gateway does.
//!
//! Its mind, in the order of a session: how it feels today ([`Mood`]), whether the sender is blocked or
//! too fast, whether it serves the recipient's domain and knows the recipient, whether the triplet has
//! waited, whether SPF and DKIM pass, and then which folder. What it thinks of a sender is
//! [`standing`]; what it believes in is [`rules`].

mod authentic;
mod days;
mod greylist;
mod relay;
pub mod rules;
mod session;
mod stamp;
pub mod standing;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use inboxgrove_mail::smtp::server::{Limits, serve};
use inboxgrove_model::{
    DomainName, EmailAddress,
    ports::{Activity, BoxStream, Clock, Dns, Listener, Net, Rng},
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

pub use self::{days::ProviderDay, rules::Rules, standing::Standing};
use self::{
    days::{Count, Days},
    greylist::Greylist,
    session::Session,
};
use crate::rng::SeededRng;

/// Sessions at once at one host; further connections wait to be accepted.
const SESSIONS_MAX: usize = 256;
/// Messages kept for domains without a host of their own; the oldest go first.
const KEPT_MAX: usize = 10_000;
/// How long a client may be silent before it is dismissed. Shorter than RFC 5321 asks for, so that a
/// forgotten connection does not hold up a demo.
const COMMAND_WAIT: Duration = Duration::from_mins(1);

/// A mailbox provider. Clones share it.
#[derive(Clone)]
pub struct Provider {
    shared: Arc<Shared>,
}

/// The world around a provider.
#[derive(Clone)]
pub struct Around {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Whom it asks for SPF and DKIM records.
    pub dns: Arc<dyn Dns>,
    /// How it reaches the domains' own hosts.
    pub net: Arc<dyn Net>,
    /// Where it says that it is at work.
    pub activity: Activity,
}

/// One of a provider's MX hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: DomainName,
    /// Where it listens, and where it relays from.
    pub address: SocketAddr,
}

/// Where mail for a hosted domain goes on to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// By SMTP to the domain's own host.
    Relay(SocketAddr),
    /// Nowhere: it is kept here, see [`Provider::kept`].
    Keep,
}

/// How a provider feels, whoever comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    /// By its rules.
    #[default]
    Normal,
    /// Everybody is to slow down.
    Deferring,
    /// Everybody is blocked.
    Refusing,
}

/// A message that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The sender; `None` for bounces.
    pub mail_from: Option<EmailAddress>,
    /// The recipients.
    pub recipients: Vec<EmailAddress>,
    /// The message with the provider's verdict on top.
    pub message: Bytes,
    /// Whether it lies in the spam folder.
    pub spam: bool,
}

/// A provider that takes connections, until this is dropped.
#[derive(Debug)]
pub struct Serving {
    hosts: Vec<Host>,
    shutdown: watch::Sender<bool>,
    accepting: JoinSet<()>,
}

struct Shared {
    rules: Rules,
    around: Around,
    rng: SeededRng,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    mood: Mood,
    domains: BTreeMap<String, Delivery>,
    /// Known users by domain; a domain that is not here knows everybody.
    users: BTreeMap<String, BTreeSet<String>>,
    standings: BTreeMap<(IpAddr, String), Standing>,
    greylist: Greylist,
    days: Days,
    kept: VecDeque<Kept>,
}

// === impl Provider ===

impl Provider {
    /// A provider with these rules. Its chance is a stream of `rng` by its name.
    pub fn new(rules: Rules, around: Around, rng: &SeededRng) -> Self {
        let rng = rng.stream(&format!("provider/{}", rules.name));
        Self {
            shared: Arc::new(Shared {
                rules,
                around,
                rng,
                state: Mutex::default(),
            }),
        }
    }

    /// Weighs what people do with the mail ([`Rules::gmail_like`]).
    pub fn gmail_like(around: Around, rng: &SeededRng) -> Self {
        Self::new(Rules::gmail_like(), around, rng)
    }

    /// Weighs steadiness and authentication ([`Rules::outlook_like`]).
    pub fn outlook_like(around: Around, rng: &SeededRng) -> Self {
        Self::new(Rules::outlook_like(), around, rng)
    }

    /// Weighs complaints ([`Rules::yahoo_like`]).
    pub fn yahoo_like(around: Around, rng: &SeededRng) -> Self {
        Self::new(Rules::yahoo_like(), around, rng)
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.shared.rules.name
    }

    /// What it believes in.
    pub fn rules(&self) -> &Rules {
        &self.shared.rules
    }

    /// Takes mail for a domain from now on, and delivers it there.
    pub fn host(&self, domain: &DomainName, delivery: Delivery) {
        self.shared
            .lock()
            .domains
            .insert(domain.to_string(), delivery);
    }

    /// Whether it takes mail for a domain.
    pub fn hosts(&self, domain: &DomainName) -> bool {
        self.shared.delivery(domain).is_some()
    }

    /// Names a user of a hosted domain. A domain knows everybody until its first user is named.
    pub fn add_user(&self, address: &EmailAddress) {
        let mut state = self.shared.lock();
        state
            .users
            .entry(address.domain().to_string())
            .or_default()
            .insert(address.key());
    }

    /// Removes a user of a hosted domain: mail for them is refused from now on.
    pub fn remove_user(&self, address: &EmailAddress) {
        if let Some(users) = self.shared.lock().users.get_mut(address.domain().as_str()) {
            users.remove(&address.key());
        }
    }

    /// How it treats everybody from now on.
    pub fn set_mood(&self, mood: Mood) {
        self.shared.lock().mood = mood;
    }

    /// Somebody answered mail of this sender, or moved it out of the spam folder.
    pub fn engaged(&self, ip: IpAddr, domain: &DomainName) {
        let shared = &self.shared;
        shared.with_standing(ip, domain.as_str(), |standing| {
            standing.engaged(&shared.rules);
        });
    }

    /// Somebody called mail of this sender spam.
    pub fn complained(&self, ip: IpAddr, domain: &DomainName) {
        let shared = &self.shared;
        shared.with_standing(ip, domain.as_str(), |standing| {
            standing.complained(&shared.rules);
        });
    }

    /// What it thinks of a sender now.
    pub fn standing(&self, ip: IpAddr, domain: &DomainName) -> Standing {
        self.shared
            .with_standing(ip, domain.as_str(), |standing| *standing)
    }

    /// How likely the next message of a sender lands in the spam folder.
    pub fn spam_probability(&self, ip: IpAddr, domain: &DomainName) -> f64 {
        self.standing(ip, domain)
            .spam_probability(&self.shared.rules)
    }

    /// What it did on each day with mail, in their order.
    pub fn daily(&self) -> Vec<ProviderDay> {
        self.shared.lock().days.all()
    }

    /// What lies in its own mailboxes, the oldest first.
    pub fn kept(&self) -> Vec<Kept> {
        self.shared.lock().kept.iter().cloned().collect()
    }

    /// What it thinks of everybody it has seen mail from: source address, sender domain (empty for bounces).
    pub fn standings(&self) -> Vec<(IpAddr, String, Standing)> {
        let state = self.shared.lock();
        let known = state.standings.iter();
        known
            .map(|((ip, domain), standing)| (*ip, domain.clone(), *standing))
            .collect()
    }

    /// Takes connections at these listeners. The first is its first host ([`Rules::hosts`]), and so on;
    /// hosts without a listener are not there.
    pub fn serve(&self, listeners: Vec<Box<dyn Listener>>) -> io::Result<Serving> {
        let (shutdown, told) = watch::channel(false);
        let (mut hosts, mut accepting) = (Vec::new(), JoinSet::new());
        for (name, listener) in self.shared.rules.hosts.iter().zip(listeners) {
            let host = Host {
                name: DomainName::parse(name).map_err(io::Error::other)?,
                address: listener.local_addr(),
            };
            hosts.push(host.clone());
            accepting.spawn(accept(
                Arc::clone(&self.shared),
                host,
                listener,
                told.clone(),
            ));
        }
        Ok(Serving {
            hosts,
            shutdown,
            accepting,
        })
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Around {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Around").finish_non_exhaustive()
    }
}

// === impl Serving ===

impl Serving {
    /// Its MX hosts, the preferred one first.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Ends each session as soon as no transaction is open, and resolves when all have ended.
    pub async fn stop(mut self) {
        // Without a session nobody listens, which is as well.
        self.shutdown.send(true).ok();
        while self.accepting.join_next().await.is_some() {}
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn today(&self) -> i64 {
        self.around.clock.policy().utc_day()
    }

    fn mood(&self) -> Mood {
        self.lock().mood
    }

    fn delivery(&self, domain: &DomainName) -> Option<Delivery> {
        self.lock().domains.get(domain.as_str()).cloned()
    }

    fn knows(&self, address: &EmailAddress) -> bool {
        let state = self.lock();
        let users = state.users.get(address.domain().as_str());
        users.is_none_or(|users| users.contains(&address.key()))
    }

    /// Does something with what is thought of a sender, brought up to today.
    fn with_standing<T>(
        &self,
        ip: IpAddr,
        domain: &str,
        act: impl FnOnce(&mut Standing) -> T,
    ) -> T {
        let today = self.today();
        let mut state = self.lock();
        let stranger = Standing::of_stranger(&self.rules, today);
        let standing = state
            .standings
            .entry((ip, domain.to_owned()))
            .or_insert(stranger);
        standing.roll(&self.rules, today);
        act(standing)
    }

    /// Whether greylisting lets a triplet through.
    fn has_waited(&self, ip: IpAddr, domain: &str, from: &str, to: &EmailAddress) -> bool {
        let Some(delay) = self.rules.greylist else {
            return true;
        };
        if self.with_standing(ip, domain, |standing| standing.score) >= self.rules.greylist_below {
            return true;
        }
        let now = self.around.clock.policy();
        let triplet = (ip, from.to_owned(), to.key());
        self.lock().greylist.may_pass(triplet, delay, now)
    }

    /// Draws the folder of a message.
    fn is_spam(&self, ip: IpAddr, domain: &str) -> bool {
        let likely = self.with_standing(ip, domain, |standing| {
            standing.spam_probability(&self.rules)
        });
        (&self.rng as &dyn Rng).unit() < likely
    }

    fn count(&self, what: Count, n: u32) {
        let today = self.today();
        if n > 0 {
            self.lock().days.count(today, what, n);
        }
    }

    fn keep(&self, kept: Kept) {
        let mut state = self.lock();
        if state.kept.len() == KEPT_MAX {
            state.kept.pop_front();
        }
        state.kept.push_back(kept);
    }
}

/// Takes connections at one host until the provider stops serving, and then waits for their ends.
async fn accept(
    shared: Arc<Shared>,
    host: Host,
    listener: Box<dyn Listener>,
    mut shutdown: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(SESSIONS_MAX));
    let mut sessions = JoinSet::new();
    loop {
        let arrived = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => break,
            arrived = listener.accept() => arrived,
        };
        let Ok((stream, peer)) = arrived else { break };
        // From here on it is at work: the client holds its own guard until it has read our greeting.
        let busy = shared.around.activity.begin();
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            break;
        };
        let session = Session::new(Arc::clone(&shared), host.clone(), peer, busy);
        let served = serve_one(stream, peer, session, shutdown.clone());
        sessions.spawn(async move {
            served.await;
            drop(place);
        });
        // What has ended is forgotten, so that the set does not grow.
        while sessions.try_join_next().is_some() {}
    }
    drop(listener);
    while sessions.join_next().await.is_some() {}
}

async fn serve_one(
    stream: BoxStream,
    peer: SocketAddr,
    session: Session,
    shutdown: watch::Receiver<bool>,
) {
    let limits = Limits {
        command_timeout: COMMAND_WAIT,
        ..Limits::default()
    };
    let summary = serve(stream, peer, session, &limits, None, shutdown).await;
    tracing::trace!(%peer, ?summary, "a session ended");
}

#[cfg(test)]
mod tests;
