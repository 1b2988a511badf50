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
pub(crate) const CONNECTIONS: [usize; 2] = [64, 1000];
/// Tenants that ask, in turn: no one of them may meet the limit of requests.
const TENANTS: usize = 4;

/// Connections from one address; the daemon refuses more than 128.
const CONNECTIONS_PER_CLIENT: usize = 64;

/// A process that answers.
struct Responder {
    process: Process,
    at: SocketAddr,
}

/// Something that answers, and what it is asked.
struct Target {
    name: &'static str,
    server: Server,
    /// Connections take them in turn.
    requests: Vec<Vec<u8>>,
}

/// Whose CPU a request costs.
#[derive(Debug, Clone, Copy)]
enum Server {
    Raw,
    Hyper,
    Daemon,
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
    raw: Responder,
    hyper: Responder,
    /// From the one that does least to the one that does all.
    targets: [Target; 4],
}

/// Runs the bench.
pub(crate) fn run(effort: Effort) -> Result<Section> {
    let runtime = Runtime::new().context("a runtime can be started")?;
    let servers = runtime.block_on(start())?;
    let mut section = section();
    for connections in CONNECTIONS {
        let mut series: [Series; 4] = Default::default();
        for _ in 0..effort.rounds {
            for (target, series) in servers.targets.iter().zip(&mut series) {
                runtime.block_on(servers.sample(target, connections, effort.sample, series))?;
            }
        }
        let [_raw, hyper, _live, inbox] = &series;
        for (target, found) in servers.targets.iter().zip(&series) {
            section.row(&[
                &connections,
                &target.name,
                &found.per_second,
                &found.per_second.over(&hyper.per_second),
                &found.p99_ms,
                &found.cpu_us,
            ]);
        }
        let what = format!("P13, GET inbox against bare hyper at {connections} connections");
        let ratio = inbox.per_second.over(&hyper.per_second);
        section.goal(&what, ratio, Bound::AtLeast(0.5));
    }
    Ok(section)
}

fn section() -> Section {
    let about = format!(
        "Kept connections, each with one request at a time, the client on the same cores. `bare hyper` is a process with the \
         daemon's runtime and hyper's HTTP/1 server that answers a JSON text of the same length; `raw tokio` reads a request's \
         head and writes prepared bytes: less than any HTTP server can do. `/health/live` is the daemon with a route that does \
         nothing: what its router and its edge cost. `GET inbox` checks the access token, the session, its user and the rate \
         limits of one of {TENANTS} tenants and reads, unseals and renders the row. CPU is the server's process alone."
    );
    let header = [
        "connections",
        "",
        "requests/s",
        "ratio to hyper",
        "p99 ms",
        "CPU µs a request",
    ];
    Section::new("Authenticated GET", &about, &header)
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
    let nobody = User::nobody(installation.api).await?;
    let live = vec![nobody.request("GET", "/health/live", "")];
    let target = |name, server, requests| Target {
        name,
        server,
        requests,
    };
    let targets = [
        target("raw tokio", Server::Raw, requests.clone()),
        target("bare hyper", Server::Hyper, requests.clone()),
        target("`/health/live`", Server::Daemon, live),
        target("`GET inbox`", Server::Daemon, requests),
    ];
    Ok(Servers {
        installation,
        raw: Responder::start("raw", body_len)?,
        hyper: Responder::start("hyper", body_len)?,
        targets,
    })
}

// === impl Responder ===

impl Responder {
    fn start(kind: &str, body_len: usize) -> Result<Self> {
        let own = std::env::current_exe().context("a program knows where it is")?;
        let mut command = Command::new(own);
        command
            .args(["--respond", kind, &body_len.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = Process::start(&mut command)?;
        let output = process.output().context("its output was asked for")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let at = line
            .trim()
            .parse()
            .with_context(|| format!("no address: {line:?}"))?;
        Ok(Self { process, at })
    }
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
        let (process, at) = match target.server {
            Server::Raw => (&self.raw.process, self.raw.at),
            Server::Hyper => (&self.hyper.process, self.hyper.at),
            Server::Daemon => (self.installation.daemon(), self.installation.api),
        };
        let open = connect(connections, at).await?;
        let (cpu_before, began) = (process.cpu()?, monotonic());
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
        let cpu = process.cpu()?.saturating_sub(cpu_before);
        waits.sort_by(f64::total_cmp);
        let answers = count(waits.len());
        series.per_second.push(answers / took);
        series.p99_ms.push(at_share(&waits, 0.99));
        series.cpu_us.push(cpu.as_secs_f64() * 1e6 / answers);
        Ok(())
    }
}

// === free functions ===

/// So many connections, from as many addresses as the daemon wants: it takes only so many from one.
pub(crate) async fn connect(connections: usize, to: SocketAddr) -> Result<Vec<Connection>> {
    let mut open = Vec::with_capacity(connections);
    for number in 0..connections {
        let host = u8::try_from(1 + number / CONNECTIONS_PER_CLIENT)?;
        open.push(Connection::open(Ipv4Addr::new(127, 0, 79, host), to).await?);
    }
    Ok(open)
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
