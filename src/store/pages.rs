//! The reader of pages.

use super::existing::ExistingLogs;
use super::often_written::OftenWritten;
use super::page_memory::PageMemory;
use super::page_request::PageRequest;
use super::page_rows::PageRows;
use super::rewinds::Rewinds;
use super::visibility::Visibility;
use super::{StoreError, traced};
use crate::clock::Clock;
use crate::db::{Pool, Sql};
use crate::limits::heavy::HeavyWork;
use crate::limits::reads::ReadLane;
use tokio_postgres::types::ToSql;

/// The bounds of a page.
#[derive(Clone, Copy, Debug)]
pub struct PageLimits {
    /// Maximum number of changes.
    pub changes: u32,
    /// Maximum bytes of its changes, unless the first alone has more.
    pub bytes: u32,
}

/// Reads logs in pages.
#[derive(Clone, Debug)]
pub struct Pages {
    pub(super) pool: Pool,
    pub(super) limits: PageLimits,
    pub(super) rewinds: Rewinds,
    pub(super) often: OftenWritten,
    pub(super) heavy: HeavyWork,
    pub(super) clock: Clock,
    pub(super) existing: ExistingLogs,
    pub(super) visibility: Visibility,
    /// Limits concurrent reads.
    pub(super) lane: ReadLane,
}

impl Pages {
    /// Returns the lane in which reads wait for each other.
    pub fn lane(&self) -> &ReadLane {
        &self.lane
    }

    /// Checks that the database responds.
    pub async fn ping(&self) -> Result<(), StoreError> {
        static PING: Sql = Sql { text: "select 1", types: &[] };
        self.pool.query(&PING, &[]).await?;
        Ok(())
    }

    /// Reads the rows of a page.
    ///
    /// # Errors
    /// [`StoreError::Hidden`] if there may be more of them, which the role does not see: the page's cursor would lead past
    /// these, or to the beginning.
    pub(super) async fn read_rows<'m>(
        &self,
        query: &'static Sql,
        parameters: &[&(dyn ToSql + Sync)],
        request: &PageRequest<'_>,
        memory: &'m PageMemory,
    ) -> Result<PageRows<'m>, StoreError> {
        // In the response to a push, changes may be left out once all have been read.
        let writes = request.is_for_answer && !request.own.is_answer();
        let sink = || PageRows::new(memory, self.limits.bytes as usize, writes);
        let rows = traced::run_into(&self.pool, traced::PAGE, query, parameters, &sink).await?.finish()?;
        // Without a head there is no log yet, or the head is hidden.
        if rows.is_walled || rows.head == 0 {
            self.visibility.check(&self.pool).await?;
        }
        Ok(rows)
    }
}
