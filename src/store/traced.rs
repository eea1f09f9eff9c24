//! Statements as traces and metrics see them.

use super::{Store, StoreError};
use crate::telemetry::traces::{self, Query};
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing::{Instrument, Span};

pub(super) const PUSH: Query = Query { operation: "INSERT", summary: "INSERT sync_heads sync_changes" };
pub(super) const STORED_BEFORE: Query = Query { operation: "SELECT", summary: "SELECT sync_changes by id" };
pub(super) const TRIMMED_BEFORE: Query = Query { operation: "SELECT", summary: "SELECT sync_history by id" };
pub(super) const PAGE: Query = Query { operation: "SELECT", summary: "SELECT sync_heads sync_changes" };
pub(super) const OWN_WRITES: Query = Query { operation: "SELECT", summary: "SELECT sync_changes by device" };
pub(super) const HISTORY: Query = Query { operation: "SELECT", summary: "SELECT sync_changes by record" };
pub(super) const HEADS: Query = Query { operation: "SELECT", summary: "SELECT sync_heads" };
pub(super) const RECENT_HEADS: Query = Query { operation: "SELECT", summary: "SELECT sync_heads by age" };
pub(super) const CHANGED_TABLES: Query = Query { operation: "SELECT", summary: "SELECT DISTINCT sync_changes" };

/// Counts itself for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Counted(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Store {
    /// Runs a statement, waiting for a connection included.
    pub(super) async fn traced<T>(
        &self,
        query: Query,
        running: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let _counted = Counted::new(&self.running);
        let span = traces::database(query);
        let done = running.instrument(span.clone()).await;
        if let Err(error) = &done {
            failed(&span, error);
        }
        done
    }

    /// Statements that wait for a connection of the pool: those that run without having one.
    pub fn waiting(&self) -> usize {
        let in_use = (self.pool().size() as usize).saturating_sub(self.pool().num_idle());
        self.running.load(Ordering::Relaxed).saturating_sub(in_use)
    }
}

/// The span of waiting for a push, whose statement may be shared with others and runs elsewhere.
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

fn failed(span: &Span, error: &sqlx::Error) {
    let code = match error {
        sqlx::Error::Database(error) => error.code(),
        _ => None,
    };
    match (code, error) {
        (Some(code), _) => {
            span.record("db.response.status_code", &*code);
            traces::failed(span, &code);
        }
        (None, sqlx::Error::PoolTimedOut) => traces::failed(span, "timeout"),
        (None, _) => traces::failed(span, "connection"),
    }
}
