//! The compactor: used by a replica in the background, a little at a time; and by a command, all at once
//! ([`super::all`]).

use super::bounds::Wait;
use super::connection::{PIECE_TIMEOUT, connect};
use super::due;
use super::postponed::Postponed;
use super::{CompactionError, Rules};
use crate::clock::Clock;
use crate::config::CompactionConfig;
use crate::config::{Config, DatabaseConfig, Secret};
use crate::db::Session;
use crate::protocol::LogId;
use crate::store::layout::Layout;
use crate::store::schema;
use crate::telemetry::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// All replicas together trim for this fraction of the time, to leave the database to pushes.
const PART_OF_TIME: u32 = 8;
/// Minimum and maximum rest after a piece. The maximum matters only for an absurdly large record.
const RESTS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(600));
/// Interval between lookups of due logs: this fraction of the horizon, within these bounds.
const ROUNDS: u32 = 16;
const ROUND: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
/// Interval between checks of the history's daily partitions.
const DAYS_PERIOD: Duration = Duration::from_secs(600);

/// The same on Citus after a failure: a day can be created only while all servers are there.
const DAYS_PAUSE: Duration = Duration::from_secs(20);
/// Time limit on Citus for a check, on the server: one that is away may just not answer.
const DAYS_LIMIT: Duration = Duration::from_secs(10);

/// Time limit on Citus for the answer of a bucket that could not be checked before.
const RETRY_LIMIT: Duration = Duration::from_secs(5);

/// Time limit for a rollback.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(5);
/// More days than there can be.
const ALL_DAYS: i32 = 36_500;

/// Maximum pause for a bucket that could not be checked.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The result of the last check of a bucket.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    /// How long its most overdue log had been due, in seconds, and when that was measured.
    lag: Option<(f64, Instant)>,
    /// The end of the bucket's pause, and its length.
    pause: Option<(Instant, Duration)>,
}

impl Look {
    fn is_left_alone(&self, now: Instant) -> bool {
        self.pause.is_some_and(|(until, _)| now < until)
    }

    /// Returns the lag. For a bucket that cannot be checked, what was due then keeps aging.
    fn lag(&self, now: Instant) -> f64 {
        match self.lag {
            Some((lag, at)) if self.pause.is_some() && lag > 0.0 => lag + now.duration_since(at).as_secs_f64(),
            Some((lag, _)) => lag,
            None => 0.0,
        }
    }

    fn note_lag(&mut self, lag: f64, now: Instant) {
        self.lag = Some((lag, now));
    }

    fn note_failure(&mut self, least: Duration, now: Instant) {
        let pause = self.pause.map_or(least, |(_, pause)| pause * 2).min(LONGEST_PAUSE);
        self.pause = Some((now + pause, pause));
    }
}

/// Trims logs.
pub struct Compactor {
    url: Secret,
    name: String,
    rules: Rules,
    pub(super) metrics: Option<Arc<Metrics>>,
    clock: Clock,
    pub(super) layout: Layout,
    /// The bucket whose logs are being trimmed, and a connection to it.
    bucket: usize,
    pub(super) connection: Option<Session>,
    /// When each bucket's history partitions were last maintained.
    days_seen: Vec<Option<Instant>>,
    /// On Citus: the end of the pause after a failure. No bucket's partitions can be maintained before.
    days_paused: Option<Instant>,
    /// The last check of each bucket.
    looks: Vec<Look>,
    /// Returns the number of replicas that share the time for trimming.
    sharing: Box<dyn Fn() -> usize + Send + Sync>,
    postponed: Postponed,
}

impl Compactor {
    /// Creates a compactor that works in the background of a replica.
    pub fn of_replica(config: &Config, layout: Layout, metrics: Arc<Metrics>, clock: Clock) -> Compactor {
        let name = format!("mana-sync {} compact", config.replica_name());
        Compactor {
            metrics: Some(metrics),
            clock,
            ..Compactor::new(&config.database, &config.compaction, layout, name)
        }
    }

    /// Creates a compactor for a command.
    ///
    /// # Errors
    /// The database does not say how its logs are distributed.
    pub async fn of_command(
        database: &DatabaseConfig,
        config: &CompactionConfig,
    ) -> Result<Compactor, CompactionError> {
        let name = "mana-sync compact".to_owned();
        let connection = connect(database.direct_url(), &name, None, None).await?;
        let layout = schema::check_for_command(&connection).await?;
        Ok(Compactor::new(database, config, layout, name))
    }

    /// Shares the time for trimming with other replicas. `replicas` returns their number, including this one.
    pub fn sharing_with(mut self, replicas: impl Fn() -> usize + Send + Sync + 'static) -> Compactor {
        self.sharing = Box::new(replicas);
        self
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
            days_paused: None,
            looks: vec![Look::default(); layout.count()],
            sharing: Box::new(|| 1),
            postponed: Postponed::default(),
        }
    }

    /// Returns the current rules.
    pub(super) fn rules(&self) -> Rules {
        Rules { ahead: self.clock.advanced(), ..self.rules }
    }

    /// Switches to a bucket.
    pub(super) fn enter(&mut self, bucket: usize) {
        if std::mem::replace(&mut self.bucket, bucket) != bucket {
            self.connection = None;
        }
    }

    /// Trims what is due until told to stop; if COMPACT_AFTER_MS is 0, only maintains the history. Failures are
    /// retried.
    pub async fn run(mut self, stopping: CancellationToken) {
        if self.rules.after.is_zero() {
            stopping.run_until_cancelled(self.see_to_days_only()).await;
            return;
        }
        let period = self.period();
        let mut next = ROUND.0;
        loop {
            // Replicas that started together should not check together.
            let pause = self.clock.jitter(next, 0.5..1.5);
            next = period;
            if stopping.run_until_cancelled(self.clock.sleep(pause)).await.is_none() {
                return;
            }
            for bucket in 0..self.layout.count() {
                if self.looks[bucket].is_left_alone(Instant::now()) {
                    continue;
                }
                self.enter(bucket);
                match stopping.run_until_cancelled(self.round()).await {
                    None => return,
                    Some(Ok(is_full)) => {
                        self.looks[bucket].pause = None;
                        // There are more due logs than were looked up.
                        next = if is_full { ROUND.0 } else { next };
                    }
                    Some(Err(error)) => self.failed(&error),
                }
            }
            if let Some(metrics) = &self.metrics {
                let now = Instant::now();
                metrics.compaction_lag.set(self.looks.iter().map(|look| look.lag(now)).fold(0.0, f64::max));
            }
        }
    }

    /// Returns the interval between lookups of due logs, unless there are many.
    fn period(&self) -> Duration {
        (self.rules.after / ROUNDS).clamp(ROUND.0, ROUND.1)
    }

    /// Only maintains the history's partitions: logs are trimmed by commands, or were before trimming was turned off.
    async fn see_to_days_only(&mut self) {
        let mut next = ROUND.0;
        loop {
            self.clock.sleep(self.clock.jitter(next, 0.5..1.5)).await;
            next = ROUND.1;
            for bucket in 0..self.layout.count() {
                self.enter(bucket);
                if let Err(error) = self.see_to_days().await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, bucket, "cannot maintain the daily partitions of the history; trying again");
                }
                self.connection = None;
            }
        }
    }

    fn failed(&mut self, error: &CompactionError) {
        self.count("failed");
        self.connection = None;
        // Another replica, one that keeps no history, may have dropped the partitions.
        self.days_seen[self.bucket] = None;
        if self.layout.count() > 1 {
            // An unavailable bucket may take as long as a piece may take; the others must not wait for that in every
            // round.
            let period = self.period();
            self.looks[self.bucket].note_failure(period, Instant::now());
        }
        let error = error as &dyn std::error::Error;
        tracing::warn!(error, bucket = self.bucket, "logs cannot be trimmed at the moment; trying again");
    }

    /// Trims the bucket's due logs, up to a limit. Returns true if the limit was reached.
    async fn round(&mut self) -> Result<bool, CompactionError> {
        self.see_to_days().await?;
        let rules = self.rules();
        let postponed = self.postponed.logs(Instant::now());
        let limit = self.look_limit();
        let connection = self.connection().await?;
        let lag = timeout(limit, due::lag(connection, &rules)).await??;
        let mut due = timeout(PIECE_TIMEOUT, due::due(connection, &rules, &postponed)).await??;
        self.looks[self.bucket].note_lag(lag, Instant::now());
        // Several replicas see the same list, and start at different places.
        let is_full = due.len() >= due::LOGS as usize;
        self.clock.shuffle(&mut due);
        for log in due {
            self.see_to_days().await?;
            match self.trim_if_due(log).await {
                Ok(()) => self.postponed.forget(log),
                Err(error @ CompactionError::Connect(_)) => return Err(error),
                Err(error) => self.postpone(log, &error).await?,
            }
        }
        Ok(is_full)
    }

    /// Returns how long a bucket may take to answer. On Citus its server may just not answer, and that of many buckets at
    /// once; all others must not wait so long for each again and again.
    fn look_limit(&self) -> Duration {
        match self.layout.is_on_citus() && self.looks[self.bucket].pause.is_some() {
            true => RETRY_LIMIT,
            false => PIECE_TIMEOUT,
        }
    }

    pub(super) async fn connection(&mut self) -> Result<&Session, CompactionError> {
        let limit = self.metrics.is_some().then_some(PIECE_TIMEOUT);
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.url, &self.name, self.layout.schema(self.bucket), limit).await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Creates the history partitions needed, and drops old ones if this is a replica, whose settings say how long to
    /// keep them. A command only creates those it needs.
    pub(super) async fn see_to_days(&mut self) -> Result<(), CompactionError> {
        if self.days_seen[self.bucket].is_some_and(|seen| seen.elapsed() < DAYS_PERIOD) {
            return Ok(());
        }
        let days = match (self.metrics.is_some(), self.rules.keeps_history) {
            (true, _) => self.rules.history_days,
            (false, true) => ALL_DAYS,
            (false, false) => return Ok(()),
        };
        if self.layout.is_on_citus() {
            return self.see_to_days_on_citus(days).await;
        }
        let connection = self.connection().await?;
        timeout(PIECE_TIMEOUT, connection.execute("select sync_history_days($1)", &[&days])).await??;
        self.days_seen[self.bucket] = Some(Instant::now());
        Ok(())
    }

    /// The same on Citus, where it changes what all servers know, and fails for every bucket while one of them is away. It
    /// is tried again soon. Until then the days that exist have to do: they were created two weeks ahead.
    async fn see_to_days_on_citus(&mut self, days: i32) -> Result<(), CompactionError> {
        if self.days_paused.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        let connection = self.connection().await?;
        let limit = DAYS_LIMIT.as_millis();
        let statements =
            format!("begin; set local statement_timeout = {limit}; select sync_history_days({days}); commit");
        let maintained = timeout(DAYS_LIMIT * 2, connection.batch_execute(&statements)).await;
        let error = match maintained.map_err(CompactionError::from) {
            Ok(Ok(())) => {
                self.days_seen[self.bucket] = Some(Instant::now());
                self.days_paused = None;
                return Ok(());
            }
            Ok(Err(error)) => error.into(),
            Err(elapsed) => elapsed,
        };
        self.roll_back(&error).await;
        self.days_paused = Some(Instant::now() + DAYS_PAUSE);
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, bucket = self.bucket, "the history's daily partitions stay as they are; trying again");
        Ok(())
    }

    fn count(&self, outcome: &str) {
        if let Some(metrics) = &self.metrics {
            metrics.compactions.with_label_values(&[outcome]).inc();
        }
    }

    /// Trims a log, unless another replica is doing so or has done so.
    async fn trim_if_due(&mut self, log: LogId) -> Result<(), CompactionError> {
        let rules = self.rules();
        let connection = self.connection().await?;
        let Some(state) = timeout(PIECE_TIMEOUT, due::state(connection, log, &rules)).await?? else { return Ok(()) };
        if !state.is_due {
            return Ok(());
        }
        let trimmed = self.trim_log(log, state, state.horizon, Wait::No, &mut |_, _| {}).await?;
        self.count(if trimmed { "trimmed" } else { "busy" });
        Ok(())
    }

    /// Pauses a log that could not be trimmed, and logs that; longer each time. The other logs must not wait for it.
    async fn postpone(&mut self, log: LogId, error: &CompactionError) -> Result<(), CompactionError> {
        self.roll_back(error).await;
        let pause = self.postponed.note(log, self.period(), Instant::now());
        self.say_postponed(log, error, pause);
        let rules = self.rules();
        let connection = self.connection().await?;
        if let Err(error) = Wait::No.on(due::postpone(connection, log, &rules, pause)).await {
            // This replica remembers it anyway.
            self.connection = None;
            tracing::debug!(log = %log.0, error = &error as &dyn std::error::Error, "cannot postpone the log for other replicas");
        }
        Ok(())
    }

    /// Rolls back a failed transaction. Drops the connection if it may still be busy, or does not respond.
    pub(super) async fn roll_back(&mut self, error: &CompactionError) {
        if !error.is_of_row() {
            // Another replica, one that keeps no history, may have dropped the partitions.
            self.days_seen[self.bucket] = None;
        }
        let Some(connection) = self.connection.take() else { return };
        if matches!(error, CompactionError::Timeout(_) | CompactionError::Connect(_)) {
            return;
        }
        let rolled_back = timeout(ROLLBACK_TIMEOUT, connection.batch_execute("rollback")).await;
        if matches!(rolled_back, Ok(Ok(()))) {
            self.connection = Some(connection);
        }
    }

    fn say_postponed(&mut self, log: LogId, error: &CompactionError, pause: Duration) {
        let shown = error as &dyn std::error::Error;
        if error.is_of_row() {
            self.count("unreadable");
            tracing::error!(log = %log.0, error = shown, ?pause, "a log cannot be trimmed; trying again later");
        } else {
            self.count("failed");
            tracing::warn!(log = %log.0, error = shown, ?pause, "a log could not be trimmed; trying again later");
        }
    }

    /// Returns how long to rest after a piece.
    pub(super) fn rest_after(&self, took: Duration) -> Duration {
        let replicas = u32::try_from((self.sharing)()).unwrap_or(u32::MAX).max(1);
        took.saturating_mul(replicas.saturating_mul(PART_OF_TIME) - 1).clamp(RESTS.0, RESTS.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_that_is_away_is_left_alone_for_longer_and_longer_and_its_lag_grows() {
        let (mut look, now, second) = (Look::default(), Instant::now(), Duration::from_secs(1));
        assert!(!look.is_left_alone(now) && look.lag(now) == 0.0);
        look.note_lag(5.0, now);
        assert_eq!(look.lag(now + 10 * second), 5.0, "it is as it was when it was looked at");
        for (pause, at) in [(1, 0), (2, 10), (4, 20)] {
            let now = now + at * second;
            look.note_failure(second, now);
            assert!(look.is_left_alone(now + pause * second - second / 2), "{pause}");
            assert!(!look.is_left_alone(now + pause * second), "{pause}");
            assert_eq!(look.lag(now), 5.0 + f64::from(at));
        }
        (0..20).for_each(|_| look.note_failure(second, now));
        assert!(!look.is_left_alone(now + LONGEST_PAUSE));
    }
}
