//! Accepts and serves connections.
//!
//! We run our own accept loop because a replica bounds the cost of a connection (G6): the number of connections, the
//! time for a head, and the time a write may wait for a client that does not read. Shutdown (G7) also has to reach
//! sockets and streams, which end by themselves, and idle connections, which do not.

use super::connection::{ClientPlace, Connection, OverTls, Place};
use super::error::ApiError;
use super::headers;
use super::meter::Meter;
use super::proxy_protocol;
use super::transport::{ReadLimits, Transport};
use crate::budget::MemoryBudget;
use crate::config::Config;
use crate::limits::addresses::{AddressPlace, Addresses, AskedFor};
use crate::limits::turns::Turns;
use crate::places::Places;
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;
use crate::telemetry::throttle::Throttle;
use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, SockRef, Socket, Type};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tower::ServiceExt;

/// Bytes of a connection that the operating system keeps unsent before writes wait. Without this limit it keeps megabytes
/// for each client that does not read, which count as the container's memory, and copies them while others wait.
const UNSENT: u32 = 128 << 10;

/// Maximum number of connections waiting to be accepted.
const BACKLOG: i32 = 4096;
/// Maximum size of a request's head, and of a single read, in bytes.
const MAX_BUFFER: usize = 64 << 10;
/// Maximum size of a WebSocket message in bytes.
pub(super) const MAX_MESSAGE: usize = 64 << 10;
/// Maximum number of connections beyond the limit that get an answer saying so; others are cut off. They also get
/// answers to probes: a full replica is not unhealthy.
pub(super) const MAX_REFUSALS: usize = 256;
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause when the process is out of file descriptors.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Names the client that a balancer speaks for.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Serves the endpoints.
#[derive(Clone, Debug)]
pub struct Server {
    /// Answers the requests.
    pub router: Router,
    /// The stages of shutdown.
    pub shutdown: Shutdown,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    limits: Limits,
    places: Arc<Semaphore>,
    refusals: Places,
    /// For input from clients that have not authenticated yet.
    unauthenticated: MemoryBudget,
    addresses: Addresses,
    /// For requests that cost their clients nothing.
    free_of_cost: Turns,
    /// True if balancers name their clients with the PROXY protocol.
    proxy_protocol: bool,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    header: Duration,
    write: Duration,
    read: ReadLimits,
}

/// Opens a listening socket. With `shared`, several processes may listen on the same port.
pub fn bind(address: SocketAddr, shared: bool) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

impl Server {
    /// Creates a server with the configured limits.
    pub fn new(config: &Config, router: Router, shutdown: Shutdown, metrics: Arc<Metrics>) -> Server {
        let read = ReadLimits { head: MAX_BUFFER, message: MAX_MESSAGE, queue_timeout: config.queue_timeout_ms };
        let limits = Limits { header: config.http.header_timeout_ms, write: config.http.write_timeout_ms, read };
        let (bytes, reserved) = (config.http.max_unauthenticated_bytes as usize, metrics.unauthenticated_bytes.clone());
        let trusted = config.limits.trusted_proxies.iter().flatten().copied().collect();
        let addresses = Addresses::new(config.limits.max_connections_per_address, trusted);
        let proxy_protocol = config.limits.proxy_protocol;
        let unauthenticated = MemoryBudget::of_unauthenticated(bytes, reserved);
        let places = Arc::new(Semaphore::new(config.max_connections as usize));
        let refusals = Places::new(MAX_REFUSALS);
        let free_of_cost = Turns::default();
        Server {
            router,
            shutdown,
            metrics,
            limits,
            places,
            refusals,
            unauthenticated,
            addresses,
            free_of_cost,
            proxy_protocol,
        }
    }

    /// Accepts connections until the replica stops accepting.
    pub async fn accept(self, listener: TcpListener) {
        let closing = self.shutdown.closing.clone();
        let line = Throttle::new();
        let accepting = async {
            loop {
                match listener.accept().await {
                    Ok((stream, peer)) => match self.places.clone().try_acquire_owned() {
                        Ok(permit) => self.welcome(stream, peer.ip(), permit),
                        Err(_) => self.refuse(stream, "connections", || ApiError::Busy),
                    },
                    Err(error) => {
                        if let Some(unwritten) = line.is_due() {
                            let error = &error as &dyn std::error::Error;
                            tracing::warn!(error, unwritten, "cannot accept a connection");
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        closing.run_until_cancelled(accepting).await;
    }

    /// Serves a connection, once its client's address is known.
    fn welcome(&self, mut stream: TcpStream, peer: IpAddr, permit: OwnedSemaphorePermit) {
        let is_proxy = self.addresses.is_trusted(peer);
        if !(is_proxy && self.proxy_protocol) {
            return self.enter(stream, peer, is_proxy, permit);
        }
        let server = self.clone();
        self.shutdown.connections.spawn(async move {
            match timeout(server.limits.header, proxy_protocol::read(&mut stream)).await {
                // A balancer behind a balancer names its clients in each request.
                Ok(Ok(Some(client))) => server.enter(stream, client, server.addresses.is_trusted(client), permit),
                Ok(Ok(None)) => server.enter(stream, peer, false, permit),
                // Without the header there is nobody to answer.
                Ok(Err(error)) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "cannot read a load balancer's PROXY protocol header"
                    );
                }
                Err(_) => tracing::debug!("a load balancer sent no PROXY protocol header in time"),
            }
        });
    }

    /// `asks_for_others`: true if each request names the client it comes from.
    fn enter(&self, stream: TcpStream, client: IpAddr, asks_for_others: bool, permit: OwnedSemaphorePermit) {
        match self.addresses.enter(client) {
            Some(address) => self.serve(stream, address, asks_for_others.then_some(client), permit),
            None => self.refuse(stream, "connections_per_address", || ApiError::TooManyFromAddress),
        }
    }

    /// `balancer`: the peer's address, if each request names the client it comes from.
    fn serve(&self, stream: TcpStream, address: AddressPlace, balancer: Option<IpAddr>, permit: OwnedSemaphorePermit) {
        self.metrics.tcp_connections.inc();
        let meter = Meter::new(self.unauthenticated.of_address(address.address()));
        let place = Place { _permit: permit, address, meter, metrics: self.metrics.clone() };
        let connection = Connection::new(place);
        if let Err(error) = self.prepare(&stream) {
            tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended before it was served");
            return;
        }
        let stream = Transport::new(stream, connection.clone(), self.limits.write, self.limits.read);
        let (router, closing, limits) = (self.router.clone(), self.shutdown.closing.clone(), self.limits);
        let turns = self.free_of_cost.clone();
        let (balancer, metrics) = (balancer.map(|balancer| (self.addresses.clone(), balancer)), self.metrics.clone());
        self.shutdown.connections.spawn(async move {
            let service = service_fn(move |mut request: Request<Incoming>| {
                let (is_behind_another, turns) = (connection.meter().begin_request(), turns.clone());
                let is_preflight = request.method() == Method::OPTIONS;
                request.extensions_mut().insert(connection.clone());
                if balancer.is_some()
                    && let Some(over_tls) = OverTls::of(request.headers())
                {
                    request.extensions_mut().insert(over_tls);
                }
                let client = match &balancer {
                    Some((addresses, balancer)) => client_place(addresses, *balancer, &metrics, &request),
                    None => Ok(None),
                };
                let (router, connection) = (router.clone(), connection.clone());
                // Boxed, because hyper reserves room for this future as long as the connection lives, including while
                // it streams.
                Box::pin(async move {
                    if is_behind_another {
                        // Otherwise a connection would answer many of them while everybody else waits.
                        turns.next().await;
                    }
                    let answered = match client {
                        Ok(client) => {
                            let _until_answered = client.clone();
                            client.map(|client| request.extensions_mut().insert(client));
                            router.oneshot(request).await.map(headers::allow_options)
                        }
                        Err(error) => Ok(headers::protect(error.into_response())),
                    };
                    let status = answered.as_ref().map_or(StatusCode::OK, Response::status);
                    if is_preflight || status.is_client_error() {
                        // Otherwise many connections that only wait for such answers would have one in each turn. Here
                        // rather than before, so that whoever is not refused does not wait.
                        turns.next().await;
                    }
                    let is_refused = status.is_client_error() || status.is_server_error();
                    // Its client had to send much in order to make it keep that; a new connection costs less.
                    if connection.meter().end_request(is_refused) { answered.map(headers::close) } else { answered }
                })
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header)
                .max_buf_size(MAX_BUFFER)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            let mut serving = pin!(serving);
            // A connection that fails has lost its client, so there is nobody to tell.
            let _ = tokio::select! {
                ended = &mut serving => ended,
                () = closing.cancelled() => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            };
        });
    }

    /// Answers one request: a probe as usual, anything else with the error.
    fn refuse(&self, stream: TcpStream, limit: &str, error: fn() -> ApiError) {
        self.metrics.refused.with_label_values(&[limit]).inc();
        let peer = stream.peer_addr().ok().map(|peer| peer.ip());
        let Some(permit) = self.refusals.enter(peer) else { return };
        let router = self.router.clone();
        self.shutdown.connections.spawn(async move {
            let _permit = permit;
            let answer = |request: Request<Incoming>| {
                let (router, is_probe) = (router.clone(), request.uri().path().starts_with("/health"));
                async move { if is_probe { router.oneshot(request).await } else { Ok(error().into_response()) } }
            };
            answer_once(stream, answer).await;
        });
    }

    fn prepare(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        // A peer that acknowledges nothing for as long as a write may wait is gone.
        socket.set_tcp_user_timeout(Some(self.limits.write))?;
        socket.set_tcp_notsent_lowat(UNSENT)?;
        socket.set_keepalive(true)
    }
}

/// Returns a place for the client that a balancer speaks for; none if the balancer names nobody.
fn client_place(
    addresses: &Addresses,
    balancer: IpAddr,
    metrics: &Metrics,
    request: &Request<Incoming>,
) -> Result<Option<ClientPlace>, ApiError> {
    let lists = request.headers().get_all(FORWARDED_FOR).iter();
    let place = match addresses.client_of(lists.map(HeaderValue::as_bytes)) {
        AskedFor::Nobody => return Ok(None),
        AskedFor::Client(client) => addresses.enter(client),
        AskedFor::Unreadable => addresses.enter_counted(balancer),
    };
    let Some(place) = place else {
        metrics.refused.with_label_values(&["connections_per_address"]).inc();
        return Err(ApiError::TooManyFromAddress);
    };
    Ok(Some(ClientPlace::new(place)))
}

/// Answers one request, then ends the connection.
pub(super) async fn answer_once<F>(stream: TcpStream, answer: impl Fn(Request<Incoming>) -> F)
where
    F: Future<Output = Result<Response, Infallible>>,
{
    let serving =
        http1::Builder::new().timer(TokioTimer::new()).keep_alive(false).max_buf_size(MAX_BUFFER).serve_connection(
            TokioIo::new(stream),
            service_fn(async |request| answer(request).await.map(headers::protect)),
        );
    // A client that does not wait for the answer does not need it.
    let _ = timeout(REFUSAL_TIMEOUT, serving).await;
}

#[cfg(test)]
mod tests;
