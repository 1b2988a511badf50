//! The sites: where a recipient's mail goes, the actors that take it there, and when these sleep.

use std::{net::IpAddr, sync::Arc, time::Duration};

use inboxgrove_mail::dns::{self, MxHost};
use inboxgrove_model::{
    message::BounceClass,
    ports::{DnsError, RecordType},
};
use inboxgrove_policy::{provider_of, retry::Cause, site_of};
use ractor::{ActorId, ActorRef, ActorRuntime};
use tokio::time::Instant;

use super::{InFlight, OutboundMsg, OutboundState, outcome::Tried};
use crate::{
    mailbox::{Mailbox, Place},
    platform::{TreeNode, TreePart, TreeQuery},
    refusal::Refusal,
    site::{SiteActor, SiteMsg},
    supervision::{Budget, Record, Sentence},
};

/// Mail for a parked site waits this long.
const SITE_AGAIN: Duration = Duration::from_mins(10);
/// A resolver asks for 5 s a question, and an MX set needs a few.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(30);
/// Sites that are awake at once, at some 12 KB each: mail for more of them waits until some have been idle.
const SITES_MAX: usize = 4096;
/// Mail for a site that has no place waits this long.
const SITE_FULL_AGAIN: Duration = Duration::from_mins(1);
/// While there is no place for another, a site is put to sleep when it has been idle for this long.
const SITE_IDLE_WHEN_FULL: Duration = Duration::from_secs(1);
/// What sites have handled is marked this often, so that `admin tree` can tell what is recent.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// A site without work for this long is put to sleep.
const SITE_IDLE: Duration = Duration::from_mins(10);

pub(super) struct Site {
    actor: Option<ActorRef<SiteMsg>>,
    record: Record,
    parked: Option<String>,
    last_used: Instant,
    /// Deliveries that wait there or are under way.
    deliveries: Arc<Mailbox>,
    /// Why an operator has ended it, until it has.
    killed: Option<String>,
}

impl OutboundState {
    pub(super) fn route(&self, flight: InFlight) {
        let cx = Arc::clone(&self.cx);
        let me = self.me.clone();
        self.cx.spawn(async move {
            let domain = flight.recipient().domain();
            let asked =
                tokio::time::timeout(ROUTE_TIMEOUT, dns::mx_hosts(&domain, &*cx.ports.dns)).await;
            let hosts = asked.unwrap_or_else(|_| {
                let why = "no answer in time".to_owned();
                Err(DnsError::Unknown {
                    name: domain.to_string(),
                    kind: RecordType::Mx,
                    why,
                })
            });
            // An outbound that is gone finds the row again when it is back.
            me.tell(OutboundMsg::Routed(flight, hosts));
        });
    }

    pub(super) fn routed(&mut self, mut flight: InFlight, route: Result<Vec<MxHost>, DnsError>) {
        if self.cx.draining() {
            return drop(flight);
        }
        let hosts = match route {
            Ok(hosts) if hosts.iter().any(|host| !host.addresses.is_empty()) => hosts,
            Ok(hosts) if hosts.is_empty() => {
                let reply = "it takes no mail (a null MX, RFC 7505)".to_owned();
                let class = BounceClass::Recipient;
                return flight.end(Tried::Bounced {
                    provider: "none".to_owned(),
                    reply,
                    class,
                });
            }
            Ok(_) => {
                return flight.end(no_route("none of its mail hosts has an address".to_owned()));
            }
            Err(why) if why.is_absence() => {
                let class = BounceClass::Recipient;
                return flight.end(Tried::Bounced {
                    provider: "none".to_owned(),
                    reply: why.to_string(),
                    class,
                });
            }
            Err(why) => return flight.end(no_route(why.to_string())),
        };
        let names: Vec<_> = hosts.iter().map(|host| host.host.as_str()).collect();
        let provider = provider_of(names[0]);
        let source = self.cx.rules.source_for(&flight.entry);
        let site = (source.address, site_of(&names));
        match self.site(&site, &provider) {
            Ok((actor, place)) => {
                flight.place = Some(place);
                let delivery = SiteMsg::Deliver {
                    flight: Box::new(flight),
                    hosts,
                    provider,
                };
                // A site that is just ending drops the letter, and with it the delivery comes back.
                drop(actor.send_message(delivery));
            }
            Err((why, again)) => {
                let until = self.cx.now().after(again);
                flight.end(Tried::Waiting {
                    provider,
                    why,
                    until,
                });
            }
        }
    }

    /// The actor of a site and a place there, or why there is none and when to try again.
    fn site(
        &mut self,
        key: &(IpAddr, String),
        provider: &str,
    ) -> Result<(ActorRef<SiteMsg>, Place), (String, Duration)> {
        if !self.sites.contains_key(key) && !self.has_place_for_a_site() {
            let why = format!("mail for {SITES_MAX} sites is under way");
            return Err((why, SITE_FULL_AGAIN));
        }
        let new = || Site {
            actor: None,
            record: Record::default(),
            parked: None,
            last_used: Instant::now(),
            deliveries: Arc::default(),
            killed: None,
        };
        let site = self.sites.entry(key.clone()).or_insert_with(new);
        site.last_used = Instant::now();
        let place = site.deliveries.own();
        if let Some(why) = &site.parked {
            return Err((format!("the site {} is parked: {why}", key.1), SITE_AGAIN));
        }
        if let Some(actor) = &site.actor {
            return Ok((actor.clone(), place));
        }
        let args = (
            Arc::clone(&self.cx),
            key.0,
            key.1.clone(),
            provider.to_owned(),
        );
        let (actor, start) =
            ActorRuntime::spawn_linked_instant(None, SiteActor, args, self.me.cell()).map_err(
                |why| {
                    (
                        format!("the site {} did not start: {why}", key.1),
                        SITE_AGAIN,
                    )
                },
            )?;
        site.actor = Some(actor.clone());
        let (me, id) = (self.me.clone(), actor.get_id());
        self.cx.spawn_waiting(async move {
            // A site that fails to start is not linked yet: no supervision event tells of it.
            if let Ok(Err(why)) = start.await {
                me.tell(OutboundMsg::SiteFailed(id, why.to_string()));
            }
        });
        Ok((actor, place))
    }

    /// Whether another site may be awake. When there are too many the idle ones are sent to sleep.
    fn has_place_for_a_site(&mut self) -> bool {
        if self.sites.len() >= SITES_MAX {
            self.put_to_sleep(SITE_IDLE_WHEN_FULL);
        }
        self.sites.len() < SITES_MAX
    }

    pub(super) fn site_ended(&mut self, actor: ActorId, failure: Option<String>) {
        let is_it = |site: &Site| {
            site.actor
                .as_ref()
                .is_some_and(|running| running.get_id() == actor)
        };
        let Some((key, site)) = self.sites.iter_mut().find(|(_, site)| is_it(site)) else {
            return;
        };
        site.actor = None;
        let killed = site.killed.take();
        let Some(why) = failure.map(|why| killed.unwrap_or(why)) else {
            return;
        };
        self.cx.metrics.failures.inc();
        tracing::warn!(site = %key.1, source = %key.0, %why, "a site failed");
        if site
            .record
            .fail(why.clone(), Instant::now(), &Budget::ENTITY)
            == Sentence::Park
        {
            tracing::error!(site = %key.1, source = %key.0, %why, "a site failed too often and is parked");
            site.parked = Some(why);
        }
    }

    pub(super) fn put_idle_sites_to_sleep(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.counted_at) >= COUNT_EVERY {
            self.counted_at = now;
            self.sites.values().for_each(|site| site.deliveries.mark());
        }
        self.put_to_sleep(SITE_IDLE);
    }

    /// A site that has been idle for long ends itself when it is told to rest; its row knows its pace.
    fn put_to_sleep(&mut self, idle: Duration) {
        let now = Instant::now();
        for site in self.sites.values_mut() {
            if now.duration_since(site.last_used) >= idle
                && site.deliveries.depth() == 0
                && let Some(actor) = &site.actor
            {
                site.last_used = now;
                // A site that is gone rests already.
                drop(actor.send_message(SiteMsg::Rest));
            }
        }
        // A record is kept for as long as its failures count.
        let kept = idle.max(Budget::ENTITY.within);
        self.sites.retain(|_, site| {
            site.actor.is_some()
                || site.parked.is_some()
                || now.duration_since(site.last_used) < kept
        });
    }

    /// Ends a site at once. What waited there goes back to the queue; what is under way ends by itself.
    pub(super) fn kill(&mut self, address: &str, why: String) -> Result<(), Refusal> {
        let awake = self
            .sites
            .iter_mut()
            .filter(|(key, _)| site_address(key) == address)
            .find_map(|(_, site)| Some((site.actor.clone()?, site)));
        let (actor, site) = awake.ok_or(Refusal::NotFound {
            what: "running actor",
        })?;
        site.killed = Some(why);
        actor.kill();
        Ok(())
    }

    pub(super) fn drain(&self) {
        for site in self.sites.values().filter_map(|site| site.actor.as_ref()) {
            // A site that is gone has dropped what waited there.
            drop(site.send_message(SiteMsg::Go));
        }
    }

    pub(super) fn unpark(&mut self, address: &str) -> Result<(), Refusal> {
        let parked = |(key, site): &(&(IpAddr, String), &mut Site)| {
            site.parked.is_some() && site_address(key) == address
        };
        let (_, site) = self
            .sites
            .iter_mut()
            .find(parked)
            .ok_or(Refusal::NotFound {
                what: "parked actor",
            })?;
        site.record.forgive();
        site.parked = None;
        Ok(())
    }

    pub(super) fn tree(&self, query: &TreeQuery) -> TreePart {
        let of = query.of.as_str();
        let is_asked_for = |(key, site): &(&(IpAddr, String), &Site)| {
            of.is_empty()
                || of == "site"
                || of == site.state()
                || (of == TreeQuery::FAILED && site.record.total() > 0)
                || (of.contains('/') && site_address(key) == of)
        };
        let mut matching: Vec<_> = self.sites.iter().filter(is_asked_for).collect();
        let count = matching.len();
        matching.sort_by_key(|(_, site)| site.rank());
        matching.truncate(query.limit);
        let node = |(key, site): (&(IpAddr, String), &Site)| TreeNode {
            address: site_address(key),
            state: site.state(),
            depth: site.deliveries.depth(),
            recent: site.deliveries.recent(),
            restarts: site.record.total(),
            last_failure: site.record.last().map(str::to_owned),
        };
        TreePart {
            nodes: matching.into_iter().map(node).collect(),
            matching: count,
        }
    }
}

// === impl Site ===

impl Site {
    fn state(&self) -> &'static str {
        match (&self.parked, &self.actor) {
            (Some(_), _) => "parked",
            (None, Some(_)) => "running",
            (None, None) => "asleep",
        }
    }

    /// What comes first for an operator: small is early.
    fn rank(&self) -> impl Ord + use<> {
        let (depth, recent) = (self.deliveries.depth(), self.deliveries.recent());
        (self.parked.is_none(), usize::MAX - depth, u64::MAX - recent)
    }
}

fn site_address(key: &(IpAddr, String)) -> String {
    format!("site/{}/{}", key.0, key.1)
}

fn no_route(reply: String) -> Tried {
    Tried::Deferred {
        provider: "none".to_owned(),
        reply,
        cause: Cause::Deferred,
        counted: false,
    }
}
