//! The composition root: builds all parts of a replica, runs it, and stops it. The only module that knows all others.

mod fanout;
mod start;

use crate::admin::{self, Admin, AdminStartError};
use crate::auth::Authenticator;
use crate::billing::{Billing, TlsError};
use crate::budget::MemoryBudget;
use crate::clock::Clock;
use crate::config::{Config, ConfigError, LimitsConfig};
use crate::db::ConnectError;
use crate::fanout::listener::OtherChannels;
use crate::http::server::{Server, bind};
use crate::http::{AppState, PushBudget, ReadAhead, Services, router};
use crate::hub::{DeviceReads, Hub};
use crate::limits::UserLimits;
use crate::limits::polls::Polls;
use crate::session::{SessionDependencies, Sessions};
use crate::shutdown::Shutdown;
use crate::store::compaction::Compactor;
use crate::store::fitness::Unfit;
use crate::store::schema::SchemaError;
use crate::telemetry::{Metrics, Telemetry};
use fanout::Fanout;
use reqwest::redirect::Policy;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Maximum time for connecting to the issuer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum time for closing the database connections at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of connections to the admin port.
const ADMIN_CONNECTIONS: u32 = 256;

/// The reasons why a replica could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings do not go together.
    #[error("the settings do not go together")]
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
    #[error("cannot make HTTP requests")]
    Http(#[from] reqwest::Error),
    /// Cannot ask the credits service.
    #[error("cannot ask the credits service")]
    Billing(#[from] TlsError),
    /// Cannot open the admin port.
    #[error("cannot open the admin port")]
    Admin(#[from] AdminStartError),
    /// A task ended without which the replica would look healthy and not work.
    #[error("the task \"{0}\" ended by itself; the log says more")]
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
    let Listeners { public: listeners, admin: admin_listener } = listeners;
    if let Some(address) = admin_listener.as_ref().and_then(|listener| listener.local_addr().ok()) {
        tracing::info!(%address, "the admin port is open");
    }
    let metrics = telemetry.metrics.clone();
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let Some((layout, store)) =
        start::find_database(&config, &listeners, admin_listener.as_ref(), &metrics, &clock, &shutdown).await?
    else {
        return Ok(());
    };

    // Redirects are not followed: they lead away from the issuer.
    let http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).redirect(Policy::none()).build()?;
    let auth = Arc::new(Authenticator::new(&config, http, metrics.clone(), clock.clone()));
    let billing = Billing::new(&config, metrics.clone(), clock.clone())?;
    let hub = Arc::new(Hub::new(metrics.clone(), clock.clone()));
    let fanout = Fanout::new(&config, layout, &metrics, &clock, &shutdown);
    let (publisher, reconciler, presence) =
        (fanout.publisher.clone(), fanout.reconciler.clone(), fanout.presence.clone());
    let health = AppState::new_health(&config, fanout.listener_status.clone(), auth.clone(), &shutdown);
    let devices = if admin_listener.is_some() { DeviceReads::noting(clock.clone()) } else { DeviceReads::default() };
    let limits = UserLimits::new(&config.limits, config.queue_timeout_ms, metrics.clone(), clock.clone());
    let admin = Admin::new(
        &config,
        admin::Parts {
            hub: hub.clone(),
            health: health.clone(),
            auth: auth.clone(),
            devices: devices.clone(),
            shutdown: shutdown.clone(),
            metrics: metrics.clone(),
            log: telemetry.log.clone(),
            rates: limits.rates(),
            presence: presence.clone(),
            compaction: admin::Trimming::new(&config, layout, metrics.clone(), clock.clone()),
            clock: clock.clone(),
        },
    )?;
    let others = admin.as_ref().map(|(admin, _)| Arc::new(admin.replicas().clone()) as Arc<dyn OtherChannels>);
    let unread = MemoryBudget::new(config.max_stream_bytes_in_flight as usize, metrics.stream_bytes.clone());
    let closing = shutdown.closing.clone();
    let polls = Polls::new(hub.clone(), metrics.empty_answers_held.clone(), clock.clone(), closing.clone());
    let session_dependencies = SessionDependencies {
        hub: hub.clone(),
        reconciler,
        auth: auth.clone(),
        budget: unread.clone(),
        reads: store.read_shares(),
        heavy: store.heavy().clone(),
        metrics: metrics.clone(),
        clock: clock.clone(),
    };
    let sessions = Sessions::new(&config, session_dependencies, closing).leaving_with(shutdown.drained.clone());

    let stopping = || shutdown.stopping.clone();
    shutdown.essential("issuer keys", auth.fetching(stopping()));
    fanout.start(&config, &store, &hub, others, &shutdown)?;
    let compactor = Compactor::of_replica(&config, layout, metrics.clone(), clock.clone())
        .sharing_with(move || presence.replicas().len());
    shutdown.essential("compaction", compactor.run(stopping()));
    shutdown.essential("placements", store.clone().follow_placements(stopping()));
    let (watched, watching, watch_stop) = (health.clone(), store.clone(), stopping());
    let watch_metrics = metrics.clone();
    shutdown.essential("health", async move { watched.watch(watching, watch_metrics, watch_stop).await });

    let (delay, window) = (config.drain.drain_delay_ms, config.drain.drain_window_ms);
    let config = Arc::new(config);
    let state = AppState::new(Services {
        config: config.clone(),
        auth,
        billing,
        store: store.clone(),
        publisher,
        push_budget: PushBudget::new(&config, &metrics),
        unread,
        limits,
        polls,
        read_ahead: ReadAhead::default(),
        sessions: Arc::new(sessions),
        health,
        devices,
        shutdown: shutdown.clone(),
        metrics: metrics.clone(),
        traces: telemetry.traces.clone(),
        clock,
    });
    let server = Server::new(&config, router::router(state), shutdown.clone(), metrics);
    if let (Some((admin, tasks)), Some(listener)) = (admin, admin_listener) {
        tasks.start(&shutdown);
        shutdown.essential("admin port", accepting(admin_server(&config, admin, &shutdown), listener, &shutdown));
    }
    for listener in listeners {
        shutdown.essential("accepting", accepting(server.clone(), listener, &shutdown));
    }
    tracing::info!(replica = config.replica_name(), port = config.port, version = env!("CARGO_PKG_VERSION"), "serving");
    shutdown.run(delay, window).await;
    // A database that does not answer must not hold up the process: open connections end with it.
    if !store.close(CLOSE_TIMEOUT).await {
        tracing::warn!("some connections to the database were not closed in time");
    }
    match shutdown.failure() {
        Some(task) => Err(RunError::TaskEnded(task)),
        None => Ok(()),
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
