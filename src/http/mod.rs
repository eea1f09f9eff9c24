//! HTTP: one file per endpoint, one table of routes, one table of errors.

mod answer;
mod apps_stream;
mod body;
mod compression;
pub mod error;
mod extract;
pub(crate) mod headers;
pub(crate) mod health;
pub(crate) mod metrics;
mod middleware;
mod proxy_protocol;
mod pull;
mod push;
pub mod rlimit;
pub mod router;
pub mod server;
pub mod startup;
mod stream;
mod transport;
mod websocket;

pub use body::PushBudget;
pub use health::Health;

use crate::auth::Authenticator;
use crate::billing::Billing;
use crate::budget::MemoryBudget;
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
    pub config: Arc<Config>,
    pub auth: Arc<Authenticator>,
    pub billing: Billing,
    pub store: Buckets,
    pub publisher: Publisher,
    pub push_budget: PushBudget,
    /// For answers and streams that their clients have not read yet.
    pub unread: MemoryBudget,
    pub limits: UserLimits,
    pub polls: Polls,
    pub sessions: Arc<Sessions>,
    pub health: Arc<health::Health>,
    /// How far devices have read.
    pub devices: DeviceReads,
    pub shutdown: Shutdown,
    pub metrics: Arc<Metrics>,
    pub traces: Traces,
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
