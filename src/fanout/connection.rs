//! Connections of the fan-out's own: one to publish on, one to listen on.

use crate::config::Secret;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, Config, Connection, Socket, tls::MakeTlsConnect, tls::TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// After so long without an acknowledgement the kernel gives a connection up.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

type Stream = <<MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect as TlsConnect<Socket>>::Stream;

/// A connection that its owner drives.
pub(super) type Driver = Connection<Socket, Stream>;

/// Where to connect to, and as whom.
#[derive(Clone)]
pub struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
}

/// Why no connection could be prepared.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    #[error("the database's URL cannot be read")]
    Url(#[source] tokio_postgres::Error),
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("hosts", &self.config.get_hosts()).finish()
    }
}

impl Connector {
    /// A connector to this URL, whose connections show up in `pg_stat_activity` by `name`.
    pub fn new(url: &Secret, name: &str) -> Result<Connector, ConnectorError> {
        let mut config: Config = url.expose().parse().map_err(ConnectorError::Url)?;
        config.application_name(name).connect_timeout(CONNECT_TIMEOUT).tcp_user_timeout(TCP_USER_TIMEOUT);
        if config.get_hosts().len() > 1 {
            // After a failover one of the others is the primary.
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let mut roots = RootCertStore::empty();
        // Certificates of the system that cannot be read are no reason not to try the others.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Connector { config, tls: MakeRustlsConnect::new(tls) })
    }

    /// The same, for prepared statements: what is prepared is planned once. Not for poolers that share connections.
    pub(super) fn planning_once(mut self) -> Connector {
        let given = self.config.get_options().map(|options| format!("{options} ")).unwrap_or_default();
        self.config.options(given + "-c plan_cache_mode=force_generic_plan");
        self
    }

    /// Connects. The client does nothing unless the driver is polled.
    pub(super) async fn connect(&self) -> Result<(Client, Driver), tokio_postgres::Error> {
        self.config.connect(self.tls.clone()).await
    }
}
