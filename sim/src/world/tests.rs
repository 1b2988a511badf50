//! Laws of a world, in memory and on real loopback sockets.

use inboxgrove_mail::{
    dkim::PrivateKey,
    dns::{CheckInput, DnsOptions, Resolver, Source, Wanted, check_domain, records_to_publish},
    smtp::client::{EnvelopeOut, Options, Session},
};
use inboxgrove_model::{
    PolicyTime, SecretId, WallTime,
    domain::{CheckKind, CheckOutcome, DkimAlgorithm, DkimSelector},
    ports::{BoxStream, Dns},
};

use super::*;
use crate::{
    clock::{FastClock, VirtualClock},
    net::{LoopbackNet, MemNet},
};

const EPOCH: PolicyTime = PolicyTime::from_millis(1_795_000_000_000);

fn name(text: &str) -> DomainName {
    DomainName::parse(text).unwrap()
}

fn to_publish(purpose: CheckKind, kind: RecordType, name: &str, value: &str) -> RecordToPublish {
    RecordToPublish {
        purpose,
        name: name.to_owned(),
        kind,
        value: value.to_owned(),
        required: true,
    }
}

/// Sends one message from a domain with SPF to a domain at each provider; which answers came.
async fn mail_everybody(world: &World, net: &dyn Net) -> Vec<u16> {
    world.add_zone("sender.example");
    let spf = to_publish(
        CheckKind::Spf,
        RecordType::Txt,
        "sender.example",
        "v=spf1 ip4:127.0.2.1 -all",
    );
    assert!(world.publish(&[spf.clone(), spf]));
    let mut codes = Vec::new();
    for provider in world.providers() {
        let domain = name(&format!("at-{}.example", provider.name()));
        assert!(world.add_domain(&domain, provider.name(), Delivery::Keep));
        let mx = world
            .zones()
            .lookup(domain.as_str(), RecordType::Mx)
            .await
            .unwrap();
        let Some(RecordData::Mx { exchange, .. }) = mx.records.first() else {
            panic!("{mx:?}")
        };
        let ip = world.zones().lookup(exchange, RecordType::A).await.unwrap();
        let Some(RecordData::A(ip)) = ip.records.first() else {
            panic!("{ip:?}")
        };
        let to = SocketAddr::from((*ip, world.smtp_port()));
        let stream: BoxStream = net.connect(Some(addresses::source(1)), to).await.unwrap();
        let options = Options::new(name("out.sender.example"), exchange.clone());
        let mut session = Session::open(stream, options).await.unwrap();
        let envelope = EnvelopeOut {
            mail_from: Some(EmailAddress::new("ann", &name("sender.example")).unwrap()),
            recipients: vec![EmailAddress::new("bob", &domain).unwrap()],
        };
        let outcome = session
            .send(&envelope, b"From: <ann@sender.example>\r\n\r\nHello.\r\n")
            .await;
        session.quit().await;
        codes.push(outcome.recipients[0].delivery.reply().unwrap().code());
    }
    codes
}

#[tokio::test(start_paused = true)]
async fn a_world_in_memory_takes_mail() {
    let net = Arc::new(MemNet::new(&SeededRng::new(3)));
    let clock = Arc::new(VirtualClock::new(EPOCH));
    let world = Plan::new(clock, net.clone(), Activity::default(), 3)
        .start()
        .await
        .unwrap();
    assert_eq!((world.smtp_port(), world.resolver()), (25, None));
    // The second and third greylist strangers.
    assert_eq!(mail_everybody(&world, &*net).await, [250, 451, 451]);
}

#[tokio::test]
async fn a_world_of_sockets_takes_mail() {
    let clock = Arc::new(FastClock::new(
        EPOCH,
        Arc::new(|| WallTime::from_millis(EPOCH.as_millis())),
    ));
    let activity = Activity::default();
    let plan = Plan::new(clock.clone(), Arc::new(LoopbackNet), activity.clone(), 3).on_free_ports();
    let world = plan.start().await.unwrap();
    assert!(world.resolver().is_some_and(|at| at.port() != 0));
    assert_eq!(mail_everybody(&world, &LoopbackNet).await, [250, 451, 451]);
    clock
        .run(
            &activity,
            EPOCH.after(std::time::Duration::from_mins(30)),
            std::time::Duration::ZERO,
        )
        .await;
    assert_eq!(
        mail_everybody(&world, &LoopbackNet).await,
        [250, 550, 250],
        "the second wants DKIM"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_published_can_be_looked_up_and_replaced() {
    let clock = Arc::new(VirtualClock::new(EPOCH));
    let net = Arc::new(MemNet::new(&SeededRng::new(3)));
    let world = Plan::new(clock, net, Activity::default(), 3)
        .start()
        .await
        .unwrap();
    let domain = name("grove.example");
    assert!(!world.add_domain(&domain, "nobody", Delivery::Keep));
    assert!(world.add_domain(&domain, "gmail", Delivery::Keep));
    let txt = |value: &str| to_publish(CheckKind::Spf, RecordType::Txt, "grove.example", value);
    assert!(world.publish(&[txt("v=spf1 -all"), txt("token=1"), txt("v=spf1 mx -all")]));
    let texts = world
        .zones()
        .lookup("grove.example", RecordType::Txt)
        .await
        .unwrap()
        .records;
    assert_eq!(
        texts,
        [
            RecordData::Txt("token=1".into()),
            RecordData::Txt("v=spf1 mx -all".into())
        ]
    );
    let outside = to_publish(
        CheckKind::Mx,
        RecordType::Mx,
        "elsewhere.example",
        "10 mx.example",
    );
    assert!(!world.publish(&[outside]));
    world.add_host(&name("out.sender.example"), addresses::source(1));
    let back = world
        .zones()
        .lookup("1.2.0.127.in-addr.arpa", RecordType::Ptr)
        .await
        .unwrap();
    assert_eq!(back.records, [RecordData::Ptr("out.sender.example".into())]);
    let forth = world
        .zones()
        .lookup("out.sender.example", RecordType::A)
        .await
        .unwrap();
    assert_eq!(forth.records, [address_record(addresses::source(1))]);
    for (provider, family) in [
        ("gmail", "google"),
        ("outlook", "microsoft"),
        ("yahoo", "yahoo"),
    ] {
        let hosts = world.mx_hosts(provider);
        assert_eq!(hosts.len(), 2, "{provider}");
        assert!(
            hosts
                .iter()
                .all(|host| inboxgrove_policy::provider_of(host.name.as_str()) == family)
        );
    }
}

/// What the owner of `grove.example` is told to publish.
fn wanted(world: &World) -> Wanted {
    let selectors =
        [DkimAlgorithm::Rsa2048, DkimAlgorithm::Ed25519].map(|algorithm| DkimSelector {
            name: format!("{algorithm:?}").to_lowercase(),
            algorithm,
            public_key: PrivateKey::generate(algorithm).unwrap().public_key(),
            secret: SecretId::from_bytes([0; 16]),
        });
    Wanted {
        domain: name("grove.example"),
        ownership_token: "inboxgrove-verification=abc".into(),
        mail_hosts: world
            .mx_hosts("outlook")
            .iter()
            .map(|host| host.name.to_string())
            .collect(),
        selectors: selectors.into(),
        sources: vec![Source {
            address: addresses::source(1),
            ehlo_name: "out.grove.example".into(),
        }],
        dmarc_reports: None,
    }
}

/// The outcome of each check of a domain that has published everything, or nothing.
async fn outcomes(wanted: &Wanted, dns: &dyn Dns) -> Vec<(CheckKind, CheckOutcome)> {
    let input = CheckInput {
        wanted: wanted.clone(),
        before: Vec::new(),
        at: EPOCH,
        allow_private: true,
    };
    let checks = check_domain(&input, dns).await;
    checks
        .into_iter()
        .map(|check| (check.kind, check.outcome))
        .collect()
}

async fn a_domain_gets_proven(world: &World, dns: impl Fn() -> Box<dyn Dns>) {
    let wanted = wanted(world);
    assert!(world.add_domain(&wanted.domain, "outlook", Delivery::Keep));
    let before = outcomes(&wanted, &*dns()).await;
    let failed = |kind: &CheckKind| before.contains(&(kind.clone(), CheckOutcome::Fail));
    assert!(
        failed(&CheckKind::Ownership) && failed(&CheckKind::Spf),
        "{before:?}"
    );
    assert!(world.publish(&records_to_publish(&wanted)));
    world.add_host(&name("out.grove.example"), addresses::source(1));
    let after = outcomes(&wanted, &*dns()).await;
    assert!(after.len() >= 6);
    assert!(
        after
            .iter()
            .all(|(_, outcome)| *outcome == CheckOutcome::Pass),
        "{after:?}"
    );
    world
        .zones()
        .server_trouble(addresses::NAME_SERVERS[1], crate::dns::Trouble::ServFail);
    let unsure = outcomes(&wanted, &*dns()).await;
    assert!(
        unsure
            .iter()
            .all(|(_, outcome)| *outcome != CheckOutcome::Fail),
        "{unsure:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_domain_gets_proven_in_memory() {
    let clock = Arc::new(VirtualClock::new(EPOCH));
    let net = Arc::new(MemNet::new(&SeededRng::new(3)));
    let world = Plan::new(clock, net, Activity::default(), 3)
        .start()
        .await
        .unwrap();
    a_domain_gets_proven(&world, || Box::new(world.zones().clone())).await;
}

#[tokio::test]
async fn a_domain_gets_proven_over_sockets() {
    let clock = Arc::new(VirtualClock::new(EPOCH));
    let plan = Plan::new(clock.clone(), Arc::new(LoopbackNet), Activity::default(), 3);
    let world = plan.on_free_ports().start().await.unwrap();
    let resolver = world.resolver().unwrap();
    let options = DnsOptions {
        servers: vec![resolver.ip()],
        port: resolver.port(),
        ..DnsOptions::default()
    };
    // A resolver of its own each time: it caches, and policy time stands still.
    let dns = || -> Box<dyn Dns> { Box::new(Resolver::new(&options, clock.clone()).unwrap()) };
    a_domain_gets_proven(&world, dns).await;
}

/// Many clients on many threads, each with the guard that the daemon would hold: what the policy clock
/// shows does not change from before the connection to after the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_fast_clock_never_runs_past_mail_on_real_sockets() {
    let wall = Arc::new(|| WallTime::from_millis(EPOCH.as_millis()));
    let (clock, activity) = (Arc::new(FastClock::new(EPOCH, wall)), Activity::default());
    let plan = Plan::new(clock.clone(), Arc::new(LoopbackNet), activity.clone(), 3);
    let world = Arc::new(plan.on_free_ports().start().await.unwrap());
    let domain = name("grove.example");
    world.add_zone("sender.example");
    let spf = to_publish(
        CheckKind::Spf,
        RecordType::Txt,
        "sender.example",
        "v=spf1 ip4:127.0.2.0/24 -all",
    );
    assert!(world.publish(&[spf]) && world.add_domain(&domain, "gmail", Delivery::Keep));
    let to = world.mx_hosts("gmail")[0].address;
    let senders: Vec<_> = (1..=4_u8)
        .map(|n| {
            let (clock, activity) = (clock.clone(), activity.clone());
            tokio::spawn(async move {
                for round in 1..=6_u32 {
                    let wanted = EPOCH.after(std::time::Duration::from_mins(u64::from(
                        round * 37 + u32::from(n),
                    )));
                    clock.sleep_until(wanted).await;
                    let busy = activity.begin();
                    assert_eq!(clock.policy(), wanted);
                    let stream = LoopbackNet
                        .connect(Some(addresses::source(n)), to)
                        .await
                        .unwrap();
                    let options = Options::new(name("out.sender.example"), "mx");
                    let mut session = Session::open(stream, options).await.unwrap();
                    let envelope = EnvelopeOut {
                        mail_from: Some(EmailAddress::new("ann", &name("sender.example")).unwrap()),
                        recipients: vec![EmailAddress::new("bob", &name("grove.example")).unwrap()],
                    };
                    session
                        .send(&envelope, b"From: <ann@sender.example>\r\n\r\nHello.\r\n")
                        .await;
                    session.quit().await;
                    assert_eq!(
                        clock.policy(),
                        wanted,
                        "time stood still during the delivery"
                    );
                    drop(busy);
                }
            })
        })
        .collect();
    clock
        .run(
            &activity,
            EPOCH.after(std::time::Duration::from_hours(6)),
            std::time::Duration::ZERO,
        )
        .await;
    for sender in senders {
        sender.await.unwrap();
    }
    let taken: u32 = world
        .provider("gmail")
        .unwrap()
        .daily()
        .iter()
        .map(|day| day.accepted)
        .sum();
    assert_eq!(taken, 24);
}
