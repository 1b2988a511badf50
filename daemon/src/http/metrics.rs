//! What the edge counts. Labels are routes, never paths: ids must not become time series.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

/// Seconds; most answers take one to ten milliseconds, a password some fifty.
const BUCKETS: [f64; 9] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
/// How the text of a registry ends.
const EOF: &str = "# EOF\n";

/// Requests and how long they took.
pub(crate) struct HttpMetrics {
    registry: Mutex<Registry>,
    requests: Family<Answered, Counter>,
    seconds: Family<Route, Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

// === impl HttpMetrics ===

impl HttpMetrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("inboxgrove_http")),
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        };
        {
            let mut registry = metrics
                .registry
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let (requests, seconds) = (metrics.requests.clone(), metrics.seconds.clone());
            registry.register("requests", "Requests answered", requests);
            registry.register("request_seconds", "Time until the answer began", seconds);
        }
        metrics
    }

    /// Counts an answer.
    pub(crate) fn count(&self, method: &str, route: &str, status: u16, took: Duration) {
        let answered = Answered {
            method: known(method).to_owned(),
            route: route.to_owned(),
            status,
        };
        let route = Route {
            route: route.to_owned(),
        };
        self.requests.get_or_create(&answered).inc();
        self.seconds
            .get_or_create(&route)
            .observe(took.as_secs_f64());
    }

    /// OpenMetrics text: ours after the text of the tree.
    pub(crate) fn text(&self, before: &str) -> String {
        let mut text = before.strip_suffix(EOF).unwrap_or(before).to_owned();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry).expect("a string takes any text");
        text
    }
}

// === free functions ===

/// A client may invent methods; time series are not made of them.
fn known(method: &str) -> &str {
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => method,
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_texts_become_one() {
        let metrics = HttpMetrics::new();
        metrics.count("GET", "/health", 200, Duration::from_millis(2));
        metrics.count("BREW", "/health", 405, Duration::from_millis(2));
        let text = metrics.text("# HELP other\n# EOF\n");
        assert_eq!(text.matches(EOF).count(), 1);
        assert!(text.ends_with(EOF));
        assert!(
            text.contains(
                r#"inboxgrove_http_requests_total{method="other",route="/health",status="405"} 1"#
            ),
            "{text}"
        );
    }
}
