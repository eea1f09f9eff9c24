//! Connecting: to whichever of a URL's hosts can be used, with TLS as the URL wants it.

use super::error::ConnectError;
use super::tls::{self, Attempt};
use crate::config::{Endpoint, Host, PostgresUrl, Secret};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{sleep, timeout};
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
/// How long one host is waited for alone before the next is asked as well.
const STAGGER: Duration = Duration::from_millis(250);

/// How long a connection may take to be closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a connection's bytes go through.
type Stream = Either<TcpStream, UnixStream>;
type TlsStream = <<MakeRustlsConnect as MakeTlsConnect<Stream>>::TlsConnect as TlsConnect<Stream>>::Stream;

/// A connection that its owner drives: the client of it waits for nothing unless this is polled.
pub type Driver = Connection<Stream, TlsStream>;

/// Where to connect to, and as whom.
#[derive(Clone)]
pub struct Connector {
    url: Arc<PostgresUrl>,
    /// What the server is told of the session.
    session: Arc<Config>,
    /// Which host answered last; it is asked first.
    preferred: Arc<AtomicUsize>,
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
        Ok(Connector { url: Arc::new(url), session: Arc::new(session), preferred: Arc::default() })
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

    /// Whether there are several hosts to choose from.
    pub fn has_choice(&self) -> bool {
        self.url.hosts.len() > 1
    }

    /// Connects. The client does nothing unless the driver is polled.
    ///
    /// Of several hosts the first that answers and can be written to is taken. The one that did last time is asked first,
    /// and one that is slow to answer keeps nobody from the others.
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
        let mut left = (0..count).map(|at| self.ask((preferred + at) % count));
        let mut asked: FuturesUnordered<_> = left.next().into_iter().collect();
        let mut telling: Option<ConnectError> = None;
        loop {
            tokio::select! {
                answer = asked.next() => match answer {
                    Some((index, Ok(connection))) => {
                        if self.preferred.swap(index, Ordering::Relaxed) != index {
                            tracing::warn!(host = index + 1, of = count, "this host of the database's is used now");
                        }
                        return Ok(connection);
                    }
                    Some((_, Err(error))) => {
                        telling = Some(more_telling(telling, error));
                        asked.extend(left.next());
                    }
                    None => return Err(telling.unwrap_or(ConnectError::NoPrimary)),
                },
                () = sleep(STAGGER), if left.len() > 0 => asked.extend(left.next()),
            }
        }
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

    async fn ask(&self, index: usize) -> (usize, Result<(Client, Driver), ConnectError>) {
        let answer = match self.url.hosts.get(index) {
            Some(endpoint) => self.connect_to(endpoint).await,
            None => Err(ConnectError::NoPrimary),
        };
        (index, answer)
    }

    /// Connects to one host, by all its addresses.
    async fn connect_to(&self, endpoint: &Endpoint) -> Result<(Client, Driver), ConnectError> {
        let limit = self.url.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        match &endpoint.host {
            Host::Unix(folder) => {
                let socket = folder.join(format!(".s.PGSQL.{}", endpoint.port));
                // What nobody else can hear is not encrypted, whatever sslmode says.
                let attempt = self.attempt(Place::Unix(&socket), "", Attempt::Plain);
                timeout(limit, attempt).await.map_err(|_| ConnectError::Timeout)?
            }
            Host::Tcp { name, address } => {
                let addresses: Vec<SocketAddr> = match address {
                    Some(address) => vec![SocketAddr::new(*address, endpoint.port)],
                    None => {
                        let found = timeout(limit, lookup_host((name.as_str(), endpoint.port))).await;
                        found.map_err(|_| ConnectError::Timeout)?.map_err(ConnectError::Resolve)?.collect()
                    }
                };
                let mut failed = ConnectError::Resolve(io::ErrorKind::NotFound.into());
                for address in addresses {
                    match timeout(limit, self.agree(address, name)).await {
                        Ok(Ok(connected)) => return Ok(connected),
                        Ok(Err(error)) => failed = error,
                        Err(_) => failed = ConnectError::Timeout,
                    }
                }
                Err(failed)
            }
        }
    }

    /// Connects to an address, with or without TLS as `sslmode` says.
    async fn agree(&self, address: SocketAddr, name: &str) -> Result<(Client, Driver), ConnectError> {
        let attempts = Attempt::all(self.url.tls.mode);
        let mut failed = None;
        for attempt in attempts {
            match self.attempt(Place::Tcp(address), name, *attempt).await {
                Ok(connected) => return Ok(connected),
                Err(error) if !error.may_be_about_tls() => return Err(failed.unwrap_or(error)),
                // What is said without TLS is that TLS was expected, or not.
                Err(error) if failed.is_none() || *attempt == Attempt::Encrypted => failed = Some(error),
                Err(_) => {}
            }
        }
        Err(failed.unwrap_or(ConnectError::Timeout))
    }

    async fn attempt(&self, place: Place<'_>, name: &str, attempt: Attempt) -> Result<(Client, Driver), ConnectError> {
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
        if self.url.needs_primary && !is_writable(&client, &mut driver).await? {
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

/// Of two errors the one that an operator can do more with: what a server says, rather than that another is not there.
fn more_telling(before: Option<ConnectError>, now: ConnectError) -> ConnectError {
    let rank = |error: &ConnectError| match error {
        ConnectError::Url(_) | ConnectError::Tls(_) => 4,
        // A host that is there will be the primary, or know of one, sooner than one that says why it refuses us.
        ConnectError::NoPrimary => 3,
        ConnectError::Refused(_) => 2,
        ConnectError::Timeout | ConnectError::Reach(_) => 1,
        ConnectError::Resolve(_) => 0,
    };
    match before {
        Some(before) if rank(&before) > rank(&now) => before,
        _ => now,
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
