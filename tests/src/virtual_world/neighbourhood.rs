//! Everything around the house: names, providers, wires and vendors, all of one seed; and the settings that the daemon
//! is given for it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use inboxgrove_config::{Caps, Config, Plan, PlanLimits, SourceAddress, TlsPolicy};
use inboxgrove_model::{
    DomainName, EmailAddress, PolicyTime,
    ports::{Activity, BoxFuture, Clock, Http, HttpError, Net},
};
use inboxgrove_sim::{
    clock::VirtualClock,
    net::MemNet,
    provider::Delivery,
    rng::SeededRng,
    world::{self, World, addresses},
};

use super::{
    machine::Outside,
    wire::{TappedNet, Wire},
};

/// A Wednesday, six in the morning in UTC.
pub const EPOCH: PolicyTime = PolicyTime::from_millis(1_794_981_600_000);
/// Where mail comes in.
pub const INBOUND: SocketAddr = SocketAddr::new(addresses::INBOUND, 25);
/// The providers, in the order of their addresses.
pub const PROVIDERS: [&str; 3] = ["gmail", "outlook", "yahoo"];
/// How many addresses mail leaves from.
const SOURCES: u8 = 2;
/// People at each provider who have nothing to do with us.
const FRIENDS: [&str; 4] = ["ann", "bob", "cid", "dot"];

/// A world of one seed.
pub struct Neighbourhood {
    /// What time it is.
    pub clock: Arc<VirtualClock>,
    /// The wires, and what befalls them.
    pub net: MemNet,
    /// The same, listened to.
    pub tapped: Arc<TappedNet>,
    /// What was heard.
    pub wire: Wire,
    /// Names and providers.
    pub world: World,
    /// Vendors.
    pub vendors: Arc<Vendors>,
    /// Where chance begins.
    pub rng: SeededRng,
}

/// Vendors that take every call, or none for a while.
#[derive(Debug, Default)]
pub struct Vendors {
    calls: AtomicU64,
}

// === impl Neighbourhood ===

impl Neighbourhood {
    /// Builds the world of a seed. To be called on a paused runtime.
    pub async fn build(seed: u64) -> anyhow::Result<Self> {
        let rng = SeededRng::new(seed);
        let clock = Arc::new(VirtualClock::new(EPOCH));
        let net = MemNet::new(&rng);
        let wire = Wire::default();
        let shown: Arc<dyn Clock> = clock.clone();
        let tapped = Arc::new(TappedNet::new(
            Arc::new(net.clone()),
            Arc::clone(&shown),
            wire.clone(),
        ));
        let wires: Arc<dyn Net> = tapped.clone();
        let plan = world::Plan::new(shown, wires, Activity::default(), seed);
        let world = plan.start().await.context("the world does not start")?;
        let built = Self {
            clock,
            net,
            tapped,
            wire,
            world,
            vendors: Arc::default(),
            rng,
        };
        built.name_the_hosts()?;
        built.settle_friends()?;
        Ok(built)
    }

    /// The world as a machine reaches it.
    pub fn outside(&self) -> Outside {
        Outside {
            clock: self.clock.clone(),
            dns: Arc::new(self.world.zones().clone()),
            net: self.tapped.clone(),
            http: self.vendors.clone(),
        }
    }

    fn name_the_hosts(&self) -> anyhow::Result<()> {
        self.world.add_zone("grove.example");
        self.world.add_host(
            &DomainName::parse("mail.grove.example")?,
            addresses::INBOUND,
        );
        for n in 1..=SOURCES {
            let name = DomainName::parse(&format!("out{n}.grove.example"))?;
            self.world.add_host(&name, addresses::source(n));
        }
        Ok(())
    }

    fn settle_friends(&self) -> anyhow::Result<()> {
        for provider in PROVIDERS {
            let domain = friends_of(provider)?;
            self.world.add_domain(&domain, provider, Delivery::Keep);
            for friend in FRIENDS {
                self.world.add_user(&EmailAddress::new(friend, &domain)?);
            }
        }
        Ok(())
    }
}

/// The domain of people who have nothing to do with us.
pub fn friends_of(provider: &str) -> anyhow::Result<DomainName> {
    Ok(DomainName::parse(&format!(
        "friends-at-{provider}.example"
    ))?)
}

/// The n-th of them, going round.
pub fn friend(provider: &str, n: usize) -> anyhow::Result<EmailAddress> {
    Ok(EmailAddress::new(
        FRIENDS[n % FRIENDS.len()],
        &friends_of(provider)?,
    )?)
}

/// Settings for this world: caps so low that they are met every day.
pub fn settings() -> anyhow::Result<Config> {
    let mut config = Config::default();
    "mail.grove.example".clone_into(&mut config.server.hostname);
    config.network.allow_private = true;
    config.outbound.tls = TlsPolicy::Off;
    config.outbound.sources = (1..=SOURCES)
        .map(|n| SourceAddress {
            address: addresses::source(n),
            weight: 1,
            ehlo_name: format!("out{n}.grove.example"),
        })
        .collect();
    config.outbound.caps = Caps {
        global_per_hour: 40,
        global_per_day: 400,
        source_per_hour: 25,
        source_per_day: 250,
        source_site_per_hour: 8,
        source_site_per_day: 80,
    };
    for n in 0..u8::try_from(PROVIDERS.len())? {
        for host in 0..2 {
            let range = addresses::provider_host(n, host).to_string();
            config.inbound.trusted_gateways.push(range.parse()?);
        }
    }
    config.warmup.base = 6;
    config.plan = vec![Plan {
        key: "trial".to_owned(),
        name: "Trial".to_owned(),
        price_minor: 0,
        currency: "USD".to_owned(),
        trial_days: 30,
        limits: PlanLimits {
            domains: 3,
            inboxes: 20,
            inbox_per_hour: 6,
            inbox_per_day: 24,
            domain_per_hour: 10,
            domain_per_day: 60,
            tenant_per_hour: 14,
            tenant_per_day: 100,
        },
    }];
    Ok(config)
}

// === impl Vendors ===

impl Vendors {
    /// How many calls came.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Http for Vendors {
    fn send(
        &self,
        _request: http::Request<Bytes>,
        _deadline: Duration,
    ) -> BoxFuture<'_, Result<http::Response<Bytes>, HttpError>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(http::Response::new(Bytes::new())) })
    }
}
