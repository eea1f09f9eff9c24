//! The reader of pages.

use super::StoreError;
use super::existing::ExistingLogs;
use super::often_written::OftenWritten;
use super::rewinds::Rewinds;
use crate::clock::Clock;
use crate::db::{Pool, Sql};
use crate::limits::heavy::HeavyWork;
use crate::limits::reads::ReadLane;

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
}
