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

/// The metrics of one replica.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Open WebSockets and streams, both transports together.
    pub connections: IntGauge,
    /// Users with at least one of them.
    pub users: IntGauge,
    /// Open ones by transport.
    pub sessions: IntGaugeVec,
    /// Bytes that answers and streams hold for clients that have not read them yet.
    pub stream_bytes: IntGauge,
    /// Bytes that pushes hold until they are stored.
    pub push_bytes: IntGauge,
    /// Bytes of heads and messages of those who have not authenticated.
    pub unauthenticated_bytes: IntGauge,
    /// Bytes of wake-ups that wait in mailboxes.
    pub mailbox_bytes: IntGauge,
    /// Bytes of the names that streams ask for.
    pub stream_name_bytes: IntGauge,
    /// Sessions that ended, by reason.
    pub closes: IntCounterVec,
    /// TCP connections.
    pub tcp_connections: IntGauge,
    /// Answers to requests, and how long they took.
    pub http: HttpMetrics,
    /// Who was let in, and who was refused and why.
    pub refusals: Refusals,
    /// Pushes, by outcome.
    pub pushes: IntCounterVec,
    /// Refused because a limit was reached, by which.
    pub refused: IntCounterVec,
    limits: IntGaugeVec,
    /// Empty answers that were held back.
    pub empty_answers_held: IntCounter,
    /// Changes that were stored.
    pub changes_stored: IntCounter,
    /// Pushes and changes by app, for the apps that are told apart.
    pub apps: AppCounters,
    /// How long pushes take, in seconds.
    pub push_seconds: TracedHistogram,
    /// How long pulls take, in seconds.
    pub pull_seconds: TracedHistogram,
    /// From commit to the socket of a device, in seconds.
    pub delivery_seconds: TracedHistogram,
    /// From taking the head of a push to having written it on a stream that was live.
    pub stream_seconds: Histogram,
    /// Wake-ups that were published.
    pub wakeups_published: IntCounter,
    /// Wake-ups that were given up.
    pub wakeups_dropped: IntCounter,
    /// Notifications that were sent; each has many wake-ups.
    pub notifications_sent: IntCounter,
    /// Those of them that pushes sent with their own commits.
    pub notifications_with_commit: IntCounter,
    /// Notifications that could not be sent.
    pub publish_failures: IntCounter,
    /// Wake-ups that wait to be published.
    pub publish_queue: IntGauge,
    /// Their bytes.
    pub publish_queue_bytes: IntGauge,
    /// Wake-ups that were heard.
    pub wakeups_received: IntCounter,
    /// Logs in which the reconciler found news.
    pub wakeups_reconciled: IntCounter,
    /// Notifications that could not be read.
    pub notifications_unreadable: IntCounter,
    /// Notifications without a valid signature.
    pub notifications_unsigned: IntCounter,
    /// Notifications whose signature no key of ours has made.
    pub notifications_unverified: IntCounter,
    /// What replicas said of themselves with a date that is too far off.
    pub presence_misdated: IntCounter,
    /// Replicas that are there.
    pub replicas: IntGauge,
    /// Replicas that fell silent.
    pub replicas_lost: IntCounter,
    /// Waves of closing connections that are too many, by how they ended.
    pub rebalance_waves: IntCounterVec,
    /// Whether the listener hears.
    pub listener_up: IntGauge,
    /// How long what this replica said last took until its own listener heard it, in seconds.
    pub listener_lag: Gauge,
    /// How often the listener has connected.
    pub listener_connects: IntCounter,
    /// Rounds of the reconciler that failed.
    pub reconcile_failures: IntCounter,
    /// Cursors that no log had come to.
    pub cursors_past_head: IntCounter,
    /// Look-ups of what was stored lately, for sessions that come back.
    pub recent_lookups: IntCounter,
    /// Connections of the pool, by state.
    pub pool_connections: IntGaugeVec,
    /// Requests that wait for one.
    pub pool_waiting: IntGauge,
    /// Tokens that were checked, by outcome.
    pub auth: IntCounterVec,
    /// Questions to the credits service, by outcome.
    pub billing: IntCounterVec,
    /// Questions to the issuer, by outcome.
    pub jwks_fetches: IntCounterVec,
    /// Whether this replica is ready.
    pub ready: IntGauge,
    /// Whether each of [`NOT_READY`] keeps it from that.
    pub not_ready: IntGaugeVec,
    /// How full the database's queue of notifications is, from 0 to 1.
    pub notification_queue: Gauge,
    /// Trimmings of logs, by how they ended.
    pub compactions: IntCounterVec,
    /// Rows that were trimmed away, and bytes that were taken out.
    pub trimmed_rows: IntCounter,
    /// Bytes that were trimmed.
    pub trimmed_bytes: IntCounter,
    /// How long the log that has waited longest has been due, in seconds.
    pub compaction_lag: Gauge,
    /// Spans, by what became of them.
    pub trace_spans: IntCounterVec,
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
    "reads",
    "user_pushes",
    "user_pulls",
    "user_bytes_per_day",
    "user_bytes_stored",
    "user_apps",
];

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Metrics {
        let r = Registry::new();
        let metrics = Metrics {
            connections: gauge(&r, "mana_sync_connections_total", "Open WebSockets and streams."),
            users: gauge(&r, "mana_sync_users_connected", "Users with an open WebSocket or stream."),
            sessions: gauges(
                &r,
                "mana_sync_sessions",
                "Open WebSockets and streams by transport.",
                "transport",
                &[WEBSOCKET, SSE],
            ),
            stream_bytes: gauge(
                &r,
                "mana_sync_stream_bytes",
                "Bytes that answers and streams hold for clients that have not read them yet.",
            ),
            push_bytes: gauge(&r, "mana_sync_push_bytes", "Bytes that pushes hold until they are stored."),
            unauthenticated_bytes: gauge(
                &r,
                "mana_sync_unauthenticated_bytes",
                "Bytes reserved for heads and messages of those who have not authenticated.",
            ),
            mailbox_bytes: gauge(
                &r,
                "mana_sync_mailbox_bytes",
                "Bytes of wake-ups that wait for their sessions, beyond the first few kilobytes of each.",
            ),
            stream_name_bytes: gauge(
                &r,
                "mana_sync_stream_name_bytes",
                "Bytes of the apps and tables that streams name, beyond the first few kilobytes of each.",
            ),
            closes: counters(
                &r,
                "mana_sync_session_closes_total",
                "WebSockets and streams that ended, by why.",
                "reason",
                crate::protocol::close::CloseReason::LABELS,
            ),
            tcp_connections: gauge(&r, "mana_sync_tcp_connections", "Open TCP connections."),
            http: HttpMetrics::new(
                &paired_counters(
                    &r,
                    "mana_sync_http_responses_total",
                    "HTTP answers by route and class of status.",
                    ("route", ROUTES),
                    ("class", CLASSES),
                ),
                &histograms(
                    &r,
                    "mana_sync_http_request_duration_seconds",
                    "From the head of a request to the head of its answer.",
                    "route",
                    TIMED_ROUTES,
                ),
            ),
            refusals: Refusals::new(
                &counters(
                    &r,
                    "mana_sync_requests_accepted_total",
                    "Requests answered 2xx, and WebSockets that authenticated.",
                    "endpoint",
                    ENDPOINTS,
                ),
                &paired_counters(
                    &r,
                    "mana_sync_requests_refused_total",
                    "Requests answered otherwise, and WebSockets whose token was not accepted, by why.",
                    ("endpoint", ENDPOINTS),
                    ("reason", REASONS),
                ),
            ),
            pushes: counters(
                &r,
                "mana_sync_pushes_total",
                "Pushes by outcome.",
                "outcome",
                &["stored", "empty", "retried", "refused", "failed"],
            ),
            refused: counters(
                &r,
                "mana_sync_refused_total",
                "Requests, connections and sessions refused because a limit was reached, by which.",
                "limit",
                REFUSED_BY,
            ),
            limits: gauges(
                &r,
                "mana_sync_limit",
                "What this replica has at most, as its settings say.",
                "limit",
                &[
                    "connections",
                    "unauthenticated",
                    "sessions_per_user",
                    "push_bytes",
                    "pool_connections",
                    "publish_queue",
                ],
            ),
            empty_answers_held: counter(
                &r,
                "mana_sync_empty_answers_held_total",
                "Empty answers held back from readers that ask without a pause.",
            ),
            apps: AppCounters::new(&r),
            changes_stored: counter(&r, "mana_sync_changes_stored_total", "Changes stored."),
            push_seconds: traced_histogram(
                &r,
                "mana_sync_push_duration_seconds",
                "Storing a push and reading its delta.",
            ),
            pull_seconds: traced_histogram(&r, "mana_sync_pull_duration_seconds", "Reading one page of a delta."),
            delivery_seconds: traced_histogram(
                &r,
                "mana_sync_delivery_seconds",
                "From taking the head of a push to waking the sessions of a replica.",
            ),
            stream_seconds: histogram(
                &r,
                "mana_sync_stream_delivery_seconds",
                "From taking the head of a push to having written it on a live stream.",
            ),
            wakeups_published: counter(&r, "mana_sync_wakeups_published_total", "Wake-ups sent to the cluster."),
            wakeups_dropped: counter(
                &r,
                "mana_sync_wakeups_dropped_total",
                "Wake-ups left to the reconcilers because the queue was full.",
            ),
            notifications_sent: counter(&r, "mana_sync_notifications_sent_total", "NOTIFY payloads sent."),
            notifications_with_commit: counter(
                &r,
                "mana_sync_notifications_with_commit_total",
                "NOTIFY payloads that pushes sent with their own commits.",
            ),
            publish_failures: counter(&r, "mana_sync_publish_failures_total", "Attempts to publish that failed."),
            publish_queue: gauge(&r, "mana_sync_publish_queue", "Wake-ups waiting to be published."),
            publish_queue_bytes: gauge(&r, "mana_sync_publish_queue_bytes", "Bytes that they take."),
            wakeups_received: counter(&r, "mana_sync_wakeups_received_total", "Wake-ups heard by the listener."),
            wakeups_reconciled: counter(
                &r,
                "mana_sync_wakeups_reconciled_total",
                "Wake-ups that no notification brought and the reconciler found.",
            ),
            notifications_unreadable: counter(
                &r,
                "mana_sync_notifications_unreadable_total",
                "Notifications that could not be read.",
            ),
            notifications_unsigned: counter(
                &r,
                "mana_sync_notifications_unsigned_total",
                "Notifications whose word was not taken, so that the database was asked.",
            ),
            notifications_unverified: counter(
                &r,
                "mana_sync_notifications_unverified_total",
                "Notifications whose signature no key of CHANNEL_KEY has made.",
            ),
            presence_misdated: counter(
                &r,
                "mana_sync_presence_misdated_total",
                "What replicas said of themselves with a date that is too far off this replica's clock.",
            ),
            replicas: gauge(
                &r,
                "mana_sync_replicas",
                "Replicas on this database that this one knows of, itself included.",
            ),
            replicas_lost: counter(
                &r,
                "mana_sync_replicas_lost_total",
                "Replicas that fell silent without having said goodbye.",
            ),
            rebalance_waves: counters(
                &r,
                "mana_sync_rebalance_waves_total",
                "Times that this replica closed connections because others held fewer, by how it ended.",
                "outcome",
                REBALANCE_OUTCOMES,
            ),
            listener_up: gauge(&r, "mana_sync_listener_up", "Whether the listener is connected and listening."),
            listener_lag: fraction_gauge(
                &r,
                "mana_sync_listener_lag_seconds",
                "How long what this replica said last took until its own listener heard it.",
            ),
            listener_connects: counter(&r, "mana_sync_listener_connects_total", "Times that the listener connected."),
            reconcile_failures: counter(&r, "mana_sync_reconcile_failures_total", "Reconciliations that failed."),
            cursors_past_head: counter(
                &r,
                "mana_sync_cursors_past_head_total",
                "Reads from a cursor past the newest change: the database went back to an earlier state.",
            ),
            recent_lookups: counter(
                &r,
                "mana_sync_recent_lookups_total",
                "Look-ups of what was stored shortly before sessions came.",
            ),
            pool_connections: gauges(
                &r,
                "mana_sync_pool_connections",
                "Connections of the database pool.",
                "state",
                &["open", "idle"],
            ),
            pool_waiting: gauge(&r, "mana_sync_pool_waiting", "Statements that wait for a connection of the pool."),
            auth: counters(
                &r,
                "mana_sync_auth_total",
                "Token checks by outcome.",
                "outcome",
                &["ok", "refused", "unavailable"],
            ),
            billing: counters(
                &r,
                "mana_sync_billing_total",
                "Billing decisions by where they came from.",
                "outcome",
                &["active", "inactive", "failed_open"],
            ),
            jwks_fetches: counters(
                &r,
                "mana_sync_jwks_fetches_total",
                "Fetches of the issuer's keys by outcome.",
                "outcome",
                &["ok", "failed"],
            ),
            ready: gauge(&r, "mana_sync_ready", "Whether this replica is ready."),
            not_ready: gauges(
                &r,
                "mana_sync_not_ready",
                "Whether this keeps the replica from being ready.",
                "reason",
                NOT_READY,
            ),
            notification_queue: fraction_gauge(
                &r,
                "mana_sync_notification_queue_usage_ratio",
                "How full the database's queue of notifications is, from 0 to 1; full, it fails every publisher.",
            ),
            compactions: counters(
                &r,
                "mana_sync_compactions_total",
                "Trimmings of a log by this replica, by how they ended.",
                "outcome",
                &["trimmed", "busy", "unreadable", "failed"],
            ),
            trimmed_rows: counter(&r, "mana_sync_compaction_rows_total", "Changes that were trimmed away."),
            trimmed_bytes: counter(
                &r,
                "mana_sync_compaction_bytes_total",
                "Bytes of values, stamps and other members that were trimmed away.",
            ),
            compaction_lag: fraction_gauge(
                &r,
                "mana_sync_compaction_lag_seconds",
                "How long the log that has waited longest for its trimming has been due.",
            ),
            trace_spans: counters(
                &r,
                "mana_sync_trace_spans_total",
                "Spans sent to the collector, by whether they arrived.",
                "outcome",
                &["exported", "failed"],
            ),
            registry: r,
        };
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
