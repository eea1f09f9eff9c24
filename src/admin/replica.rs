//! This replica's own answers.

use super::message::{Action, Answer, Instance, Question};
use super::rates::Recent;
use super::report::{
    Connections, DeviceRead, Listener, Outcome, Pool, Process, RefusedToken, Replica, Session, UserOnReplica, time,
};
use crate::auth::Authenticator;
use crate::clock::Clock;
use crate::config::Config;
use crate::fanout::Presence;
use crate::http::Health;
use crate::hub::{DeviceReads, Hub, SessionInfo};
use crate::limits::Rates;
use crate::protocol::{Cursor, UserKey};
use crate::shutdown::{Drained, Shutdown};
use crate::store::Layout;
use crate::store::compaction::Compactor;
use crate::telemetry::metrics::{SSE, WEBSOCKET};
use crate::telemetry::{LogFilter, Metrics};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// Allows logs to be trimmed again when it is dropped, however the trimming ended.
struct EndOfTrimming(Arc<AtomicBool>);

impl Drop for EndOfTrimming {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
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

    /// Answers a question, or executes its action.
    pub async fn answer(&self, question: Question) -> Answer {
        match question {
            Question::Status => Answer::Status(Box::new(self.status())),
            Question::User { user_id, sessions } => Answer::User(self.user(UserKey::of(&user_id), sessions).await),
            Question::Load => Answer::Load(self.recent.seconds()),
            Question::RefusedTokens => Answer::RefusedTokens(self.refused_tokens()),
            Question::Do { action } => Answer::Done(self.act(action)),
            Question::Unknown => Answer::Done(self.outcome(false, "this replica's version does not support the query")),
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

    /// Refuses the stored refused tokens, and marks them as read for readiness.
    pub fn refuse_as_kept(&self, tokens: Vec<(String, SystemTime)>) {
        let refused = self.parts.auth.refused();
        if let Err(error) = refused.refuse_all(tokens.iter().map(|(id, until)| (Arc::from(&**id), *until))) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "some stored tokens cannot be refused on this replica"
            );
        }
        for (id, _) in &tokens {
            self.parts.hub.close_token(id);
        }
        refused.set_read();
    }

    /// Notes that the refused tokens cannot be read. A replica that has read them before goes on with those.
    pub fn cannot_read_refused(&self, error: &dyn std::error::Error) {
        let refused = self.parts.auth.refused();
        if refused.unread().is_some() {
            refused.set_unread(format!("{UNREAD}: {error}"));
        }
    }

    fn act(&self, action: Action) -> Outcome {
        let outcome = match &action {
            Action::Disconnect { user_id, device } => {
                let closed = self.parts.hub.close_user(UserKey::of(user_id), device.as_deref());
                self.outcome(true, &ended(closed))
            }
            Action::RefuseToken { token_id, until } => self.refuse(token_id, *until),
            Action::Drain { drained } => self.drain(&self.parts.shutdown.drained, *drained),
            Action::Compact => self.trim(),
            Action::Log { filter } => match self.parts.log.set(filter) {
                Ok(()) => self.outcome(true, &format!("the log filter is now {filter}")),
                Err(error) => self.outcome(false, &error.to_string()),
            },
            Action::Rates { pushes, pulls } => self.limit(*pushes, *pulls),
            Action::Unknown => self.outcome(false, "this replica's version does not support the action"),
        };
        tracing::warn!(action = action.name(), done = outcome.done, "operator action: {}", outcome.message);
        outcome
    }

    fn refuse(&self, token_id: &str, until: u64) -> Outcome {
        let until = UNIX_EPOCH + Duration::from_millis(until);
        match self.parts.auth.refused().refuse(token_id, until) {
            Ok(until) => {
                let closed = self.parts.hub.close_token(token_id);
                self.outcome(true, &format!("refused until {}; {}", time(until), ended(closed)))
            }
            Err(error) => self.outcome(false, &error.to_string()),
        }
    }

    /// Begins to trim all logs in the background, at the usual gentle pace.
    fn trim(&self) -> Outcome {
        let (Some(mut compactor), trimming) = (self.parts.compaction.compactor(), self.trimming.clone()) else {
            return self.outcome(false, "COMPACT_AFTER_MS is 0 on this replica: logs are not trimmed");
        };
        if trimming.swap(true, Ordering::Relaxed) {
            return self.outcome(false, "logs are already being trimmed");
        }
        let trimming = EndOfTrimming(trimming);
        let stopping = self.parts.shutdown.stopping.clone();
        let others = self.parts.presence.clone();
        compactor = compactor.sharing_with(move || others.replicas().len());
        self.parts.shutdown.background.spawn(async move {
            match stopping.run_until_cancelled(compactor.trim_all(None, None, |_| ())).await {
                Some(Ok(done)) => tracing::info!(
                    logs = done.logs,
                    failed = done.failed,
                    rows = done.trimmed.gone,
                    "all logs have been trimmed"
                ),
                Some(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "not all logs could be trimmed");
                }
                None => tracing::info!("trimming all logs was interrupted"),
            }
            drop(trimming);
        });
        self.outcome(true, "trimming has started; the log reports when it is done")
    }

    fn drain(&self, drained: &Drained, wanted: bool) -> Outcome {
        let is_last = !self.parts.presence.replicas().iter().skip(1).any(|other| other.ready && !other.draining);
        let message = match (wanted, drained.set(wanted)) {
            (true, true) if is_last => {
                "drained: not ready, and its sessions are leaving. No other replica is ready, so none serves clients now"
            }
            (true, true) => "drained: not ready, and its sessions are leaving",
            (true, false) => "already drained",
            (false, true) => "taken back",
            (false, false) => "was not drained",
        };
        self.outcome(true, message)
    }

    fn limit(&self, pushes: Option<u32>, pulls: Option<u32>) -> Outcome {
        let rates = &self.parts.rates;
        pushes.into_iter().for_each(|per_second| rates.pushes.set(per_second));
        pulls.into_iter().for_each(|per_second| rates.pulls.set(per_second));
        let said = |per_second: u32| match per_second {
            0 => "without limit".to_owned(),
            _ => format!("{per_second} times per second"),
        };
        let (pushes, pulls) = (said(rates.pushes.per_second()), said(rates.pulls.per_second()));
        self.outcome(true, &format!("users may push {pushes} and pull {pulls}"))
    }

    /// Returns the outcome of an action on this replica.
    pub fn outcome(&self, done: bool, message: &str) -> Outcome {
        Outcome { replica: self.name.clone(), done, message: message.to_owned() }
    }
}

impl Action {
    /// Returns the action's name in logs.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Disconnect { device: None, .. } => "disconnect_user",
            Action::Disconnect { device: Some(_), .. } => "disconnect_device",
            Action::RefuseToken { .. } => "refuse_token",
            Action::Drain { drained: true } => "drain",
            Action::Drain { drained: false } => "take_back",
            Action::Compact => "compact",
            Action::Log { .. } => "log",
            Action::Rates { .. } => "rates",
            Action::Unknown => "unknown",
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

fn ended(sessions: usize) -> String {
    match sessions {
        1 => "1 session was ended".to_owned(),
        _ => format!("{sessions} sessions were ended"),
    }
}
