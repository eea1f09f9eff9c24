//! Trimming the logs of a user, of an app or of all, on command.

use super::bounds::Wait;
use super::due::{self, LogName};
use super::{CompactionError, Compactor, Trimmed};
use crate::protocol::UserKey;

/// Progress of a command's trimming.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Logs that are done, including those that could not be trimmed.
    pub logs: u64,
    /// Logs that could not be trimmed; the process's log says why.
    pub failed: u64,
    /// Buckets whose logs could not be listed; the process's log says why.
    pub unavailable: u64,
    /// Progress of the current log, from 0 to 1.
    pub part: f64,
    /// Totals of what was trimmed so far.
    pub trimmed: Trimmed,
}

impl Compactor {
    /// Returns the buckets that may hold a user's logs, or all of them.
    fn buckets_of(&self, user: Option<UserKey>) -> Vec<usize> {
        user.map_or_else(|| (0..self.layout.count()).collect(), |user| vec![self.layout.bucket_of(user)])
    }

    /// Trims the logs of a user, of an app or of all, and reports progress after each piece. A log that cannot be
    /// trimmed is counted, and so is an unavailable bucket; the others are still trimmed.
    ///
    /// # Errors
    /// The database cannot be reached, or the logs of the only bucket concerned cannot be listed.
    pub async fn trim_all(
        &mut self,
        user: Option<&str>,
        app: Option<&str>,
        mut said: impl FnMut(Progress),
    ) -> Result<Progress, CompactionError> {
        let user = user.map(UserKey::of);
        let mut progress = Progress::default();
        let buckets = self.buckets_of(user);
        for bucket in buckets.iter().copied() {
            self.enter(bucket);
            if let Err(error) = self.trim_bucket(user, app, &mut progress, &mut said).await {
                let error = self.skip_one_of(&buckets, error)?;
                progress.unavailable += 1;
                let error = &error as &dyn std::error::Error;
                tracing::error!(bucket, error, "the logs of a bucket cannot be trimmed");
            }
        }
        Ok(progress)
    }

    /// Returns the error as one of a single bucket, if there are others and the database can be reached.
    fn skip_one_of(&mut self, buckets: &[usize], error: CompactionError) -> Result<CompactionError, CompactionError> {
        self.connection = None;
        match error {
            CompactionError::Connect(_) => Err(error),
            error if buckets.len() == 1 => Err(error),
            error => Ok(error),
        }
    }

    async fn trim_bucket(
        &mut self,
        user: Option<UserKey>,
        app: Option<&str>,
        progress: &mut Progress,
        said: &mut impl FnMut(Progress),
    ) -> Result<(), CompactionError> {
        let mut after = None;
        loop {
            let logs = due::logs_of(self.connection().await?, user, app, after).await?;
            let Some(last) = logs.last() else { return Ok(()) };
            after = Some(last.id);
            for log in logs {
                match self.trim_one(&log, progress, said).await {
                    Ok(()) => {}
                    Err(error @ CompactionError::Connect(_)) => return Err(error),
                    Err(error) => {
                        self.roll_back(&error).await;
                        progress.failed += 1;
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(log = %log.id.0, user = log.user, app = log.app, error, "a log cannot be trimmed");
                    }
                }
                progress.logs += 1;
                progress.part = 0.0;
                said(*progress);
            }
        }
    }

    async fn trim_one(
        &mut self,
        log: &LogName,
        progress: &mut Progress,
        said: &mut impl FnMut(Progress),
    ) -> Result<(), CompactionError> {
        self.see_to_days().await?;
        let rules = self.rules();
        let Some(state) = due::state(self.connection().await?, log.id, &rules).await? else { return Ok(()) };
        let mut done = |trimmed, part| {
            progress.trimmed.add(trimmed);
            progress.part = part;
            said(*progress);
        };
        self.trim_log(log.id, state, state.head, Wait::Yes, &mut done).await?;
        Ok(())
    }

    /// Returns the number of logs of a user, of an app or of all, without those of unavailable buckets.
    pub async fn count_logs(&mut self, user: Option<&str>, app: Option<&str>) -> Result<u64, CompactionError> {
        let user = user.map(UserKey::of);
        let buckets = self.buckets_of(user);
        let mut all = 0;
        for bucket in buckets.iter().copied() {
            self.enter(bucket);
            match self.count_in_bucket(user, app).await {
                Ok(logs) => all += logs,
                // Trimming reports it.
                Err(error) => drop(self.skip_one_of(&buckets, error)?),
            }
        }
        Ok(all)
    }

    async fn count_in_bucket(&mut self, user: Option<UserKey>, app: Option<&str>) -> Result<u64, CompactionError> {
        let count = "select count(*) from sync_heads where ($1::uuid is null or user_key = $1) and ($2::text is null or app_id = $2)";
        let of_user = user.map(|user| user.0);
        let logs: i64 = self.connection().await?.query_one(count, &[&of_user, &app]).await?.try_get(0)?;
        Ok(u64::try_from(logs).unwrap_or(0))
    }
}
