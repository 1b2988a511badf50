//! What the tree counts, by the Prometheus client library. Names are documented in `docs/metrics.md`.

use std::sync::{Mutex, PoisonError};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Sites and providers are few; a label is never a tenant, an address or an id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByProvider {
    pub(crate) provider: String,
    pub(crate) outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByOutcome {
    pub(crate) outcome: &'static str,
}

/// The counters, cheap to clone from; all monotone but the gauges.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    pub(crate) activations: Counter,
    pub(crate) failures: Counter,
    pub(crate) awake: Gauge,
    pub(crate) attempts: Family<ByProvider, Counter>,
    pub(crate) received: Family<ByOutcome, Counter>,
    pub(crate) accepted: Counter,
    pub(crate) in_flight: Gauge,
    pub(crate) due_woken: Counter,
    pub(crate) notices: Family<ByOutcome, Counter>,
    pub(crate) attempt_seconds: Histogram,
    pub(crate) memory_used: Gauge,
    pub(crate) memory_pressure: Gauge,
    pub(crate) refused_for_memory: Counter,
    pub(crate) refused_as_full: Counter,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("inboxgrove")),
            activations: Counter::default(),
            failures: Counter::default(),
            awake: Gauge::default(),
            attempts: Family::default(),
            received: Family::default(),
            accepted: Counter::default(),
            in_flight: Gauge::default(),
            due_woken: Counter::default(),
            notices: Family::default(),
            memory_used: Gauge::default(),
            memory_pressure: Gauge::default(),
            refused_for_memory: Counter::default(),
            refused_as_full: Counter::default(),
            attempt_seconds: Histogram::new([0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0]),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register(
            "actor_activations",
            "Actors spawned by a first letter",
            self.activations.clone(),
        );
        registry.register(
            "actor_failures",
            "Actors that failed",
            self.failures.clone(),
        );
        registry.register(
            "actors_awake",
            "Actors awake at the last sweep",
            self.awake.clone(),
        );
        registry.register(
            "messages_accepted",
            "Messages accepted for sending",
            self.accepted.clone(),
        );
        registry.register(
            "delivery_attempts",
            "Recipients tried, by provider and outcome",
            self.attempts.clone(),
        );
        registry.register(
            "deliveries_in_flight",
            "Recipients being tried now",
            self.in_flight.clone(),
        );
        registry.register(
            "delivery_attempt_seconds",
            "Time of one attempt",
            self.attempt_seconds.clone(),
        );
        registry.register(
            "messages_received",
            "Messages received, by what they were",
            self.received.clone(),
        );
        registry.register(
            "due_rows_woken",
            "Due rows handed to their actor",
            self.due_woken.clone(),
        );
        registry.register(
            "notices",
            "Notices, by outcome of the call",
            self.notices.clone(),
        );
        registry.register(
            "memory_used_bytes",
            "Resident memory at the last reading",
            self.memory_used.clone(),
        );
        registry.register(
            "memory_pressure",
            "0: enough; 1: actors sleep early; 2: no new work is taken",
            self.memory_pressure.clone(),
        );
        registry.register(
            "refused_for_memory",
            "Requests and messages refused because memory is short",
            self.refused_for_memory.clone(),
        );
        registry.register(
            "refused_as_full",
            "Letters refused because a mailbox was full",
            self.refused_as_full.clone(),
        );
    }

    /// Recipients being tried at the last look.
    pub(crate) fn in_flight(&self) -> usize {
        usize::try_from(self.in_flight.get()).unwrap_or(0)
    }

    /// OpenMetrics text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry).expect("a String takes any text");
        text
    }
}
