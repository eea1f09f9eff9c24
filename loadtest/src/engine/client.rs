//! An HTTP/1.1 client with as little overhead as a well-maintained implementation allows.
//!
//! One task has one [`Client`] and one request in flight. The connection is polled by the task that waits for the
//! answer, so a request needs no wake-up of another task.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::http::{HeaderName, HeaderValue, Request};
use hyper_util::rt::TokioIo;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::timeout;

use super::endpoint::Endpoint;

pub const X_CLIENT_ID: HeaderName = HeaderName::from_static("x-client-id");

/// The reasons why a request failed. Few and fixed, so that they can be counted by kind.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    /// The connection was closed before the answer.
    #[error("the connection was closed before the answer")]
    Closed,
    /// There was no answer in this time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The answer is not a success.
    #[error("answered with {status}")]
    Status {
        /// The status of the answer.
        status: u16,
        /// The time until a retry, if the answer says so.
        retry_after: Option<Duration>,
    },
    /// The answer violates the protocol, and how.
    #[error("the answer violates the protocol: {0}")]
    Answer(&'static str),
}

impl Failure {
    /// Returns the name to count it under.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Broken(_) | Self::Closed => "broken",
            Self::Timeout(_) => "timeout",
            Self::Status { status, .. } => match status {
                400 => "status_400",
                401 => "status_401",
                402 => "status_402",
                413 => "status_413",
                429 => "status_429",
                500 => "status_500",
                502 => "status_502",
                503 => "status_503",
                504 => "status_504",
                _ => "status_other",
            },
            Self::Answer(_) => "protocol",
        }
    }

    /// True if the same request may succeed when retried.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status >= 500 || *status == 429,
            Self::Answer(_) => false,
            _ => true,
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status of the answer.
    pub status: u16,
    /// The body of the answer.
    pub body: Bytes,
}

type Driver = Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>;

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
}

impl Connection {
    async fn open(endpoint: &Endpoint, within: Duration) -> Result<Self, Failure> {
        let connected = timeout(within, endpoint.connect(None)).await.map_err(|_| Failure::Timeout(within))?;
        let io = TokioIo::new(connected.map_err(Failure::Connect)?);
        let (sender, driver) = handshake(io).await.map_err(Failure::Broken)?;
        Ok(Self { sender, driver: Box::pin(driver) })
    }

    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<(hyper::http::response::Parts, Bytes), Failure> {
        let sender = &mut self.sender;
        let exchange = async {
            let (parts, body) = sender.send_request(request).await?.into_parts();
            Ok((parts, body.collect().await?.to_bytes()))
        };
        tokio::select! {
            // The driver ends with the connection; an answer that came before that is still taken.
            biased;
            done = exchange => done.map_err(Failure::Broken),
            ended = &mut self.driver => Err(ended.map_or_else(Failure::Broken, |()| Failure::Closed)),
        }
    }
}

/// Keep-alive connections to each target, opened when first needed.
pub struct Client {
    endpoints: Arc<[Endpoint]>,
    connections: Vec<Option<Connection>>,
    request_timeout: Duration,
}

/// A request without its target.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// Path and query.
    pub path: &'a str,
    /// The complete value of Authorization.
    pub authorization: &'a HeaderValue,
    pub client_id: Option<&'a HeaderValue>,
    /// JSON to POST; `None` is a GET.
    pub body: Option<Bytes>,
}

impl Client {
    /// `request_timeout` is the maximum duration of a request.
    pub fn new(endpoints: Arc<[Endpoint]>, request_timeout: Duration) -> Self {
        let connections = endpoints.iter().map(|_| None).collect();
        Self { endpoints, connections, request_timeout }
    }

    /// Sends a request to a random target. Anything but 200 is a failure. A kept connection that has been closed in the
    /// meantime is silently replaced, as browsers do.
    pub async fn call(&mut self, call: &Call<'_>, rng: &mut StdRng) -> Result<Answer, Failure> {
        let target = match self.endpoints.len() {
            1 => 0,
            many => rng.random_range(0..many),
        };
        self.call_target(call, target).await
    }

    /// The same, to the target with this index.
    pub async fn call_target(&mut self, call: &Call<'_>, target: usize) -> Result<Answer, Failure> {
        let request_timeout = self.request_timeout;
        let called = timeout(request_timeout, self.attempt(call, target)).await;
        // A connection whose answer was incomplete is dropped; one that succeeded was put back.
        called.map_err(|_| Failure::Timeout(request_timeout))?
    }

    async fn attempt(&mut self, call: &Call<'_>, target: usize) -> Result<Answer, Failure> {
        let endpoint = &self.endpoints[target];
        if let Some(mut kept) = self.connections[target].take() {
            match kept.exchange(request(call, endpoint)).await {
                Ok(answer) => return self.keep(kept, target, answer),
                Err(Failure::Broken(_) | Failure::Closed) => {}
                Err(failure) => return Err(failure),
            }
        }
        let mut fresh = Connection::open(endpoint, self.request_timeout).await?;
        let answer = fresh.exchange(request(call, endpoint)).await?;
        self.keep(fresh, target, answer)
    }

    fn keep(
        &mut self,
        connection: Connection,
        target: usize,
        (parts, body): (hyper::http::response::Parts, Bytes),
    ) -> Result<Answer, Failure> {
        self.connections[target] = Some(connection);
        let status = parts.status.as_u16();
        if status == 200 {
            return Ok(Answer { status, body });
        }
        let seconds = parts.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Err(Failure::Status { status, retry_after: seconds.map(Duration::from_secs) })
    }
}

fn request(call: &Call<'_>, endpoint: &Endpoint) -> Request<Full<Bytes>> {
    let path = match endpoint.prefix.is_empty() {
        true => call.path.to_owned(),
        false => format!("{}{}", endpoint.prefix, call.path),
    };
    let mut request = Request::new(Full::new(call.body.clone().unwrap_or_default()));
    if call.body.is_some() {
        *request.method_mut() = hyper::Method::POST;
    }
    // Paths consist of names that need no escaping; any other is sent to the root, and answered 404.
    *request.uri_mut() = path.try_into().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(HOST, endpoint.host.clone());
    headers.insert(AUTHORIZATION, call.authorization.clone());
    if call.body.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some(client_id) = call.client_id {
        headers.insert(X_CLIENT_ID, client_id.clone());
    }
    request
}
