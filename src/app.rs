//! The composition root: builds all parts of a replica, runs it, and stops it. The only module that knows all others.

mod fanout;
mod parts;
mod start;

use crate::admin::{self, Admin, AdminStartError};
use crate::billing::TlsError;
use crate::clock::Clock;
use crate::config::{Config, ConfigError, LimitsConfig};
use crate::db::ConnectError;
use crate::fanout::listener::OtherChannels;
use crate::http::server::{Server, bind};
use crate::http::{AppState, router};
use crate::shutdown::Shutdown;
use crate::store::fitness::Unfit;
use crate::store::schema::SchemaError;
use crate::telemetry::{Metrics, Telemetry};
use parts::{Context, Parts};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Maximum time for closing the database connections at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of connections to the admin port.
const ADMIN_CONNECTIONS: u32 = 256;

/// The reasons why a replica could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings conflict.
    #[error("the settings conflict")]
    Config(#[from] ConfigError),
    /// A port cannot be opened.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Cannot prepare connections to the database.
    #[error("cannot prepare connections to the database")]
    Connector(#[from] ConnectError),
    /// Cannot use the database.
    #[error("cannot use the database")]
    Schema(#[from] SchemaError),
    /// The database cannot serve.
    #[error("the database cannot serve")]
    Unfit(#[from] Unfit),
    /// The HTTP client for the issuer and the credits service cannot be created.
    #[error("cannot create the HTTP client")]
    Http(#[from] reqwest::Error),
    /// Cannot create the client for the credits service.
    #[error("cannot create the client for the credits service")]
    Billing(#[from] TlsError),
    /// Cannot open the admin port.
    #[error("cannot open the admin port")]
    Admin(#[from] AdminStartError),
    /// A task ended without which the replica would look healthy and not work.
    #[error("the task \"{0}\" ended unexpectedly; see the log")]
    TaskEnded(&'static str),
}

/// The sockets on which a replica accepts connections.
#[derive(Debug)]
pub struct Listeners {
    /// For clients: PORT, and REPLICA_PORT if it is set.
    pub public: Vec<TcpListener>,
    /// For operators, if the admin port is open.
    pub admin: Option<TcpListener>,
}

impl Listeners {
    /// Opens the ports from the settings. Needs a runtime.
    pub fn bind(config: &Config) -> Result<Listeners, RunError> {
        let open = |address: IpAddr, port, shared| {
            let address = SocketAddr::new(address, port);
            bind(address, shared).map_err(|source| RunError::Bind { address, source })
        };
        let mut public = vec![open(config.bind_address, config.port, config.reuse_port)?];
        if let Some(port) = config.replica_port {
            public.push(open(config.bind_address, port, false)?);
        }
        let admin = config.admin.admin_port.map(|port| open(config.admin.admin_host, port, false)).transpose()?;
        Ok(Listeners { public, admin })
    }
}

/// Runs a replica on open ports until `shutdown` drains it.
///
/// The caller owns everything that belongs to the process (signals, ports, the limit of open files, the log), so
/// several replicas can run in one process. Time and randomness come from `clock`.
pub async fn run(
    listeners: Listeners,
    config: Config,
    clock: Clock,
    telemetry: &Telemetry,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    config.check()?;
    let config = Arc::new(config);
    let Listeners { public, admin: admin_port } = listeners;
    log_settings(&config, admin_port.as_ref());
    let metrics = telemetry.metrics.clone();
    // Boxed: its state is large, and only needed until the database has been found.
    let finding = start::find_database(&config, &public, admin_port.as_ref(), &metrics, &clock, &shutdown);
    let found = Box::pin(finding).await?;
    let Some((layout, store)) = found else { return Ok(()) };

    let context = Context { config: &config, layout, store: &store, clock: &clock, telemetry, shutdown: &shutdown };
    let parts = Parts::new(context, admin_port.is_some())?;
    let admin = parts.admin()?;
    let state = AppState::new(parts.services()?);
    let others = admin.as_ref().map(|(admin, _)| Arc::new(admin.replicas().clone()) as Arc<dyn OtherChannels>);
    parts.start(others)?;

    let server = Server::new(&config, router::router(state), shutdown.clone(), metrics);
    if let (Some((admin, tasks)), Some(listener)) = (admin, admin_port) {
        tasks.start(&shutdown);
        shutdown.essential("admin port", accepting(admin_server(&config, admin, &shutdown), listener, &shutdown));
    }
    for listener in public {
        shutdown.essential("accepting", accepting(server.clone(), listener, &shutdown));
    }
    tracing::info!(replica = config.replica_name(), port = config.port, version = env!("CARGO_PKG_VERSION"), "serving");
    shutdown.run(config.drain.drain_delay_ms, config.drain.drain_window_ms).await;
    // A database that does not answer must not hold up the process: open connections end with it.
    if !store.close(CLOSE_TIMEOUT).await {
        tracing::warn!("some connections to the database were not closed in time");
    }
    match shutdown.failure() {
        Some(task) => Err(RunError::TaskEnded(task)),
        None => Ok(()),
    }
}

/// Logs the settings that an operator should know about.
fn log_settings(config: &Config, admin_port: Option<&TcpListener>) {
    if let Some(address) = admin_port.and_then(|listener| listener.local_addr().ok()) {
        tracing::info!(%address, "the admin port is open");
    }
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
}

/// Builds the admin port's server, with limits of its own; it is not counted with clients, and no client balancer is in
/// front of it.
fn admin_server(config: &Config, admin: Admin, shutdown: &Shutdown) -> Server {
    let addresses = LimitsConfig { max_connections_per_address: 0, proxy_protocol: false, ..config.limits.clone() };
    let limits = Config { max_connections: ADMIN_CONNECTIONS, limits: addresses, ..config.clone() };
    Server::new(&limits, admin::router::router(admin), shutdown.clone(), Arc::new(Metrics::new()))
}

/// Accepting ends when the replica closes, which is before background tasks are told to stop.
fn accepting(server: Server, listener: TcpListener, shutdown: &Shutdown) -> impl Future<Output = ()> + use<> {
    let stopping = shutdown.stopping.clone();
    async move {
        server.accept(listener).await;
        stopping.cancelled().await;
    }
}
