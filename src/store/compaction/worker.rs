//! Who trims: a replica in the background, a little at a time; or a command, everything at once ([`super::all`]).

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

/// All replicas together trim for this part of the time, so that pushes keep the database.
const PART_OF_TIME: u32 = 8;
/// The least and the longest rest after a piece. Only a record that is large beyond reason takes so long that the latter counts.
const RESTS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(600));
/// How often due logs are looked up: this part of the horizon, but within these bounds.
const ROUNDS: u32 = 16;
const ROUND: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
/// How often the days of the history are looked at.
const DAYS_PERIOD: Duration = Duration::from_secs(600);

/// How long a connection may take to give up a transaction.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(5);
/// More days than there can be.
const ALL_DAYS: i32 = 36_500;

/// The longest that a bucket is left alone which could not be looked at.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How a bucket was when it was looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    /// How long its log that has waited longest had been due, in seconds, and when that was.
    lag: Option<(f64, Instant)>,
    /// Until when it is left alone, and for how long that is.
    pause: Option<(Instant, Duration)>,
}

impl Look {
    fn is_left_alone(&self, now: Instant) -> bool {
        self.pause.is_some_and(|(until, _)| now < until)
    }

    /// Of one that cannot be looked at, what was due then waits on.
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
    /// The bucket whose logs are trimmed, and a connection to it.
    bucket: usize,
    pub(super) connection: Option<Session>,
    /// When the days of each bucket's history were last seen to.
    days_seen: Vec<Option<Instant>>,
    /// How each bucket was when it was last looked at.
    looks: Vec<Look>,
    /// How many replicas share the time that trimming may take.
    sharing: Box<dyn Fn() -> usize + Send + Sync>,
    postponed: Postponed,
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
        let layout = schema::check_for_command(&connection).await?;
        Ok(Compactor::new(database, config, layout, name))
    }

    /// Has it share the time that trimming may take with other replicas: how many there are, this one included.
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
            looks: vec![Look::default(); layout.count()],
            sharing: Box::new(|| 1),
            postponed: Postponed::default(),
        }
    }

    /// The rules as they are now.
    pub(super) fn rules(&self) -> Rules {
        Rules { ahead: self.clock.advanced(), ..self.rules }
    }

    /// Turns to a bucket.
    pub(super) fn enter(&mut self, bucket: usize) {
        if std::mem::replace(&mut self.bucket, bucket) != bucket {
            self.connection = None;
        }
    }

    /// Trims what is due until it is told to stop; if COMPACT_AFTER_MS is 0, only sees to what others have trimmed. What fails
    /// is tried again.
    pub async fn run(mut self, stopping: CancellationToken) {
        if self.rules.after.is_zero() {
            stopping.run_until_cancelled(self.see_to_days_only()).await;
            return;
        }
        let period = self.period();
        let mut next = ROUND.0;
        loop {
            // Replicas that started together do not look together.
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
                        // There are more than were looked up.
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

    /// How often due logs are looked up, if there are not many.
    fn period(&self) -> Duration {
        (self.rules.after / ROUNDS).clamp(ROUND.0, ROUND.1)
    }

    /// Keeps the history's days: logs are trimmed by commands, or were before trimming was turned off.
    async fn see_to_days_only(&mut self) {
        let mut next = ROUND.0;
        loop {
            self.clock.sleep(self.clock.jitter(next, 0.5..1.5)).await;
            next = ROUND.1;
            for bucket in 0..self.layout.count() {
                self.enter(bucket);
                if let Err(error) = self.see_to_days().await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, bucket, "the days of the history cannot be seen to; trying again");
                }
                self.connection = None;
            }
        }
    }

    fn failed(&mut self, error: &CompactionError) {
        self.count("failed");
        self.connection = None;
        // Somebody may have dropped the history's days, keeping none.
        self.days_seen[self.bucket] = None;
        if self.layout.count() > 1 {
            // What is away may be waited for as long as a piece may take: the others are not to wait for it each time.
            let period = self.period();
            self.looks[self.bucket].note_failure(period, Instant::now());
        }
        let error = error as &dyn std::error::Error;
        tracing::warn!(error, bucket = self.bucket, "logs cannot be trimmed at the moment; trying again");
    }

    /// Trims the logs of the bucket that are due now, some at most. Whether there were so many.
    async fn round(&mut self) -> Result<bool, CompactionError> {
        self.see_to_days().await?;
        let rules = self.rules();
        let postponed = self.postponed.logs(Instant::now());
        let connection = self.connection().await?;
        let lag = timeout(PIECE_TIMEOUT, due::lag(connection, &rules)).await??;
        let mut due = timeout(PIECE_TIMEOUT, due::due(connection, &rules, &postponed)).await??;
        self.looks[self.bucket].note_lag(lag, Instant::now());
        // Several replicas see the same list, and begin at different places.
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

    pub(super) async fn connection(&mut self) -> Result<&Session, CompactionError> {
        let limit = self.metrics.is_some().then_some(PIECE_TIMEOUT);
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.url, &self.name, self.layout.schema(self.bucket), limit).await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Makes the days of the history that are needed, and drops old ones: replicas do, whose settings say for how long. A
    /// command makes those that it needs.
    pub(super) async fn see_to_days(&mut self) -> Result<(), CompactionError> {
        if self.days_seen[self.bucket].is_some_and(|seen| seen.elapsed() < DAYS_PERIOD) {
            return Ok(());
        }
        let days = match (self.metrics.is_some(), self.rules.keeps_history) {
            (true, _) => self.rules.history_days,
            (false, true) => ALL_DAYS,
            (false, false) => return Ok(()),
        };
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
        let trimmed = self.trim_log(log, state, state.horizon, Wait::No, &mut |_, _| {}).await?;
        self.count(if trimmed { "trimmed" } else { "busy" });
        Ok(())
    }

    /// Leaves a log alone for a while that could not be trimmed, and says so; longer each time. The others are not to wait for it.
    async fn postpone(&mut self, log: LogId, error: &CompactionError) -> Result<(), CompactionError> {
        self.roll_back(error).await;
        let pause = self.postponed.note(log, self.period(), Instant::now());
        self.say_postponed(log, error, pause);
        let rules = self.rules();
        let connection = self.connection().await?;
        if let Err(error) = Wait::No.on(due::postpone(connection, log, &rules, pause)).await {
            // This replica knows.
            self.connection = None;
            tracing::debug!(log = %log.0, error = &error as &dyn std::error::Error, "the log is not postponed for others");
        }
        Ok(())
    }

    /// Has the connection forget what failed on it. It is given up if it may still be at it, or does not answer.
    pub(super) async fn roll_back(&mut self, error: &CompactionError) {
        if !error.is_of_row() {
            // Somebody may have dropped the history's days, keeping none.
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

    /// How long to rest after a piece.
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
