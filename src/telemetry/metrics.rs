//! Every metric, named once. All of them exist, at zero, from the start; none has a label that a user chooses.

use super::apps::AppCounters;
use super::exemplars::TracedHistogram;
use super::http_metrics::{CLASSES, HttpMetrics, ROUTES, TIMED_ROUTES};
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

/// Makes [`Metrics`] of a table: each field with its type, and how it is made. What a metric's help says documents its field.
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
        /// Answers to requests, and how long they took.
        http: HttpMetrics = http;
        /// Who was let in, and who was refused and why.
        refusals: Refusals = refusals;
        /// Pushes and changes by app, for the apps that are told apart.
        apps: AppCounters = apps;
    }

    pub connections: IntGauge = gauge("mana_sync_connections_total", "Open WebSockets and streams.");
    pub users: IntGauge = gauge("mana_sync_users_connected", "Users with an open WebSocket or stream.");
    pub sessions: IntGaugeVec = gauges("mana_sync_sessions",
        "Open WebSockets and streams by transport.", "transport", &[WEBSOCKET, SSE]);
    pub stream_bytes: IntGauge = gauge("mana_sync_stream_bytes",
        "Bytes that answers and streams hold for clients that have not read them yet.");
    pub push_bytes: IntGauge = gauge("mana_sync_push_bytes", "Bytes that pushes hold until they are stored.");
    pub unauthenticated_bytes: IntGauge = gauge("mana_sync_unauthenticated_bytes",
        "Bytes reserved for heads and messages of those who have not authenticated.");
    pub mailbox_bytes: IntGauge = gauge("mana_sync_mailbox_bytes",
        "Bytes of wake-ups that wait for their sessions, beyond the first few kilobytes of each.");
    pub stream_name_bytes: IntGauge = gauge("mana_sync_stream_name_bytes",
        "Bytes of the apps and tables that streams name, beyond the first few kilobytes of each.");
    pub closes: IntCounterVec = counters("mana_sync_session_closes_total",
        "WebSockets and streams that ended, by why.", "reason", crate::protocol::close::CloseReason::LABELS);
    pub tcp_connections: IntGauge = gauge("mana_sync_tcp_connections", "Open TCP connections.");
    pub pushes: IntCounterVec = counters("mana_sync_pushes_total",
        "Pushes by outcome.", "outcome", &["stored", "empty", "retried", "refused", "failed"]);
    pub refused: IntCounterVec = counters("mana_sync_refused_total",
        "Requests, connections and sessions refused because a limit was reached, by which.", "limit", REFUSED_BY);
    limits: IntGaugeVec = gauges("mana_sync_limit",
        "What this replica has at most, as its settings say.",
        "limit", &["connections", "unauthenticated", "sessions_per_user", "push_bytes", "pool_connections", "publish_queue"]);
    pub empty_answers_held: IntCounter = counter("mana_sync_empty_answers_held_total",
        "Empty answers held back from readers that ask without a pause.");
    pub pages_read_ahead: IntCounterVec = counters("mana_sync_pages_read_ahead_total",
        "Pages read before their readers came back for them, by what became of them.",
        "outcome", &["used", "outdated", "unused"]);
    pub changes_stored: IntCounter = counter("mana_sync_changes_stored_total", "Changes stored.");
    pub push_seconds: TracedHistogram = traced_histogram("mana_sync_push_duration_seconds",
        "Storing a push and reading its delta.");
    pub pull_seconds: TracedHistogram = traced_histogram("mana_sync_pull_duration_seconds",
        "Reading one page of a delta.");
    pub delivery_seconds: TracedHistogram = traced_histogram("mana_sync_delivery_seconds",
        "From taking the head of a push to waking the sessions of a replica.");
    pub stream_seconds: Histogram = histogram("mana_sync_stream_delivery_seconds",
        "From taking the head of a push to having written it on a live stream.");
    pub wakeups_published: IntCounter = counter("mana_sync_wakeups_published_total", "Wake-ups sent to the cluster.");
    pub wakeups_dropped: IntCounter = counter("mana_sync_wakeups_dropped_total",
        "Wake-ups left to the reconcilers because the queue was full.");
    pub notifications_sent: IntCounter = counter("mana_sync_notifications_sent_total", "NOTIFY payloads sent.");
    pub notifications_with_commit: IntCounter = counter("mana_sync_notifications_with_commit_total",
        "NOTIFY payloads that pushes sent with their own commits.");
    pub publish_failures: IntCounter = counter("mana_sync_publish_failures_total", "Attempts to publish that failed.");
    pub publish_queue: IntGauge = gauge("mana_sync_publish_queue", "Wake-ups waiting to be published.");
    pub publish_queue_bytes: IntGauge = gauge("mana_sync_publish_queue_bytes", "Bytes that they take.");
    pub wakeups_received: IntCounter = counter("mana_sync_wakeups_received_total", "Wake-ups heard by the listener.");
    pub wakeups_reconciled: IntCounter = counter("mana_sync_wakeups_reconciled_total",
        "Wake-ups that no notification brought and the reconciler found.");
    pub notifications_unreadable: IntCounter = counter("mana_sync_notifications_unreadable_total",
        "Notifications that could not be read.");
    pub notifications_unsigned: IntCounter = counter("mana_sync_notifications_unsigned_total",
        "Notifications whose word was not taken, so that the database was asked.");
    pub notifications_unverified: IntCounter = counter("mana_sync_notifications_unverified_total",
        "Notifications whose signature no key of CHANNEL_KEY has made.");
    pub presence_misdated: IntCounter = counter("mana_sync_presence_misdated_total",
        "What replicas said of themselves with a date that is too far off this replica's clock.");
    pub replicas: IntGauge = gauge("mana_sync_replicas",
        "Replicas on this database that this one knows of, itself included.");
    pub replicas_lost: IntCounter = counter("mana_sync_replicas_lost_total",
        "Replicas that fell silent without having said goodbye.");
    pub rebalance_waves: IntCounterVec = counters("mana_sync_rebalance_waves_total",
        "Times that this replica closed connections because others held fewer, by how it ended.",
        "outcome", REBALANCE_OUTCOMES);
    pub listener_up: IntGauge = gauge("mana_sync_listener_up", "Whether the listener is connected and listening.");
    pub listener_lag: Gauge = fraction_gauge("mana_sync_listener_lag_seconds",
        "How long what this replica said last took until its own listener heard it.");
    pub listener_connects: IntCounter = counter("mana_sync_listener_connects_total",
        "Times that the listener connected.");
    pub reconcile_failures: IntCounter = counter("mana_sync_reconcile_failures_total", "Reconciliations that failed.");
    pub cursors_past_head: IntCounter = counter("mana_sync_cursors_past_head_total",
        "Reads from a cursor past the newest change: the database went back to an earlier state.");
    pub recent_lookups: IntCounter = counter("mana_sync_recent_lookups_total",
        "Look-ups of what was stored shortly before sessions came.");
    pub pool_connections: IntGaugeVec = gauges("mana_sync_pool_connections",
        "Connections of the database pool.", "state", &["open", "idle"]);
    pub pool_waiting: IntGauge = gauge("mana_sync_pool_waiting", "Statements that wait for a connection of the pool.");
    pub auth: IntCounterVec = counters("mana_sync_auth_total",
        "Token checks by outcome.", "outcome", &["ok", "refused", "unavailable"]);
    pub billing: IntCounterVec = counters("mana_sync_billing_total",
        "Billing decisions by where they came from.", "outcome", &["active", "inactive", "failed_open"]);
    pub jwks_fetches: IntCounterVec = counters("mana_sync_jwks_fetches_total",
        "Fetches of the issuer's keys by outcome.", "outcome", &["ok", "failed"]);
    pub ready: IntGauge = gauge("mana_sync_ready", "Whether this replica is ready.");
    pub not_ready: IntGaugeVec = gauges("mana_sync_not_ready",
        "Whether this keeps the replica from being ready.", "reason", NOT_READY);
    pub notification_queue: Gauge = fraction_gauge("mana_sync_notification_queue_usage_ratio",
        "How full the database's queue of notifications is, from 0 to 1; full, it fails every publisher.");
    pub compactions: IntCounterVec = counters("mana_sync_compactions_total",
        "Trimmings of a log by this replica, by how they ended.",
        "outcome", &["trimmed", "busy", "unreadable", "failed"]);
    pub trimmed_rows: IntCounter = counter("mana_sync_compaction_rows_total", "Changes that were trimmed away.");
    pub trimmed_bytes: IntCounter = counter("mana_sync_compaction_bytes_total",
        "Bytes of values, stamps and other members that were trimmed away.");
    pub compaction_lag: Gauge = fraction_gauge("mana_sync_compaction_lag_seconds",
        "How long the log that has waited longest for its trimming has been due.");
    pub trace_spans: IntCounterVec = counters("mana_sync_trace_spans_total",
        "Spans sent to the collector, by whether they arrived.", "outcome", &["exported", "failed"]);
}

/// Transports, as labels.
pub const WEBSOCKET: &str = "websocket";
/// Streams, as a label.
pub const SSE: &str = "sse";

/// How a wave of rebalancing ends, as labels.
pub const REBALANCE_OUTCOMES: &[&str] = &["even", "uneven", "interrupted"];

/// What may keep a replica from being ready, as labels.
pub const NOT_READY: &[&str] = &["database", "listener", "keys", "refused_tokens", "draining", "drained"];

/// The limits for which something is refused, as labels.
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
    HttpMetrics::new(
        &paired_counters(
            registry,
            "mana_sync_http_responses_total",
            "HTTP answers by route and class of status.",
            ("route", ROUTES),
            ("class", CLASSES),
        ),
        &histograms(
            registry,
            "mana_sync_http_request_duration_seconds",
            "From the head of a request to the head of its answer.",
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
            "Requests answered otherwise, and WebSockets whose token was not accepted, by why.",
            ("endpoint", ENDPOINTS),
            ("reason", REASONS),
        ),
    )
}

fn apps(registry: &Registry) -> AppCounters {
    AppCounters::new(registry)
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Metrics {
        let metrics = Metrics::register(Registry::new());
        paired_gauge(
            &metrics.registry,
            "mana_sync_build_info",
            "Always 1; says which version runs, and the commit it was built from.",
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", env!("MANA_SYNC_COMMIT")),
        );
        let registered = metrics.registry.register(Box::new(Process::own()));
        registered.expect("every metric is named once");
        metrics
    }

    /// Shows the limits that are set.
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

    /// All metrics as they stand.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// All metrics as Prometheus text.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.gather(), &mut out)?;
        Ok(out)
    }

    /// All metrics as OpenMetrics, with the traces of pushes, pulls and deliveries that are sampled.
    pub fn encode_open(&self) -> String {
        openmetrics::encode(&self.gather(), &[&self.push_seconds, &self.pull_seconds, &self.delivery_seconds])
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}
