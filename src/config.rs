//! Every setting: name, default, check and one line of doc.
//!
//! Settings come from the environment, or from the command line where that is handier. `mana-sync --help`
//! prints this file's docs; the table of docs/configuration.md is tested against it.

mod admin;
mod auth;
mod billing;
pub mod compaction;
mod drain;
mod error;
mod fanout;
mod http;
mod invalid;
mod limits;
mod metrics;
mod networks;
mod origin;
mod otlp;
mod postgres_url;
mod secret;
mod sessions;
mod traces;
mod values;
mod warnings;

pub use admin::AdminConfig;
pub use auth::AuthConfig;
pub use billing::BillingConfig;
pub use compaction::CompactionConfig;
pub use drain::DrainConfig;
pub use error::ConfigError;
pub use fanout::FanoutConfig;
pub use http::HttpConfig;
pub use invalid::explain;
pub(crate) use limits::read_networks;
pub use limits::{LimitsConfig, Networks};
pub use metrics::MetricsConfig;
pub(crate) use networks::reachable;
pub use networks::{Network, NetworkError};
pub use origin::{AllowedOrigin, Origin, OriginError};
pub use otlp::{Collector, Headers, OtlpProtocol};
pub use postgres_url::{Endpoint, Host, Keepalive, PostgresUrl, Roots, SslMode, TlsOptions, UrlError};
pub use secret::Secret;
pub use sessions::SessionsConfig;
pub use traces::{RootSampler, Sampler, TracesConfig};
pub use values::PostgresUrls;
pub use warnings::Warning;
pub(crate) use warnings::is_loopback;

use clap::Args;
use clap::builder::{OsStr, Resettable};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use values::{http_url, millis, millis_or_zero, postgres_url, postgres_urls};

/// The key of the credits service that `mana-dev` starts.
pub(crate) const DEV_SERVICE_KEY: &str = "dev-service-key";

/// Connecting to PostgreSQL: what `serve` and `migrate` share.
#[derive(Args, Clone, Debug)]
pub struct DatabaseConfig {
    /// PostgreSQL, as postgres://user:password@host:port/database. May lead through a pooler.
    #[arg(long, env, hide_env_values = true, value_parser = postgres_url)]
    pub database_url: Secret,

    /// PostgreSQL without a pooler in between, for LISTEN and for migrations. Default: DATABASE_URL.
    #[arg(long, env, hide_env_values = true, value_parser = postgres_url)]
    pub database_listen_url: Option<Secret>,
}

impl DatabaseConfig {
    /// The URL that reaches PostgreSQL itself.
    pub fn direct_url(&self) -> &Secret {
        self.database_listen_url.as_ref().unwrap_or(&self.database_url)
    }
}

/// The settings of a replica.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Connecting to PostgreSQL.
    #[command(flatten)]
    pub database: DatabaseConfig,

    /// Connections in the pool, at most.
    #[arg(long, env, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub database_pool_size: u32,

    /// The workers of a Citus cluster, separated by white space: pushes and reads go straight to them, each to the one that has the
    /// user's bucket. Default: everything goes through DATABASE_URL, the coordinator.
    #[arg(long, env, hide_env_values = true, default_value = "", hide_default_value = true, value_parser = postgres_urls)]
    pub database_worker_urls: PostgresUrls,

    /// How long a request waits for a connection of the pool before it is answered 503, in milliseconds.
    #[arg(long, env, default_value = "3000", value_parser = millis)]
    pub database_acquire_timeout_ms: Duration,

    /// How long one SQL statement may run, in milliseconds.
    #[arg(long, env, default_value = "15000", value_parser = millis)]
    pub database_statement_timeout_ms: Duration,

    /// Let the database keep prepared statements. `false` where DATABASE_URL leads through a pooler that shares its
    /// connections between transactions and does not keep them itself, such as PgBouncer before 1.21: then each
    /// statement is a transaction of its own, and is planned each time.
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub database_prepare: bool,

    /// Apply migrations before serving. Otherwise a schema that is too old stops the start.
    #[arg(long, env, default_value_t = false, action = clap::ArgAction::Set)]
    pub migrate_on_start: bool,

    /// How long a start waits for migrations that are missing, in milliseconds: meanwhile the replica lives and is not
    /// ready. After that, and at once with `0`, it stops.
    #[arg(long, env, default_value = "0", value_parser = millis_or_zero)]
    pub migration_wait_ms: Duration,

    /// Address to listen on.
    #[arg(long, env, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind_address: IpAddr,

    /// Port to listen on.
    #[arg(long, env, default_value_t = 3050)]
    pub port: u16,

    /// A second port of this replica's own, where several share PORT.
    #[arg(long, env)]
    pub replica_port: Option<u16>,

    /// Let several processes listen on PORT; the kernel spreads connections over them.
    #[arg(long, env, default_value_t = false, action = clap::ArgAction::Set)]
    pub reuse_port: bool,

    /// This replica's name in logs and in pg_stat_activity. Default: the host's name.
    #[arg(long, env)]
    pub replica_id: Option<String>,

    /// Knowing who calls.
    #[command(flatten)]
    pub auth: AuthConfig,

    /// Asking the credits service.
    #[command(flatten)]
    pub billing: BillingConfig,

    /// Connections, and whose pages may call.
    #[command(flatten)]
    pub http: HttpConfig,

    /// How far a field stamp may be ahead of the server's clock, in milliseconds; beyond, it is adjusted.
    #[arg(long, env, default_value = "300000", value_parser = millis)]
    pub max_clock_skew_ms: Duration,

    /// Changes in one push, at most.
    #[arg(long, env, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=300_000))]
    pub max_push_changes: u32,

    /// Bytes that the bodies of all pushes in progress may hold, at most, and as many for what becomes of them until they
    /// are stored; one user's pushes an eighth of it, or 12 MiB where that is more.
    #[arg(long, env, default_value_t = 256 << 20, value_parser = clap::value_parser!(u32).range(1 << 20..))]
    pub max_push_bytes_in_flight: u32,

    /// How long a push waits for room before it is answered 503, in milliseconds.
    #[arg(long, env, default_value = "2000", value_parser = millis)]
    pub queue_timeout_ms: Duration,

    /// Bytes that all answers and streams may hold for clients that have not read them yet, at most; one user's an eighth
    /// of it, or 12 MiB where that is more. What does not fit waits, and a request that waits too long is answered 503.
    #[arg(long, env, default_value_t = 256 << 20, value_parser = clap::value_parser!(u32).range(12 << 20..))]
    pub max_stream_bytes_in_flight: u32,

    /// Changes in one page of a delta, at most.
    #[arg(long, env, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub page_max_changes: u32,

    /// Bytes of changes in one page of a delta; a change that is larger is a page by itself.
    #[arg(long, env, default_value_t = 4 << 20, value_parser = clap::value_parser!(u32).range(1024..=256 << 20))]
    pub page_max_bytes: u32,

    /// Connections that this replica holds, at most. Above it, further ones are answered 503.
    #[arg(long, env, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub max_connections: u32,

    /// WebSockets and streams.
    #[command(flatten)]
    pub sessions: SessionsConfig,

    /// Limits of one user and of one address.
    #[command(flatten)]
    pub limits: LimitsConfig,

    /// WebSockets that have not authenticated yet, at most. Above it, further ones are answered 503.
    #[arg(long, env, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_unauthenticated: u32,

    /// How often an idle WebSocket is pinged, in milliseconds. One that has been silent for twice as long is closed.
    #[arg(long, env, default_value = "30000", value_parser = millis)]
    pub ws_ping_ms: Duration,

    /// How often the heads of connected users are compared with what was announced, in milliseconds.
    #[arg(long, env, default_value = "2000", value_parser = millis)]
    pub reconcile_ms: Duration,

    /// A WebSocket that authenticates is told of the apps in which something was stored in the last so many
    /// milliseconds: it may have missed the wake-up while it was away. 0: never.
    #[arg(long, env, default_value = "60000", value_parser = millis_or_zero)]
    pub announce_recent_ms: Duration,

    /// How often the listener tests its connection, in milliseconds.
    #[arg(long, env, default_value = "1000", value_parser = millis)]
    pub listener_ping_ms: Duration,

    /// Telling other replicas.
    #[command(flatten)]
    pub fanout: FanoutConfig,

    /// How long the database or the listener may be away before this replica counts as not ready, in milliseconds.
    #[arg(long, env, default_value = "5000", value_parser = millis_or_zero)]
    pub ready_grace_ms: Duration,

    /// Stopping.
    #[command(flatten)]
    pub drain: DrainConfig,

    /// Trimming what has lost.
    #[command(flatten)]
    pub compaction: CompactionConfig,

    /// How logs are written.
    #[arg(long, env, default_value = "json", value_enum)]
    pub log_format: LogFormat,

    /// The admin port.
    #[command(flatten)]
    pub admin: AdminConfig,

    /// Exporting traces.
    #[command(flatten)]
    pub traces: TracesConfig,

    /// What metrics tell apart.
    #[command(flatten)]
    pub metrics: MetricsConfig,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a person's eyes.
    Text,
}

impl Config {
    /// The defaults, for a database. Nothing is read from the environment.
    ///
    /// # Errors
    /// The URL cannot be read.
    pub fn with_defaults(database_url: &str) -> Result<Config, clap::Error> {
        without_environment(&["--database-url", database_url])
    }

    /// Checks what no single setting can be checked for.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.replica_port == Some(self.port) && self.port != 0 {
            return Err(ConfigError::SamePort);
        }
        if self.sessions.sse_heartbeat_ms > Duration::from_secs(30) {
            return Err(ConfigError::Heartbeat);
        }
        let AuthConfig { jwks_cooldown_ms, jwks_refresh_ms, jwks_max_stale_ms, .. } = &self.auth;
        if jwks_cooldown_ms >= jwks_refresh_ms || jwks_refresh_ms >= jwks_max_stale_ms {
            return Err(ConfigError::JwksTimes);
        }
        if let Some(port) = self.admin.admin_port {
            if self.admin.admin_token.is_none() {
                return Err(ConfigError::AdminToken);
            }
            if port != 0 && (port == self.port || Some(port) == self.replica_port) {
                return Err(ConfigError::AdminPort);
            }
        }
        Ok(())
    }

    /// This replica's name.
    pub fn replica_name(&self) -> String {
        let host = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        self.replica_id.clone().or_else(host).unwrap_or_else(|| "mana-sync".to_owned())
    }
}

/// Settings from the words of a command line alone, whatever the environment says.
pub(crate) fn without_environment<T: Args>(words: &[&str]) -> Result<T, clap::Error> {
    let unset = |arg: clap::Arg| arg.env(Resettable::<OsStr>::Reset);
    let command = T::augment_args(clap::Command::new("mana-sync").no_binary_name(true)).mut_args(unset);
    T::from_arg_matches(&command.try_get_matches_from(words)?)
}
