//! Connecting to whichever of a URL's hosts is usable, with the TLS mode the URL asks for.

use super::error::ConnectError;
use super::staggered::{self, Failed};
use super::tls::{self, Attempt};
use crate::config::{Endpoint, Host, PostgresUrl, Secret};
use futures_util::future::BoxFuture;
use rand::seq::SliceRandom;
use socket2::{SockRef, TcpKeepalive};
use std::ffi::OsString;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Connection, SimpleQueryMessage, config as postgres};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::either::Either;

/// Default timeout for connecting to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time without an acknowledgement after which the kernel closes a connection.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle time before the kernel's first keepalive probe, and the time between probes.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));

/// The transport of a connection.
type Stream = Either<TcpStream, UnixStream>;
type TlsStream = <<MakeRustlsConnect as MakeTlsConnect<Stream>>::TlsConnect as TlsConnect<Stream>>::Stream;

/// A connection to be driven by its owner: its client makes no progress unless this is polled.
pub type Driver = Connection<Stream, TlsStream>;

/// Resolves a name, with this port, to addresses in the order in which to try them.
pub type Resolver = Arc<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Connects to a database with fixed credentials.
#[derive(Clone)]
pub struct Connector {
    url: Arc<PostgresUrl>,
    /// Session parameters sent to the server.
    session: Arc<Config>,
    /// The host that answered last; it is tried first.
    preferred: Arc<AtomicUsize>,
    resolver: Resolver,
    /// The address that answered last, if it was not the resolver's first; it is tried first.
    preferred_address: Arc<Mutex<Option<SocketAddr>>>,
    /// True if a name has resolved to several addresses.
    has_addresses: Arc<AtomicBool>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("hosts", &self.url.hosts.len()).finish_non_exhaustive()
    }
}

impl Connector {
    /// Creates a connector for this URL, whose connections appear in `pg_stat_activity` as `name`.
    ///
    /// # Errors
    /// The URL cannot be parsed.
    pub fn new(url: &Secret, name: &str) -> Result<Connector, ConnectError> {
        let url = PostgresUrl::parse(url.expose())?;
        let mut session = Config::new();
        session.application_name(name).channel_binding(url.channel_binding);
        if let Some(user) = &url.user {
            session.user(user);
        }
        if let Some(password) = &url.password {
            session.password(password);
        }
        if let Some(database) = &url.database {
            session.dbname(database);
        }
        if let Some(options) = &url.options {
            session.options(options);
        }
        if url.tls.direct {
            session.ssl_negotiation(postgres::SslNegotiation::Direct);
        }
        Ok(Connector {
            url: Arc::new(url),
            session: Arc::new(session),
            preferred: Arc::default(),
            resolver: Arc::new(|name, port| Box::pin(async move { Ok(lookup_host((name, port)).await?.collect()) })),
            preferred_address: Arc::default(),
            has_addresses: Arc::default(),
        })
    }

    /// Uses this resolver in place of the system's.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Resolver) -> Connector {
        self.resolver = resolver;
        self
    }

    /// Uses these session settings. Not for poolers, which reject settings that they cannot track.
    #[must_use]
    pub fn with_settings(mut self, settings: &[(&str, impl fmt::Display)]) -> Connector {
        let mut options = self.session.get_options().unwrap_or_default().to_owned();
        // A backslash at the end would escape the blank before ours; PostgreSQL ignores one with nothing behind it.
        if options.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1 {
            options.pop();
        }
        for (name, value) in settings {
            options.push_str(&format!(" -c {name}={value}"));
        }
        Arc::make_mut(&mut self.session).options(options.trim_start());
        self
    }

    /// Returns true if there are several hosts, or if a name has resolved to several addresses.
    pub fn has_choice(&self) -> bool {
        self.url.hosts.len() > 1 || self.has_addresses.load(Ordering::Relaxed)
    }

    /// Connects. The client makes no progress unless the driver is polled.
    ///
    /// Among several hosts, takes the first that answers and is writable. The one that was used last is tried first,
    /// and a slow one does not delay the others. The same applies to the addresses of a name; if none of them is
    /// writable, one that is not is taken, unless the URL requires otherwise.
    ///
    /// # Errors
    /// No host is usable; returns the most informative of their errors.
    pub fn connect(&self) -> BoxFuture<'_, Result<(Client, Driver), ConnectError>> {
        // Boxed, because it is large and rare.
        Box::pin(self.connect_to_any())
    }

    async fn connect_to_any(&self) -> Result<(Client, Driver), ConnectError> {
        let count = self.url.hosts.len();
        let preferred = self.preferred.load(Ordering::Relaxed);
        let order = self.in_turn((0..count).map(|at| (preferred + at) % count).collect());
        let order = &order;
        let ask = |at: usize| async move { self.ask(*order.get(at).ok_or(ConnectError::NoPrimary)?).await };
        let (index, connection) = staggered::first(count, ask).await.map_err(Failed::of_hosts)?;
        if self.preferred.swap(index, Ordering::Relaxed) != index && !self.url.balances {
            tracing::warn!(host = index + 1, of = count, "now using this database host");
        }
        Ok(connection)
    }

    async fn ask(&self, index: usize) -> Result<(usize, (Client, Driver)), ConnectError> {
        let endpoint = self.url.hosts.get(index).ok_or(ConnectError::NoPrimary)?;
        Ok((index, self.connect_to(endpoint).await?))
    }

    /// Connects to one host, trying all of its addresses.
    async fn connect_to(&self, endpoint: &Endpoint) -> Result<(Client, Driver), ConnectError> {
        let limit = self.url.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let needs_primary = self.url.needs_primary;
        match &endpoint.host {
            Host::Unix(folder) => {
                let mut socket = folder.join(format!(".s.PGSQL.{}", endpoint.port)).into_os_string().into_vec();
                if let Some(first @ b'@') = socket.first_mut() {
                    // That is how Linux writes the names of abstract sockets.
                    *first = 0;
                }
                let socket = PathBuf::from(OsString::from_vec(socket));
                // A local socket is not encrypted, whatever sslmode says.
                let attempt = self.attempt(Place::Unix(&socket), "", Attempt::Plain, needs_primary);
                timeout(limit, attempt).await.map_err(|_| ConnectError::Timeout)?
            }
            Host::Tcp { name, address: Some(address) } => {
                self.agree_in_time(SocketAddr::new(*address, endpoint.port), name, needs_primary).await
            }
            Host::Tcp { name, address: None } => {
                let resolving = timeout(limit, (self.resolver)(name.clone(), endpoint.port));
                let addresses = resolving.await.map_err(|_| ConnectError::Timeout)?.map_err(ConnectError::Resolve)?;
                if addresses.is_empty() {
                    return Err(ConnectError::Resolve(io::ErrorKind::NotFound.into()));
                }
                let has_several = addresses.len() > 1;
                self.has_addresses.fetch_or(has_several, Ordering::Relaxed);
                match self.connect_to_first_of(&addresses, name, needs_primary || has_several).await {
                    Err(ConnectError::NoPrimary) if !needs_primary => {
                        self.connect_to_first_of(&addresses, name, false).await
                    }
                    done => done,
                }
            }
        }
    }

    /// Connects to one of these addresses, which must not be empty.
    async fn connect_to_first_of(
        &self,
        addresses: &[SocketAddr],
        name: &str,
        needs_primary: bool,
    ) -> Result<(Client, Driver), ConnectError> {
        let preferred = *self.preferred_address();
        let at = addresses.iter().position(|address| Some(*address) == preferred).unwrap_or(0);
        let first = addresses[at..=at].iter();
        let in_order = first.chain(&addresses[..at]).chain(&addresses[at + 1..]).copied().collect();
        let in_order: &Vec<SocketAddr> = &self.in_turn(in_order);
        let ask = |at: usize| async move {
            let address = *in_order.get(at).ok_or(ConnectError::NoPrimary)?;
            Ok((address, self.agree_in_time(address, name, needs_primary).await?))
        };
        let connected = staggered::first(in_order.len(), ask).await;
        let (address, connection) = connected.map_err(|failed| failed.error)?;
        // As long as all is well, the resolver decides which address comes first: some balance load this way.
        let is_first = addresses.first() == Some(&address) || self.url.balances;
        if !is_first && self.preferred_address().replace(address) != Some(address) {
            tracing::warn!(of = addresses.len(), "now using another address of the database host");
        }
        Ok(connection)
    }

    /// Returns places in the order in which to try them: as they are, unless the URL says that connections are balanced.
    #[expect(clippy::disallowed_methods, reason = "as random as in libpq; nothing else depends on the order")]
    fn in_turn<T>(&self, mut places: Vec<T>) -> Vec<T> {
        if self.url.balances {
            places.shuffle(&mut rand::rng());
        }
        places
    }

    fn preferred_address(&self) -> MutexGuard<'_, Option<SocketAddr>> {
        self.preferred_address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn agree_in_time(
        &self,
        address: SocketAddr,
        name: &str,
        needs_primary: bool,
    ) -> Result<(Client, Driver), ConnectError> {
        let limit = self.url.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        timeout(limit, self.agree(address, name, needs_primary)).await.map_err(|_| ConnectError::Timeout)?
    }

    /// Connects to an address, with or without TLS according to `sslmode`.
    async fn agree(
        &self,
        address: SocketAddr,
        name: &str,
        needs_primary: bool,
    ) -> Result<(Client, Driver), ConnectError> {
        let mut failed: Option<ConnectError> = None;
        for attempt in Attempt::all(self.url.tls.mode) {
            match self.attempt(Place::Tcp(address), name, *attempt, needs_primary).await {
                Ok(connected) => return Ok(connected),
                Err(error) if !error.may_be_about_tls() => return Err(error),
                Err(error) => {
                    // An error without TLS may be caused by its absence. A mere lack of TLS says less.
                    let is_newer = *attempt == Attempt::Encrypted && !error.is_lack_of_tls();
                    failed = Some(failed.filter(|_| !is_newer).unwrap_or(error));
                }
            }
        }
        Err(failed.unwrap_or(ConnectError::Timeout))
    }

    async fn attempt(
        &self,
        place: Place<'_>,
        name: &str,
        attempt: Attempt,
        needs_primary: bool,
    ) -> Result<(Client, Driver), ConnectError> {
        let mut tls = match attempt {
            // Never used; setting up TLS needlessly could fail.
            Attempt::Plain => MakeRustlsConnect::new(tls::unused()?),
            _ => MakeRustlsConnect::new(tls::client_config(&self.url.tls).await?),
        };
        let stream = self.dial(place).await.map_err(ConnectError::Reach)?;
        let tls = match MakeTlsConnect::<Stream>::make_tls_connect(&mut tls, name) {
            Ok(tls) => tls,
            Err(never) => match never {},
        };
        let mut session = Config::clone(&self.session);
        session.ssl_mode(attempt.mode());
        if attempt == Attempt::Plain {
            session.ssl_negotiation(postgres::SslNegotiation::Postgres);
        }
        let (client, mut driver) = session.connect_raw(stream, tls).await.map_err(ConnectError::Refused)?;
        if needs_primary && !is_writable(&client, &mut driver).await? {
            return Err(ConnectError::NoPrimary);
        }
        Ok((client, driver))
    }

    async fn dial(&self, place: Place<'_>) -> io::Result<Stream> {
        let address = match place {
            Place::Unix(socket) => return Ok(Either::Right(UnixStream::connect(socket).await?)),
            Place::Tcp(address) => address,
        };
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let keepalive = &self.url.keepalive;
        let socket = SockRef::from(&stream);
        socket.set_tcp_user_timeout(Some(keepalive.user_timeout.unwrap_or(TCP_USER_TIMEOUT)))?;
        if !keepalive.off {
            let (idle, interval) = KEEPALIVE;
            let tests = TcpKeepalive::new()
                .with_time(keepalive.idle.unwrap_or(idle))
                .with_interval(keepalive.interval.unwrap_or(interval));
            let tests = keepalive.count.map_or(tests.clone(), |count| tests.with_retries(count));
            socket.set_tcp_keepalive(&tests)?;
        }
        Ok(Either::Left(stream))
    }
}

#[derive(Clone, Copy)]
enum Place<'a> {
    Tcp(SocketAddr),
    Unix(&'a Path),
}

/// Returns true if the session is writable.
async fn is_writable(client: &Client, driver: &mut Driver) -> Result<bool, ConnectError> {
    let rows = while_driven(driver, client.simple_query("show transaction_read_only")).await?;
    let row = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row == Some("off"))
}

/// Awaits a client's future while driving its connection.
pub(super) async fn while_driven<T>(
    driver: &mut Driver,
    asking: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, ConnectError> {
    let mut asking = pin!(asking);
    loop {
        tokio::select! {
            biased;
            answer = &mut asking => return answer.map_err(ConnectError::Refused),
            message = poll_fn(|cx| driver.poll_message(cx)) => match message {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(ConnectError::Refused(error)),
                None => return Err(ConnectError::Reach(io::ErrorKind::ConnectionReset.into())),
            },
        }
    }
}
