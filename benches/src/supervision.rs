//! How soon an actor answers again after it was killed in the middle of its work, and what its neighbours notice.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use inboxgrove::ports::SystemClock;
use inboxgrove_actors::{
    Platform, Refusal,
    platform::{InboxChange, NewMessage},
};
use inboxgrove_model::{
    EmailAddress, PolicyTime, TenantId,
    event::{EventKind, LoggedEvent},
    inbox::Inbox,
    ports::{Activity, Rng},
};
use inboxgrove_sim::rng::SeededRng;
use inboxgrove_store::SeedPlan;
use tokio::{
    runtime::Runtime,
    sync::{broadcast, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    Effort,
    grove::{Grove, Grown, exchange_of, loopback},
    measure::{Samples, at_share, monotonic, since},
    report::{Bound, Section},
    sink::Sink,
};

/// Different actors of each kind that are killed, once each, over all rounds.
const VICTIMS: usize = 1000;
/// Tenants whose inboxes are asked all the while, and how many each.
const NEIGHBOURS: usize = 8;
/// Who does not answer again within this is taken to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
const MAIL_SERVER: IpAddr = loopback(80, 1);

/// The kinds that have many instances.
const KINDS: [&str; 4] = ["tenant", "domain", "inbox", "site"];

/// What everybody is asked with.
#[derive(Clone)]
struct Village {
    platform: Platform,
    /// Of each victim: an inbox, and with it its tenant and its domain.
    victims: Arc<Vec<Inbox>>,
    /// Who writes to the sites.
    writer: Arc<Grown>,
}

/// Milliseconds that answers took.
#[derive(Default)]
struct Series {
    usual: Vec<f64>,
    after_kill: Vec<f64>,
    neighbours_usual: Vec<f64>,
    neighbours_meanwhile: Vec<f64>,
}

/// Neighbours who are asked until this is dropped.
struct Neighbours {
    stop: watch::Sender<bool>,
    asking: Vec<JoinHandle<Result<Vec<f64>>>>,
}

/// Runs the bench.
pub(crate) fn run(effort: Effort) -> Result<Section> {
    let runtime = Runtime::new().context("a runtime can be started")?;
    let about = format!(
        "{VICTIMS} different actors of each kind are killed once each (`admin kill`: their handler is dropped where it waits) while \
         somebody asks them without a pause. Time is from the kill to the first good answer; for a site, to the delivery of a \
         message that was sent after the kill, with its DNS, connection and signature. Beside it the same questions without a \
         kill, and what {NEIGHBOURS} inboxes of other tenants need for a durable change in both halves of the same run. A real store on \
         the disk, everything in one process."
    );
    let header = [
        "killed",
        "usually p50 / p99 ms",
        "after a kill p50 / p99 ms",
        "neighbours p99 ms, usually",
        "neighbours p99 ms, meanwhile",
        "ratio",
    ];
    let mut section = Section::new("Supervision", &about, &header);
    for kind in KINDS {
        let (mut back, mut ratio, mut usual, mut meanwhile) = (
            Samples::default(),
            Samples::default(),
            Samples::default(),
            Samples::default(),
        );
        let mut all = Series::default();
        let rounds = effort.rounds;
        let found = runtime.block_on(rounds_of(kind, rounds))?;
        for mut series in found {
            let [calm, busy] = [
                &mut series.neighbours_usual,
                &mut series.neighbours_meanwhile,
            ]
            .map(|series| p(series, 0.99));
            usual.push(calm);
            meanwhile.push(busy);
            ratio.push(busy / calm);
            back.push(p(&mut series.after_kill, 0.99));
            all.usual.append(&mut series.usual);
            all.after_kill.append(&mut series.after_kill);
        }
        let both =
            |series: &mut Vec<f64>| format!("{:.2} / {:.2}", p(series, 0.5), p(series, 0.99));
        section.row(&[
            &format!("{} {kind}s", all.after_kill.len()),
            &both(&mut all.usual),
            &both(&mut all.after_kill),
            &usual,
            &meanwhile,
            &ratio,
        ]);
        section.goal(
            &format!("a {kind} is back, p99 ms"),
            back,
            Bound::AtMost(100.0),
        );
        section.goal(
            &format!("neighbours' p99 while {kind}s are killed, against without"),
            ratio,
            Bound::AtMost(1.1),
        );
    }
    Ok(section)
}

/// Every round has its part of the victims: first they are asked, then killed and asked.
async fn rounds_of(kind: &'static str, rounds: usize) -> Result<Vec<Series>> {
    let clock = Arc::new(SystemClock::new(PolicyTime::default()));
    let grove = Grove::start(clock, Activity::default()).await?;
    let sink = Sink::on(grove.bind(MAIL_SERVER).await?)?;
    let village = Village::build(&grove).await?;
    for n in 0..VICTIMS {
        grove.neighbour(&site_of(n), MAIL_SERVER);
    }
    let neighbours = grove
        .tenant("neighbours", 1, u32::try_from(NEIGHBOURS)?, false)
        .await?;
    let mut found = Vec::new();
    for round in 0..rounds {
        let part = VICTIMS * round / rounds..VICTIMS * (round + 1) / rounds;
        let mut series = Series::default();
        let asking = Neighbours::begin(&grove, &neighbours);
        for n in part.clone() {
            series.usual.push(village.ask(kind, n, &grove).await?);
        }
        series.neighbours_usual = asking.end().await?;
        let asking = Neighbours::begin(&grove, &neighbours);
        for n in part {
            let took = village.kill_and_ask(kind, n, &grove).await;
            series
                .after_kill
                .push(took.with_context(|| format!("{kind} {n}"))?);
        }
        series.neighbours_meanwhile = asking.end().await?;
        found.push(series);
    }
    drop(sink);
    grove.end(Duration::from_secs(5)).await?;
    Ok(found)
}

// === impl Village ===

impl Village {
    async fn build(grove: &Grove) -> Result<Self> {
        let plan = SeedPlan {
            tenants: u32::try_from(VICTIMS)?,
            inboxes_of_tenant: 1,
            messages_of_inbox: 0,
            body_bytes: 0,
            at: grove.platform().ports().clock.policy(),
            wake_over: None,
        };
        let rng = SeededRng::new(1);
        let seeded = grove.store.seed(&plan, &rng as &dyn Rng).await?;
        let victims: Result<Vec<Inbox>, _> = seeded
            .inboxes
            .iter()
            .map(|key| grove.store.existing::<Inbox>(key))
            .collect();
        Ok(Self {
            platform: grove.platform().clone(),
            victims: Arc::new(victims?),
            writer: Arc::new(grove.tenant("writer", 1, 4, false).await?),
        })
    }

    /// Asks an actor once; milliseconds.
    async fn ask(&self, kind: &str, n: usize, grove: &Grove) -> Result<f64> {
        let begun = monotonic();
        self.question(kind, n, grove).await?;
        Ok(millis(since(begun)))
    }

    /// Kills an actor that somebody keeps busy, and asks it until it answers; milliseconds from the kill.
    async fn kill_and_ask(&self, kind: &'static str, n: usize, grove: &Grove) -> Result<f64> {
        self.question(kind, n, grove).await?;
        let busy = (kind != "site").then(|| {
            let (village, victim) = (self.clone(), self.victims[n].clone());
            tokio::spawn(async move {
                loop {
                    // Whatever it is answered: it is there to be in the way.
                    drop(village.plain(kind, &victim).await);
                }
            })
        });
        tokio::task::yield_now().await;
        let begun = monotonic();
        self.platform
            .kill(&self.address(kind, n)?, "a bench")
            .await?;
        let answered = timeout(PATIENCE, async {
            loop {
                match self.question(kind, n, grove).await {
                    Ok(()) => return Ok(()),
                    // The answer was lost with the actor: ask again.
                    Err(why) if matches!(why.downcast_ref(), Some(Refusal::Unknown { .. })) => {}
                    Err(why) => return Err(why),
                }
            }
        });
        answered.await.context("it does not come back")??;
        let took = millis(since(begun));
        if let Some(busy) = busy {
            busy.abort();
        }
        Ok(took)
    }

    async fn question(&self, kind: &str, n: usize, grove: &Grove) -> Result<()> {
        if kind == "site" {
            return self.deliver(n, grove).await;
        }
        Ok(self.plain(kind, &self.victims[n]).await?)
    }

    /// A question that costs its actor nothing but the answer; an inbox makes a durable change.
    async fn plain(&self, kind: &str, of: &Inbox) -> Result<(), Refusal> {
        match kind {
            "tenant" => self.platform.resume(of.tenant).await.map(drop),
            "inbox" => change(&self.platform, of.tenant, of).await,
            _ => match self.platform.remove_domain(of.tenant, of.domain).await {
                Err(Refusal::Conflict { .. }) => Ok(()),
                other => other,
            },
        }
    }

    /// Sends to a site and waits until it is there.
    async fn deliver(&self, n: usize, grove: &Grove) -> Result<()> {
        let mut events = grove.store.subscribe();
        let from = &self.writer.inboxes[n % self.writer.inboxes.len()];
        let letter = NewMessage {
            to: vec![EmailAddress::parse(&format!("anybody@{}", site_of(n)))?],
            subject: "A letter".to_owned(),
            text: "All is well.\n".to_owned(),
            html: None,
            in_reply_to: None,
            list_unsubscribe: None,
        };
        let sent = self
            .platform
            .send(self.writer.tenant, from.id, letter, None)
            .await?
            .value
            .id;
        let arrived = |logged: &LoggedEvent| matches!(logged.event.kind, EventKind::MessageDelivered { message, .. } if message == sent);
        let waited = timeout(PATIENCE, async {
            loop {
                match events.recv().await {
                    Ok(batch) if batch.iter().any(arrived) => return Ok(()),
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(why) => return Err(why),
                }
            }
        });
        Ok(waited.await.context("it does not arrive")??)
    }

    fn address(&self, kind: &str, n: usize) -> Result<String> {
        let of = &self.victims[n];
        Ok(match kind {
            "tenant" => format!("tenant/{}", of.tenant),
            "domain" => format!("domain/{}", of.domain),
            "inbox" => format!("inbox/{}", of.id),
            _ => {
                let sources = &self.platform.config().outbound.sources;
                let source = sources.first().context("there is a source")?;
                // Of one mail server a site has the name.
                format!("site/{}/{}", source.address, exchange_of(&site_of(n)))
            }
        })
    }
}

// === impl Neighbours ===

impl Neighbours {
    fn begin(grove: &Grove, of: &Grown) -> Self {
        let (stop, stopped) = watch::channel(false);
        let ask = |inbox: &Inbox| {
            let (platform, inbox, stopped) =
                (grove.platform().clone(), inbox.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut took = Vec::new();
                while !*stopped.borrow() {
                    let begun = monotonic();
                    change(&platform, inbox.tenant, &inbox).await?;
                    took.push(millis(since(begun)));
                }
                Ok(took)
            })
        };
        Self {
            asking: of.inboxes.iter().map(ask).collect(),
            stop,
        }
    }

    async fn end(self) -> Result<Vec<f64>> {
        self.stop.send_replace(true);
        let mut took = Vec::new();
        for asking in self.asking {
            took.append(&mut asking.await??);
        }
        ensure!(took.len() > 100, "only {} answers", took.len());
        Ok(took)
    }
}

// === free functions ===

/// A durable change of an inbox.
async fn change(platform: &Platform, tenant: TenantId, inbox: &Inbox) -> Result<(), Refusal> {
    let change = InboxChange {
        display_name: Some("Ada".to_owned()),
        ..InboxChange::default()
    };
    platform
        .change_inbox(tenant, inbox.id, change)
        .await
        .map(drop)
}

fn site_of(n: usize) -> String {
    format!("post{n}.test")
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

fn p(series: &mut [f64], share: f64) -> f64 {
    series.sort_by(f64::total_cmp);
    at_share(series, share)
}
