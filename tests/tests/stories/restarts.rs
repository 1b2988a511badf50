//! Rolling restarts under load, the sockets held by somebody else as systemd holds them: nobody is refused a connection,
//! nobody goes without an answer, nothing acknowledged is lost, and each drain ends in time.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use inboxgrove_tests::{
    activation::Sockets,
    addresses::Addresses,
    client::{Account, Api, Inbox, text},
    daemon::{self, DRAIN_WITHIN, Settings},
    journal::{Acknowledgement, Journal},
    letterbox::{Letterbox, Posted},
    prepared::{self, Prepared},
    process::Running,
    programs,
};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

/// Restarts of the short run.
const RESTARTS: u32 = 4;
/// Customers' programs that keep their connections.
const KEEPERS: usize = 3;
/// Strangers' servers that connect anew for every few letters.
const STRANGERS: usize = 2;
/// Letters of one SMTP session.
const LETTERS_OF_A_SESSION: u32 = 3;
/// Between two requests of a client: all together ask for some hundred a second.
const PAUSE: Duration = Duration::from_millis(20);
/// A daemon works for so long before it is restarted: connections of all kinds are open by then.
const WORKS_FOR: Duration = Duration::from_millis(800);
/// A drain is timed this exactly.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(5);
/// What a client reads when it shall come again: the daemon drains, or is just starting.
const COME_AGAIN: [&str; 3] = ["421", "451", "503"];

/// What the clients have seen.
struct Seen {
    journal: Journal,
    letters: AtomicU64,
    answers: Mutex<BTreeMap<String, u64>>,
    /// Connections that were refused, and requests that got no answer.
    trouble: Mutex<Vec<String>>,
}

/// Where everybody asks.
#[derive(Clone)]
struct Doors {
    account: Account,
    inbox: Inbox,
    smtp: SocketAddr,
    strangers: IpAddr,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restarts_refuse_nobody_and_lose_nothing() -> Result<()> {
    let restarts = programs::trials("GROVE_TESTS_RESTARTS", RESTARTS)?;
    let prepared = Prepared::new().await?;
    let scratch = prepared.scratch("restarts")?;
    let settings = prepared.settings(&scratch, &scratch)?;
    prepared.lay_out(&settings)?;
    let (source, inbound) = (settings.source, settings.inbound);
    let port = Addresses::free_port(&[source])?;
    let sockets = Sockets::bind(SocketAddr::new(source, port), inbound)?;
    let mut running = start(&sockets, &settings).await?;
    let api = Api::new(&format!("{source}:{port}"))?;
    let doors = Doors {
        account: prepared.account(&api),
        inbox: prepared.inbox.clone(),
        smtp: inbound,
        strangers: prepared.addresses.mail_server(),
    };

    let seen = Arc::new(Seen::new(Journal::new(&scratch.join("journal"))?));
    let (stop, stopped) = watch::channel(false);
    let mut clients = open_up(&doors, &seen, &stopped);
    let mut drains = Vec::new();
    for _ in 0..restarts {
        sleep(WORKS_FOR).await;
        drains.push(drain(&mut running).await.with_context(|| running.tail())?);
        running = start(&sockets, &settings).await?;
    }
    sleep(WORKS_FOR).await;
    stop.send_replace(true);
    while let Some(ended) = clients.join_next().await {
        ended
            .context("a client panicked")?
            .with_context(|| running.tail())?;
    }

    let kept = doors.look(&seen).await?;
    drains.sort();
    println!(
        "{restarts} restarts: drain p50 {:?}, max {:?}; {kept} acknowledged, all kept; {:?}; trouble {:?}",
        drains[drains.len() / 2],
        drains[drains.len() - 1],
        locked(&seen.answers),
        locked(&seen.trouble)
    );
    let trouble = locked(&seen.trouble);
    ensure!(trouble.is_empty(), "{trouble:?}\n{}", running.tail());
    Ok(())
}

async fn start(sockets: &Sockets, settings: &Settings) -> Result<Running> {
    let mut running = sockets.spawn(settings)?;
    daemon::ready(settings, &mut running).await?;
    Ok(running)
}

/// Asks the daemon to end; how long it took to drain.
async fn drain(running: &mut Running) -> Result<Duration> {
    let from = Instant::now();
    running.signal(Signal::SIGTERM)?;
    let status = loop {
        if let Some(status) = running.ended()? {
            break status;
        }
        ensure!(from.elapsed() < DRAIN_WITHIN, "it drains no more");
        sleep(DRAIN_LOOK_EVERY).await;
    };
    ensure!(status.success(), "{status}");
    Ok(from.elapsed())
}

fn open_up(
    doors: &Doors,
    seen: &Arc<Seen>,
    stopped: &watch::Receiver<bool>,
) -> JoinSet<Result<()>> {
    let mut clients = JoinSet::new();
    for _ in 0..KEEPERS {
        clients.spawn(keep(doors.clone(), Arc::clone(seen), stopped.clone()));
    }
    clients.spawn(knock(doors.clone(), Arc::clone(seen), stopped.clone()));
    for _ in 0..STRANGERS {
        clients.spawn(write(doors.clone(), Arc::clone(seen), stopped.clone()));
    }
    clients
}

/// Sends over a connection that is kept.
async fn keep(doors: Doors, seen: Arc<Seen>, stopped: watch::Receiver<bool>) -> Result<()> {
    while !*stopped.borrow() {
        doors.send(&doors.account, &seen).await?;
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Sends over a new connection each time.
async fn knock(doors: Doors, seen: Arc<Seen>, stopped: watch::Receiver<bool>) -> Result<()> {
    while !*stopped.borrow() {
        let account = Account {
            api: Api::new(doors.account.api.base())?,
            ..doors.account.clone()
        };
        doors.send(&account, &seen).await?;
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Writes letters to port 25, a few in a session.
async fn write(doors: Doors, seen: Arc<Seen>, stopped: watch::Receiver<bool>) -> Result<()> {
    while !*stopped.borrow() {
        let mut letterbox = match Letterbox::open(doors.strangers, doors.smtp).await {
            Ok(letterbox) => letterbox,
            Err(why) => {
                seen.no_session(&why);
                continue;
            }
        };
        for _ in 0..LETTERS_OF_A_SESSION {
            let (subject, body) = seen.letter();
            let data = prepared::letter_to(&doors.inbox, &subject, &body);
            let posted = letterbox.post(prepared::STRANGER, &doors.inbox.address, &data);
            match posted.await {
                Ok(Posted::Taken) => {
                    seen.answered("250");
                    seen.journal.note(Acknowledgement::Received {
                        inbox: doors.inbox.clone(),
                        subject,
                        text: body,
                    })?;
                }
                Ok(Posted::Refused(reply)) => {
                    seen.come_again(&reply)?;
                    break;
                }
                Err(why) => {
                    seen.trouble(format!("SMTP: {why:#}"));
                    break;
                }
            }
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

impl Doors {
    async fn send(&self, account: &Account, seen: &Seen) -> Result<()> {
        let (subject, body) = seen.letter();
        let wanted = json!({ "to": [prepared::STRANGER], "subject": subject, "text": body });
        let answer = match account.post(&self.inbox.messages_path(), &wanted).await {
            Ok(answer) => answer,
            Err(why) => {
                seen.trouble(format!("API: {why:?}"));
                return Ok(());
            }
        };
        if answer.status.as_u16() != 202 {
            return seen.come_again(&format!("{} {}", answer.status, answer.code()));
        }
        seen.answered("202");
        seen.journal.note(Acknowledgement::Accepted {
            inbox: self.inbox.clone(),
            message: text(&answer.body, "id")?,
            subject,
            text: body,
        })
    }

    /// How many letters were acknowledged: all of them are there.
    async fn look(&self, seen: &Seen) -> Result<usize> {
        let path = format!("{}?limit=500", self.inbox.messages_path());
        let messages = self.account.all(&path).await?;
        let there: BTreeSet<&str> = messages
            .iter()
            .filter_map(|message| message["subject"].as_str())
            .collect();
        ensure!(there.len() == messages.len(), "a letter is there twice");
        let owed = seen.journal.since(0);
        for acknowledged in &owed {
            if let Acknowledgement::Accepted { subject, .. }
            | Acknowledgement::Received { subject, .. } = acknowledged
            {
                ensure!(there.contains(subject.as_str()), "LOST: {subject}");
            }
        }
        Ok(owed.len())
    }
}

impl Seen {
    fn new(journal: Journal) -> Self {
        Self {
            journal,
            letters: AtomicU64::new(0),
            answers: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    fn letter(&self) -> (String, String) {
        let number = self.letters.fetch_add(1, Ordering::Relaxed);
        (
            format!("letter-{number}"),
            format!("the text of letter {number}"),
        )
    }

    fn answered(&self, answer: &str) {
        *locked(&self.answers).entry(answer.to_owned()).or_default() += 1;
    }

    /// A refusal: a clean one, or an error of the test.
    fn come_again(&self, reply: &str) -> Result<()> {
        let is_clean = COME_AGAIN.iter().any(|code| reply.starts_with(code));
        ensure!(is_clean, "the daemon answered: {reply}");
        self.answered(reply);
        Ok(())
    }

    fn no_session(&self, why: &anyhow::Error) {
        let said = why.to_string();
        let is_refused = why
            .downcast_ref::<io::Error>()
            .is_some_and(|why| why.kind() == io::ErrorKind::ConnectionRefused);
        match COME_AGAIN.iter().find(|code| said.starts_with(**code)) {
            Some(code) if !is_refused => self.answered(&format!("{code} instead of a greeting")),
            _ => self.trouble(format!("SMTP: no session: {why:#}")),
        }
    }

    fn trouble(&self, what: String) {
        locked(&self.trouble).push(what);
    }
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("nobody panics while it is held")
}
