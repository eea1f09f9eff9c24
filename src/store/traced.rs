//! Statements with their spans and metrics.

use super::StoreError;
use crate::db::{DbError, Pool, RowSink, Sql};
use crate::telemetry::traces::{self, Query};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use tracing::{Instrument, Span};

pub(super) const PUSH: Query = Query { operation: "INSERT", summary: "INSERT sync_heads sync_changes" };
pub(super) const STORED_BEFORE: Query = Query { operation: "SELECT", summary: "SELECT sync_changes by id" };
pub(super) const TRIMMED_BEFORE: Query = Query { operation: "SELECT", summary: "SELECT sync_history by id" };
pub(super) const PAGE: Query = Query { operation: "SELECT", summary: "SELECT sync_heads sync_changes" };
pub(super) const OWN_WRITES: Query = Query { operation: "SELECT", summary: "SELECT sync_changes by device" };
pub(super) const HISTORY: Query = Query { operation: "SELECT", summary: "SELECT sync_changes by record" };
pub(super) const HEADS: Query = Query { operation: "SELECT", summary: "SELECT sync_heads" };
pub(super) const RECENT_HEADS: Query = Query { operation: "SELECT", summary: "SELECT sync_heads by age" };
pub(super) const APPS: Query = Query { operation: "SELECT", summary: "SELECT count sync_heads" };
pub(super) const STORED_BYTES: Query = Query { operation: "SELECT", summary: "SELECT sum sync_heads" };
pub(super) const VALUES: Query = Query { operation: "SELECT", summary: "SELECT values" };
pub(super) const CHANGED_TABLES: Query = Query { operation: "SELECT", summary: "SELECT DISTINCT sync_changes" };

/// Runs a statement; the span includes the wait for a connection.
pub(super) async fn run(
    pool: &Pool,
    query: Query,
    sql: &'static Sql,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, DbError> {
    run_into(pool, query, sql, parameters, &Vec::new).await
}

/// The same; see [`Pool::query_into`].
pub(super) async fn run_into<T: RowSink>(
    pool: &Pool,
    query: Query,
    sql: &'static Sql,
    parameters: &[&(dyn ToSql + Sync)],
    sink: &impl Fn() -> T,
) -> Result<T, DbError> {
    let span = traces::database(query);
    let done = pool.query_into(sql, parameters, sink).instrument(span.clone()).await;
    if let Err(error) = &done {
        failed(&span, error);
    }
    done
}

/// Traces the wait for a push, whose statement runs elsewhere and may be shared with others.
pub(super) async fn awaited<T>(
    query: Query,
    waiting: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let span = traces::database(query);
    let done = waiting.instrument(span.clone()).await;
    match &done {
        Err(StoreError::Unavailable(error)) => failed(&span, error),
        Err(StoreError::Unstorable(error) | StoreError::Failed(error)) => failed(&span, error),
        Err(StoreError::TurnTimeout) => traces::failed(&span, "timeout"),
        Err(_) => traces::failed(&span, "_OTHER"),
        Ok(_) => {}
    }
    done
}

fn failed(span: &Span, error: &DbError) {
    match (error.sqlstate(), error) {
        (Some(code), _) => {
            span.record("db.response.status_code", code);
            traces::failed(span, code);
        }
        (None, DbError::PoolTimeout | DbError::Overdue) => traces::failed(span, "timeout"),
        (None, _) => traces::failed(span, "connection"),
    }
}
