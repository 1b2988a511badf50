//! The daemon in this process: a real store on the disk and real sockets on loopback, names from memory. What
//! is measured from inside (an actor that is killed, memory over a day) needs its tree at hand.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use inboxgrove::{
    admin::Operators,
    http::keys::EdgeKeys,
    ports::{OsRng, Pool},
    running::{Assembly, Running},
};
use inboxgrove_actors::{
    Platform,
    platform::{NewAccount, NewDomain, Provision},
};
use inboxgrove_config::{
    Caps, Config, Outbound, Plan, PlanLimits, Server, SourceAddress, TlsPolicy,
};
use inboxgrove_model::{
    DomainName, EmailAddress, TenantId,
    domain::{Domain, DomainStatus, RecordToPublish},
    inbox::Inbox,
    job::{Job, JobState, Naming},
    ports::{Activity, BoxFuture, Clock, Http, HttpError, Net, Ports, RecordData, RecordType},
};
use inboxgrove_sim::{
    dns::{Zones, address_record},
    net::LoopbackNet,
};
use inboxgrove_store::{Keys, Options, Scope, Store};
use tempfile::TempDir;
use tokio::{net::TcpListener, time::sleep};

use crate::installation::beside_the_binary;

const NAME_SERVER: IpAddr = loopback(79, 1);
const INBOUND: IpAddr = loopback(79, 25);
const SOURCE: IpAddr = loopback(79, 2);
const HOST: &str = "mx.grove.test";
/// Inboxes made in one job.
const JOB_INBOXES: u32 = 500;
/// No cap is meant to be met.
const PLENTY: u32 = 100_000_000;
const PAUSE: Duration = Duration::from_millis(20);
const PATIENCE: u32 = 6000;

/// A daemon and its surroundings.
pub(crate) struct Grove {
    pub(crate) store: Store,
    pub(crate) zones: Zones,
    pub(crate) folder: TempDir,
    pub(crate) port: u16,
    running: Running,
}

/// A tenant with verified domains.
pub(crate) struct Grown {
    pub(crate) tenant: TenantId,
    pub(crate) inboxes: Vec<Inbox>,
}

/// There is no vendor.
struct Nobody;

// === impl Grove ===

impl Grove {
    /// Starts it on an empty store. Mail for its own domains comes in at the port of all mail servers.
    pub(crate) async fn start(clock: Arc<dyn Clock>, activity: Activity) -> Result<Self> {
        let folder = beside_the_binary()?;
        let zones = zones();
        let net = LoopbackNet;
        let smtp = net.listen(SocketAddr::new(INBOUND, 0)).await?;
        let port = smtp.local_addr().port();
        let config = Arc::new(settings(folder.path(), port)?);
        let rng = Arc::new(OsRng::default());
        let options = Options {
            cache_bytes: config.store.cache_bytes,
            segment_bytes: config.store.segment_bytes,
            ..Options::new(folder.path().join("store"), Keys::from_bytes([7; 32]))
        };
        let chance = Arc::clone(&rng);
        let opened = tokio::task::spawn_blocking(move || Store::open(options, chance));
        let (store, _) = opened.await??;
        let ports = Ports {
            clock,
            rng,
            dns: Arc::new(zones.clone()),
            net: Arc::new(net),
            http: Arc::new(Nobody),
            blocking: Arc::new(Pool::new()),
            activity,
        };
        let assembly = Assembly {
            ports,
            store: store.clone(),
            config,
            keys: EdgeKeys::from_bytes(&[7; 32]),
            api: net.listen(SocketAddr::new(loopback(79, 80), 0)).await?,
            admin: None,
            smtp: Some(smtp),
            smtp_tls: None,
            log: None,
            operators: Operators::default(),
        };
        Ok(Self {
            running: Running::start(assembly).await?,
            store,
            zones,
            folder,
            port,
        })
    }

    pub(crate) fn platform(&self) -> &Platform {
        self.running.platform()
    }

    /// Where another mail server of this world may listen.
    pub(crate) async fn bind(&self, at: IpAddr) -> Result<TcpListener> {
        Ok(TcpListener::bind(SocketAddr::new(at, self.port)).await?)
    }

    /// Names a domain of somebody else, and who takes its mail.
    pub(crate) fn neighbour(&self, domain: &str, at: IpAddr) {
        self.zones.zone(domain, &[("ns.grove.test", NAME_SERVER)]);
        let exchange = exchange_of(domain);
        self.zones.add(&exchange, address_record(at));
        let mx = RecordData::Mx {
            preference: 10,
            exchange,
        };
        self.zones.add(domain, mx);
    }

    /// Registers a tenant, proves its domains, makes its inboxes.
    pub(crate) async fn tenant(
        &self,
        name: &str,
        domains: u32,
        inboxes_of_domain: u32,
        warm: bool,
    ) -> Result<Grown> {
        let platform = self.platform();
        let account = NewAccount {
            company: name.to_owned(),
            email: EmailAddress::parse(&format!("owner@{name}.example"))?,
            password_hash: "none".to_owned().into(),
            time_zone: "UTC".to_owned(),
        };
        let (tenant, _) = platform.register(account).await?;
        for n in 0..domains {
            let domain = self.domain(tenant.id, &format!("d{n}.{name}.test")).await?;
            let mut left = inboxes_of_domain;
            while left > 0 {
                let count = left.min(JOB_INBOXES);
                self.provision(&domain, count, warm).await?;
                left -= count;
            }
        }
        let inboxes = self.inboxes_of(tenant.id)?;
        Ok(Grown {
            tenant: tenant.id,
            inboxes,
        })
    }

    async fn domain(&self, tenant: TenantId, name: &str) -> Result<Domain> {
        let exchange = format!("mx.{name}");
        self.zones.zone(name, &[("ns.grove.test", NAME_SERVER)]);
        self.zones.add(&exchange, address_record(INBOUND));
        let new = NewDomain {
            name: DomainName::parse(name)?,
            // A host of its own, so that each domain is a site of its own.
            mail_hosts: vec![exchange],
        };
        let added = self.platform().add_domain(tenant, new, None).await?.value;
        for record in self.platform().records_to_publish(&added) {
            publish(&self.zones, &record);
        }
        let proven = self.platform().verify_domain(tenant, added.id).await?;
        ensure!(
            proven.status == DomainStatus::Active,
            "{name}: {}",
            proven.reason
        );
        Ok(proven)
    }

    async fn provision(&self, domain: &Domain, count: u32, warm: bool) -> Result<()> {
        let wanted = Provision {
            domain: domain.id,
            count,
            naming: Naming::Random,
            start_warmup: warm,
            time_zone: Some("UTC".to_owned()),
            daily_limit: None,
        };
        let job = self
            .platform()
            .provision(domain.tenant, wanted, None)
            .await?
            .value;
        for _ in 0..PATIENCE {
            let now = self.store.existing::<Job>(&(domain.tenant, job.id))?;
            match now.state {
                JobState::Done => return Ok(()),
                JobState::Failed | JobState::Cancelled => bail!("the job failed: {:?}", now.errors),
                JobState::Pending | JobState::Running => sleep(PAUSE).await,
            }
        }
        bail!("a job that makes {count} inboxes does not end")
    }

    fn inboxes_of(&self, tenant: TenantId) -> Result<Vec<Inbox>> {
        let (mut inboxes, mut after) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let scope = Scope::Tenant(tenant);
            let page = self.store.page::<Inbox>(&scope, after.as_deref(), 500)?;
            inboxes.extend(page.items);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(inboxes),
            }
        }
    }

    /// Ends it; what is under way may take so long.
    pub(crate) async fn end(self, within: Duration) -> Result<()> {
        self.running.drain(within).await;
        let (store, folder) = (self.store, self.folder);
        let closed = tokio::task::spawn_blocking(move || {
            store.close();
            folder.close()
        });
        closed
            .await?
            .context("the folder of the store stays behind")
    }
}

impl Http for Nobody {
    fn send(
        &self,
        request: http::Request<bytes::Bytes>,
        _: Duration,
    ) -> BoxFuture<'_, Result<http::Response<bytes::Bytes>, HttpError>> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        Box::pin(async {
            Err(HttpError {
                host,
                why: "there is no vendor here".to_owned(),
                unsent: true,
            })
        })
    }
}

// === free functions ===

pub(crate) const fn loopback(net: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, net, host))
}

/// Publishes what a domain's owner is told to; what concerns the host's own addresses is there already.
fn publish(zones: &Zones, record: &RecordToPublish) {
    match record.kind {
        RecordType::Txt => {
            zones.add(&record.name, RecordData::Txt(record.value.clone()));
        }
        RecordType::Mx => {
            if let Some((preference, exchange)) = record.value.split_once(' ')
                && let Ok(preference) = preference.parse()
            {
                let exchange = exchange.to_owned();
                let mx = RecordData::Mx {
                    preference,
                    exchange,
                };
                zones.add(&record.name, mx);
            }
        }
        _ => {}
    }
}

/// The names of the daemon's own hosts.
fn zones() -> Zones {
    let zones = Zones::new();
    let servers = [("ns.grove.test", NAME_SERVER)];
    zones.zone("grove.test", &servers);
    zones.zone("127.in-addr.arpa", &servers);
    zones.add(HOST, address_record(INBOUND));
    zones.add("out.grove.test", address_record(SOURCE));
    let spf = RecordData::Txt(format!("v=spf1 ip4:{SOURCE} -all"));
    zones.add("out.grove.test", spf.clone());
    zones.add("_spf.grove.test", spf);
    zones.name_address(SOURCE, "out.grove.test");
    zones.name_address(INBOUND, HOST);
    zones
}

/// The defaults, but for what would measure the limits and not the work.
fn settings(folder: &std::path::Path, port: u16) -> Result<Config> {
    let mut config = Config {
        server: Server {
            data_dir: folder.to_owned(),
            hostname: HOST.to_owned(),
            ..Server::default()
        },
        outbound: Outbound {
            mx_port: port,
            sources: vec![SourceAddress {
                address: SOURCE,
                weight: 1,
                ehlo_name: "out.grove.test".to_owned(),
            }],
            tls: TlsPolicy::Off,
            caps: Caps {
                global_per_hour: PLENTY,
                global_per_day: PLENTY,
                source_per_hour: PLENTY,
                source_per_day: PLENTY,
                source_site_per_hour: PLENTY,
                source_site_per_day: PLENTY,
            },
            ..Outbound::default()
        },
        plan: vec![Plan {
            // That of seeded accounts.
            key: "trial".to_owned(),
            name: "Bench".to_owned(),
            price_minor: 0,
            currency: "USD".to_owned(),
            trial_days: 0,
            limits: PlanLimits {
                domains: 10_000,
                inboxes: PLENTY,
                inbox_per_hour: PLENTY,
                inbox_per_day: PLENTY,
                domain_per_hour: PLENTY,
                domain_per_day: PLENTY,
                tenant_per_hour: PLENTY,
                tenant_per_day: PLENTY,
            },
        }],
        ..Config::default()
    };
    config.network.allow_private = true;
    "trial".clone_into(&mut config.accounts.default_plan);
    // All mail comes from one address, and was checked where it came from.
    config.inbound.trusted_gateways = vec!["127.0.0.0/8".parse()?];
    config.inbound.limits.connections_per_address = 500;
    Ok(config)
}

/// The one mail server of a neighbour.
pub(crate) fn exchange_of(domain: &str) -> String {
    format!("mail.{domain}")
}
