//! A customer with a proven domain and an inbox, in data that lie still: what trials begin with that want a daemon at
//! work within a second. The world outside (names, a mail server that takes everything) is there as long as this is.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    addresses::Addresses,
    client::{Account, Api, Domain, Inbox},
    daemon::{Daemon, ROOMY, Settings},
    name_server::NameServer,
    sink::Sink,
    world,
};

/// Whom the customer writes to, and who writes back.
pub const STRANGER: &str = "anna@post.test";

/// Limits that no test of faults is about.
const SETTINGS: &str = r"
[api.limits]
requests_per_minute = 1000000
logins_per_minute = 10000
";

/// The data and the world.
#[derive(Debug)]
pub struct Prepared {
    /// The customer; its token holds for hours.
    pub customer: Account,
    /// Its domain.
    pub domain: Domain,
    /// Its inbox.
    pub inbox: Inbox,
    /// Where everything is.
    pub addresses: Addresses,
    /// The mail server of all strangers.
    pub sink: Sink,
    name_server: SocketAddr,
    data: PathBuf,
    _names: NameServer,
    folder: TempDir,
}

impl Prepared {
    /// Registers, proves and makes everything, and stops.
    pub async fn new() -> Result<Self> {
        let folder = world::scratch_folder()?;
        let addresses = Addresses::of_this_process();
        let mut names = world::start_names(&folder, addresses).await?;
        let mx_port = Addresses::free_port(&[addresses.mail_server(), addresses.inbound()])?;
        let sink = Sink::start(SocketAddr::new(addresses.mail_server(), mx_port)).await?;
        let name_server = SocketAddr::new(names.address(), names.port());
        let at = (folder.path(), folder.path());
        let mut daemon = Daemon::start(settings(at, addresses, name_server, mx_port)).await?;
        let customer = daemon.api()?.register("acme").await?;
        let domain = customer.add_domain("acme.test").await?;
        world::publish(&mut names, &domain).await?;
        customer.until_active(&domain).await?;
        let inboxes = customer.provision(&domain, 1, false).await?;
        let inbox = inboxes.into_iter().next().context("an inbox was made")?;
        let unlimited = json!({ "daily_limit": 100_000, "hourly_limit": 100_000 });
        customer
            .call(Method::PATCH, &inbox.path(), Some(&unlimited))
            .await?
            .expect(200)?;
        ensure!(daemon.stop().await?.success(), "{}", daemon.log_tail());
        let data = daemon.settings().data.clone();
        Ok(Self {
            customer,
            domain,
            inbox,
            addresses,
            sink,
            name_server,
            data,
            _names: names,
            folder,
        })
    }

    /// The folder of everything; the janitor looks for disks in it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A folder of this name for somebody's logs and sockets.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let scratch = self.folder.path().join(name);
        fs::create_dir_all(&scratch).with_context(|| format!("{}", scratch.display()))?;
        Ok(scratch)
    }

    /// Settings of a daemon whose data lie on this disk, with a port of its own for mail.
    pub fn settings(&self, disk: &Path, scratch: &Path) -> Result<Settings> {
        let mx_port = self.sink.address().port();
        let at = (disk, scratch);
        let mut settings = settings(at, self.addresses, self.name_server, mx_port);
        let port = Addresses::free_port(&[self.addresses.inbound(), self.addresses.source()])?;
        settings.inbound.set_port(port);
        Ok(settings)
    }

    /// Puts the data, as they were, where these settings have theirs.
    pub fn lay_out(&self, settings: &Settings) -> Result<()> {
        let copied = Command::new("cp")
            .arg("-a")
            .args([&self.data, &settings.data])
            .status()?;
        ensure!(copied.success(), "the prepared data cannot be copied");
        Ok(())
    }

    /// The customer, at the daemon that has this API.
    pub fn account(&self, api: &Api) -> Account {
        Account {
            api: api.clone(),
            ..self.customer.clone()
        }
    }
}

/// A letter of the stranger's, as it is sent.
pub fn letter_to(inbox: &Inbox, subject: &str, text: &str) -> String {
    format!(
        "From: {STRANGER}\r\nTo: {}\r\nSubject: {subject}\r\nDate: Mon, 05 Jan 2026 10:00:00 +0000\r\n\
         Message-ID: <{subject}@post.test>\r\n\r\n{}\r\n",
        inbox.address,
        text.replace('\n', "\r\n")
    )
}

fn settings(
    (disk, scratch): (&Path, &Path),
    addresses: Addresses,
    name_server: SocketAddr,
    mx_port: u16,
) -> Settings {
    Settings {
        data: disk.join("data"),
        scratch: scratch.to_owned(),
        inbound: SocketAddr::new(addresses.inbound(), mx_port),
        source: addresses.source(),
        mx_port,
        name_server,
        free_floor_bytes: 16 << 20,
        plan: ROOMY,
        more: SETTINGS.to_owned(),
        env: Vec::new(),
    }
}
