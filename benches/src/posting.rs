//! A POST of a message over the daemon's HTTP server: when the answer comes it is on the disk. Mail goes out meanwhile,
//! on the same cores, as it does for a user.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::{runtime::Runtime, time::timeout};

use crate::{
    Effort,
    http::Connection,
    installation::{Installation, Tenant},
    measure::{Samples, at_share, count, monotonic, since},
    reading::{CONNECTIONS, connect},
    report::Section,
};

/// Inboxes that are written to, in turn.
const INBOXES: u32 = 100;
/// Destinations: the pace to one of them must not fill the queue.
const SITES: usize = 500;
/// After a round the queue is emptied; a round of one second leaves some thousand messages.
const PATIENCE: Duration = Duration::from_mins(3);
/// Messages that a connection sends in turn, each to another destination.
const VARIANTS: usize = 16;
/// The text of a message.
const TEXT_BYTES: usize = 2400;

/// Samples of all rounds.
#[derive(Default)]
struct Series {
    per_second: Samples,
    p50_ms: Samples,
    p95_ms: Samples,
    p99_ms: Samples,
}

/// Runs the bench.
pub(crate) fn run(effort: Effort) -> Result<Section> {
    let runtime = Runtime::new().context("a runtime can be started")?;
    let (installation, tenant, domains) = runtime.block_on(start())?;
    let about = format!(
        "`POST …/messages` of {TEXT_BYTES} bytes of text from {INBOXES} inboxes to {SITES} destinations over kept connections, each \
         with one request at a time: gates, budgets and one durable commit, then the 202. The daemon signs and delivers what it \
         has taken at the same time and on the same cores as the clients; before the next round everything is delivered."
    );
    let header = ["connections", "requests/s", "p50 ms", "p95 ms", "p99 ms"];
    let mut section = Section::new("Durable POST", &about, &header);
    for connections in CONNECTIONS {
        let mut series = Series::default();
        for _ in 0..effort.rounds {
            let requests = requests(&tenant, &domains, connections);
            let before = installation.ground.sink.taken();
            let asked = round(&installation, connections, requests, effort.sample);
            let (took, mut waits) = runtime.block_on(asked)?;
            waits.sort_by(f64::total_cmp);
            series.per_second.push(count(waits.len()) / took);
            series.p50_ms.push(at_share(&waits, 0.5));
            series.p95_ms.push(at_share(&waits, 0.95));
            series.p99_ms.push(at_share(&waits, 0.99));
            let taken = installation.ground.sink.until_taken(before + waits.len());
            runtime
                .block_on(async { timeout(PATIENCE, taken).await })
                .with_context(|| format!("mail is left; {}", installation.log_tail()))??;
        }
        section.row(&[
            &connections,
            &series.per_second,
            &series.p50_ms,
            &series.p95_ms,
            &series.p99_ms,
        ]);
    }
    Ok(section)
}

async fn start() -> Result<(Installation, Tenant, Vec<String>)> {
    let installation = Installation::start().await?;
    let domains = installation.ground.neighbours(SITES);
    let tenant = installation.tenant("poster", INBOXES).await?;
    Ok((installation, tenant, domains))
}

/// For each connection its requests.
fn requests(tenant: &Tenant, domains: &[String], connections: usize) -> Vec<Vec<Vec<u8>>> {
    let line = "The engine has no pretensions whatever to originate anything.\n";
    let text = line.repeat(TEXT_BYTES / line.len());
    let mut domains = domains.iter().cycle();
    let inboxes = tenant.inboxes.iter().cycle().take(connections);
    inboxes
        .map(|inbox| {
            let path = format!("/api/v1/inboxes/{inbox}/messages");
            let request = |domain: &String| {
                let to = [format!("user@{domain}")];
                let message = json!({ "to": to, "subject": "Notes on the engine", "text": text });
                tenant.user.request("POST", &path, &message.to_string())
            };
            domains.by_ref().take(VARIANTS).map(request).collect()
        })
        .collect()
}

/// All connections at once; how long the round took in seconds, and each answer in milliseconds.
async fn round(
    installation: &Installation,
    connections: usize,
    requests: Vec<Vec<Vec<u8>>>,
    sample: Duration,
) -> Result<(f64, Vec<f64>)> {
    let open = connect(connections, installation.api).await?;
    let began = monotonic();
    let tasks: Vec<_> = open
        .into_iter()
        .zip(requests)
        .map(|(connection, requests)| tokio::spawn(post(connection, requests, began, sample)))
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.context("a client panicked")??);
    }
    Ok((since(began).as_secs_f64(), waits))
}

async fn post(
    mut connection: Connection,
    requests: Vec<Vec<u8>>,
    began: Duration,
    sample: Duration,
) -> Result<Vec<f64>> {
    let mut waits = Vec::new();
    for request in requests.iter().cycle() {
        if since(began) >= sample {
            break;
        }
        let asked = monotonic();
        let answer = connection.exchange(request).await?;
        let said = || String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(answer.status == 202, "{} {}", answer.status, said());
        waits.push(since(asked).as_secs_f64() * 1e3);
    }
    Ok(waits)
}
