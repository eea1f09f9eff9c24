//! Connecting: to whichever of a URL's hosts can be used, with TLS as the URL wants it.

use super::error::ConnectError;
use super::staggered;
use super::tls::{self, Attempt};
use crate::config::{Endpoint, Host, PostgresUrl, Secret};
use futures_util::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
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
use tokio_util::task::AbortOnDropHandle;

/// How long connecting to one address may take, unless the URL says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// After so long without an acknowledgement the kernel gives a connection up.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// After so long in silence the kernel begins to test a connection, and between two tests.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));
/// How long a connection may take to be closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a connection's bytes go through.
type Stream = Either<TcpStream, UnixStream>;
type TlsStream = <<MakeRustlsConnect as MakeTlsConnect<Stream>>::TlsConnect as TlsConnect<Stream>>::Stream;

/// A connection that its owner drives: the client of it waits for nothing unless this is polled.
pub type Driver = Connection<Stream, TlsStream>;

/// How the addresses of a name are found, with this port; in the order in which they are to be tried.
pub type Resolver = Arc<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Where to connect to, and as whom.
#[derive(Clone)]
pub struct Connector {
    url: Arc<PostgresUrl>,
    /// What the server is told of the session.
    session: Arc<Config>,
    /// Which host answered last; it is asked first.
    preferred: Arc<AtomicUsize>,
    resolver: Resolver,
    /// Which address of a name answered last, where that was not the first that its resolver gave: it is asked first.
    preferred_address: Arc<Mutex<Option<SocketAddr>>>,
    /// Whether a name had several addresses.
    has_addresses: Arc<AtomicBool>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("hosts", &self.url.hosts.len()).finish_non_exhaustive()
    }
}

impl Connector {
    /// A connector to this URL, whose connections show up in `pg_stat_activity` by `name`.
    ///
    /// # Errors
    /// The URL cannot be understood.
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

    /// The same, which finds the addresses of names in another way than the system does.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Resolver) -> Connector {
        self.resolver = resolver;
        self
    }

    /// The same, for sessions with these settings. Not for poolers, which refuse what they cannot keep track of.
    #[must_use]
    pub fn with_settings(mut self, settings: &[(&str, impl fmt::Display)]) -> Connector {
        let mut options = self.session.get_options().unwrap_or_default().to_owned();
        for (name, value) in settings {
            options.push_str(&format!(" -c {name}={value}"));
        }
        Arc::make_mut(&mut self.session).options(options.trim_start());
        self
    }

    /// Whether there are several hosts to choose from, or a name has turned out to have several addresses.
    pub fn has_choice(&self) -> bool {
        self.url.hosts.len() > 1 || self.has_addresses.load(Ordering::Relaxed)
    }

    /// Connects. The client does nothing unless the driver is polled.
    ///
    /// Of several hosts the first that answers and can be written to is taken. The one that did last time is asked first,
    /// and one that is slow to answer keeps nobody from the others. The same goes for the addresses of a name; if none of
    /// them can be written to, one that cannot is taken, unless the URL asks for more.
    ///
    /// # Errors
    /// No host can be used; the error is what the most telling of them said.
    pub fn connect(&self) -> BoxFuture<'_, Result<(Client, Driver), ConnectError>> {
        // Boxed, because it is large and rare.
        Box::pin(self.connect_to_any())
    }

    async fn connect_to_any(&self) -> Result<(Client, Driver), ConnectError> {
        let count = self.url.hosts.len();
        let preferred = self.preferred.load(Ordering::Relaxed);
        let (index, connection) = staggered::first(count, |at| self.ask((preferred + at) % count)).await?;
        if self.preferred.swap(index, Ordering::Relaxed) != index {
            tracing::warn!(host = index + 1, of = count, "this host of the database's is used now");
        }
        Ok(connection)
    }

    /// A connection that is driven by a task of its own.
    ///
    /// # Errors
    /// As for [`Connector::connect`].
    pub async fn open(&self) -> Result<Session, ConnectError> {
        let (client, driver) = self.connect().await?;
        let driving = tokio::spawn(async move {
            // What ends the connection also fails the statement that it was needed for.
            let _ = driver.await;
        });
        Ok(Session { client, driving: AbortOnDropHandle::new(driving) })
    }

    async fn ask(&self, index: usize) -> Result<(usize, (Client, Driver)), ConnectError> {
        let endpoint = self.url.hosts.get(index).ok_or(ConnectError::NoPrimary)?;
        Ok((index, self.connect_to(endpoint).await?))
    }

    /// Connects to one host, by all its addresses.
    async fn connect_to(&self, endpoint: &Endpoint) -> Result<(Client, Driver), ConnectError> {
        let limit = self.url.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let needs_primary = self.url.needs_primary;
        match &endpoint.host {
            Host::Unix(folder) => {
                let socket = folder.join(format!(".s.PGSQL.{}", endpoint.port));
                // What nobody else can hear is not encrypted, whatever sslmode says.
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

    /// Connects to one of these addresses, of which there are some.
    async fn connect_to_first_of(
        &self,
        addresses: &[SocketAddr],
        name: &str,
        needs_primary: bool,
    ) -> Result<(Client, Driver), ConnectError> {
        let preferred = *self.preferred_address();
        let at = addresses.iter().position(|address| Some(*address) == preferred).unwrap_or(0);
        let first = addresses[at..=at].iter();
        let in_order: Vec<SocketAddr> = first.chain(&addresses[..at]).chain(&addresses[at + 1..]).copied().collect();
        let in_order = &in_order;
        let ask = |at: usize| async move {
            let address = *in_order.get(at).ok_or(ConnectError::NoPrimary)?;
            Ok((address, self.agree_in_time(address, name, needs_primary).await?))
        };
        let (address, connection) = staggered::first(in_order.len(), ask).await?;
        // Where all is well the resolver goes on to say who is asked first: some distribute connections like that.
        let is_first = addresses.first() == Some(&address);
        if !is_first && self.preferred_address().replace(address) != Some(address) {
            tracing::warn!(of = addresses.len(), "another address of the database's host is used now");
        }
        Ok(connection)
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

    /// Connects to an address, with or without TLS as `sslmode` says.
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
                    // What is said without TLS may be that TLS was expected, or not. That there is none says less.
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
            // Never used; to set up TLS for nothing may fail.
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

/// A connection for one task, which nobody shares. It is closed when it is dropped.
pub struct Session {
    client: Client,
    driving: AbortOnDropHandle<()>,
}

impl std::ops::Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Session {
    /// Closes it, and lets the server know.
    pub async fn close(self) {
        drop(self.client);
        // It has nothing left to do but to take its leave.
        let _ = timeout(CLOSE_TIMEOUT, self.driving).await;
    }
}

/// Whether the session can write.
async fn is_writable(client: &Client, driver: &mut Driver) -> Result<bool, ConnectError> {
    let rows = while_driven(driver, client.simple_query("show transaction_read_only")).await?;
    let row = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row == Some("off"))
}

/// Waits for a client while its connection is driven.
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
