//! The daemon itself, as the binary that users run: its settings in a file, its addresses learnt from the file it writes.

use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::time::Instant;

use crate::{client::Api, process::Running, programs, wait::eventually_every};

/// Ready within this time after any crash of a test's size; the promise is 2 s, a loaded machine is slower.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// A file is looked for, at no cost: the laboratory starts the daemon thousands of times.
const READY_LOOK_EVERY: Duration = Duration::from_millis(5);
/// The promise of the unit file: a drain ends within 25 s.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(25);
/// Where the daemon writes what it has bound, in its data folder.
const ADDRESSES: &str = "addresses.json";

/// The plan of most tests: no limit of it stands in the way of another.
pub const ROOMY: &str = "roomy";
const ROOMY_PLAN: &str = r#"
[[plan]]
key = "roomy"
name = "Roomy"
trial_days = 30

[plan.limits]
domains = 1000
inboxes = 100000
inbox_per_hour = 100000
inbox_per_day = 100000
domain_per_hour = 1000000
domain_per_day = 1000000
tenant_per_hour = 1000000
tenant_per_day = 1000000
"#;

/// What a test sets.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where its data lies.
    pub data: PathBuf,
    /// Where its settings, its log and its admin socket lie.
    pub scratch: PathBuf,
    /// Where it takes mail in.
    pub inbound: SocketAddr,
    /// What its mail leaves from.
    pub source: IpAddr,
    /// The port of all mail servers of the story.
    pub mx_port: u16,
    /// The name server it asks.
    pub name_server: SocketAddr,
    /// Least free space; the disks of the laboratory are small.
    pub free_floor_bytes: u64,
    /// The plan of new accounts: [`ROOMY`], or one of the defaults.
    pub plan: &'static str,
    /// More lines for the file, whole sections.
    pub more: String,
    /// Its environment: nothing of the test's own reaches it.
    pub env: Vec<(&'static str, OsString)>,
}

/// What the daemon has bound, as it tells in its data folder.
#[derive(Debug, Clone, Deserialize)]
pub struct Bound {
    /// The API, `host:port` or a URL.
    pub api: String,
    /// Port 25's stand-in, `host:port`.
    pub smtp: Option<String>,
    /// The admin socket's path.
    pub admin: Option<String>,
    /// How long we waited for it.
    #[serde(skip)]
    pub waited: Duration,
}

/// A daemon that runs.
#[derive(Debug)]
pub struct Daemon {
    settings: Settings,
    running: Running,
    bound: Bound,
}

impl Daemon {
    /// Starts it and waits until it is ready.
    pub async fn start(settings: Settings) -> Result<Self> {
        let mut running = spawn(&settings)?;
        let bound = ready(&settings, &mut running).await?;
        Ok(Self {
            settings,
            running,
            bound,
        })
    }

    /// What it was told.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its API.
    pub fn api(&self) -> Result<Api> {
        Api::new(&self.bound.api)
    }

    /// Where it takes mail in.
    pub fn smtp(&self) -> Result<SocketAddr> {
        let smtp = self
            .bound
            .smtp
            .as_deref()
            .context("the daemon takes no mail in")?;
        smtp.parse().with_context(|| format!("no address: {smtp}"))
    }

    /// How long its last start took, until it had bound its addresses.
    pub fn start_took(&self) -> Duration {
        self.bound.waited
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.running.output()
    }

    /// The last lines of its log, for an error.
    pub fn log_tail(&self) -> String {
        self.running.tail()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// Runs `inboxgrove admin …` against it.
    pub fn admin(&self, words: &[&str]) -> Result<String> {
        self.command(&[&["admin"], words].concat())
    }

    /// Runs a command with its settings; what it printed.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        command(&self.settings, words)
    }

    /// Asks it to stop and waits for the end of its drain.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.running.terminate(DRAIN_WITHIN).await
    }

    /// Waits until it has ended by itself.
    pub async fn exit(&mut self, within: Duration) -> Result<ExitStatus> {
        self.running.exit(within).await
    }

    /// Kills it.
    pub fn kill(&mut self) -> Result<()> {
        self.running.kill()
    }

    /// Starts it again on the same data, after a stop or a kill.
    pub async fn start_again(&mut self) -> Result<()> {
        self.running = spawn(&self.settings)?;
        self.bound = ready(&self.settings, &mut self.running).await?;
        Ok(())
    }
}

/// Runs a command with the settings of a daemon, which may run; what it printed.
pub fn command(settings: &Settings, words: &[&str]) -> Result<String> {
    let output = Command::new(programs::inboxgrove()?)
        .env_clear()
        .arg("--config")
        .arg(config_path(settings))
        .args(words)
        .output()?;
    let (said, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "inboxgrove {words:?}: {} {said} {complained}",
        output.status
    );
    Ok(said.into_owned())
}

/// Starts the binary on these settings, ready or not.
pub fn spawn(settings: &Settings) -> Result<Running> {
    let config = write_config(settings)?;
    forget_addresses(settings)?;
    let mut command = Command::new(programs::inboxgrove()?);
    // What the machine of the test sets must not reach the daemon.
    command
        .env_clear()
        .envs(settings.env.iter().cloned())
        .args(["serve", "--config"])
        .arg(&config)
        .current_dir(&settings.scratch);
    Running::start(
        "inboxgrove",
        &mut command,
        &settings.scratch.join("daemon.log"),
        Signal::SIGKILL,
    )
}

/// Waits until a daemon that was spawned is ready.
pub async fn ready(settings: &Settings, running: &mut Running) -> Result<Bound> {
    let from = Instant::now();
    let mut api = None;
    let found = eventually_every(
        READY_LOOK_EVERY,
        "the daemon to be ready",
        READY_WITHIN,
        async || {
            if let Some(status) = running.ended()? {
                bail!("the daemon has ended: {status}");
            }
            if api.is_none() {
                let Some(mut bound) = read_addresses(settings) else {
                    return Ok(None);
                };
                bound.waited = from.elapsed();
                api = Some((Api::new(&bound.api)?, bound));
            }
            let Some((api, bound)) = &api else {
                return Ok(None);
            };
            let answer = api.get("/health/ready").await;
            let is_ready = answer.is_ok_and(|answer| answer.status.is_success());
            Ok(is_ready.then(|| bound.clone()))
        },
    )
    .await;
    found.with_context(|| running.tail())
}

/// Whether a daemon that was spawned has bound its addresses: it is ready, or will be in a moment.
pub fn has_bound(settings: &Settings) -> bool {
    read_addresses(settings).is_some()
}

/// Writes the settings file of a daemon that somebody else will start; its path.
pub fn write_config(settings: &Settings) -> Result<PathBuf> {
    let path = config_path(settings);
    fs::write(&path, configuration(settings)).with_context(|| format!("{}", path.display()))?;
    Ok(path)
}

fn config_path(settings: &Settings) -> PathBuf {
    settings.scratch.join("inboxgrove.toml")
}

fn read_addresses(settings: &Settings) -> Option<Bound> {
    let text = fs::read(settings.data.join(ADDRESSES)).ok()?;
    // Half a file is one that is still being written.
    serde_json::from_slice(&text).ok()
}

/// Those of the run before would be believed.
pub(crate) fn forget_addresses(settings: &Settings) -> Result<()> {
    let path = settings.data.join(ADDRESSES);
    match fs::remove_file(&path) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
            Err(why).with_context(|| format!("{}", path.display()))
        }
        _ => Ok(()),
    }
}

fn configuration(settings: &Settings) -> String {
    format!(
        r#"[server]
data_dir = "{data}"
hostname = "mx.grove.test"

[api]
listen = "127.0.0.1:0"
admin_socket = "{admin}"

[inbound]
listen = "{inbound}"
hostname = "mx.grove.test"

[outbound]
mx_port = {mx_port}
sources = [{{ address = "{source}", ehlo_name = "out.grove.test", weight = 1 }}]

[dns]
servers = ["{dns_ip}"]
port = {dns_port}

[network]
allow_private = true

[store]
free_floor_bytes = {floor}

[accounts]
registration = "open"
default_plan = "{plan}"
access_token_minutes = 600

{plans}
{more}
"#,
        data = settings.data.display(),
        admin = admin_socket(&settings.scratch).display(),
        inbound = settings.inbound,
        source = settings.source,
        mx_port = settings.mx_port,
        dns_ip = settings.name_server.ip(),
        dns_port = settings.name_server.port(),
        floor = settings.free_floor_bytes,
        plan = settings.plan,
        // With a plan of its own a daemon has none of the defaults.
        plans = if settings.plan == ROOMY {
            ROOMY_PLAN
        } else {
            ""
        },
        more = settings.more,
    )
}

fn admin_socket(scratch: &Path) -> PathBuf {
    scratch.join("admin.sock")
}
