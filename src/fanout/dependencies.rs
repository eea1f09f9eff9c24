//! Dependencies shared by the tasks that look for missed notifications.

use super::SessionRegistry;
use crate::store::HeadReader;
use crate::telemetry::Metrics;
use std::sync::Arc;
use std::time::Duration;

/// Maximum number of users queried in one statement.
pub(super) const USERS_PER_QUERY: usize = 5_000;
/// Maximum number of waiting requests. Beyond it, look-ups are left to the next round and joining sessions wait.
pub(super) const QUEUE: usize = 10_000;

/// The dependencies of a reconciler.
#[derive(Clone)]
pub struct Dependencies {
    /// Reads heads.
    pub heads: HeadReader,
    /// The sessions whose logs are checked, and that are woken.
    pub sessions: Arc<dyn SessionRegistry>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The time between two rounds.
    pub period: Duration,
    /// A new session is told what was stored this long before it.
    pub recent: Duration,
}
