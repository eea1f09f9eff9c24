//! A stream of server-sent events with little cost for the generator.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::http::Request;
use hyper::http::header::{AUTHORIZATION, HOST};
use hyper_util::rt::TokioIo;

use super::client::{Failure, X_CLIENT_ID};
use super::endpoint::Endpoint;
use crate::stream::{RawEvent, SseParser};

type Driver = Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>;

/// An open stream.
pub struct Feed {
    body: Incoming,
    driver: Driver,
    parser: SseParser,
    ready: std::collections::VecDeque<RawEvent>,
    // The connection ends when this is dropped.
    _sender: http1::SendRequest<Empty<Bytes>>,
}

impl Feed {
    /// Opens the stream of all tables of one app, after a cursor.
    pub async fn open(
        endpoint: &Endpoint,
        app: &str,
        token: &str,
        client_id: &str,
        since: Option<&str>,
        from: Option<IpAddr>,
    ) -> Result<Self, Failure> {
        let io = TokioIo::new(endpoint.connect(from).await.map_err(Failure::Connect)?);
        let mut builder = http1::Builder::new();
        builder.max_buf_size(8 << 10);
        let (mut sender, driver) = builder.handshake(io).await.map_err(Failure::Broken)?;
        let mut driver: Driver = Box::pin(driver);
        let query = since.map(|since| format!("?since={since}")).unwrap_or_default();
        let request = Request::get(format!("{}/sync/{app}/stream{query}", endpoint.prefix))
            .header(HOST, &endpoint.host)
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header(X_CLIENT_ID, client_id)
            .body(Empty::new())
            .map_err(|_| Failure::Answer("not valid in a request"))?;
        let answer = tokio::select! {
            biased;
            answer = sender.send_request(request) => answer.map_err(Failure::Broken)?,
            ended = &mut driver => return Err(ended.map_or_else(Failure::Broken, |()| Failure::Closed)),
        };
        match answer.status().as_u16() {
            200 => {}
            status => return Err(Failure::Status { status, retry_after: None }),
        }
        let body = answer.into_body();
        Ok(Self { body, driver, parser: SseParser::default(), ready: Default::default(), _sender: sender })
    }

    /// Returns the next event; none if the server has ended the stream. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<RawEvent>, Failure> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let (body, driver) = (&mut self.body, &mut self.driver);
            let frame = tokio::select! {
                biased;
                frame = body.frame() => frame,
                ended = driver => return ended.map(|()| None).map_err(Failure::Broken),
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(Failure::Broken(error)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.ready.extend(self.parser.feed(&bytes));
                    }
                }
            }
        }
    }
}
