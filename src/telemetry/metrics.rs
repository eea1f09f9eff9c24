//! Every metric, named once. All of them exist from the start, at zero; no label value is chosen by a user.

use super::apps::AppCounters;
use super::exemplars::TracedHistogram;
use super::http_metrics::{CLASSES, HttpMetrics, TIMED_ROUTES, routes};
use super::openmetrics;
use super::process::Process;
use super::refusals::{ENDPOINTS, REASONS, Refusals};
use super::registry::{
    counter, counters, fraction_gauge, gauge, gauges, histogram, histograms, paired_counters, paired_gauge,
    traced_histogram,
};
use crate::config::Config;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder};

/// Defines [`Metrics`] from a table of fields, types and constructors. A metric's help text documents its field.
macro_rules! metrics {
    (
        { $($(#[doc = $about:literal])* $part:ident: $part_type:ty = $make_part:ident;)* }
        $($visible:vis $field:ident: $kind:ty = $make:ident($name:literal, $help:literal $(, $argument:expr)*);)*
    ) => {
        /// The metrics of one replica.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $($(#[doc = $about])* pub $part: $part_type,)*
            $(#[doc = $help] $visible $field: $kind,)*
        }

        impl Metrics {
            fn register(registry: Registry) -> Metrics {
                Metrics {
                    $($part: $make_part(&registry),)*
                    $($field: $make(&registry, $name, $help $(, $argument)*),)*
                    registry,
                }
            }
        }
    };
}

metrics! {
    {
        /// Responses to requests, and their durations.
        http: HttpMetrics = http;
        /// Accepted requests, and refused ones by reason.
        refusals: Refusals = refusals;
        /// Pushes and changes by app, for the apps named in METRIC_APPS.
        apps: AppCounters = apps;
    }

    pub connections: IntGauge = gauge("mana_sync_connections_total", "Open WebSockets and streams.");
    pub users: IntGauge = gauge("mana_sync_users_connected", "Users with an open WebSocket or stream.");
    pub sessions: IntGaugeVec = gauges("mana_sync_sessions",
        "Open WebSockets and streams by transport.", "transport", &[WEBSOCKET, SSE]);
    pub stream_bytes: IntGauge = gauge("mana_sync_stream_bytes",
        "Bytes held by responses and streams for clients that have not read them yet.");
    pub push_bytes: IntGauge = gauge("mana_sync_push_bytes", "Bytes held by pushes until they are stored.");
    pub push_queue: IntGauge = gauge("mana_sync_push_queue", "Pushes waiting for their turn to be stored.");
    pub unauthenticated_bytes: IntGauge = gauge("mana_sync_unauthenticated_bytes",
        "Bytes reserved for the request heads and messages of unauthenticated clients.");
    pub mailbox_bytes: IntGauge = gauge("mana_sync_mailbox_bytes",
        "Bytes of wake-ups waiting in session mailboxes, beyond the first few kilobytes of each.");
    pub stream_name_bytes: IntGauge = gauge("mana_sync_stream_name_bytes",
        "Bytes of the app and table names held by open streams, beyond the first few kilobytes of each.");
    pub closes: IntCounterVec = counters("mana_sync_session_closes_total",
        "WebSockets and streams closed, by reason.", "reason", crate::protocol::close::CloseReason::LABELS);
    pub tcp_connections: IntGauge = gauge("mana_sync_tcp_connections", "Open TCP connections.");
    pub pushes: IntCounterVec = counters("mana_sync_pushes_total",
        "Pushes by outcome.", "outcome", &["stored", "empty", "retried", "refused", "failed"]);
    pub refused: IntCounterVec = counters("mana_sync_refused_total",
        "Requests, connections and sessions refused because a limit was reached, by limit.", "limit", REFUSED_BY);
    limits: IntGaugeVec = gauges("mana_sync_limit",
        "Configured limits of this replica.",
        "limit", &["connections", "unauthenticated", "sessions_per_user", "push_bytes", "pool_connections", "publish_queue"]);
    pub empty_answers_held: IntCounter = counter("mana_sync_empty_answers_held_total",
        "Empty responses delayed because their readers poll without a pause.");
    pub pages_read_ahead: IntCounterVec = counters("mana_sync_pages_read_ahead_total",
        "Pages read before their readers requested them, by outcome.",
        "outcome", &["used", "outdated", "unused"]);
    pub changes_stored: IntCounter = counter("mana_sync_changes_stored_total", "Changes stored.");
    pub push_seconds: TracedHistogram = traced_histogram("mana_sync_push_duration_seconds",
        "Time to store a push and read its delta.");
    pub pull_seconds: TracedHistogram = traced_histogram("mana_sync_pull_duration_seconds",
        "Time to read one page of a delta.");
    pub delivery_seconds: TracedHistogram = traced_histogram("mana_sync_delivery_seconds",
        "Time from taking the head of a push to waking the sessions of a replica.");
    pub stream_seconds: Histogram = histogram("mana_sync_stream_delivery_seconds",
        "Time from taking the head of a push to having written it to a live stream.");
    pub wakeups_published: IntCounter = counter("mana_sync_wakeups_published_total", "Wake-ups sent to the cluster.");
    pub wakeups_dropped: IntCounter = counter("mana_sync_wakeups_dropped_total",
        "Wake-ups left to the reconcilers because the queue was full.");
    pub notifications_sent: IntCounter = counter("mana_sync_notifications_sent_total", "NOTIFY payloads sent.");
    pub notifications_with_commit: IntCounter = counter("mana_sync_notifications_with_commit_total",
        "NOTIFY payloads sent in the transaction of the push itself.");
    pub publish_failures: IntCounter = counter("mana_sync_publish_failures_total", "Failed attempts to publish.");
    pub publish_queue: IntGauge = gauge("mana_sync_publish_queue", "Wake-ups waiting to be published.");
    pub publish_queue_bytes: IntGauge = gauge("mana_sync_publish_queue_bytes", "Bytes held by wake-ups waiting to be published.");
    pub wakeups_received: IntCounter = counter("mana_sync_wakeups_received_total", "Wake-ups received by the listener.");
    pub wakeups_reconciled: IntCounter = counter("mana_sync_wakeups_reconciled_total",
        "Wake-ups found by the reconciler because no notification announced them.");
    pub notifications_unreadable: IntCounter = counter("mana_sync_notifications_unreadable_total",
        "Notifications that could not be decoded.");
    pub notifications_unsigned: IntCounter = counter("mana_sync_notifications_unsigned_total",
        "Notifications whose content was not trusted: the database was queried instead.");
    pub notifications_unverified: IntCounter = counter("mana_sync_notifications_unverified_total",
        "Notifications whose signature matches no key in CHANNEL_KEY.");
    pub notifications_repeated: IntCounter = counter("mana_sync_notifications_repeated_total",
        "Notifications of replicas that were received before, or are too old to be believed.");
    pub presence_misdated: IntCounter = counter("mana_sync_presence_misdated_total",
        "Presence announcements ignored because their date is too far off this replica's clock.");
    pub replicas: IntGauge = gauge("mana_sync_replicas",
        "Replicas known on this database, including this one.");
    pub replicas_lost: IntCounter = counter("mana_sync_replicas_lost_total",
        "Replicas that went silent without announcing that they stop.");
    pub rebalance_waves: IntCounterVec = counters("mana_sync_rebalance_waves_total",
        "Times that this replica closed connections because others held fewer, by outcome.",
        "outcome", REBALANCE_OUTCOMES);
    pub listener_up: IntGauge = gauge("mana_sync_listener_up", "1 if the listener is connected and listening.");
    pub listener_lag: Gauge = fraction_gauge("mana_sync_listener_lag_seconds",
        "Time that this replica's last presence announcement took to reach its own listener.");
    pub listener_connects: IntCounter = counter("mana_sync_listener_connects_total",
        "Connections made by the listener.");
    pub reconcile_failures: IntCounter = counter("mana_sync_reconcile_failures_total", "Failed reconciliations.");
    pub cursors_past_head: IntCounter = counter("mana_sync_cursors_past_head_total",
        "Reads from a cursor past the newest change, which means that the database went back to an earlier state.");
    pub recent_lookups: IntCounter = counter("mana_sync_recent_lookups_total",
        "Lookups of changes stored shortly before sessions connected.");
    pub pool_connections: IntGaugeVec = gauges("mana_sync_pool_connections",
        "Connections in the database pool.", "state", &["open", "idle"]);
    pub pool_waiting: IntGauge = gauge("mana_sync_pool_waiting", "Statements waiting for a pool connection.");
    pub auth: IntCounterVec = counters("mana_sync_auth_total",
        "Token checks by outcome.", "outcome", &["ok", "refused", "unavailable"]);
    pub billing: IntCounterVec = counters("mana_sync_billing_total",
        "Billing decisions by outcome.", "outcome", &["active", "inactive", "failed_open"]);
    pub jwks_fetches: IntCounterVec = counters("mana_sync_jwks_fetches_total",
        "Fetches of the issuer's keys by outcome.", "outcome", &["ok", "failed"]);
    pub ready: IntGauge = gauge("mana_sync_ready", "1 if this replica is ready.");
    pub not_ready: IntGaugeVec = gauges("mana_sync_not_ready",
        "1 if this keeps the replica from being ready.", "reason", NOT_READY);
    pub notification_queue: Gauge = fraction_gauge("mana_sync_notification_queue_usage_ratio",
        "Usage of the database's notification queue, from 0 to 1; when full, every publish fails.");
    pub compactions: IntCounterVec = counters("mana_sync_compactions_total",
        "Log compactions by this replica, by outcome.",
        "outcome", &["trimmed", "busy", "unreadable", "failed"]);
    pub trimmed_rows: IntCounter = counter("mana_sync_compaction_rows_total", "Changes removed by compaction.");
    pub trimmed_bytes: IntCounter = counter("mana_sync_compaction_bytes_total",
        "Bytes of values, stamps and other members removed by compaction.");
    pub compaction_lag: Gauge = fraction_gauge("mana_sync_compaction_lag_seconds",
        "How long the most overdue log has been due for compaction.");
    pub trace_spans: IntCounterVec = counters("mana_sync_trace_spans_total",
        "Spans sent to the collector, by outcome.", "outcome", &["exported", "failed"]);
}

/// Label of WebSockets.
pub const WEBSOCKET: &str = "websocket";
/// Label of streams.
pub const SSE: &str = "sse";

/// Outcomes of a rebalancing wave, as labels.
pub const REBALANCE_OUTCOMES: &[&str] = &["even", "uneven", "interrupted"];

/// Reasons for not being ready, as labels.
pub const NOT_READY: &[&str] = &["database", "listener", "keys", "refused_tokens", "draining", "drained"];

/// Limits that cause refusals, as labels.
const REFUSED_BY: &[&str] = &[
    "connections",
    "connections_per_address",
    "unauthenticated",
    "unauthenticated_bytes",
    "sessions_per_user",
    "push_bytes",
    "unread_bytes",
    "stream_names",
    "scrapes",
    "reads",
    "user_pushes",
    "user_pulls",
    "user_bytes_per_day",
    "user_bytes_stored",
    "user_apps",
];

fn http(registry: &Registry) -> HttpMetrics {
    let routes = &routes()[..];
    HttpMetrics::new(
        &paired_counters(
            registry,
            "mana_sync_http_responses_total",
            "HTTP responses by route and status class.",
            ("route", routes),
            ("class", CLASSES),
        ),
        &histograms(
            registry,
            "mana_sync_http_request_duration_seconds",
            "Time from the head of a request to the head of its response.",
            "route",
            TIMED_ROUTES,
        ),
    )
}

fn refusals(registry: &Registry) -> Refusals {
    Refusals::new(
        &counters(
            registry,
            "mana_sync_requests_accepted_total",
            "Requests answered 2xx, and WebSockets that authenticated.",
            "endpoint",
            ENDPOINTS,
        ),
        &paired_counters(
            registry,
            "mana_sync_requests_refused_total",
            "Requests answered otherwise, and WebSockets whose token was not accepted, by reason.",
            ("endpoint", ENDPOINTS),
            ("reason", REASONS),
        ),
    )
}

fn apps(registry: &Registry) -> AppCounters {
    AppCounters::new(registry)
}

impl Metrics {
    /// Creates all metrics at zero.
    pub fn new() -> Metrics {
        let metrics = Metrics::register(Registry::new());
        paired_gauge(
            &metrics.registry,
            "mana_sync_build_info",
            "Always 1; the labels name the running version and the commit it was built from.",
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", env!("MANA_SYNC_COMMIT")),
        );
        let registered = metrics.registry.register(Box::new(Process::own()));
        registered.expect("every metric is named once");
        metrics
    }

    /// Exports the configured limits.
    pub fn show_limits(&self, config: &Config) {
        for (limit, most) in [
            ("connections", config.max_connections),
            ("unauthenticated", config.max_unauthenticated),
            ("sessions_per_user", config.sessions.max_sessions_per_user),
            ("push_bytes", config.max_push_bytes_in_flight),
            ("pool_connections", config.database_pool_size),
            ("publish_queue", config.fanout.publish_queue),
        ] {
            self.limits.with_label_values(&[limit]).set(most.into());
        }
    }

    /// Returns the current values of all metrics.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// Encodes all metrics as Prometheus text.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.gather(), &mut out)?;
        Ok(out)
    }

    /// Encodes all metrics as OpenMetrics, with sampled traces of pushes, pulls and deliveries as exemplars.
    pub fn encode_open(&self) -> String {
        openmetrics::encode(&self.gather(), &[&self.push_seconds, &self.pull_seconds, &self.delivery_seconds])
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}
