//! An authenticated GET of an inbox over the daemon's HTTP server, against servers that do less.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::runtime::Runtime;

use crate::{
    Effort,
    http::{Connection, User},
    installation::{Installation, Process},
    measure::{Samples, at_share, count, monotonic, since},
    report::{Bound, Section},
};

/// Kept connections, each with one request at a time.
const CONNECTIONS: [usize; 2] = [64, 512];
/// Tenants that ask, in turn: no one of them may meet the limit of requests.
const TENANTS: usize = 4;

/// Connections from one address; the daemon refuses more than 128.
const CONNECTIONS_PER_CLIENT: usize = 64;

/// Something that answers, and what it is asked.
struct Target {
    name: &'static str,
    at: SocketAddr,
    /// Connections take them in turn.
    requests: Vec<Vec<u8>>,
}

/// Samples of all rounds.
#[derive(Default)]
struct Series {
    per_second: Samples,
    p99_ms: Samples,
    cpu_us: Samples,
}

/// The servers that are measured.
struct Servers {
    installation: Installation,
    responder: Process,
    /// The raw responder, the daemon without its work, the daemon.
    targets: [Target; 3],
}

/// Runs the bench.
pub(crate) fn run(effort: Effort) -> Result<Section> {
    let runtime = Runtime::new().context("a runtime can be started")?;
    let servers = runtime.block_on(start())?;
    let about = format!(
        "Kept connections, each with one request at a time, the client on the same cores. `raw tokio` is a process that reads a \
         request's head and writes a prepared answer of the same length: less than any HTTP server can do. `/health/live` is the \
         daemon's own hyper server with a route that does nothing: what hyper, the router and the edge cost. `GET inbox` checks \
         the access token and the rate limit of one of {TENANTS} tenants and reads the row. CPU is the server's process alone."
    );
    let header = [
        "connections",
        "",
        "requests/s",
        "ratio to raw",
        "p99 ms",
        "CPU µs a request",
    ];
    let mut section = Section::new("Authenticated GET", &about, &header);
    for connections in CONNECTIONS {
        let mut series = [Series::default(), Series::default(), Series::default()];
        for _ in 0..effort.rounds {
            for (target, series) in servers.targets.iter().zip(&mut series) {
                runtime.block_on(servers.sample(target, connections, effort.sample, series))?;
            }
        }
        let [raw, live, inbox] = &series;
        for (target, found) in servers.targets.iter().zip(&series) {
            let rates = found.per_second.over(&raw.per_second);
            section.row(&[
                &connections,
                &target.name,
                &found.per_second,
                &rates,
                &found.p99_ms,
                &found.cpu_us,
            ]);
        }
        let what = format!("P13, GET inbox against the bare route at {connections} connections");
        section.goal(
            &what,
            inbox.per_second.over(&live.per_second),
            Bound::AtLeast(0.5),
        );
    }
    Ok(section)
}

async fn start() -> Result<Servers> {
    let installation = Installation::start().await?;
    let mut requests = Vec::new();
    let mut body_len = 0;
    for number in 0..TENANTS {
        let mut tenant = installation.tenant(&format!("reader{number}"), 1).await?;
        let inbox = tenant.inboxes.first().context("an inbox was made")?;
        let path = format!("/api/v1/infrastructure/inboxes/{inbox}");
        body_len = tenant
            .user
            .call("GET", &path, None)
            .await?
            .to_string()
            .len();
        requests.push(tenant.user.request("GET", &path, ""));
    }
    let (responder, raw) = start_responder(body_len)?;
    let nobody = User::nobody(installation.api).await?;
    let target = |name, at, requests| Target { name, at, requests };
    let targets = [
        target("raw tokio", raw, requests.clone()),
        target(
            "`/health/live`",
            installation.api,
            vec![nobody.request("GET", "/health/live", "")],
        ),
        target("`GET inbox`", installation.api, requests),
    ];
    Ok(Servers {
        installation,
        responder,
        targets,
    })
}

fn start_responder(body_len: usize) -> Result<(Process, SocketAddr)> {
    let own = std::env::current_exe().context("a program knows where it is")?;
    let mut command = Command::new(own);
    command
        .args(["--respond", &body_len.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut responder = Process::start(&mut command)?;
    let output = responder.output().context("its output was asked for")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let at = line
        .trim()
        .parse()
        .with_context(|| format!("no address: {line:?}"))?;
    Ok((responder, at))
}

// === impl Servers ===

impl Servers {
    async fn sample(
        &self,
        target: &Target,
        connections: usize,
        sample: Duration,
        series: &mut Series,
    ) -> Result<()> {
        let mut open = Vec::with_capacity(connections);
        for number in 0..connections {
            open.push(Connection::open(client_address(number)?, target.at).await?);
        }
        let (cpu_before, began) = (self.cpu(target)?, monotonic());
        let tasks: Vec<_> = open
            .into_iter()
            .zip(target.requests.iter().cycle().cloned())
            .map(|(connection, request)| tokio::spawn(ask(connection, request, began, sample)))
            .collect();
        let mut waits = Vec::new();
        for task in tasks {
            waits.extend(task.await.context("a client panicked")??);
        }
        let took = since(began).as_secs_f64();
        let cpu = self.cpu(target)?.saturating_sub(cpu_before);
        waits.sort_by(f64::total_cmp);
        let answers = count(waits.len());
        series.per_second.push(answers / took);
        series.p99_ms.push(at_share(&waits, 0.99));
        series.cpu_us.push(cpu.as_secs_f64() * 1e6 / answers);
        Ok(())
    }

    fn cpu(&self, target: &Target) -> Result<Duration> {
        if target.at == self.installation.api {
            self.installation.cpu()
        } else {
            self.responder.cpu()
        }
    }
}

/// Where a connection comes from: the daemon takes only so many from one address.
fn client_address(number: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::new(
        127,
        0,
        79,
        u8::try_from(1 + number / CONNECTIONS_PER_CLIENT)?,
    ))
}

/// Asks again and again; how long each answer took, in milliseconds.
async fn ask(
    mut connection: Connection,
    request: Vec<u8>,
    began: Duration,
    sample: Duration,
) -> Result<Vec<f64>> {
    let mut waits = Vec::new();
    while since(began) < sample {
        let asked = monotonic();
        let answer = connection.exchange(&request).await?;
        let said = || String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(answer.status == 200, "{} {}", answer.status, said());
        waits.push(since(asked).as_secs_f64() * 1e3);
    }
    Ok(waits)
}
