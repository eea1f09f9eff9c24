//! What those share who look for what no notification brought.

use super::SessionRegistry;
use crate::store::HeadReader;
use crate::telemetry::Metrics;
use std::sync::Arc;
use std::time::Duration;

/// Users asked for in one statement.
pub(super) const USERS_PER_QUERY: usize = 5_000;
/// Requests that wait. Beyond it, look-ups are left to the next round and joining sessions wait their turn.
pub(super) const QUEUE: usize = 10_000;

/// What a reconciler works with.
#[derive(Clone)]
pub struct Dependencies {
    /// Where heads are read.
    pub heads: HeadReader,
    /// Whose logs are looked at, and who is woken.
    pub sessions: Arc<dyn SessionRegistry>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The time between two rounds.
    pub period: Duration,
    /// How far back a session that comes is told of what was stored.
    pub recent: Duration,
}
