//! The world of a story: a name server, the others' mail server and the daemon, each on a loopback address of its own, in
//! one folder that goes with it. Hosts: `mx.grove.test` takes mail in for us, `out.grove.test` sends it,
//! `mail.post.test` is the others' mail server with the users anna and bert.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    addresses::Addresses,
    client::{Account, Domain, Inbox},
    daemon::{Daemon, ROOMY, Settings},
    janitor::Janitor,
    mail_server::{Hosting, MailServer},
    name_server::{NameServer, absolute, reverse, txt},
    programs,
};

/// The domains that tenants bring: served from the start, empty.
pub const TENANT_DOMAINS: [&str; 2] = ["acme.test", "other.test"];
/// The others' domain.
pub const POST: &str = "post.test";

/// A story's world. Its parts end in the order of the fields: the daemon first, its folder last.
#[derive(Debug)]
pub struct World {
    /// The daemon.
    pub daemon: Daemon,
    /// The others' mail server.
    pub post: MailServer,
    /// The name server.
    pub names: NameServer,
    /// Where everything is.
    pub addresses: Addresses,
    folder: TempDir,
}

/// A world that is still being thought of.
#[derive(Debug, Default)]
pub struct Builder {
    more_settings: String,
    plan: Option<&'static str>,
}

impl Builder {
    /// More sections for the daemon's settings.
    #[must_use]
    pub fn settings(mut self, sections: &str) -> Self {
        self.more_settings.push_str(sections);
        self
    }

    /// New accounts get one of the default plans.
    #[must_use]
    pub fn plan(mut self, key: &'static str) -> Self {
        self.plan = Some(key);
        self
    }

    /// Starts everything.
    pub async fn start(self) -> Result<World> {
        let addresses = Addresses::of_this_process();
        let folder = scratch_folder()?;
        let names = start_names(&folder, addresses).await?;
        let mx_port = Addresses::free_port(&[addresses.mail_server(), addresses.inbound()])?;
        let inbound = SocketAddr::new(addresses.inbound(), mx_port);
        let hosting = Hosting {
            listens: SocketAddr::new(addresses.mail_server(), mx_port),
            domain: POST,
            users: &["anna", "bert"],
            back_to: inbound,
            tenants: &TENANT_DOMAINS,
        };
        let post = MailServer::start(folder.path(), &hosting).await?;
        let settings = Settings {
            data: folder.path().join("data"),
            scratch: folder.path().to_owned(),
            inbound,
            source: addresses.source(),
            mx_port,
            name_server: SocketAddr::new(names.address(), names.port()),
            free_floor_bytes: 16 << 20,
            plan: self.plan.unwrap_or(ROOMY),
            more: self.more_settings,
            env: Vec::new(),
        };
        let daemon = Daemon::start(settings).await?;
        Ok(World {
            daemon,
            post,
            names,
            addresses,
            folder,
        })
    }
}

impl World {
    /// A world to be thought of.
    #[expect(
        clippy::new_ret_no_self,
        reason = "a story reads: World::new().…start()"
    )]
    pub fn new() -> Builder {
        Builder::default()
    }

    /// What the daemon's mail leaves from.
    pub fn source(&self) -> IpAddr {
        self.addresses.source()
    }

    /// The folder of this world.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Publishes the records of a domain.
    pub async fn publish(&mut self, domain: &Domain) -> Result<()> {
        publish(&mut self.names, domain).await
    }

    /// A tenant with a verified domain and inboxes on it.
    pub async fn tenant(
        &mut self,
        company: &str,
        domain: &str,
        inboxes: u32,
    ) -> Result<(Account, Domain, Vec<Inbox>)> {
        let account = self.daemon.api()?.register(company).await?;
        let domain = account.add_domain(domain).await?;
        self.publish(&domain).await?;
        account.until_active(&domain).await?;
        let inboxes = account.provision(&domain, inboxes, false).await?;
        Ok((account, domain, inboxes))
    }
}

/// Publishes the records of a domain, as its owner does with the list that the API gave.
pub async fn publish(names: &mut NameServer, domain: &Domain) -> Result<()> {
    let lines: Vec<String> = domain
        .records
        .iter()
        .filter(|record| record.name.trim_end_matches('.').ends_with(&domain.name))
        .map(|record| match record.kind.as_str() {
            "TXT" => txt(&record.name, &record.value),
            "MX" => format!("{} MX {}", absolute(&record.name), absolute(&record.value)),
            kind => format!("{} {kind} {}", absolute(&record.name), record.value),
        })
        .collect();
    names.publish(&domain.name, &lines).await
}

/// A folder that the users of other servers can walk through. It is cleared up even when the test is killed.
pub fn scratch_folder() -> Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix("inboxgrove-")
        .disable_cleanup(programs::keeps_folders())
        .tempdir()
        .context("a folder for the test")?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    Janitor::start(folder.path(), programs::keeps_folders())?.until_the_end();
    Ok(folder)
}

/// A name server with the zones of the hosts above and room for the tenants' domains.
pub async fn start_names(folder: &TempDir, addresses: Addresses) -> Result<NameServer> {
    let (inbound, source, post) = (
        addresses.inbound(),
        addresses.source(),
        addresses.mail_server(),
    );
    let grove = [
        format!("mx A {inbound}"),
        format!("out A {source}"),
        txt("out.grove.test", &format!("v=spf1 ip4:{source} -all")),
    ];
    // The tenants' SPF records include the host's, so that its addresses can change.
    let spf = txt("_spf.grove.test", &format!("v=spf1 ip4:{source} -all"));
    let grove: Vec<String> = grove.into_iter().chain([spf]).collect();
    let others = [
        "@ MX 10 mail".to_owned(),
        format!("mail A {post}"),
        txt("post.test", &format!("v=spf1 ip4:{post} -all")),
        txt("_dmarc.post.test", "v=DMARC1; p=none"),
    ];
    let reverse = [
        format!("{} PTR mx.grove.test.", reverse(inbound)),
        format!("{} PTR out.grove.test.", reverse(source)),
        format!("{} PTR mail.post.test.", reverse(post)),
    ];
    let mut zones: Vec<(&str, &[String])> = vec![
        (".", &[]),
        ("grove.test", &grove),
        (POST, &others),
        ("127.in-addr.arpa", &reverse),
    ];
    zones.extend(TENANT_DOMAINS.map(|name| (name, [].as_slice())));
    NameServer::start(folder.path(), addresses.name_server(), &zones).await
}
