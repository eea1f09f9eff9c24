//! HTTP responses, counted by route and status class.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};
use std::time::Duration;

/// The routes of `http/router.rs` that clients use, as labels. How long they take is measured.
pub(super) const TIMED_ROUTES: &[&str] =
    &["/sync/{app}", "/sync/{app}/pull", "/sync/{app}/stream", "/sync/stream", "/ws", "/ws/{app}"];
/// Its other routes, of probes and scrapes, and `other` for anything that is no route.
const UNTIMED_ROUTES: &[&str] = &["/health", "/health/live", "/health/ready", "/metrics", "other"];
pub(super) const CLASSES: &[&str] = &["1xx", "2xx", "3xx", "4xx", "5xx"];

/// All routes, as labels; the last one is `other`.
pub(super) fn routes() -> Vec<&'static str> {
    [TIMED_ROUTES, UNTIMED_ROUTES].concat()
}

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
        let route = |name: &'static str| Route {
            name,
            responses: CLASSES.iter().map(|class| responses.with_label_values(&[name, class])).collect(),
            seconds: TIMED_ROUTES.contains(&name).then(|| seconds.with_label_values(&[name])),
        };
        HttpMetrics { routes: routes().into_iter().map(route).collect() }
    }

    /// Counts a response. `route` is `None` if there is no such endpoint.
    pub fn count(&self, route: Option<&str>, status: u16, took: Duration) {
        let known = self.routes.iter().find(|known| Some(known.name) == route);
        debug_assert!(known.is_some() || route.is_none(), "{route:?} has no label");
        let Some(route) = known.or(self.routes.last()) else { return };
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        route.responses[class].inc();
        if let Some(seconds) = &route.seconds {
            seconds.observe(took.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::telemetry::Metrics;
    use std::time::Duration;

    #[test]
    #[should_panic(expected = "has no label")]
    fn a_route_that_is_not_listed_is_noticed_by_the_first_test_that_uses_it() {
        Metrics::new().http.count(Some("/sync/{app}/new"), 200, Duration::ZERO);
    }
}
