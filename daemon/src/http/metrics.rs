//! What the edge counts. Labels are routes, never paths: ids must not become time series.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
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
    /// What was looked up there once, by route: an answer is counted without making labels.
    known: RwLock<BTreeMap<String, Arc<Counted>>>,
}

/// The series of one route.
struct Counted {
    seconds: Histogram,
    requests: RwLock<BTreeMap<(&'static str, u16), Counter>>,
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
            known: RwLock::default(),
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
        let counted = self.counted(route);
        counted.seconds.observe(took.as_secs_f64());
        let (method, requests) = (known(method), &counted.requests);
        let series = {
            let requests = requests.read().unwrap_or_else(PoisonError::into_inner);
            requests.get(&(method, status)).cloned()
        };
        let series = series.unwrap_or_else(|| {
            let answered = Answered {
                method: method.to_owned(),
                route: route.to_owned(),
                status,
            };
            let series = self.requests.get_or_create(&answered).clone();
            let mut requests = requests.write().unwrap_or_else(PoisonError::into_inner);
            requests.insert((method, status), series.clone());
            series
        });
        series.inc();
    }

    fn counted(&self, route: &str) -> Arc<Counted> {
        let counted = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known.get(route).cloned()
        };
        counted.unwrap_or_else(|| {
            let label = Route {
                route: route.to_owned(),
            };
            let fresh = Counted {
                seconds: self.seconds.get_or_create(&label).clone(),
                requests: RwLock::default(),
            };
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(label.route).or_insert_with(|| Arc::new(fresh)))
        })
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
fn known(method: &str) -> &'static str {
    const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let found = METHODS.into_iter().find(|known| *known == method);
    found.unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_texts_become_one() {
        let metrics = HttpMetrics::new();
        for _ in 0..3 {
            metrics.count("GET", "/health", 200, Duration::from_millis(2));
        }
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
        for count in [
            r#"requests_total{method="GET",route="/health",status="200"} 3"#,
            r#"request_seconds_count{route="/health"} 4"#,
        ] {
            assert!(text.contains(count), "{text}");
        }
    }
}
