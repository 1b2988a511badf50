//! Laws of a provider, over streams in memory and under a virtual clock.

use std::sync::PoisonError;

use inboxgrove_mail::{
    dkim::{PrivateKey, Signer},
    smtp::{
        EnhancedStatus, Reply,
        client::{EnvelopeOut, Options, Session as Client},
        server::{EnvelopeIn, Handler, Verdict},
    },
};
use inboxgrove_model::{
    PolicyTime,
    domain::DkimAlgorithm,
    ports::{RecordData, RecordType},
};

use super::*;
use crate::{clock::VirtualClock, dns::Zones, net::MemNet};

const EPOCH: PolicyTime = PolicyTime::from_millis(1_795_000_000_000);
const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 2, 1));
const MAIL: &str = "From: <ann@sender.example>\r\nTo: <bob@grove.example>\r\nSubject: hello\r\nDate: Tue, 17 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@sender.example>\r\n\r\nHello Bob.\r\n";

/// A provider with the world it needs: a sender that publishes SPF, and one domain it takes mail for.
struct Stage {
    clock: VirtualClock,
    zones: Zones,
    net: MemNet,
    activity: Activity,
    provider: Provider,
    serving: Serving,
}

/// The domain's own host: takes what its `answer` lets in.
#[derive(Clone)]
struct OwnHost {
    name: DomainName,
    answer: Reply,
    taken: Arc<Mutex<Vec<(EnvelopeIn, Bytes)>>>,
}

// === impl Stage ===

impl Stage {
    async fn new(rules: Rules) -> Self {
        let (zones, clock) = (Zones::new(), VirtualClock::new(EPOCH));
        let rng = SeededRng::new(11);
        let (net, activity) = (MemNet::new(&rng), Activity::default());
        zones.zone("sender.example", &[("ns.sender.example", SOURCE)]);
        zones.add(
            "sender.example",
            RecordData::Txt("v=spf1 ip4:127.0.2.1 -all".into()),
        );
        let around = Around {
            clock: Arc::new(clock.clone()),
            dns: Arc::new(zones.clone()),
            net: Arc::new(net.clone()),
            activity: activity.clone(),
        };
        let provider = Provider::new(rules, around, &rng);
        let at = SocketAddr::from(([127, 0, 10, 1], 25));
        let serving = provider.serve(vec![net.listen(at).await.unwrap()]).unwrap();
        provider.host(&name("grove.example"), Delivery::Keep);
        Self {
            clock,
            zones,
            net,
            activity,
            provider,
            serving,
        }
    }

    async fn client(&self) -> Client {
        let to = self.serving.hosts()[0].address;
        let stream = self.net.connect(Some(SOURCE), to).await.unwrap();
        Client::open(stream, Options::new(name("out.sender.example"), "mx"))
            .await
            .unwrap()
    }

    /// Sends on a connection of its own and brings back what the recipient got for an answer.
    async fn post(&self, to: &str, message: &str) -> Reply {
        let mut client = self.client().await;
        let envelope = EnvelopeOut {
            mail_from: Some(address("ann@sender.example")),
            recipients: vec![address(to)],
        };
        let outcome = client.send(&envelope, message.as_bytes()).await;
        client.quit().await;
        outcome.recipients[0]
            .delivery
            .reply()
            .expect("an answer")
            .clone()
    }

    /// Lets the domain have a host of its own, which answers like this to every message.
    async fn own_host(&self, answer: Reply) -> OwnHost {
        let at = SocketAddr::from(([127, 0, 1, 1], 2525));
        let host = OwnHost {
            name: name("in.grove.example"),
            answer,
            taken: Arc::default(),
        };
        let listener = self.net.listen(at).await.unwrap();
        let answering = host.clone();
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let (_hold, told) = watch::channel(false);
                serve(
                    stream,
                    peer,
                    answering.clone(),
                    &Limits::default(),
                    None,
                    told,
                )
                .await;
            }
        });
        self.provider
            .host(&name("grove.example"), Delivery::Relay(at));
        host
    }

    fn today(&self) -> ProviderDay {
        self.provider.daily().last().copied().unwrap_or_default()
    }
}

impl Handler for OwnHost {
    fn banner_host(&self) -> &DomainName {
        &self.name
    }

    async fn mail(&mut self, _from: Option<&EmailAddress>, _size: Option<u64>) -> Verdict {
        Reply::ok("go on")
    }

    async fn rcpt(&mut self, _to: &EmailAddress) -> Verdict {
        Reply::ok("go on")
    }

    async fn data(&mut self, envelope: &EnvelopeIn, message: Bytes) -> Verdict {
        if self.answer.is_done() {
            self.taken
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((envelope.clone(), message));
        }
        self.answer.clone()
    }
}

fn name(text: &str) -> DomainName {
    DomainName::parse(text).unwrap()
}

fn address(text: &str) -> EmailAddress {
    EmailAddress::parse(text).unwrap()
}

fn status(reply: &Reply) -> (u16, String) {
    (
        reply.code(),
        reply
            .enhanced()
            .map(|enhanced| enhanced.to_string())
            .unwrap_or_default(),
    )
}

/// Rules that put nothing into the spam folder and greylist nobody, so that one thing is looked at.
fn plain() -> Rules {
    Rules {
        spam_middle: -100.0,
        ..Rules::gmail_like()
    }
}

#[tokio::test(start_paused = true)]
async fn accepted_mail_arrives_at_the_domains_own_host_with_its_verdict() {
    for (spam_middle, verdict) in [
        (-100.0, "X-Spam-Flag: NO\r\n"),
        (100.0, "X-Spam-Flag: YES\r\n"),
    ] {
        let stage = Stage::new(Rules {
            spam_middle,
            ..plain()
        })
        .await;
        let host = stage.own_host(Reply::ok("ours")).await;
        let forged = format!("X-Spam-Flag: NO\r\n{MAIL}");
        assert_eq!(stage.post("bob@grove.example", &forged).await.code(), 250);
        let taken = host.taken.lock().unwrap().clone();
        let [(envelope, message)] = taken.as_slice() else {
            panic!("one message: {taken:?}")
        };
        let text = std::str::from_utf8(message).unwrap();
        assert!(text.starts_with(verdict), "{text}");
        assert_eq!(text.matches("X-Spam-Flag").count(), 1);
        assert!(
            text.contains("Authentication-Results: ") && text.contains("spf=pass"),
            "{text}"
        );
        assert!(text.ends_with(MAIL));
        assert_eq!(envelope.peer.ip(), stage.serving.hosts()[0].address.ip());
        assert_eq!(envelope.mail_from, Some(address("ann@sender.example")));
        let today = stage.today();
        assert_eq!(
            (today.accepted, today.spam),
            (1, u32::from(spam_middle > 0.0))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_hosts_refusals_are_the_providers_refusals() {
    let refusal = |code, class, subject, detail| {
        Reply::new(code, EnhancedStatus::new(class, subject, detail), "no")
    };
    for (answer, expected) in [
        (refusal(550, 5, 1, 1), (550, "5.1.1")),
        (refusal(550, 5, 7, 1), (550, "5.7.1")),
        (refusal(452, 4, 3, 1), (451, "4.4.1")),
    ] {
        let stage = Stage::new(plain()).await;
        stage.own_host(answer).await;
        let reply = stage.post("bob@grove.example", MAIL).await;
        assert_eq!(status(&reply), (expected.0, expected.1.to_owned()));
        assert_eq!(stage.today().accepted, 0);
    }
    let stage = Stage::new(plain()).await;
    let nowhere = SocketAddr::from(([127, 0, 1, 9], 25));
    stage
        .provider
        .host(&name("grove.example"), Delivery::Relay(nowhere));
    assert_eq!(stage.post("bob@grove.example", MAIL).await.code(), 451);
}

#[tokio::test(start_paused = true)]
async fn recipients_that_are_not_its_users_are_refused() {
    let stage = Stage::new(plain()).await;
    assert_eq!(
        status(&stage.post("bob@other.example", MAIL).await),
        (550, "5.7.1".into())
    );
    stage.provider.add_user(&address("Bob@grove.example"));
    let before = stage.provider.standing(SOURCE, &name("sender.example"));
    assert_eq!(
        status(&stage.post("eve@grove.example", MAIL).await),
        (550, "5.1.1".into())
    );
    assert!(
        stage
            .provider
            .standing(SOURCE, &name("sender.example"))
            .score
            < before.score
    );
    assert_eq!(stage.post("bob@grove.example", MAIL).await.code(), 250);
    stage.provider.remove_user(&address("bob@grove.example"));
    assert_eq!(stage.post("bob@grove.example", MAIL).await.code(), 550);
    assert_eq!(stage.provider.kept().len(), 1);
    assert_eq!((stage.today().accepted, stage.today().bounced), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_first_time_triplet_has_to_come_again() {
    let stage = Stage::new(Rules {
        spam_middle: -100.0,
        ..Rules::yahoo_like()
    })
    .await;
    assert_eq!(
        status(&stage.post("bob@grove.example", MAIL).await),
        (451, "4.7.1".into())
    );
    stage.clock.pass(Duration::from_mins(1)).await;
    assert_eq!(stage.post("bob@grove.example", MAIL).await.code(), 451);
    stage.clock.pass(Duration::from_mins(10)).await;
    assert_eq!(stage.post("bob@grove.example", MAIL).await.code(), 250);
    assert_eq!((stage.today().accepted, stage.today().deferred), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn whoever_sends_too_much_is_told_to_slow_down_in_the_providers_words() {
    for (rules, expected, word) in [
        (Rules::gmail_like(), (421, "4.7.28"), "unusual rate"),
        (
            Rules {
                needs_both: false,
                ..Rules::outlook_like()
            },
            (451, "4.7.500"),
            "Server busy",
        ),
        (Rules::yahoo_like(), (421, "4.7.0"), "[TSS04]"),
    ] {
        let rules = Rules {
            greylist: None,
            floor_per_day: 3,
            ..rules
        };
        let stage = Stage::new(rules).await;
        for _ in 0..3 {
            assert_eq!(stage.post("bob@grove.example", MAIL).await.code(), 250);
        }
        let before = stage
            .provider
            .standing(SOURCE, &name("sender.example"))
            .score;
        let reply = stage.post("bob@grove.example", MAIL).await;
        assert_eq!(status(&reply), (expected.0, expected.1.to_owned()));
        assert!(reply.text().contains(word), "{reply:?}");
        assert!(
            stage
                .provider
                .standing(SOURCE, &name("sender.example"))
                .score
                < before
        );
        stage.clock.pass(Duration::from_hours(24)).await;
        assert_eq!(
            stage.post("bob@grove.example", MAIL).await.code(),
            250,
            "tomorrow is another day"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn unauthenticated_mail_is_refused_and_silence_of_dns_is_not_held_against_it() {
    let stage = Stage::new(plain()).await;
    stage
        .zones
        .trouble("sender.example", crate::dns::Trouble::ServFail);
    assert_eq!(
        status(&stage.post("bob@grove.example", MAIL).await),
        (451, "4.7.0".into())
    );
    stage
        .zones
        .trouble("sender.example", crate::dns::Trouble::None);
    stage.zones.set(
        "sender.example",
        RecordType::Txt,
        vec![RecordData::Txt("v=spf1 -all".into())],
    );
    assert_eq!(
        status(&stage.post("bob@grove.example", MAIL).await),
        (550, "5.7.26".into())
    );
    assert_eq!((stage.today().deferred, stage.today().bounced), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_both_wants_a_signature_too() {
    let rules = Rules {
        spam_middle: -100.0,
        greylist: None,
        ..Rules::outlook_like()
    };
    let stage = Stage::new(rules).await;
    assert_eq!(
        status(&stage.post("bob@grove.example", MAIL).await),
        (550, "5.7.515".into())
    );
    let key = PrivateKey::generate(DkimAlgorithm::Ed25519).unwrap();
    let record = format!("v=DKIM1; k=ed25519; p={}", key.public_key());
    stage
        .zones
        .add("s1._domainkey.sender.example", RecordData::Txt(record));
    let signer = Signer::new(vec![("s1".into(), name("sender.example"), key)]).unwrap();
    let signature = signer
        .sign(MAIL.as_bytes(), stage.clock.wall().as_secs())
        .unwrap();
    let signed = String::from_utf8(signature).unwrap() + MAIL;
    assert_eq!(
        status(&stage.post("bob@grove.example", &signed).await),
        (250, "2.0.0".into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_mood_is_for_everybody() {
    let stage = Stage::new(plain()).await;
    for (mood, code) in [
        (Mood::Deferring, 421),
        (Mood::Refusing, 550),
        (Mood::Normal, 250),
    ] {
        stage.provider.set_mood(mood);
        assert_eq!(stage.post("bob@grove.example", MAIL).await.code(), code);
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_at_work_through_a_transaction_and_not_on_an_idle_connection() {
    let stage = Stage::new(plain()).await;
    let mut client = stage.client().await;
    assert_eq!(stage.activity.busy(), 1, "a new connection is work");
    let envelope = EnvelopeOut {
        mail_from: Some(address("ann@sender.example")),
        recipients: vec![address("bob@grove.example")],
    };
    for _ in 0..2 {
        client.send(&envelope, MAIL.as_bytes()).await;
        stage.activity.idle().await;
        assert_eq!(stage.activity.busy(), 0, "an idle connection is none");
    }
    stage.provider.add_user(&address("eve@grove.example"));
    client.send(&envelope, MAIL.as_bytes()).await;
    assert_eq!(
        stage.activity.busy(),
        0,
        "nothing comes of a transaction without recipients"
    );
    client.quit().await;
    assert_eq!(stage.provider.kept().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn answers_raise_and_complaints_lower_a_standing() {
    let stage = Stage::new(plain()).await;
    let domain = name("sender.example");
    let fresh = stage.provider.spam_probability(SOURCE, &domain);
    (0..4).for_each(|_| stage.provider.engaged(SOURCE, &domain));
    let warm = stage.provider.spam_probability(SOURCE, &domain);
    (0..8).for_each(|_| stage.provider.complained(SOURCE, &domain));
    let cold = stage.provider.spam_probability(SOURCE, &domain);
    assert!(warm <= fresh && fresh <= cold);
    assert!(stage.provider.standing(SOURCE, &domain).score < stage.provider.rules().start);
}

#[tokio::test(start_paused = true)]
async fn equal_seeds_live_equal_lives() {
    let mut lives = Vec::new();
    for _ in 0..2 {
        let stage = Stage::new(Rules {
            greylist: None,
            ..Rules::yahoo_like()
        })
        .await;
        for day in 0..6 {
            for _ in 0..=day * 5 {
                stage.post("bob@grove.example", MAIL).await;
            }
            stage.clock.pass(Duration::from_hours(24)).await;
        }
        lives.push(stage.provider.daily());
    }
    assert_eq!(lives[0], lives[1]);
    assert!(lives[0].iter().any(|day| day.spam > 0) && lives[0].iter().any(|day| day.inbox > 0));
}

/// The share of the mail of the last seven days with any that went to the inbox, and of all tries that failed.
async fn a_month(volume: impl Fn(u32) -> u32, answered: bool) -> (f64, f64) {
    let stage = Stage::new(Rules::gmail_like()).await;
    let mut deferred = 0.0;
    let mut tries = 0.0;
    for day in 0..28 {
        for _ in 0..volume(day) {
            let reply = stage.post("bob@grove.example", MAIL).await;
            tries += 1.0;
            deferred += f64::from(u8::from(!reply.is_done()));
            if answered {
                stage.provider.engaged(SOURCE, &name("sender.example"));
            }
        }
        stage.clock.pass(Duration::from_hours(24)).await;
    }
    let mut days = stage.provider.daily();
    days.retain(|day| day.accepted > 0);
    let week = &days[days.len().saturating_sub(7)..];
    let sum = |count: fn(&ProviderDay) -> u32| f64::from(week.iter().map(count).sum::<u32>());
    (
        sum(|day| day.inbox) / sum(|day| day.accepted),
        deferred / tries,
    )
}

#[tokio::test(start_paused = true)]
async fn a_ramp_that_is_answered_reaches_the_inbox_and_a_blast_does_not() {
    let (inbox, deferred) = a_month(|day| 3 + day, true).await;
    assert!(inbox > 0.95 && deferred == 0.0, "{inbox} {deferred}");
    let (inbox, deferred) = a_month(|_| 60, false).await;
    assert!(inbox < 0.6 && deferred > 0.3, "{inbox} {deferred}");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_provider_lets_go_of_its_address() {
    let stage = Stage::new(plain()).await;
    let client = stage.client().await;
    let at = stage.serving.hosts()[0].address;
    stage.serving.stop().await;
    assert!(stage.net.listen(at).await.is_ok());
    assert_eq!(stage.activity.busy(), 0);
    drop(client);
}
