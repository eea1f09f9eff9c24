//! HTTP: one file per endpoint, one table of routes, one table of errors.

mod answer;
mod apps_stream;
mod body;
mod compression;
mod connection;
pub mod error;
mod extract;
pub(crate) mod headers;
pub(crate) mod health;
mod meter;
pub(crate) mod metrics;
mod middleware;
mod proxy_protocol;
mod pull;
mod push;
mod read_ahead;
pub mod router;
pub mod server;
pub mod startup;
mod stream;
mod transport;
mod websocket;

pub use body::PushBudget;
pub use health::Health;
pub use read_ahead::ReadAhead;

use crate::auth::Authenticator;
use crate::billing::Billing;
use crate::budget::MemoryBudget;
use crate::clock::Clock;
use crate::config::Config;
use crate::fanout::Publisher;
use crate::fanout::listener::ListenerStatus;
use crate::hub::DeviceReads;
use crate::limits::UserLimits;
use crate::limits::polls::Polls;
use crate::session::Sessions;
use crate::shutdown::Shutdown;
use crate::store::Buckets;
use crate::telemetry::{Metrics, Traces};
use std::ops::Deref;
use std::sync::Arc;

/// What the endpoints work with. Each layer and handler has one of its own, for each request.
#[derive(Clone, Debug)]
pub struct AppState(Arc<Services>);

/// What there is of it in a replica, once.
#[derive(Debug)]
pub struct Services {
    /// The settings.
    pub config: Arc<Config>,
    /// Checks tokens.
    pub auth: Arc<Authenticator>,
    /// Asks whether sync is paid for.
    pub billing: Billing,
    /// The logs, by user.
    pub store: Buckets,
    /// Tells other replicas.
    pub publisher: Publisher,
    /// The memory of pushes.
    pub push_budget: PushBudget,
    /// For answers and streams that their clients have not read yet.
    pub unread: MemoryBudget,
    /// Limits of users.
    pub limits: UserLimits,
    /// Holds back readers that ask without a pause.
    pub polls: Polls,
    /// Reads pages ahead of readers that come back for one after the other.
    pub read_ahead: ReadAhead,
    /// Begins sessions.
    pub sessions: Arc<Sessions>,
    /// Whether this replica is ready.
    pub health: Arc<health::Health>,
    /// How far devices have read.
    pub devices: DeviceReads,
    /// The stages of a stop.
    pub shutdown: Shutdown,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Decides which requests are traced.
    pub traces: Traces,
    /// What time it is.
    pub clock: Clock,
}

impl Deref for AppState {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

impl AppState {
    /// The state of a replica that has these.
    pub fn new(services: Services) -> AppState {
        AppState(Arc::new(services))
    }

    /// What readiness is judged by.
    pub fn new_health(
        config: &Config,
        listener_status: ListenerStatus,
        auth: Arc<Authenticator>,
        shutdown: &Shutdown,
    ) -> Arc<health::Health> {
        Arc::new(health::Health::new(config.ready_grace_ms, listener_status, auth, shutdown))
    }
}
