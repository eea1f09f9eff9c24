//! Accepting and serving connections.
//!
//! Our own loop, because a replica bounds what a connection may cost (G6): how many there are, how long a head
//! may take, how long a write may wait for a client that does not read; and because a stop (G7) has to reach
//! sockets and streams, which end by themselves, and idle connections, which do not.

use super::error::ApiError;
use super::headers;
use crate::config::Config;
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;
use axum::Router;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, SockRef, Socket, Type};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

/// A client's connection, on which a write that waits too long fails.
pub type Transport = Pin<Box<TimeoutStream<TcpStream>>>;

/// Connections that wait to be accepted, at most.
const BACKLOG: i32 = 4096;
/// Most bytes of a request's head, and of what is read at once.
const MAX_BUFFER: usize = 64 << 10;
/// Connections beyond the limit that are told so at once; others are cut off. Probes are answered on them too: a
/// replica that is full is not ill.
pub(super) const MAX_REFUSALS: usize = 256;
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause when the process is out of file descriptors.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A place among the connections of this replica. What lives as long as the connection holds a clone.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    _place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    _permit: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.tcp_connections.dec();
    }
}

/// Serves the endpoints to whoever connects.
#[derive(Clone, Debug)]
pub struct Server {
    pub router: Router,
    pub shutdown: Shutdown,
    pub metrics: Arc<Metrics>,
    limits: Limits,
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    header: Duration,
    write: Duration,
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
    /// A server with the configured limits.
    pub fn new(config: &Config, router: Router, shutdown: Shutdown, metrics: Arc<Metrics>) -> Server {
        let limits = Limits { header: config.header_timeout_ms, write: config.write_timeout_ms };
        let places = Arc::new(Semaphore::new(config.max_connections as usize));
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        Server { router, shutdown, metrics, limits, places, refusals }
    }

    /// Accepts until the replica stops accepting.
    pub async fn accept(self, listener: TcpListener) {
        let closing = self.shutdown.closing.clone();
        let accepting = async {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => match self.places.clone().try_acquire_owned() {
                        Ok(permit) => self.serve(stream, permit),
                        Err(_) => self.refuse(stream),
                    },
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        closing.run_until_cancelled(accepting).await;
    }

    fn serve(&self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        self.metrics.tcp_connections.inc();
        let connection = Connection { _place: Arc::new(Place { _permit: permit, metrics: self.metrics.clone() }) };
        if let Err(error) = self.prepare(&stream) {
            tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended before it began");
            return;
        }
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.limits.write));
        let (router, closing, limits) = (self.router.clone(), self.shutdown.closing.clone(), self.limits);
        self.shutdown.connections.spawn(async move {
            let service = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(connection.clone());
                // hyper keeps the place of this future for as long as the connection lives, streams' included.
                Box::pin(router.clone().oneshot(request))
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header)
                .max_buf_size(MAX_BUFFER)
                .serve_connection(TokioIo::new(Box::pin(stream)), service)
                .with_upgrades();
            let mut serving = pin!(serving);
            // A connection that fails has lost its client: there is nobody to tell.
            let _ = tokio::select! {
                ended = &mut serving => ended,
                () = closing.cancelled() => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            };
        });
    }

    /// Answers one request: a probe as ever, anything else with the word that there is no place.
    fn refuse(&self, stream: TcpStream) {
        self.metrics.refused.with_label_values(&["connections"]).inc();
        let Ok(permit) = self.refusals.clone().try_acquire_owned() else { return };
        let router = self.router.clone();
        self.shutdown.connections.spawn(async move {
            let _permit = permit;
            let answer = |request: Request<Incoming>| {
                let (router, is_probe) = (router.clone(), request.uri().path().starts_with("/health"));
                async move { if is_probe { router.oneshot(request).await } else { Ok(ApiError::Busy.into_response()) } }
            };
            answer_once(stream, answer).await;
        });
    }

    fn prepare(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        // A peer that acknowledges nothing for as long as a write may wait is gone.
        socket.set_tcp_user_timeout(Some(self.limits.write))?;
        socket.set_keepalive(true)
    }
}

/// Answers one request, and ends the connection.
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
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, serving).await;
}
