//! Who trims: a replica in the background, a little at a time; or a command, everything at once.

use super::connection::{PIECE_TIMEOUT, connect};
use super::due::{self, LogName, LogState};
use super::piece::{Piece, Range, Rows, Wait, begin, commit_with, trim_next};
use super::{CompactionError, Rules, Trimmed};
use crate::clock::Clock;
use crate::config::CompactionConfig;
use crate::config::{Config, DatabaseConfig, Secret};
use crate::db::Session;
use crate::protocol::{LogId, UserKey};
use crate::store::layout::Layout;
use crate::store::schema;
use crate::telemetry::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// After a piece a replica rests so many times as long as the piece took, so that pushes keep the database.
const REST: u32 = 7;
/// The least and the longest rest after a piece.
const RESTS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(5));
/// How often due logs are looked up: this part of the horizon, but within these bounds.
const ROUNDS: u32 = 16;
const ROUND: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
/// How often the days of the history are looked at.
const DAYS_PERIOD: Duration = Duration::from_secs(600);

/// Trims logs.
pub struct Compactor {
    url: Secret,
    name: String,
    rules: Rules,
    metrics: Option<Arc<Metrics>>,
    clock: Clock,
    layout: Layout,
    /// The bucket whose logs are trimmed, and a connection to it.
    bucket: usize,
    connection: Option<Session>,
    /// When the days of each bucket's history were last seen to.
    days_seen: Vec<Option<Instant>>,
}

/// What a command's trimming has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Logs that are trimmed.
    pub logs: u64,
    /// What was trimmed so far.
    pub trimmed: Trimmed,
}

impl Compactor {
    /// One that trims in the background of a replica.
    pub fn of_replica(config: &Config, layout: Layout, metrics: Arc<Metrics>, clock: Clock) -> Compactor {
        let name = format!("mana-sync {} compact", config.replica_name());
        Compactor {
            metrics: Some(metrics),
            clock,
            ..Compactor::new(&config.database, &config.compaction, layout, name)
        }
    }

    /// One for a command.
    ///
    /// # Errors
    /// The database does not say how its logs are distributed.
    pub async fn of_command(
        database: &DatabaseConfig,
        config: &CompactionConfig,
    ) -> Result<Compactor, CompactionError> {
        let name = "mana-sync compact".to_owned();
        let connection = connect(database.direct_url(), &name, None, None).await?;
        let layout = schema::layout(&connection).await?;
        Ok(Compactor::new(database, config, layout, name))
    }

    fn new(database: &DatabaseConfig, config: &CompactionConfig, layout: Layout, name: String) -> Compactor {
        Compactor {
            url: database.direct_url().clone(),
            name,
            rules: Rules::of(config),
            metrics: None,
            clock: Clock::system(),
            layout,
            bucket: 0,
            connection: None,
            days_seen: vec![None; layout.count()],
        }
    }

    /// The rules as they are now.
    fn rules(&self) -> Rules {
        Rules { ahead: self.clock.advanced(), ..self.rules }
    }

    /// Turns to a bucket.
    fn enter(&mut self, bucket: usize) {
        if std::mem::replace(&mut self.bucket, bucket) != bucket {
            self.connection = None;
        }
    }

    /// The buckets that a user's logs may be in, or any.
    fn buckets_of(&self, user: Option<UserKey>) -> Vec<usize> {
        user.map_or_else(|| (0..self.layout.count()).collect(), |user| vec![self.layout.bucket_of(user)])
    }

    /// Trims what is due until it is told to stop; nothing, if COMPACT_AFTER_MS is 0. What fails is tried again.
    pub async fn run(mut self, stopping: CancellationToken) {
        if self.rules.after.is_zero() {
            return stopping.cancelled().await;
        }
        let period = (self.rules.after / ROUNDS).clamp(ROUND.0, ROUND.1);
        let mut next = ROUND.0;
        loop {
            // Replicas that started together do not look together.
            let pause = self.clock.jitter(next, 0.5..1.5);
            next = period;
            if stopping.run_until_cancelled(self.clock.sleep(pause)).await.is_none() {
                return;
            }
            let mut longest_lag = 0.0_f64;
            for bucket in 0..self.layout.count() {
                self.enter(bucket);
                match stopping.run_until_cancelled(self.round(&mut longest_lag)).await {
                    None => return,
                    // There are more than were looked up.
                    Some(Ok(true)) => next = ROUND.0,
                    Some(Ok(false)) => {}
                    Some(Err(error)) => self.failed(&error),
                }
            }
            if let Some(metrics) = &self.metrics {
                metrics.compaction_lag.set(longest_lag);
            }
        }
    }

    fn failed(&mut self, error: &CompactionError) {
        self.count("failed");
        self.connection = None;
        // Somebody may have dropped the history's days, keeping none.
        self.days_seen[self.bucket] = None;
        let error = error as &dyn std::error::Error;
        tracing::warn!(error, bucket = self.bucket, "logs cannot be trimmed at the moment; trying again");
    }

    /// Trims the logs of the bucket that are due now, some at most. Whether there were so many.
    async fn round(&mut self, longest_lag: &mut f64) -> Result<bool, CompactionError> {
        self.see_to_days().await?;
        let rules = self.rules();
        let connection = self.connection().await?;
        let lag = timeout(PIECE_TIMEOUT, due::lag(connection, &rules)).await??;
        let mut due = timeout(PIECE_TIMEOUT, due::due(connection, &rules)).await??;
        *longest_lag = longest_lag.max(lag);
        // Several replicas see the same list, and begin at different places.
        let is_full = due.len() >= due::LOGS as usize;
        self.clock.shuffle(&mut due);
        for log in due {
            self.see_to_days().await?;
            self.trim_if_due(log).await?;
        }
        Ok(is_full)
    }

    async fn connection(&mut self) -> Result<&Session, CompactionError> {
        let limit = self.metrics.is_some().then_some(PIECE_TIMEOUT);
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.url, &self.name, self.layout.schema(self.bucket), limit).await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Makes the days of the history that are needed, and drops old ones.
    async fn see_to_days(&mut self) -> Result<(), CompactionError> {
        if self.days_seen[self.bucket].is_some_and(|seen| seen.elapsed() < DAYS_PERIOD) {
            return Ok(());
        }
        let days = self.rules.history_days;
        let connection = self.connection().await?;
        timeout(PIECE_TIMEOUT, connection.execute("select sync_history_days($1)", &[&days])).await??;
        self.days_seen[self.bucket] = Some(Instant::now());
        Ok(())
    }

    fn count(&self, outcome: &str) {
        if let Some(metrics) = &self.metrics {
            metrics.compactions.with_label_values(&[outcome]).inc();
        }
    }

    /// Trims a log, unless somebody else does or has.
    async fn trim_if_due(&mut self, log: LogId) -> Result<(), CompactionError> {
        let rules = self.rules();
        let connection = self.connection().await?;
        let Some(state) = timeout(PIECE_TIMEOUT, due::state(connection, log, &rules)).await?? else { return Ok(()) };
        if !state.is_due {
            return Ok(());
        }
        let trimmed = self.trim_log(log, state, state.horizon, Wait::No, &mut |_| {}).await;
        match trimmed {
            Ok(true) => self.count("trimmed"),
            Ok(false) => self.count("busy"),
            Err(CompactionError::Unreadable(error)) => {
                self.count("unreadable");
                self.connection = None;
                tracing::error!(log = %log.0, error = &error as &dyn std::error::Error, "a log cannot be trimmed");
                // It must not stand before the others for ever.
                timeout(PIECE_TIMEOUT, due::postpone(self.connection().await?, log)).await??;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Trims a log as far as it is old enough. `until`: rows up to there are looked at, because they may have replaced
    /// older ones. False if somebody else takes rows out of it, and it is not to be waited for.
    async fn trim_log(
        &mut self,
        log: LogId,
        state: LogState,
        until: i64,
        wait: Wait,
        done: &mut impl FnMut(Trimmed),
    ) -> Result<bool, CompactionError> {
        let all = Range { rows: Rows::All, after: state.trimmed_to, until };
        let deletes = state.purge_before.map(|before| {
            let after = state.deleted_since.map_or(state.trimmed_to, |since| since - 1);
            Range { rows: Rows::Deletes, after, until: before.min(state.horizon) }
        });
        for range in [Some(all), deletes].into_iter().flatten() {
            if !self.trim_range(log, &state, range, wait, done).await? {
                return Ok(false);
            }
        }
        let connection = self.connection().await?;
        let closing = async {
            if !begin(connection, log, wait).await? {
                return Ok(false);
            }
            let purged = state.purge_before.map(|before| before.min(state.horizon));
            let statement = due::closing(connection, log, state.horizon, purged).await?;
            commit_with(connection, statement).await?;
            Ok(true)
        };
        match timeout(PIECE_TIMEOUT, closing).await? {
            Err(error) => Err(error),
            Ok(closed) => Ok(closed),
        }
    }

    async fn trim_range(
        &mut self,
        log: LogId,
        state: &LogState,
        mut range: Range,
        wait: Wait,
        done: &mut impl FnMut(Trimmed),
    ) -> Result<bool, CompactionError> {
        let rules = self.rules();
        while range.after < range.until {
            let begun = Instant::now();
            let connection = self.connection().await?;
            let piece = trim_next(connection, log, (state, range, &rules), wait);
            // A person may wait for a record of a million rows; a replica comes back to it.
            let piece = match wait {
                Wait::Yes => piece.await?,
                Wait::No => timeout(PIECE_TIMEOUT, piece).await??,
            };
            let trimmed = match piece {
                Piece::Busy => return Ok(false),
                Piece::More(trimmed, end) => {
                    range.after = end;
                    trimmed
                }
                Piece::Last(trimmed) => {
                    range.after = range.until;
                    trimmed
                }
            };
            done(trimmed);
            if let Some(metrics) = &self.metrics {
                metrics.trimmed_rows.inc_by(trimmed.gone);
                metrics.trimmed_bytes.inc_by(trimmed.bytes);
                sleep((begun.elapsed() * REST).clamp(RESTS.0, RESTS.1)).await;
            }
        }
        Ok(true)
    }

    /// Trims the logs of a user, an app or all, now, and says after each piece how far it has come.
    pub async fn trim_all(
        &mut self,
        user: Option<&str>,
        app: Option<&str>,
        mut said: impl FnMut(Progress),
    ) -> Result<Progress, CompactionError> {
        let user = user.map(UserKey::of);
        let mut progress = Progress::default();
        for bucket in self.buckets_of(user) {
            self.enter(bucket);
            self.trim_bucket(user, app, &mut progress, &mut said).await?;
        }
        Ok(progress)
    }

    async fn trim_bucket(
        &mut self,
        user: Option<UserKey>,
        app: Option<&str>,
        progress: &mut Progress,
        said: &mut impl FnMut(Progress),
    ) -> Result<(), CompactionError> {
        self.see_to_days().await?;
        let (rules, mut after) = (self.rules(), None);
        loop {
            let logs = due::logs_of(self.connection().await?, user, app, after).await?;
            let Some(last) = logs.last() else { return Ok(()) };
            after = Some(last.id);
            for LogName { id, .. } in logs {
                self.see_to_days().await?;
                let connection = self.connection().await?;
                let Some(state) = due::state(connection, id, &rules).await? else { continue };
                let mut done = |trimmed| {
                    progress.trimmed.add(trimmed);
                    said(*progress);
                };
                self.trim_log(id, state, state.head, Wait::Yes, &mut done).await?;
                progress.logs += 1;
                said(*progress);
            }
        }
    }

    /// How many logs there are of a user, an app or all.
    pub async fn count_logs(&mut self, user: Option<&str>, app: Option<&str>) -> Result<u64, CompactionError> {
        let count = "select count(*) from sync_heads where ($1::uuid is null or user_key = $1) and ($2::text is null or app_id = $2)";
        let user = user.map(UserKey::of);
        let mut all = 0;
        for bucket in self.buckets_of(user) {
            self.enter(bucket);
            let of_user = user.map(|user| user.0);
            let logs: i64 = self.connection().await?.query_one(count, &[&of_user, &app]).await?.try_get(0)?;
            all += u64::try_from(logs).unwrap_or(0);
        }
        Ok(all)
    }
}
