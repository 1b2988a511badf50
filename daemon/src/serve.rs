//! `inboxgrove serve`: the process around a running daemon: its store, sockets, signals, watchdog, end.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::Context;
use data_encoding::HEXLOWER_PERMISSIVE;
use inboxgrove_config::{Config, Sources};
use inboxgrove_mail::dns::{DnsOptions, Resolver};
use inboxgrove_model::{
    PolicyTime,
    ports::{Clock, Listener, Net, Ports, Rng},
};
use inboxgrove_providers::http::{Client, Reach};
use inboxgrove_store::{Batch, CommitError, Keys, Options, PolicyMark, Store, StoreHealth};
use nix::unistd::{Gid, Uid, User, getgrouplist};
use serde::Serialize;
use tokio::{
    net::{TcpListener, UnixListener},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Operators,
    exit::{Exit, Failed},
    http::{
        keys::EdgeKeys,
        server::{Listening, TcpAccept},
    },
    logging::{self, LogLevel},
    memory,
    notify::{Notifier, Passed},
    ports::{OsRng, Pool, SystemClock, TokioNet},
    running::{Assembly, Running},
    signals::{Asked, Signals},
    upkeep::{self, Upkeep},
};

/// The mode of the admin socket: the daemon's user and group, nobody else.
const ADMIN_MODE: u32 = 0o660;
/// systemd is told this often that opening goes on, and that it may take twice as long again.
const OPENING_TICK: Duration = Duration::from_secs(10);
/// A watchdog's probe that takes longer than this is a daemon that hangs.
const PROBE_WAIT: Duration = Duration::from_secs(10);
/// Where programs read the addresses in use.
const ADDRESSES: &str = "addresses.json";

/// What the process was given.
pub struct Given {
    /// Where settings come from.
    pub sources: Sources,
    /// Sockets that systemd bound.
    pub passed: Passed,
}

/// The addresses in use, for whoever started us with port 0.
#[derive(Debug, Serialize)]
struct Addresses<'a> {
    api: SocketAddr,
    smtp: Option<SocketAddr>,
    admin: &'a Path,
}

/// Why the process ends.
enum End {
    /// Somebody asked.
    Asked,
    /// Something fatal died: the store, by its disk, or a part of the tree.
    Failed(Failed),
}

/// The sockets of the daemon.
struct Sockets {
    api: Box<dyn Listener>,
    smtp: Box<dyn Listener>,
    admin: UnixListener,
    admin_path: PathBuf,
}

/// Runs the daemon until it is asked to end, or has to.
pub fn run(mut given: Given) -> anyhow::Result<ExitCode> {
    let config = Arc::new(Config::load(&given.sources)?);
    let log = logging::start(config.log.format.into(), &config.log.level)?;
    let notifier = Notifier::from_env(&given.sources.env).context("NOTIFY_SOCKET")?;
    notifier.status("opening the store");
    make_private(&config.server.data_dir)?;
    let rng: Arc<dyn Rng> = Arc::new(OsRng::default());
    let store = open_store(&config, &rng, &notifier)?;
    let mark = store
        .get::<PolicyMark>(&())?
        .map_or(PolicyTime::default(), |mark| mark.at);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let end = runtime.block_on(async {
        let sockets = Sockets::open(&config, &mut given.passed).await?;
        let clock = Arc::new(SystemClock::new(mark));
        let ports = real_ports(&config, Arc::clone(&rng), clock)?;
        live(
            &config,
            store,
            ports,
            sockets,
            log,
            &notifier,
            &given.sources,
        )
        .await
    })?;
    // Blocking work that hangs must not hold up the end: what counts is on disk.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match end {
        End::Asked => Ok(ExitCode::SUCCESS),
        End::Failed(failed) => Err(failed.into()),
    }
}

async fn live(
    config: &Arc<Config>,
    store: Store,
    ports: Ports,
    sockets: Sockets,
    log: LogLevel,
    notifier: &Notifier,
    sources: &Sources,
) -> anyhow::Result<End> {
    let data = &config.server.data_dir;
    let keys = EdgeKeys::from_bytes(&installation_keys(config, &*ports.rng)?.derive("http edge"));
    let assembly = Assembly {
        keys,
        api: sockets.api,
        admin: Some(Listening::Unix(sockets.admin)),
        smtp: Some(sockets.smtp),
        smtp_tls: smtp_tls(config)?,
        log: Some(log.clone()),
        operators: operators(),
        config: Arc::clone(config),
        store: store.clone(),
        ports,
    };
    let upkeep = Upkeep::new(Arc::new(Pool::of(1)));
    let running = Running::start_with(assembly, upkeep.clone()).await?;
    if !running.api().ip().is_loopback() {
        tracing::warn!(api = %running.api(), "the API has no TLS and can be reached from outside: put a proxy before it");
    }
    let mut signals = Signals::new()?;
    announce(data, &running, &sockets.admin_path)?;
    notifier.ready(&format!("serving on {}", running.api()));
    tracing::info!(api = %running.api(), smtp = ?running.smtp(), admin = %sockets.admin_path.display(), "serving");
    let background = CancellationToken::new();
    let keeping_up = tokio::spawn(upkeep::run(
        running.platform().clone(),
        upkeep,
        background.clone(),
    ));
    let watching = tokio::spawn(memory::watch(
        running.platform().clone(),
        background.clone(),
    ));
    let end = wait(&running, &mut signals, &store, notifier, &log, sources).await;
    background.cancel();
    notifier.stopping("draining");
    tracing::info!("draining");
    let patience = Duration::from_secs(config.server.shutdown_seconds.into());
    notifier.extend_timeout(patience + Duration::from_secs(10));
    let calm = running.drain(patience).await;
    tracing::info!(calm, "drained");
    keeping_up.abort();
    watching.abort();
    if let Err(why) = fs::remove_file(data.join(ADDRESSES)) {
        tracing::warn!(%why, "addresses.json was not removed");
    }
    let end = settled(end, &store);
    // The checkpoint was the last word. At its own end sled would sync once more, and panic when that fails.
    std::mem::forget(store);
    Ok(end)
}

/// Serves, until somebody asks for the end or something fatal dies.
async fn wait(
    running: &Running,
    signals: &mut Signals,
    store: &Store,
    notifier: &Notifier,
    log: &LogLevel,
    sources: &Sources,
) -> End {
    let every = notifier.watchdog_every();
    loop {
        let tick = async {
            match every {
                Some(every) => tokio::time::sleep(every).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            why = store.failed() => return End::Failed(Failed { exit: Exit::Disk, why }),
            why = running.platform().failed() => return End::Failed(Failed { exit: Exit::Died, why }),
            () = running.asked_to_stop() => return End::Asked,
            asked = signals.next() => match asked {
                Asked::Drain => return End::Asked,
                Asked::Reload => reload(log, sources),
            },
            () = tick => if is_alive(running, store).await {
                notifier.watchdog();
            },
        }
    }
}

/// What has failed on the way out ends the process as if it had failed before. A tree that died of its store died of
/// the disk.
fn settled(end: End, store: &Store) -> End {
    match (end, store.health()) {
        (End::Failed(failed), StoreHealth::Failed { .. }) => End::Failed(Failed {
            exit: Exit::Disk,
            ..failed
        }),
        (End::Asked, StoreHealth::Failed { why }) => End::Failed(Failed {
            exit: Exit::Disk,
            why,
        }),
        (end, StoreHealth::Ok | StoreHealth::DiskLow { .. }) => end,
    }
}

/// Whether the committer commits and the tree answers.
async fn is_alive(running: &Running, store: &Store) -> bool {
    let probe = async {
        store.commit(Batch::new()).await?;
        Ok::<_, CommitError>(running.platform().answers().await)
    };
    match timeout(PROBE_WAIT, probe).await {
        // A disk that is nearly full is an answer: a restart would not make room.
        Ok(Ok(true) | Err(CommitError::DiskLow { .. })) => true,
        Ok(Ok(false)) => {
            tracing::error!("the watchdog is not fed: the tree does not answer");
            false
        }
        Ok(Err(why)) => {
            tracing::error!(%why, "the watchdog is not fed: the store does not commit");
            false
        }
        Err(_) => {
            tracing::error!("the watchdog is not fed: the store or the tree does not answer");
            false
        }
    }
}

/// Reads the settings again. Only the log's level can change while we run.
fn reload(log: &LogLevel, sources: &Sources) {
    let level = match Config::load(sources) {
        Ok(config) => config.log.level,
        Err(why) => {
            tracing::error!(%why, "not reloaded");
            return;
        }
    };
    match log.set(&level) {
        Ok(()) => tracing::info!(%level, "reloaded; other settings need a restart"),
        Err(why) => tracing::error!(%why, "not reloaded"),
    }
}

// === impl Sockets ===

impl Sockets {
    async fn open(config: &Config, passed: &mut Passed) -> anyhow::Result<Self> {
        let api = tcp(passed.take("api"), config.api.listen).await?;
        let smtp = tcp(passed.take("smtp"), config.inbound.listen).await?;
        let mut admin_path = admin_path(config);
        let admin = if let Some(fd) = passed.take("admin") {
            let socket = adopt_unix(fd)?;
            if let Some(path) = socket.local_addr()?.as_pathname() {
                path.clone_into(&mut admin_path);
            }
            socket
        } else {
            bind_admin(&admin_path)
                .with_context(|| format!("cannot listen at {}", admin_path.display()))?
        };
        for name in passed.left() {
            tracing::warn!(
                name,
                "a socket that was passed in has no use: expected api, smtp, admin"
            );
        }
        Ok(Self {
            api,
            smtp,
            admin,
            admin_path,
        })
    }
}

// === free functions ===

/// Where the admin socket is.
pub(crate) fn admin_path(config: &Config) -> PathBuf {
    let path = &config.api.admin_socket;
    if path.as_os_str().is_empty() {
        config.server.data_dir.join("admin.sock")
    } else {
        path.clone()
    }
}

/// The keys of the installation: the credential, or the key file.
pub(crate) fn installation_keys(config: &Config, rng: &dyn Rng) -> anyhow::Result<Keys> {
    if let Some(text) = config.store.installation_key.expose() {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes())?;
        let bytes = <[u8; 32]>::try_from(bytes.as_slice())?;
        return Ok(Keys::from_bytes(bytes));
    }
    let file = &config.store.key_file;
    let path = if file.as_os_str().is_empty() {
        config.server.data_dir.join("installation.key")
    } else {
        file.clone()
    };
    Ok(Keys::load_or_create(&path, rng)?)
}

/// How the store is opened, by these settings.
pub(crate) fn store_options(config: &Config, keys: Keys) -> Options {
    let settings = &config.store;
    let day = Duration::from_hours(24);
    Options {
        free_floor_bytes: settings.free_floor_bytes,
        cache_bytes: settings.cache_bytes,
        segment_bytes: settings.segment_bytes,
        events_kept: day * settings.events_kept_days,
        ..Options::new(store_dir(config), keys)
    }
}

/// Where the store is.
pub(crate) fn store_dir(config: &Config) -> PathBuf {
    config.server.data_dir.join("store")
}

/// Makes a directory that only we may enter, when it is not there.
pub(crate) fn make_private(dir: &Path) -> anyhow::Result<()> {
    if !dir.exists() {
        if let Some(above) = dir.parent() {
            fs::create_dir_all(above)
                .with_context(|| format!("cannot make {}", above.display()))?;
        }
        // Made private, not made so: in between somebody could enter.
        let made = fs::DirBuilder::new().mode(0o700).create(dir);
        made.with_context(|| format!("cannot make {}", dir.display()))?;
    }
    Ok(())
}

/// Opens the store; a long recovery keeps systemd informed.
fn open_store(config: &Config, rng: &Arc<dyn Rng>, notifier: &Notifier) -> anyhow::Result<Store> {
    let options = store_options(config, installation_keys(config, &**rng)?);
    let (done, ended) = mpsc::channel::<()>();
    let opened = std::thread::scope(|scope| {
        scope.spawn(move || {
            while ended.recv_timeout(OPENING_TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                notifier.extend_timeout(2 * OPENING_TICK);
            }
        });
        let opened = Store::open(options, Arc::clone(rng));
        drop(done);
        opened
    });
    let (store, report) = opened?;
    tracing::info!(?report, "store opened");
    Ok(store)
}

fn real_ports(config: &Config, rng: Arc<dyn Rng>, clock: Arc<dyn Clock>) -> anyhow::Result<Ports> {
    let dns = DnsOptions {
        servers: config.dns.servers.clone(),
        port: config.dns.port,
        timeout: Duration::from_millis(config.dns.timeout_ms.into()),
    };
    let dns = Arc::new(Resolver::new(&dns, Arc::clone(&clock))?);
    let reach = Reach {
        allow_private: config.network.allow_private,
        own: config
            .outbound
            .sources
            .iter()
            .map(|source| source.address)
            .collect(),
    };
    let http = Client::new(dns.clone(), reach);
    Ok(Ports {
        clock,
        rng,
        dns,
        net: Arc::new(TokioNet),
        http: Arc::new(http),
        blocking: Arc::new(Pool::new()),
        activity: inboxgrove_model::ports::Activity::default(),
    })
}

/// The certificate for STARTTLS on port 25, when there is one.
fn smtp_tls(config: &Config) -> anyhow::Result<Option<Arc<rustls::ServerConfig>>> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let (chain, key) = (&config.inbound.tls_certificate, &config.inbound.tls_key);
    if chain.as_os_str().is_empty() {
        return Ok(None);
    }
    let certificates = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read the certificates in {}", chain.display()))?;
    let key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read the key in {}", key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    Ok(Some(Arc::new(tls)))
}

/// The socket that was passed in, or a fresh one.
async fn tcp(passed: Option<OwnedFd>, at: SocketAddr) -> anyhow::Result<Box<dyn Listener>> {
    if let Some(fd) = passed {
        return adopt_tcp(fd);
    }
    let bound = TokioNet.listen(at).await;
    bound.with_context(|| format!("cannot listen at {at}"))
}

fn adopt_tcp(fd: OwnedFd) -> anyhow::Result<Box<dyn Listener>> {
    let socket = std::net::TcpListener::from(fd);
    socket.set_nonblocking(true)?;
    let socket =
        TcpListener::from_std(socket).context("a socket that was passed in is no TCP socket")?;
    Ok(Box::new(TcpAccept::new(socket)?))
}

fn adopt_unix(fd: OwnedFd) -> anyhow::Result<UnixListener> {
    let socket = std::os::unix::net::UnixListener::from(fd);
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket).context("the socket that was passed in is no Unix socket")
}

/// Binds the admin socket. A dead predecessor's is removed; a live one's is an error.
fn bind_admin(path: &Path) -> anyhow::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        anyhow::bail!("another daemon listens there");
    }
    match fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why.into()),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(ADMIN_MODE))?;
    Ok(listener)
}

/// Our own user, and the members of our group.
fn operators() -> Operators {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    Operators {
        uid: uid.as_raw(),
        gid: gid.as_raw(),
    }
}

/// Whether a user is a member of a group, by the system's own databases.
pub(crate) fn is_member(uid: u32, gid: u32) -> bool {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else {
        return false;
    };
    let Ok(name) = std::ffi::CString::new(user.name) else {
        return false;
    };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&Gid::from_raw(gid)))
}

/// Writes the addresses in use, whole or not at all.
fn announce(data: &Path, running: &Running, admin: &Path) -> anyhow::Result<()> {
    let addresses = Addresses {
        api: running.api(),
        smtp: running.smtp(),
        admin,
    };
    let fresh = data.join("addresses.json.new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(&serde_json::to_vec(&addresses)?)?;
    fs::rename(&fresh, data.join(ADDRESSES))?;
    Ok(())
}
