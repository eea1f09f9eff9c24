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
use crate::limits::turns::Turns;
use crate::session::Sessions;
use crate::shutdown::Shutdown;
use crate::store::Buckets;
use crate::telemetry::{Metrics, Traces};
use std::ops::Deref;
use std::sync::Arc;

/// The state shared by all endpoints. Each layer and handler has its own handle, for each request.
#[derive(Clone, Debug)]
pub struct AppState(Arc<Services>);

/// The services of a replica; there is one of each.
#[derive(Debug)]
pub struct Services {
    /// The settings.
    pub config: Arc<Config>,
    /// Checks tokens.
    pub auth: Arc<Authenticator>,
    /// Checks whether sync is paid for.
    pub billing: Billing,
    /// The logs, by user.
    pub store: Buckets,
    /// Sends wake-ups to other replicas.
    pub publisher: Publisher,
    /// Memory of pushes.
    pub push_budget: PushBudget,
    /// Memory of answers and streams that clients have not read yet.
    pub unread: MemoryBudget,
    /// The turns of large work: answers that are compressed and written, and requests with long queries.
    pub large: Turns,
    /// Limits per user.
    pub limits: UserLimits,
    /// Slows down readers that poll without a pause.
    pub polls: Polls,
    /// Reads pages ahead of readers that are catching up.
    pub read_ahead: ReadAhead,
    /// Begins sessions.
    pub sessions: Arc<Sessions>,
    /// The readiness of this replica.
    pub health: Arc<health::Health>,
    /// The positions up to which devices have read.
    pub devices: DeviceReads,
    /// The stages of shutdown.
    pub shutdown: Shutdown,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Decides which requests are traced.
    pub traces: Traces,
    /// The clock.
    pub clock: Clock,
}

impl Deref for AppState {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

impl AppState {
    /// Creates the state of a replica from its services.
    pub fn new(services: Services) -> AppState {
        AppState(Arc::new(services))
    }

    /// Creates the readiness state.
    pub fn new_health(
        config: &Config,
        listener_status: ListenerStatus,
        auth: Arc<Authenticator>,
        shutdown: &Shutdown,
    ) -> Arc<health::Health> {
        Arc::new(health::Health::new(config.ready_grace_ms, listener_status, auth, shutdown))
    }
}
