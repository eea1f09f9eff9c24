//! What reads pages of logs.

use super::rewinds::Rewinds;
use super::{StoreError, traced};
use crate::clock::Clock;
use crate::db::{DbError, Pool, Sql};
use crate::limits::heavy::HeavyWork;
use crate::telemetry::traces::Query;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

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
    pub(super) heavy: HeavyWork,
    pub(super) clock: Clock,
}

impl Pages {
    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        static PING: Sql = Sql { text: "select 1", types: &[] };
        self.pool.query(&PING, &[]).await?;
        Ok(())
    }

    pub(super) async fn traced(
        &self,
        query: Query,
        sql: &'static Sql,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, DbError> {
        traced::run(&self.pool, query, sql, parameters).await
    }
}
