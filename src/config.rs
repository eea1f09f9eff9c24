//! Every setting: name, default, validation and one line of documentation.
//!
//! Settings come from the environment or from the command line, which takes precedence. `mana-sync --help` prints this
//! file's docs; the table in docs/configuration.md is tested against it.

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
pub use postgres_url::{Endpoint, Host, Keepalive, PostgresUrl, Roots, SslMode, TlsOptions, TlsVersions, UrlError};
pub use secret::Secret;
pub use sessions::SessionsConfig;
pub use traces::{RootSampler, Sampler, TracesConfig};
pub use values::PostgresUrls;
pub use warnings::Warning;
pub(crate) use warnings::{is_loopback, is_plain};

use clap::Args;
use clap::builder::{OsStr, Resettable};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
pub(crate) use values::http_url;
use values::{millis, millis_or_zero, postgres_url, postgres_urls};

/// The credits-service key that `mana-dev` uses.
pub(crate) const DEV_SERVICE_KEY: &str = "dev-service-key";

/// Database connection settings, shared by `serve` and `migrate`.
#[derive(Args, Clone, Debug)]
pub struct DatabaseConfig {
    /// PostgreSQL URL: postgres://user:password@host:port/database. May go through a pooler.
    #[arg(long, env, hide_env_values = true, value_parser = postgres_url)]
    pub database_url: Secret,

    /// PostgreSQL URL that bypasses any pooler, for LISTEN and for migrations. Default: DATABASE_URL.
    #[arg(long, env, hide_env_values = true, value_parser = postgres_url)]
    pub database_listen_url: Option<Secret>,
}

impl DatabaseConfig {
    /// Returns the URL that reaches PostgreSQL directly.
    pub fn direct_url(&self) -> &Secret {
        self.database_listen_url.as_ref().unwrap_or(&self.database_url)
    }
}

/// The settings of a replica.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Database connection settings.
    #[command(flatten)]
    pub database: DatabaseConfig,

    /// Maximum number of connections in the pool.
    #[arg(long, env, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub database_pool_size: u32,

    /// URLs of the workers of a Citus cluster, separated by whitespace. Pushes and reads go directly to the worker that
    /// has the user's bucket. Default: everything goes through DATABASE_URL, the coordinator.
    #[arg(long, env, hide_env_values = true, default_value = "", hide_default_value = true, value_parser = postgres_urls)]
    pub database_worker_urls: PostgresUrls,

    /// How long a request waits for a pool connection, or for its turn among reads that take the database long, before it
    /// is answered 503, in milliseconds.
    #[arg(long, env, default_value = "3000", value_parser = millis)]
    pub database_acquire_timeout_ms: Duration,

    /// Maximum time that one SQL statement may run, in milliseconds.
    #[arg(long, env, default_value = "15000", value_parser = millis)]
    pub database_statement_timeout_ms: Duration,

    /// Use prepared statements. Set to `false` if DATABASE_URL goes through a pooler that shares its connections
    /// between transactions and does not track prepared statements, such as PgBouncer before 1.21; each statement is
    /// then a transaction of its own and is planned each time.
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub database_prepare: bool,

    /// Apply migrations before serving. Otherwise, a schema that is too old stops the start.
    #[arg(long, env, default_value_t = false, action = clap::ArgAction::Set)]
    pub migrate_on_start: bool,

    /// How long to wait at the start for what `mana-sync migrate` may be doing (missing migrations, a takeover, the
    /// replicas' role), in milliseconds; meanwhile the replica is live but not ready. After that, or at once with `0`,
    /// the replica stops.
    #[arg(long, env, default_value = "0", value_parser = millis_or_zero)]
    pub migration_wait_ms: Duration,

    /// Address to listen on.
    #[arg(long, env, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind_address: IpAddr,

    /// Port to listen on.
    #[arg(long, env, default_value_t = 3050)]
    pub port: u16,

    /// A second port, for this replica alone, when several share PORT.
    #[arg(long, env)]
    pub replica_port: Option<u16>,

    /// Let several processes listen on PORT; the kernel distributes connections among them.
    #[arg(long, env, default_value_t = false, action = clap::ArgAction::Set)]
    pub reuse_port: bool,

    /// This replica's name in logs and in pg_stat_activity. Default: the hostname.
    #[arg(long, env)]
    pub replica_id: Option<String>,

    /// Authentication.
    #[command(flatten)]
    pub auth: AuthConfig,

    /// The credits service.
    #[command(flatten)]
    pub billing: BillingConfig,

    /// Connection costs and allowed origins.
    #[command(flatten)]
    pub http: HttpConfig,

    /// How far ahead of the server's clock a field stamp may be, in milliseconds; beyond that, it is adjusted.
    #[arg(long, env, default_value = "300000", value_parser = millis)]
    pub max_clock_skew_ms: Duration,

    /// Maximum number of changes in one push.
    #[arg(long, env, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=300_000))]
    pub max_push_changes: u32,

    /// Maximum bytes held by the bodies of all pushes in progress, and as many again for their decoded form until they
    /// are stored. One user's pushes may hold an eighth of this, or 12 MiB if that is more.
    #[arg(long, env, default_value_t = 256 << 20, value_parser = clap::value_parser!(u32).range(1 << 20..))]
    pub max_push_bytes_in_flight: u32,

    /// How long a push waits for memory before it is answered 503, in milliseconds.
    #[arg(long, env, default_value = "2000", value_parser = millis)]
    pub queue_timeout_ms: Duration,

    /// Maximum bytes that all responses and streams may hold for clients that have not read them yet. One user may hold
    /// an eighth of this, or 12 MiB if that is more. Anything that does not fit waits; a request that waits too long is
    /// answered 503.
    #[arg(long, env, default_value_t = 256 << 20, value_parser = clap::value_parser!(u32).range(12 << 20..))]
    pub max_stream_bytes_in_flight: u32,

    /// Maximum number of changes in one page of a delta.
    #[arg(long, env, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub page_max_changes: u32,

    /// Maximum bytes of changes in one page of a delta; a larger change gets a page of its own.
    #[arg(long, env, default_value_t = 4 << 20, value_parser = clap::value_parser!(u32).range(1024..=256 << 20))]
    pub page_max_bytes: u32,

    /// Maximum number of connections to this replica. Beyond it, new ones are answered 503.
    #[arg(long, env, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub max_connections: u32,

    /// WebSockets and streams.
    #[command(flatten)]
    pub sessions: SessionsConfig,

    /// Per-user and per-address limits.
    #[command(flatten)]
    pub limits: LimitsConfig,

    /// Maximum number of WebSockets that have not authenticated yet. Beyond it, new ones are answered 503.
    #[arg(long, env, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_unauthenticated: u32,

    /// Interval between pings of an idle WebSocket, in milliseconds. One that is silent for twice as long is closed.
    #[arg(long, env, default_value = "30000", value_parser = millis)]
    pub ws_ping_ms: Duration,

    /// Interval at which the heads of connected users are compared with what was announced, in milliseconds.
    #[arg(long, env, default_value = "2000", value_parser = millis)]
    pub reconcile_ms: Duration,

    /// A WebSocket that authenticates is notified of the apps in which something was stored within this many
    /// milliseconds, since it may have missed the wake-up while it was disconnected. 0: never.
    #[arg(long, env, default_value = "60000", value_parser = millis_or_zero)]
    pub announce_recent_ms: Duration,

    /// Interval at which the listener checks its connection, in milliseconds.
    #[arg(long, env, default_value = "1000", value_parser = millis)]
    pub listener_ping_ms: Duration,

    /// Notifications between replicas.
    #[command(flatten)]
    pub fanout: FanoutConfig,

    /// How long the database or the listener may be unavailable before this replica counts as not ready, in
    /// milliseconds.
    #[arg(long, env, default_value = "5000", value_parser = millis_or_zero)]
    pub ready_grace_ms: Duration,

    /// Graceful shutdown.
    #[command(flatten)]
    pub drain: DrainConfig,

    /// Log compaction.
    #[command(flatten)]
    pub compaction: CompactionConfig,

    /// Format of the logs. Text has colors on a terminal, unless NO_COLOR is set.
    #[arg(long, env, default_value = "json", value_enum)]
    pub log_format: LogFormat,

    /// The admin port.
    #[command(flatten)]
    pub admin: AdminConfig,

    /// Exporting traces.
    #[command(flatten)]
    pub traces: TracesConfig,

    /// Metrics.
    #[command(flatten)]
    pub metrics: MetricsConfig,
}

/// Format of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Human-readable text.
    Text,
}

impl Config {
    /// Returns the default settings for a database. Nothing is read from the environment.
    ///
    /// # Errors
    /// Fails if the URL cannot be parsed.
    pub fn with_defaults(database_url: &str) -> Result<Config, clap::Error> {
        without_environment(&["--database-url", database_url])
    }

    /// Checks the constraints that span several settings.
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

    /// Returns this replica's name, of at most 128 bytes: the same wherever it is shown, and wherever it is named.
    pub fn replica_name(&self) -> String {
        let host = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let name = self.replica_id.clone().or_else(host).unwrap_or_else(|| "mana-sync".to_owned());
        name[..name.floor_char_boundary(128)].to_owned()
    }
}

/// Parses settings from command-line arguments alone, ignoring the environment.
pub(crate) fn without_environment<T: Args>(words: &[&str]) -> Result<T, clap::Error> {
    let unset = |arg: clap::Arg| arg.env(Resettable::<OsStr>::Reset);
    let command = T::augment_args(clap::Command::new("mana-sync").no_binary_name(true)).mut_args(unset);
    T::from_arg_matches(&command.try_get_matches_from(words)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replicas_name_is_cut_between_characters() {
        let named =
            |id: &str| Config { replica_id: Some(id.to_owned()), ..Config::with_defaults("postgres://h/db").unwrap() };
        assert_eq!(named("r1").replica_name(), "r1");
        assert_eq!(named(&"é".repeat(64)).replica_name(), "é".repeat(64), "128 bytes");
        assert_eq!(named(&format!("x{}", "é".repeat(64))).replica_name(), format!("x{}", "é".repeat(63)));
    }
}
