//! Everything around the house: names, providers, wires and vendors, all of one seed; and the settings that the daemon
//! is given for it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    hardware::Hardware,
    keys::KeyStock,
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
    /// What time it is in truth.
    pub clock: Arc<VirtualClock>,
    /// What the clock of the house says.
    pub hardware: Hardware,
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

/// A vendor whom the daemon calls over HTTP, in some mood.
#[derive(Debug, Default)]
pub struct Vendors {
    mood: Mutex<VendorMood>,
    calls: Mutex<Vec<Call>>,
}

/// How a vendor takes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VendorMood {
    /// 200.
    #[default]
    Well,
    /// 429.
    TooMany,
    /// 503.
    Broken,
    /// No answer within any deadline.
    Slow,
    /// It does what it is asked, and its answer is lost.
    Deaf,
}

/// A call that a vendor has heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its `Idempotency-Key`.
    pub key: String,
    /// Its body.
    pub body: Bytes,
    /// Whether the vendor did what it asks.
    pub done: bool,
    /// Whether it answered so.
    pub confirmed: bool,
}

// === impl Neighbourhood ===

impl Neighbourhood {
    /// Builds the world of a seed. To be called on a paused runtime.
    pub async fn build(seed: u64) -> anyhow::Result<Self> {
        let rng = SeededRng::new(seed);
        let clock = Arc::new(VirtualClock::new(EPOCH));
        let hardware = Hardware::new(Arc::clone(&clock));
        let net = MemNet::new(&rng);
        let wire = Wire::default();
        let shown: Arc<dyn Clock> = clock.clone();
        let tapped = Arc::new(TappedNet::new(
            Arc::new(net.clone()),
            Arc::new(hardware.clone()),
            wire.clone(),
        ));
        let wires: Arc<dyn Net> = tapped.clone();
        let plan = world::Plan::new(shown, wires, Activity::default(), seed);
        let world = plan.start().await.context("the world does not start")?;
        let built = Self {
            clock,
            hardware,
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
            hardware: self.hardware.clone(),
            key_maker: Arc::new(KeyStock::default()),
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

/// The zone of people who have nothing to do with us.
pub fn friends_zone(provider: &str) -> String {
    format!("friends-at-{provider}.example")
}

/// Their domain.
pub fn friends_of(provider: &str) -> anyhow::Result<DomainName> {
    Ok(DomainName::parse(&friends_zone(provider))?)
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
    "https://hooks.customers.example/grove".clone_into(&mut config.notifier.webhook_url);
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
    /// The calls that came, in their order.
    pub fn calls(&self) -> Vec<Call> {
        self.heard().clone()
    }

    /// From now on it is in this mood.
    pub fn set_mood(&self, mood: VendorMood) {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    fn heard(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, request: http::Request<Bytes>) -> VendorMood {
        let mood = *self.mood.lock().unwrap_or_else(PoisonError::into_inner);
        let key = request.headers().get("idempotency-key");
        let key = key.and_then(|key| key.to_str().ok()).unwrap_or_default();
        self.heard().push(Call {
            key: key.to_owned(),
            done: matches!(mood, VendorMood::Well | VendorMood::Deaf),
            confirmed: mood == VendorMood::Well,
            body: request.into_body(),
        });
        mood
    }
}

impl Http for Vendors {
    fn send(
        &self,
        request: http::Request<Bytes>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<http::Response<Bytes>, HttpError>> {
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let status = match self.take(request) {
                VendorMood::Well => http::StatusCode::OK,
                VendorMood::TooMany => http::StatusCode::TOO_MANY_REQUESTS,
                VendorMood::Broken => http::StatusCode::SERVICE_UNAVAILABLE,
                VendorMood::Slow | VendorMood::Deaf => {
                    tokio::time::sleep(deadline).await;
                    let why = "no answer in time".to_owned();
                    return Err(HttpError {
                        host,
                        why,
                        unsent: false,
                    });
                }
            };
            let mut answer = http::Response::new(Bytes::new());
            *answer.status_mut() = status;
            Ok(answer)
        })
    }
}
