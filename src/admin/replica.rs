//! This replica's own answers.

mod actions;

use super::message::{Answer, Instance, Question};
use super::rates::Recent;
use super::report::{
    Connections, DeviceRead, Listener, Pool, Process, RefusedToken, Replica, Session, UserOnReplica, time,
};
use crate::auth::Authenticator;
use crate::clock::Clock;
use crate::config::Config;
use crate::fanout::Presence;
use crate::http::Health;
use crate::hub::{DeviceReads, Hub, SessionInfo};
use crate::limits::Rates;
use crate::protocol::{Cursor, UserKey};
use crate::shutdown::Shutdown;
use crate::store::Layout;
use crate::store::compaction::Compactor;
use crate::telemetry::metrics::{SSE, WEBSOCKET};
use crate::telemetry::{LogFilter, Metrics};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// The parts of a replica that the admin surface uses.
#[derive(Debug)]
pub struct Parts {
    /// The sessions here.
    pub hub: Arc<Hub>,
    /// The readiness of this replica.
    pub health: Arc<Health>,
    /// Checks tokens, and knows which are refused.
    pub auth: Arc<Authenticator>,
    /// The positions up to which devices have read.
    pub devices: DeviceReads,
    /// Drains this replica, and takes it back.
    pub shutdown: Shutdown,
    /// The source of rates and latencies.
    pub metrics: Arc<Metrics>,
    /// The log filter.
    pub log: LogFilter,
    /// Limits on how often a user may push and pull.
    pub rates: Rates,
    /// The other replicas' reports.
    pub presence: Presence,
    /// Trims logs on demand.
    pub compaction: Trimming,
    /// The clock.
    pub clock: Clock,
}

/// Creates compactors for this replica.
#[derive(Debug)]
pub struct Trimming {
    config: Arc<Config>,
    layout: Layout,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Trimming {
    /// Uses the settings.
    pub fn new(config: &Config, layout: Layout, metrics: Arc<Metrics>, clock: Clock) -> Trimming {
        Trimming { config: Arc::new(config.clone()), layout, metrics, clock }
    }

    /// Returns how users are distributed over buckets.
    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// None if logs are not trimmed.
    fn compactor(&self) -> Option<Compactor> {
        let is_on = !self.config.compaction.compact_after_ms.is_zero();
        is_on.then(|| Compactor::of_replica(&self.config, self.layout, self.metrics.clone(), self.clock.clone()))
    }
}

/// This replica, as operators see and control it.
#[derive(Debug)]
pub struct LocalReplica {
    pub name: String,
    pub instance: Instance,
    pub clock: Clock,
    started: SystemTime,
    pool_limit: i64,
    parts: Parts,
    /// True while it trims all logs on request.
    trimming: Arc<AtomicBool>,
    pub recent: Recent,
}

/// The reason for not being ready until the refused tokens have been read.
const UNREAD: &str = "the refused tokens have not been read yet";

/// Maximum number of sessions that one replica lists.
pub const MAX_SESSIONS: usize = 2_000;

impl LocalReplica {
    /// Creates the answers of this run of the process.
    pub fn new(config: &Config, parts: Parts) -> LocalReplica {
        let recent = Recent::new(parts.metrics.clone());
        let clock = parts.clock.clone();
        let (name, instance, started) = (config.replica_name(), clock.random_u64(), clock.now());
        let pool_limit = config.database_pool_size.into();
        parts.auth.refused().set_unread(UNREAD);
        LocalReplica { name, instance, clock, started, pool_limit, parts, trimming: Arc::default(), recent }
    }

    /// True if a message from that time, in milliseconds since the epoch, is older than this process: then it is a
    /// replay.
    pub fn began_after(&self, at: u64) -> bool {
        UNIX_EPOCH + Duration::from_millis(at) < self.started
    }

    /// Returns when a replica of this name last reported that it is there; `None` if that was minutes ago.
    pub fn last_heard(&self, name: &str) -> Option<Instant> {
        self.parts.presence.last_heard(name)
    }

    /// Answers a question, or executes its action.
    pub async fn answer(&self, question: Question) -> Answer {
        match question {
            Question::Status => Answer::Status(Box::new(self.status())),
            Question::User { user_id, sessions } => Answer::User(self.user(UserKey::of(&user_id), sessions).await),
            Question::Load => Answer::Load(self.recent.seconds()),
            Question::RefusedTokens => Answer::RefusedTokens(self.refused_tokens()),
            Question::Do { action } => Answer::Done(self.act(action)),
            Question::Unknown => Answer::Done(self.not_done("this replica's version does not support the query")),
        }
    }

    /// Returns this replica's status.
    pub fn status(&self) -> Replica {
        let Parts { health, auth, shutdown, metrics, log, .. } = &self.parts;
        let missing = health.missing();
        let (rates, latency, refusals) = self.recent.summary();
        let sessions = |transport| metrics.sessions.with_label_values(&[transport]).get();
        let pool = |state| metrics.pool_connections.with_label_values(&[state]).get();
        Replica {
            name: self.name.clone(),
            instance: format!("{:016x}", self.instance),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: time(self.started),
            ready: missing.is_empty(),
            missing,
            drained: shutdown.drained.is_on(),
            stopping: shutdown.draining.is_cancelled(),
            connections: Connections {
                websockets: sessions(WEBSOCKET),
                streams: sessions(SSE),
                users: metrics.users.get(),
                tcp: metrics.tcp_connections.get(),
            },
            rates,
            latency,
            refusals,
            listener: Listener {
                up: metrics.listener_up.get() == 1,
                lag_seconds: (metrics.listener_up.get() == 1).then(|| metrics.listener_lag.get()),
                connects: metrics.listener_connects.get(),
                publish_queue: metrics.publish_queue.get(),
                reconciled: metrics.wakeups_reconciled.get(),
            },
            database: Pool {
                open: pool("open"),
                idle: pool("idle"),
                limit: self.pool_limit,
                waiting: metrics.pool_waiting.get(),
                notification_queue: metrics.notification_queue.get(),
            },
            process: process(metrics),
            log: log.shown(),
            max_user_pushes_per_second: self.parts.rates.pushes.per_second(),
            max_user_pulls_per_second: self.parts.rates.pulls.per_second(),
            refused_tokens: auth.refused().list().len(),
            answer_seconds: None,
        }
    }

    async fn user(&self, user: UserKey, sessions: usize) -> UserOnReplica {
        let all = self.parts.hub.sessions_of(user);
        let listed = all.iter().take(sessions.min(MAX_SESSIONS)).map(|info| self.session(info));
        let reads = self.parts.devices.of(user).await.into_iter();
        UserOnReplica {
            sessions: listed.collect(),
            total: all.len(),
            truncated: false,
            reads: reads
                .map(|((app, device), read)| DeviceRead {
                    app: app.to_string(),
                    device: device.to_string(),
                    until: read.until.to_string(),
                    at: time(read.at),
                })
                .collect(),
        }
    }

    fn session(&self, info: &SessionInfo) -> Session {
        let text = |of: &Option<Arc<str>>| of.as_deref().map(str::to_owned);
        Session {
            replica: self.name.clone(),
            transport: info.transport.to_owned(),
            app: text(&info.app),
            device: text(&info.device),
            token_id: text(&info.token_id),
            token_expires_at: info.expires.map(time),
            since: time(info.since),
            woken_at: info.woken.map(time),
            read_at: info.read.map(|(at, _)| time(at)),
            read_until: info.read.and_then(|(_, position)| Some(Cursor::after(position?).to_string())),
        }
    }

    fn refused_tokens(&self) -> Vec<RefusedToken> {
        let list = self.parts.auth.refused().list().into_iter();
        list.map(|(id, until)| RefusedToken { token_id: id.to_string(), until: time(until) }).collect()
    }

    /// Returns a mark to be taken before stored refused tokens are read.
    pub fn refused_mark(&self) -> u64 {
        self.parts.auth.refused().mark()
    }

    /// Refuses exactly the stored refused tokens, read since this mark, and marks them as read for readiness. False if they
    /// have to be read again.
    pub fn refuse_as_kept(&self, tokens: Vec<(String, SystemTime)>, mark: u64) -> bool {
        let refused = self.parts.auth.refused();
        let read = tokens.iter().map(|(id, until)| (Arc::from(&**id), *until)).collect();
        match refused.refuse_stored(read, mark) {
            Ok(false) => return false,
            Ok(true) => {}
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "some stored tokens cannot be refused on this replica"
                );
            }
        }
        for (id, _) in &tokens {
            self.parts.hub.close_token(id);
        }
        refused.set_read();
        true
    }

    /// Notes that the refused tokens cannot be read. A replica that has read them before goes on with those.
    pub fn cannot_read_refused(&self, error: &dyn std::error::Error) {
        let refused = self.parts.auth.refused();
        if refused.unread().is_some() {
            refused.set_unread(format!("{UNREAD}: {error}"));
        }
    }
}

fn process(metrics: &Metrics) -> Process {
    let families = metrics.gather();
    let gauge = |name: &str| {
        let family = families.iter().find(|family| family.name() == name);
        family.and_then(|family| family.get_metric().first()).map_or(0.0, |metric| metric.get_gauge().get_value())
    };
    let (memory, files) = (gauge("process_resident_memory_bytes"), gauge("process_open_fds"));
    Process { memory_bytes: memory as u64, open_files: files as u64 }
}
