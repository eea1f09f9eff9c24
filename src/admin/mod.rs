//! The admin surface: a separate port (ADMIN_PORT) on which operators inspect and control the cluster.
//!
//! * [`router`]: the table of its routes. [`api`]: JSON for programs and for `mana-sync admin` ([`client`]); `console`:
//!   pages for people. Both show what [`lookup`] finds and execute actions with [`act`].
//! * [`cluster`]: any replica answers for all, by asking them over a shared channel; [`replica`] is each replica's
//!   answer, [`rates`] its recent load, [`message`] the encoding, [`keys`] its encryption.
//! * [`report`]: all answers, in the form of the API.
//!
//! Callers present ADMIN_TOKEN, or have logged in with it; every action is logged. Clients of the public port notice
//! nothing except the intended effects of actions.

mod act;
mod api;
pub mod client;
mod cluster;
mod connection;
mod console;
mod error;
mod keys;
mod lookup;
mod message;
mod rates;
mod record;
mod replica;
pub mod report;
mod request;
pub mod router;
mod units;

pub use cluster::Replicas;
pub use keys::KeyError;
pub use replica::{Parts, Trimming};

use crate::clock::Clock;
use crate::config::Config;
use crate::db::{ConnectError, Connector};
use crate::fanout::Presence;
use crate::http::Health;
use crate::limits::heavy::HeavyWork;
use crate::shutdown::Shutdown;
use crate::store::Layout;
use crate::telemetry::Metrics;
use crate::telemetry::throttle::Throttle;
use cluster::Answering;
use connection::LazyConnection;
use keys::AdminKeys;
use replica::LocalReplica;
use std::sync::Arc;
use std::time::Duration;

/// The state of the admin port. Clones share it.
#[derive(Clone, Debug)]
pub struct Admin(Arc<Inner>);

/// The state shared by all requests to the admin port.
#[derive(Debug)]
pub struct Inner {
    replicas: Replicas,
    keys: Arc<AdminKeys>,
    /// For queries about the database as a whole.
    reading: LazyConnection,
    /// For queries about a user, by bucket; empty without buckets. A bucket that is away or slow holds up nobody else.
    buckets: Vec<LazyConnection>,
    layout: Layout,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    presence: Presence,
    /// The duration of a login.
    login: Duration,
    clock: Clock,
    /// Throttles the log line about requests without the token.
    refusal_line: Throttle,
    /// Runs what takes long, such as writing a page about a record of megabytes, in turns.
    heavy: HeavyWork,
}

impl std::ops::Deref for Admin {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// The reasons why the admin surface cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AdminStartError {
    /// The keys cannot be derived.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Cannot prepare connections to the database.
    #[error("cannot prepare connections to the database")]
    Connector(#[from] ConnectError),
}

/// The background tasks of the admin surface, each to be run once.
#[derive(Debug)]
pub struct Tasks {
    admin: Admin,
    local: Arc<LocalReplica>,
    answering: Answering,
}

impl Admin {
    /// Creates the admin surface of a replica; none if the settings do not ask for it.
    pub fn new(config: &Config, parts: Parts) -> Result<Option<(Admin, Tasks)>, AdminStartError> {
        let settings = &config.admin;
        let (Some(_), Some(token)) = (settings.admin_port, &settings.admin_token) else { return Ok(None) };
        let keys = Arc::new(AdminKeys::new(token)?);
        let connector = |purpose: &str| {
            Connector::new(config.database.direct_url(), &format!("mana-sync {} {purpose}", config.replica_name()))
        };
        let connection = |purpose: &str| connector(purpose).map(LazyConnection::new);
        let of_bucket = |schema: String| Ok::<_, ConnectError>(LazyConnection::of_bucket(connector("admin")?, schema));
        let layout = parts.compaction.layout();
        let buckets = layout.schemas().into_iter().map(of_bucket).collect::<Result<_, _>>()?;
        let (health, metrics, presence) = (parts.health.clone(), parts.metrics.clone(), parts.presence.clone());
        let clock = parts.clock.clone();
        let local = Arc::new(LocalReplica::new(config, parts));
        let (sending, keeping) = (connection("admin channel")?, LazyConnection::writing(connector("admin tokens")?));
        let (replicas, answering) = Replicas::new(local.clone(), keys.clone(), sending, keeping);
        let (reading, login) = (connection("admin")?, settings.admin_login_ms);
        let admin = Admin(Arc::new(Inner {
            replicas,
            keys,
            reading,
            buckets,
            layout,
            health,
            metrics,
            presence,
            login,
            clock,
            refusal_line: Throttle::default(),
            heavy: HeavyWork::default(),
        }));
        Ok(Some((admin.clone(), Tasks { admin, local, answering })))
    }

    /// Returns all replicas, as this one can reach them.
    pub fn replicas(&self) -> &Replicas {
        &self.replicas
    }
}

impl Tasks {
    /// Answers other replicas and samples this one's counters, until told to stop.
    pub fn start(self, shutdown: &Shutdown) {
        let stop = || shutdown.stopping.clone();
        shutdown.essential("admin rates", self.local.recent.clone().watch(stop()));
        shutdown.essential("admin answers", self.answering.run(stop()));
        shutdown.essential("admin connection", close_idle(self.admin, shutdown.clone()));
    }
}

async fn close_idle(admin: Admin, shutdown: Shutdown) {
    const PERIOD: Duration = Duration::from_secs(15);
    while shutdown.stopping.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_some() {
        for connection in std::iter::once(&admin.reading).chain(&admin.buckets) {
            connection.close_if_idle().await;
        }
    }
}
