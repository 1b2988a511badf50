//! A real Postfix in a private instance: the others' mail server. It offers STARTTLS, takes mail for one domain into
//! Maildirs, refuses unknown users, and hands mail for our tenants' domains to the daemon.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{self, Signal},
    unistd::{Pid, User},
};
use tokio::net::TcpStream;

use crate::{mail_text::MailText, process::Running, programs, wait::eventually};

/// The user that Maildirs belong to.
const MAIL_OWNER: &str = "nobody";
/// Postfix checks its folders first; a loaded machine takes a while.
const START_WITHIN: Duration = Duration::from_mins(1);
/// A message passes the queue within a second or two; one that has to be tried again comes a minute later.
const DELIVERY_WITHIN: Duration = Duration::from_mins(2);

/// A mail server that runs.
#[derive(Debug)]
pub struct MailServer {
    folder: PathBuf,
    listens: SocketAddr,
    running: Running,
}

/// What a mail server is to be.
#[derive(Debug, Clone)]
pub struct Hosting<'a> {
    /// Where it listens.
    pub listens: SocketAddr,
    /// The domain it takes mail for.
    pub domain: &'a str,
    /// The users it knows there.
    pub users: &'a [&'a str],
    /// Where mail for the tenants' domains goes.
    pub back_to: SocketAddr,
    /// The tenants' domains.
    pub tenants: &'a [&'a str],
}

impl MailServer {
    /// Starts it. Only root can: Postfix's master drops its rights itself.
    pub async fn start(folder: &Path, hosting: &Hosting<'_>) -> Result<Self> {
        programs::demand_root("Postfix")?;
        let folder = folder.join("postfix");
        let postfix = programs::system("postfix")?;
        lay_out(&folder, hosting)?;
        let mut command = Command::new(&postfix);
        command.arg("-c").arg(&folder).arg("start-fg");
        let running = Running::start(
            "postfix",
            &mut command,
            &folder.join("log"),
            Signal::SIGTERM,
        )?;
        let mut server = Self {
            folder,
            listens: hosting.listens,
            running,
        };
        server.until_up().await?;
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listens
    }

    /// What has been delivered to a user so far, oldest first.
    pub fn delivered(&self, user: &str) -> Result<Vec<MailText>> {
        let folder = self.folder.join("mail").join(user).join("new");
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut files: Vec<PathBuf> = fs::read_dir(&folder)
            .and_then(|entries| {
                entries
                    .map(|entry| entry.map(|found| found.path()))
                    .collect()
            })
            .with_context(|| format!("{}", folder.display()))?;
        files.sort();
        files
            .iter()
            .map(|path| Ok(MailText::new(fs::read(path)?)))
            .collect()
    }

    /// Waits for a message to this user that carries the subject.
    pub async fn receives(&self, user: &str, subject: &str) -> Result<MailText> {
        let found = eventually(
            &format!("mail {subject:?} to {user}"),
            DELIVERY_WITHIN,
            async || {
                let delivered = self.delivered(user)?;
                Ok(delivered
                    .into_iter()
                    .find(|mail| mail.header("Subject").as_deref() == Some(subject)))
            },
        )
        .await;
        found.with_context(|| self.running.tail())
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.running.output()
    }

    async fn until_up(&mut self) -> Result<()> {
        let listens = self.listens;
        let running = &mut self.running;
        let up = eventually("Postfix", START_WITHIN, async || {
            ensure!(running.ended()?.is_none(), "Postfix has ended");
            Ok(TcpStream::connect(listens).await.ok().map(drop))
        })
        .await;
        if let Err(why) = up {
            bail!("{why:#}\n{}", self.running.tail());
        }
        Ok(())
    }
}

impl Drop for MailServer {
    /// What was started is a script; Postfix's master leads a session of its own, and ends its services itself.
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.folder.join("queue/pid/master.pid"));
        if let Some(pid) = pid.ok().and_then(|text| text.trim().parse().ok()) {
            // It may have ended by itself: nothing is left to do then.
            signal::kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        }
    }
}

fn lay_out(folder: &Path, hosting: &Hosting<'_>) -> Result<()> {
    let owner = User::from_name(MAIL_OWNER)?.with_context(|| format!("no user {MAIL_OWNER}"))?;
    let postfix = User::from_name("postfix")?.context("no user postfix: is Postfix installed?")?;
    for name in ["queue", "data", "mail"] {
        fs::create_dir_all(folder.join(name)).with_context(|| format!("{}", folder.display()))?;
    }
    // Postfix's own users walk down to their folders.
    for path in folder.ancestors().take(2) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    chown(folder.join("data"), Some(postfix.uid.as_raw()), None)?;
    chown(
        folder.join("mail"),
        Some(owner.uid.as_raw()),
        Some(owner.gid.as_raw()),
    )?;
    make_certificate(folder)?;
    fs::write(folder.join("main.cf"), main_cf(folder, hosting, &owner))?;
    fs::write(
        folder.join("master.cf"),
        master_cf(hosting.listens.ip(), hosting.listens.port()),
    )?;
    Ok(())
}

fn make_certificate(folder: &Path) -> Result<()> {
    let output = Command::new(programs::system("openssl")?)
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=mail.post.test"])
        .arg("-keyout")
        .arg(folder.join("key.pem"))
        .arg("-out")
        .arg(folder.join("certificate.pem"))
        .output()?;
    ensure!(
        output.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn main_cf(folder: &Path, hosting: &Hosting<'_>, owner: &User) -> String {
    let shown = folder.display();
    let users = hosting.users.iter().fold(String::new(), |mut users, user| {
        write!(users, " {{ {user}@{} = {user}/ }}", hosting.domain).expect("a string takes all");
        users
    });
    let routes = hosting
        .tenants
        .iter()
        .fold(String::new(), |mut routes, tenant| {
            let (ip, port) = (hosting.back_to.ip(), hosting.back_to.port());
            write!(routes, " {{ {tenant} = smtp:[{ip}]:{port} }}").expect("a string takes all");
            routes
        });
    format!(
        "compatibility_level = 3.6\nqueue_directory = {shown}/queue\ndata_directory = {shown}/data\n\
         maillog_file = /dev/stdout\nmaillog_file_prefixes = /dev/stdout\n\
         myhostname = mail.{domain}\nmydestination =\nmynetworks = 127.0.0.0/8\ninet_protocols = ipv4\n\
         inet_interfaces = all\nsmtp_bind_address = {ip}\nsmtpd_relay_restrictions = permit_mynetworks, reject\n\
         smtp_dns_support_level = disabled\nsmtpd_peername_lookup = no\nsmtpd_client_restrictions =\n\
         virtual_mailbox_domains = {domain}\nvirtual_mailbox_base = {shown}/mail\n\
         virtual_mailbox_maps = inline:{{{users} }}\nvirtual_minimum_uid = 1\n\
         virtual_uid_maps = static:{uid}\nvirtual_gid_maps = static:{gid}\n\
         transport_maps = inline:{{{routes} }}\nalias_maps =\nlocal_recipient_maps =\n\
         smtpd_tls_security_level = may\nsmtpd_tls_cert_file = {shown}/certificate.pem\n\
         smtpd_tls_key_file = {shown}/key.pem\nsmtpd_tls_received_header = yes\nsmtpd_tls_loglevel = 1\n\
         minimal_backoff_time = 5s\nqueue_run_delay = 5s\nbounce_queue_lifetime = 1d\n",
        domain = hosting.domain,
        ip = hosting.listens.ip(),
        uid = owner.uid,
        gid = owner.gid,
    )
}

fn master_cf(ip: IpAddr, port: u16) -> String {
    format!(
        "{ip}:{port} inet n - n - - smtpd\n\
         cleanup unix n - n - 0 cleanup\n\
         qmgr unix n - n 300 1 qmgr\n\
         tlsmgr unix - - n 1000? 1 tlsmgr\n\
         rewrite unix - - n - - trivial-rewrite\n\
         bounce unix - - n - 0 bounce\n\
         defer unix - - n - 0 bounce\n\
         trace unix - - n - 0 bounce\n\
         verify unix - - n - 1 verify\n\
         proxymap unix - - n - - proxymap\n\
         smtp unix - - n - - smtp\n\
         relay unix - - n - - smtp\n\
         error unix - - n - - error\n\
         retry unix - - n - - error\n\
         discard unix - - n - - discard\n\
         virtual unix - n n - - virtual\n\
         anvil unix - - n - 1 anvil\n\
         scache unix - - n - 1 scache\n\
         postlog unix-dgram n - n - 1 postlogd\n"
    )
}
