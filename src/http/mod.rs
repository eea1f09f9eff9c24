//! HTTP: one file per endpoint, one table of routes, one table of errors.

mod admission;
pub mod error;
mod extract;
mod headers;
mod health;
mod metrics;
mod observe;
pub mod open_files;
mod pull;
mod push;
pub mod router;
pub mod server;
mod socket;
mod stream;
pub mod waiting;

pub use admission::Admission;

use crate::auth::Authenticator;
use crate::billing::Billing;
use crate::config::Config;
use crate::fanout::Publisher;
use crate::fanout::listener::Hearing;
use crate::session::Sessions;
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::telemetry::{Metrics, Traces};
use std::sync::Arc;

/// What the endpoints work with.
#[derive(Clone, Debug)]
pub struct AppState {
    pub config: Arc<Config>,
    pub auth: Arc<Authenticator>,
    pub billing: Billing,
    pub store: Store,
    pub publisher: Publisher,
    pub admission: Arc<Admission>,
    pub sessions: Arc<Sessions>,
    pub health: Arc<health::Health>,
    pub shutdown: Shutdown,
    pub metrics: Arc<Metrics>,
    pub traces: Traces,
}

impl AppState {
    /// What readiness is judged by.
    pub fn new_health(config: &Config, hearing: Hearing, shutdown: &Shutdown) -> Arc<health::Health> {
        Arc::new(health::Health::new(config.ready_grace_ms, hearing, shutdown.draining.clone()))
    }
}
