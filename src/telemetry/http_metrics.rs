//! HTTP responses, counted by route and status class.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};
use std::time::Duration;

/// The routes of `http/router.rs`, as labels; anything else is `other`.
pub(super) const ROUTES: &[&str] = &[
    "/sync/{app}",
    "/sync/{app}/pull",
    "/sync/{app}/stream",
    "/sync/stream",
    "/ws",
    "/ws/{app}",
    "/health",
    "/health/live",
    "/health/ready",
    "/metrics",
    OTHER,
];
const OTHER: &str = "other";
/// The routes that clients use. The durations of probes and scrapes are not interesting.
pub(super) const TIMED_ROUTES: &[&str] = ROUTES.split_at(6).0;
pub(super) const CLASSES: &[&str] = &["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Counters by route, so that requests do not look up series by name.
#[derive(Debug)]
pub struct HttpMetrics {
    routes: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    name: &'static str,
    /// One for each class.
    responses: Vec<IntCounter>,
    seconds: Option<Histogram>,
}

impl HttpMetrics {
    pub(super) fn new(responses: &IntCounterVec, seconds: &HistogramVec) -> HttpMetrics {
        let route = |name: &&'static str| Route {
            name,
            responses: CLASSES.iter().map(|class| responses.with_label_values(&[name, class])).collect(),
            seconds: TIMED_ROUTES.contains(name).then(|| seconds.with_label_values(&[name])),
        };
        HttpMetrics { routes: ROUTES.iter().map(route).collect() }
    }

    /// Counts a response. `route` is `None` if there is no such endpoint.
    pub fn count(&self, route: Option<&str>, status: u16, took: Duration) {
        let known = self.routes.iter().find(|known| Some(known.name) == route);
        let Some(route) = known.or(self.routes.last()) else { return };
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        route.responses[class].inc();
        if let Some(seconds) = &route.seconds {
            seconds.observe(took.as_secs_f64());
        }
    }
}
