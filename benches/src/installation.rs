//! The daemon as a user runs it: its binary as a process of its own, with names and a mail server around it,
//! everything on loopback addresses and free ports.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use inboxgrove_model::ports::RecordData;
use inboxgrove_sim::dns::{Zones, address_record, server::NameServers};
use nix::{time::ClockId, unistd::Pid};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    http::{User, text},
    measure,
    sink::Sink,
};

const RESOLVER: IpAddr = loopback(77, 53);
const NAME_SERVER: IpAddr = loopback(77, 1);
const INBOUND: IpAddr = loopback(77, 25);
const SOURCE: IpAddr = loopback(77, 2);
const MAIL_SERVER: IpAddr = loopback(78, 1);
/// Everything that is waited for happens within this, also in a debug build on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long to leave the daemon alone between two questions.
const PAUSE: Duration = Duration::from_millis(10);

/// A running daemon and its surroundings. The daemon ends when this is dropped.
pub(crate) struct Installation {
    pub(crate) api: SocketAddr,
    daemon: Process,
    pub(crate) ground: Ground,
}

/// What a daemon stands on: its folder and settings, and names and a mail server around it.
pub(crate) struct Ground {
    pub(crate) sink: Sink,
    zones: Zones,
    _names: NameServers,
    folder: TempDir,
    settings: PathBuf,
    binary: PathBuf,
}

/// A tenant with a verified domain and inboxes on it.
pub(crate) struct Tenant {
    pub(crate) user: User,
    /// Their ids.
    pub(crate) inboxes: Vec<String>,
}

/// A child process, killed and waited for when this is dropped.
pub(crate) struct Process {
    child: Child,
}

// === impl Ground ===

impl Ground {
    /// Builds the daemon if need be, and all that it needs to start.
    pub(crate) async fn prepare() -> Result<Self> {
        let folder = beside_the_binary()?;
        let zones = zones();
        let names = NameServers::start(&zones, &[RESOLVER, NAME_SERVER], 0).await?;
        let sink = Sink::start(SocketAddr::new(MAIL_SERVER, 0)).await?;
        let settings = folder.path().join("inboxgrove.toml");
        fs::write(
            &settings,
            configuration(folder.path(), names.port(), sink.address.port()),
        )?;
        Ok(Self {
            sink,
            zones,
            _names: names,
            folder,
            settings,
            binary: built()?,
        })
    }

    /// Where the daemon keeps its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts the daemon.
    pub(crate) async fn serve(self) -> Result<Installation> {
        let mut daemon = self.start()?;
        let api = self.until_ready(&mut daemon).await?;
        Ok(Installation {
            api,
            daemon,
            ground: self,
        })
    }

    fn start(&self) -> Result<Process> {
        // Where an earlier one listened is of no interest.
        if self.addresses().exists() {
            fs::remove_file(self.addresses())?;
        }
        let log = File::create(self.folder.path().join("daemon.log"))?;
        let mut command = Command::new(&self.binary);
        command
            .args(["serve", "--config"])
            .arg(&self.settings)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // What a service manager set for this process is not meant for the daemon.
        for name in [
            "STATE_DIRECTORY",
            "CREDENTIALS_DIRECTORY",
            "NOTIFY_SOCKET",
            "LISTEN_FDS",
            "LISTEN_PID",
        ] {
            command.env_remove(name);
        }
        Process::start(&mut command)
    }

    fn addresses(&self) -> PathBuf {
        self.data().join("addresses.json")
    }

    async fn until_ready(&self, daemon: &mut Process) -> Result<SocketAddr> {
        until_ready(&self.addresses(), daemon)
            .await
            .with_context(|| tail(self.folder.path()))
    }

    /// Domains of others, each with a mail exchanger of its own name: as many sites, all of them the sink.
    pub(crate) fn neighbours(&self, count: usize) -> Vec<String> {
        (0..count)
            .map(|number| {
                let domain = format!("post{number}.test");
                self.zone(&domain);
                let exchange = format!("mail.{domain}");
                self.zones.add(&exchange, address_record(MAIL_SERVER));
                self.zones.add(
                    &domain,
                    RecordData::Mx {
                        preference: 10,
                        exchange,
                    },
                );
                domain
            })
            .collect()
    }

    fn zone(&self, domain: &str) {
        self.zones.zone(domain, &[("ns.grove.test", NAME_SERVER)]);
    }

    /// Publishes the records that the answer lists.
    fn publish(&self, domain: &Value) -> Result<()> {
        let records = domain["records"]
            .as_array()
            .context("the records to publish are listed")?;
        for record in records {
            let (name, value) = (text(record, "name")?, text(record, "value")?);
            let data = match text(record, "type")?.as_str() {
                "TXT" => RecordData::Txt(value),
                "CNAME" => RecordData::Cname(value),
                "MX" => {
                    let (preference, exchange) =
                        value.split_once(' ').context("an MX has a preference")?;
                    RecordData::Mx {
                        preference: preference.parse()?,
                        exchange: exchange.to_owned(),
                    }
                }
                // What concerns the host's own addresses is there already.
                _ => continue,
            };
            self.zones.add(&name, data);
        }
        Ok(())
    }
}

// === impl Installation ===

impl Installation {
    /// Builds the daemon if need be, and starts it.
    pub(crate) async fn start() -> Result<Self> {
        Ground::prepare().await?.serve().await
    }

    /// Kills the daemon and starts it anew.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.daemon.kill();
        self.daemon = self.ground.start()?;
        self.api = self.ground.until_ready(&mut self.daemon).await?;
        Ok(())
    }

    /// The daemon's process.
    pub(crate) fn daemon(&self) -> &Process {
        &self.daemon
    }

    /// CPU time that the daemon has spent since it started.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.daemon.cpu()
    }

    /// The last lines of the daemon's log, for an error.
    pub(crate) fn log_tail(&self) -> String {
        tail(self.ground.folder.path())
    }

    /// Registers a tenant, as a program of theirs would: over the API alone, and by publishing its records.
    pub(crate) async fn tenant(&self, name: &str, inboxes: u32) -> Result<Tenant> {
        let mut user = User::nobody(self.api).await?;
        let account = json!({ "company_name": name, "company_email": format!("owner@{name}.example"),
            "password": format!("the long password of {name}") });
        let answer = user
            .call("POST", "/api/v1/auth/register", Some(&account))
            .await?;
        user.token = text(&answer, "access_token")?;
        let domain = format!("{name}.test");
        self.ground.zone(&domain);
        let added = user
            .call("POST", "/api/v1/domains", Some(&json!({ "name": domain })))
            .await?;
        self.ground.publish(&added)?;
        let id = text(&added, "id")?;
        let verify = format!("/api/v1/domains/{id}/verify");
        until("the domain to be active", async || {
            let domain = user.call("POST", &verify, Some(&json!({}))).await?;
            Ok((domain["status"] == "active").then_some(()))
        })
        .await?;
        let wanted = json!({ "domain_id": id, "count": inboxes, "naming": "numbered", "start_warmup": false, "time_zone": "UTC" });
        let job = text(
            &user
                .call("POST", "/api/v1/infrastructure/provision", Some(&wanted))
                .await?,
            "id",
        )?;
        let path = format!("/api/v1/jobs/{job}");
        until("the inboxes", async || {
            let job = user.call("GET", &path, None).await?;
            ensure!(job["state"] != "failed", "the job failed: {job}");
            Ok((job["state"] == "done").then_some(()))
        })
        .await?;
        let path = format!("/api/v1/infrastructure/inboxes?domain_id={id}&limit=500");
        let list = user.call("GET", &path, None).await?;
        let items = list["items"].as_array().context("a list has items")?;
        let inboxes = items
            .iter()
            .map(|inbox| text(inbox, "id"))
            .collect::<Result<_>>()?;
        Ok(Tenant { user, inboxes })
    }
}

// === impl Process ===

impl Process {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_owned();
        let child = command
            .spawn()
            .with_context(|| format!("{} does not start", program.display()))?;
        Ok(Self { child })
    }

    /// What it writes, when that was asked for.
    pub(crate) fn output(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// CPU time that it has spent since it started, all threads.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let clock = ClockId::pid_cpu_clock_id(self.pid()?).context("the process has a clock")?;
        measure::read(clock).context("the process has ended")
    }

    /// Memory that is its own, in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
        let kib: u64 = kib.with_context(|| path.clone())?.trim().parse()?;
        Ok(kib * 1024)
    }

    /// Kills it and waits until it is gone.
    fn kill(&mut self) {
        // It may have ended by itself; then there is nobody to end and nothing to wait for.
        self.child.kill().unwrap_or_default();
        drop(self.child.wait());
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

// === free functions ===

const fn loopback(net: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, net, host))
}

/// A folder on the disk that the binary lies on: a temporary one may lie in memory, where a sync costs nothing.
pub(crate) fn beside_the_binary() -> Result<TempDir> {
    let binary = std::env::current_exe().context("a program knows where it is")?;
    let beside = binary.parent().context("a program lies in a folder")?;
    tempfile::tempdir_in(beside).context("a folder for the files")
}

/// The daemon's binary, of the same profile as this one.
fn built() -> Result<PathBuf> {
    let mut command = Command::new("cargo");
    command
        .args([
            "build",
            "--quiet",
            "-p",
            "inboxgrove",
            "--bin",
            "inboxgrove",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.status().context("cargo does not start")?;
    ensure!(status.success(), "the daemon cannot be built");
    let own = std::env::current_exe().context("a program knows where it is")?;
    let binary = own.with_file_name("inboxgrove");
    ensure!(binary.is_file(), "{} is not there", binary.display());
    Ok(binary)
}

async fn until_ready(addresses: &Path, daemon: &mut Process) -> Result<SocketAddr> {
    until("the daemon to be ready", async || {
        if let Some(status) = daemon.child.try_wait()? {
            bail!("it has ended: {status}");
        }
        // Half a file is one that is still being written.
        let Some(bound) = fs::read(addresses)
            .ok()
            .and_then(|text| serde_json::from_slice::<Value>(&text).ok())
        else {
            return Ok(None);
        };
        let api = text(&bound, "api")?;
        let api: SocketAddr = api
            .trim_start_matches("http://")
            .parse()
            .with_context(|| format!("no address: {api}"))?;
        let Ok(mut nobody) = User::nobody(api).await else {
            return Ok(None);
        };
        Ok(nobody
            .call("GET", "/health/ready", None)
            .await
            .is_ok()
            .then_some(api))
    })
    .await
}

/// Asks until there is an answer. An error of the question ends it at once.
async fn until<T>(what: &str, mut question: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = question()
            .await
            .with_context(|| format!("while waiting for {what}"))?
        {
            return Ok(answer);
        }
        ensure!(Instant::now() < deadline, "waited too long for {what}");
        sleep(PAUSE).await;
    }
}

fn tail(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("daemon.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// The names of the installation's own hosts.
fn zones() -> Zones {
    let zones = Zones::new();
    let servers = [("ns.grove.test", NAME_SERVER)];
    zones.zone("grove.test", &servers);
    zones.zone("127.in-addr.arpa", &servers);
    zones.add("mx.grove.test", address_record(INBOUND));
    zones.add("out.grove.test", address_record(SOURCE));
    let spf = RecordData::Txt(format!("v=spf1 ip4:{SOURCE} -all"));
    zones.add("out.grove.test", spf.clone());
    zones.add("_spf.grove.test", spf);
    zones.name_address(SOURCE, "out.grove.test");
    zones.name_address(INBOUND, "mx.grove.test");
    zones
}

/// The defaults, but for what would measure the limits and not the work: caps, rates, plan.
fn configuration(folder: &Path, dns_port: u16, mx_port: u16) -> String {
    let data = folder.join("data");
    let admin = folder.join("admin.sock");
    let (data, admin) = (data.display(), admin.display());
    format!(
        r#"[server]
data_dir = "{data}"
hostname = "mx.grove.test"

[log]
level = "warn"

[api]
listen = "127.0.0.1:0"
admin_socket = "{admin}"

[api.limits]
connections = 10000
requests_per_minute = 1000000
logins_per_minute = 10000

[inbound]
listen = "{INBOUND}:0"
hostname = "mx.grove.test"

[outbound]
mx_port = {mx_port}
sources = [{{ address = "{SOURCE}", ehlo_name = "out.grove.test", weight = 1 }}]

[outbound.caps]
global_per_hour = 100000000
global_per_day = 100000000
source_per_hour = 100000000
source_per_day = 100000000
source_site_per_hour = 100000000
source_site_per_day = 100000000

[outbound.concurrency]
connections = 1000
connections_per_site = 5
queue_messages = 100000

[dns]
servers = ["{RESOLVER}"]
port = {dns_port}

[network]
allow_private = true

[accounts]
registration = "open"
default_plan = "bench"
access_token_minutes = 600

[[plan]]
key = "bench"
name = "Bench"

[plan.limits]
domains = 1000
inboxes = 100000
inbox_per_hour = 100000000
inbox_per_day = 100000000
domain_per_hour = 100000000
domain_per_day = 100000000
tenant_per_hour = 100000000
tenant_per_day = 100000000
"#
    )
}
