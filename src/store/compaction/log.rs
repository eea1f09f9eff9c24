//! Trimming one log, piece by piece.

use super::bounds::Wait;
use super::due::{self, LogState};
use super::piece::{Done, Piece, Range, Rows, begin, commit_with, trim_next};
use super::{CompactionError, Compactor, Trimmed};
use crate::protocol::LogId;
use tokio::time::{Instant, sleep};

/// The trimmed fraction of a log, from 0 to 1, by the time of its rows.
pub(super) type Part = f64;

impl Compactor {
    /// Trims the part of a log that is old enough, and reports each piece and the progress. `until`: rows up to there are
    /// examined, because they may have replaced older ones. Returns false if another session is removing rows from the
    /// log and `wait` says not to wait for it.
    pub(super) async fn trim_log(
        &mut self,
        log: LogId,
        state: LogState,
        until: i64,
        wait: Wait,
        said: &mut impl FnMut(Trimmed, Part),
    ) -> Result<bool, CompactionError> {
        let all = Range { rows: Rows::All, after: state.trimmed_to, until };
        let deletes = state.purge_before.map(|before| {
            let after = state.deleted_since.map_or(state.trimmed_to, |since| since - 1);
            Range { rows: Rows::Deletes, after, until: before.min(state.horizon) }
        });
        let (mut done, mut total) = (Done::default(), Trimmed::default());
        let mut said = |trimmed: Trimmed, part: Part| {
            total.add(trimmed);
            said(trimmed, part);
        };
        for range in [Some(all), deletes].into_iter().flatten() {
            if !self.trim_range(log, (&state, range), &mut done, wait, &mut said).await? {
                return Ok(false);
            }
        }
        let connection = self.connection().await?;
        let closing = async {
            if !begin(connection, log, wait).await? {
                return Ok(false);
            }
            let purged = state.purge_before.map(|before| before.min(state.horizon));
            let statement = due::closing(connection, log, &state, purged, total).await?;
            commit_with(connection, statement).await?;
            Ok(true)
        };
        wait.on(closing).await
    }

    async fn trim_range(
        &mut self,
        log: LogId,
        (state, mut range): (&LogState, Range),
        done: &mut Done,
        wait: Wait,
        said: &mut impl FnMut(Trimmed, Part),
    ) -> Result<bool, CompactionError> {
        let (rules, mut begins) = (self.rules(), None);
        while range.after < range.until {
            let begun = Instant::now();
            let connection = self.connection().await?;
            let piece = trim_next(connection, log, (state, range, &rules), done, wait).await?;
            let Piece::Trimmed { trimmed, first, end } = piece else { return Ok(false) };
            range.after = end;
            let begins = *begins.get_or_insert(first);
            let part = (end - begins) as f64 / (range.until - begins).max(1) as f64;
            said(trimmed, part.clamp(0.0, 1.0));
            if let Some(metrics) = &self.metrics {
                metrics.trimmed_rows.inc_by(trimmed.gone);
                metrics.trimmed_bytes.inc_by(trimmed.bytes);
                sleep(self.rest_after(begun.elapsed())).await;
            }
        }
        Ok(true)
    }
}
