//! The stage: a small internet on loopback, an embedded store in a directory that goes away, and the daemon
//! itself between them. Everything on it is real but the time that policies go by.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use inboxgrove_config::{
    Accounts, Api, ApiLimits, Cidr, Config, Dns, Inbound, InboundLimits, Network, Outbound, Plan,
    PlanLimits, Server, SourceAddress, Store as StoreSettings, TlsPolicy, Warmup,
};
use inboxgrove_mail::dns::{DnsOptions, Resolver};
use inboxgrove_model::{
    DomainName, PolicyTime, WallTime,
    ports::{Activity, BoxFuture, Clock, Http, HttpError, Listener, Net, Ports, Rng},
};
use inboxgrove_policy::pace::GAP_MAX;
use inboxgrove_sim::{
    clock::FastClock,
    net::LoopbackNet,
    world::{self, World, addresses},
};
use inboxgrove_store::{Keys, Options, Store};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use super::clock::WakingClock;
use crate::{
    admin::Operators,
    http::keys::EdgeKeys,
    ports::{OsRng, Pool, SystemClock},
    running::{Assembly, Running},
};

/// What the daemon calls itself in this world.
const HOSTNAME: &str = "mail.grove.example";
/// What its source address calls itself.
const SOURCE_NAME: &str = "out.grove.example";
/// Where the API of a demo that stays listens, when nobody else does.
const API_AT: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
/// A disk in memory, on Linux machines that have one.
const MEMORY_DISK: &str = "/dev/shm";
/// Free bytes for which it is used: several times what a year of demo stores.
const MEMORY_DISK_ROOM: u64 = 2 * 1024 * 1024 * 1024;
/// How long the end may take.
const END_WAIT: Duration = Duration::from_secs(10);
/// Real time without a step of the clock after which work that is still under way is taken to wait for it:
/// several commits and deliveries long.
const STANDSTILL: Duration = Duration::from_millis(60);
/// A day in milliseconds.
const DAY_MS: i64 = 86_400_000;
/// The hour of the first day at which everything is set up: before anybody works.
const SET_UP_AT: Duration = Duration::from_hours(6);

/// Everything that runs.
pub(super) struct Stage {
    /// The small internet.
    pub(super) world: World,
    clock: FastClock,
    activity: Activity,
    first_day: i64,
    running: Running,
    store: Store,
    /// Goes away with it.
    folder: TempDir,
}

/// Vendors there are none in this world: whoever asks one gets no answer.
struct NoVendors;

// === impl Stage ===

impl Stage {
    /// Builds it. `stays`: people will use the API afterwards.
    pub(super) async fn build(seed: u64, inboxes: u32, stays: bool) -> anyhow::Result<Self> {
        let folder = temporary_folder().context("no temporary directory")?;
        let system = SystemClock::new(PolicyTime::default());
        let monday = last_monday(system.wall());
        let wall = Arc::new(move || system.wall());
        let clock = FastClock::new(
            PolicyTime::from_millis(monday * DAY_MS).after(SET_UP_AT),
            wall,
        );
        let activity = Activity::default();
        let world = start_world(&clock, &activity, seed).await?;
        let net = LoopbackNet;
        let smtp = net.listen(SocketAddr::new(addresses::INBOUND, 0)).await?;
        let config = Arc::new(configure(&world, inboxes, folder.path())?);
        let keys_rng = OsRng::default();
        let store = open_store(&config, folder.path(), &keys_rng).await?;
        let mut secret = [0; 32];
        keys_rng.fill(&mut secret);
        let assembly = Assembly {
            ports: ports(&world, &clock, &activity)?,
            store: store.clone(),
            config,
            keys: EdgeKeys::from_bytes(&secret),
            api: listen_for_api(stays).await?,
            admin: None,
            smtp: Some(smtp),
            smtp_tls: None,
            log: None,
            operators: Operators::default(),
        };
        let running = Running::start(assembly).await?;
        Ok(Self {
            world,
            clock,
            activity,
            first_day: monday,
            running,
            store,
            folder,
        })
    }

    /// Where the API is.
    pub(super) fn api(&self) -> SocketAddr {
        self.running.api()
    }

    /// Where mail for the daemon's domains comes in.
    pub(super) fn smtp(&self) -> anyhow::Result<SocketAddr> {
        self.running.smtp().context("the daemon takes no mail")
    }

    /// The UTC day that is day 1.
    pub(super) fn first_day(&self) -> i64 {
        self.first_day
    }

    /// An hour of a day that is counted from 1; hour 24 is its end.
    pub(super) fn hour(&self, day: u32, hour: u32) -> PolicyTime {
        let start = PolicyTime::from_millis(self.first_day * DAY_MS);
        start.after(Duration::from_hours(
            24 * u64::from(day - 1) + u64::from(hour),
        ))
    }

    /// Lets policy time pass until `until`, a day in no less than `pace`.
    pub(super) async fn live_until(&self, until: PolicyTime, pace: Duration) {
        tokio::select! {
            biased;
            () = self.clock.run(&self.activity, until, pace) => {}
            never = self.creep(until) => match never {},
        }
    }

    /// A delivery that waits for the pace of its destination is at work, and sleeps by the clock that waits
    /// for it. When nothing moves for a while, time creeps on to such a sleeper, as it would outside.
    async fn creep(&self, until: PolicyTime) -> Infallible {
        let mut shown = self.clock.policy();
        loop {
            tokio::time::sleep(STANDSTILL).await;
            let now = self.clock.policy();
            let near = self
                .clock
                .earliest()
                .filter(|at| *at <= until && at.since(now) <= GAP_MAX);
            if let Some(next) = near.filter(|_| now == shown && self.activity.busy() > 0) {
                self.clock
                    .run(&Activity::default(), next, Duration::ZERO)
                    .await;
            }
            shown = self.clock.policy();
        }
    }

    /// Lets a span of policy time pass at once.
    pub(super) async fn wait(&self, span: Duration) {
        let until = self.clock.policy().after(span);
        self.live_until(until, Duration::ZERO).await;
    }

    /// Lets policy time go on as fast as real time, for ever.
    pub(super) async fn go_on(&self) -> Infallible {
        let day = Duration::from_hours(24);
        loop {
            self.live_until(self.clock.policy().after(day), day).await;
        }
    }

    /// Resolves, with the reason, when the daemon cannot go on.
    pub(super) async fn failed(&self) -> String {
        self.running.platform().failed().await
    }

    /// Ends everything and removes what was stored.
    pub(super) async fn strike(self) -> anyhow::Result<()> {
        self.running.drain(END_WAIT).await;
        // The providers' idle sessions end with the runtime.
        drop(self.world);
        let (store, folder) = (self.store, self.folder);
        let closed = tokio::task::spawn_blocking(move || {
            store.close();
            folder.close()
        });
        closed
            .await?
            .context("the temporary directory stays behind")
    }
}

// === impl Http for NoVendors ===

impl Http for NoVendors {
    fn send(
        &self,
        request: http::Request<bytes::Bytes>,
        _: Duration,
    ) -> BoxFuture<'_, Result<http::Response<bytes::Bytes>, HttpError>> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        Box::pin(async {
            Err(HttpError {
                host,
                why: "the demo's internet has no such host".to_owned(),
                unsent: true,
            })
        })
    }
}

// === free functions ===

/// The address that mail leaves from.
pub(super) fn source() -> IpAddr {
    addresses::source(1)
}

/// A directory that goes away: in memory where there is room, for a demo has nothing to lose in a power cut.
fn temporary_folder() -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("inboxgrove-demo-");
    let memory = Path::new(MEMORY_DISK);
    let room =
        statvfs(memory).map(|disk| disk.fragment_size().saturating_mul(disk.blocks_available()));
    if room.is_ok_and(|bytes| bytes >= MEMORY_DISK_ROOM)
        && let Ok(folder) = builder.tempdir_in(memory)
    {
        return Ok(folder);
    }
    builder.tempdir()
}

async fn start_world(clock: &FastClock, activity: &Activity, seed: u64) -> anyhow::Result<World> {
    let clock: Arc<dyn Clock> = Arc::new(clock.clone());
    let plan = world::Plan::new(clock, Arc::new(LoopbackNet), activity.clone(), seed);
    let world = plan
        .on_free_ports()
        .start()
        .await
        .context("the small internet does not start; it needs addresses of 127.0.0.0/8")?;
    world.add_host(&DomainName::parse(SOURCE_NAME)?, source());
    world.add_host(&DomainName::parse(HOSTNAME)?, addresses::INBOUND);
    Ok(world)
}

fn ports(world: &World, clock: &FastClock, activity: &Activity) -> anyhow::Result<Ports> {
    let at = world.resolver().context("the world has no resolver")?;
    let dns = DnsOptions {
        servers: vec![at.ip()],
        port: at.port(),
        ..DnsOptions::default()
    };
    let dns = Resolver::new(&dns, Arc::new(clock.clone()))?;
    Ok(Ports {
        clock: Arc::new(WakingClock::new(clock.clone(), activity.clone())),
        // From the seed, so that a run can be looked at twice. The keys at rest and of the API are not.
        rng: Arc::new(world.rng().stream("daemon")),
        dns: Arc::new(dns),
        net: Arc::new(LoopbackNet),
        http: Arc::new(NoVendors),
        blocking: Arc::new(Pool::new()),
        activity: activity.clone(),
    })
}

async fn open_store(config: &Config, folder: &Path, keys_rng: &OsRng) -> anyhow::Result<Store> {
    let mut key = [0; 32];
    keys_rng.fill(&mut key);
    let options = Options {
        free_floor_bytes: config.store.free_floor_bytes,
        ..Options::new(folder.join("store"), Keys::from_bytes(key))
    };
    let rng: Arc<dyn Rng> = Arc::new(OsRng::default());
    let opened = tokio::task::spawn_blocking(move || Store::open(options, rng));
    let (store, _) = opened.await??;
    Ok(store)
}

/// The usual port for a demo that stays, so that its lines can be kept; a free one otherwise.
async fn listen_for_api(stays: bool) -> io::Result<Box<dyn Listener>> {
    if stays && let Ok(listener) = LoopbackNet.listen(API_AT).await {
        return Ok(listener);
    }
    LoopbackNet.listen(SocketAddr::new(API_AT.ip(), 0)).await
}

/// What an operator would write into the file of settings for this world.
fn configure(world: &World, inboxes: u32, folder: &Path) -> anyhow::Result<Config> {
    let resolver = world.resolver().context("the world has no resolver")?;
    let gateways = world.providers().zip(10_u8..);
    let trusted_gateways = gateways
        .map(|(_, third)| format!("127.0.{third}.0/24").parse::<Cidr>())
        .collect::<Result<_, _>>()?;
    Ok(Config {
        server: Server {
            data_dir: folder.to_owned(),
            hostname: HOSTNAME.to_owned(),
            ..Server::default()
        },
        api: Api {
            limits: ApiLimits {
                requests_per_minute: 100_000,
                logins_per_minute: 60,
                ..ApiLimits::default()
            },
            ..Api::default()
        },
        inbound: Inbound {
            trusted_gateways,
            limits: InboundLimits {
                // All mail comes from six gateways.
                connections_per_address: 256,
                ..InboundLimits::default()
            },
            ..Inbound::default()
        },
        outbound: Outbound {
            mx_port: world.smtp_port(),
            sources: vec![SourceAddress {
                address: source(),
                weight: 1,
                ehlo_name: SOURCE_NAME.to_owned(),
            }],
            tls: TlsPolicy::Opportunistic,
            ..Outbound::default()
        },
        dns: Dns {
            servers: vec![resolver.ip()],
            port: resolver.port(),
            ..Dns::default()
        },
        network: Network {
            allow_private: true,
        },
        store: StoreSettings {
            // What is stored is a few megabytes, and goes away.
            free_floor_bytes: 32 * 1024 * 1024,
            ..StoreSettings::default()
        },
        warmup: Warmup {
            // A dozen inboxes have few partners: they meet again sooner than in a large pool.
            partner_rest_hours: 12,
            ..Warmup::default()
        },
        plan: vec![plan(inboxes)],
        accounts: Accounts {
            default_plan: "demo".to_owned(),
            // Long enough that the printed lines work for a day.
            access_token_minutes: 24 * 60,
            ..Accounts::default()
        },
        ..Config::default()
    })
}

/// A plan with room for everything that the demo does.
fn plan(inboxes: u32) -> Plan {
    Plan {
        key: "demo".to_owned(),
        name: "Demo".to_owned(),
        price_minor: 0,
        currency: "USD".to_owned(),
        trial_days: 365,
        limits: PlanLimits {
            domains: 20,
            inboxes: inboxes.max(100) * 2,
            inbox_per_hour: 20,
            inbox_per_day: 60,
            domain_per_hour: 2_000,
            domain_per_day: 20_000,
            tenant_per_hour: 5_000,
            tenant_per_day: 50_000,
        },
    }
}

/// The UTC day of the last Monday, so that the same seed meets the same weekdays whenever it is run.
fn last_monday(wall: WallTime) -> i64 {
    let today = wall.as_millis().div_euclid(DAY_MS);
    // 1970-01-01 was a Thursday.
    today - (today + 3).rem_euclid(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn day_1_is_a_monday_of_this_week() {
        // 2026-11-23 was a Monday.
        for (today, monday) in [
            (20_780, 20_780),
            (20_783, 20_780),
            (20_786, 20_780),
            (20_787, 20_787),
        ] {
            assert_eq!(
                last_monday(WallTime::from_millis(today * DAY_MS + 5)),
                monday
            );
        }
    }
}
