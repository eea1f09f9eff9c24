//! What reads pages of logs.

use super::StoreError;
use super::often_written::OftenWritten;
use super::rewinds::Rewinds;
use crate::clock::Clock;
use crate::db::{Pool, Sql};
use crate::limits::heavy::HeavyWork;
use crate::limits::reads::ReadLane;

/// How a page is bounded.
#[derive(Clone, Copy, Debug)]
pub struct PageLimits {
    /// Changes at most.
    pub changes: u32,
    /// Bytes of its changes, unless the first alone has more.
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
    /// How many may read at once.
    pub(super) lane: ReadLane,
}

impl Pages {
    /// Where reads wait for each other.
    pub fn lane(&self) -> &ReadLane {
        &self.lane
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        static PING: Sql = Sql { text: "select 1", types: &[] };
        self.pool.query(&PING, &[]).await?;
        Ok(())
    }
}
