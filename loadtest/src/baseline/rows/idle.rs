//! The resident memory of a replica per idle, authenticated connection.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio::task::JoinSet;

use super::Row;
use crate::baseline::{BaselineError, Plan};
use crate::engine::{Endpoint, Failure, Feed, Socket, SocketEvent};
use crate::local::{Replica, Surroundings};
use crate::report::model::{Limit, Measurement, Ratio, Unit};

const DATABASE: &str = "bench_idle";
/// Opened before memory is first measured, so that one-time costs are not divided among the rest.
const FIRST: usize = 200;
const AT_ONCE: usize = 64;
/// Connections per local address; there are 28,000 ports.
const PER_ADDRESS: usize = 10_000;
const SETTLE: Duration = Duration::from_secs(2);
/// Long enough for each periodic event to have happened on every connection.
const WATCHED: Duration = Duration::from_secs(30);

/// The kind of connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    Stream,
}

enum IdleConnection {
    Socket(Box<Socket>),
    Feed(Box<Feed>),
}

impl IdleConnection {
    async fn open(endpoint: &Endpoint, transport: Transport, token: &str, number: usize) -> Result<Self, Failure> {
        let from = Some(local_address(number));
        match transport {
            Transport::WebSocket => {
                Socket::open(endpoint, token, Some("idle"), from).await.map(|it| Self::Socket(Box::new(it)))
            }
            Transport::Stream => {
                Feed::open(endpoint, "bench", token, "idle", None, from).await.map(|it| Self::Feed(Box::new(it)))
            }
        }
    }

    /// Receives what arrives, as a client would, until the connection ends.
    async fn hold(self) {
        match self {
            Self::Socket(mut socket) => while !matches!(socket.next().await, Ok(SocketEvent::Closed(_)) | Err(_)) {},
            Self::Feed(mut feed) => while matches!(feed.next().await, Ok(Some(_))) {},
        }
    }
}

/// Returns the local address for the connection with this number.
pub fn local_address(number: usize) -> IpAddr {
    let address = u8::try_from(1 + number / PER_ADDRESS).unwrap_or(u8::MAX);
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, address))
}

/// Holds connections, each of its own user, and divides the replica's memory growth by their number.
pub async fn measure(at: &Surroundings, plan: &Plan, transport: Transport) -> Result<Row, BaselineError> {
    at.fresh_database(DATABASE).await?;
    let replica = at.replica("replica", DATABASE, &[]).await?;
    let endpoint = Endpoint::resolve(replica.base()).await?;
    let mut held = JoinSet::new();
    open(at, &endpoint, transport, 0..FIRST, &mut held).await?;
    tokio::time::sleep(SETTLE).await;
    let before = resident(&replica)?;
    let begun = Instant::now();
    open(at, &endpoint, transport, FIRST..FIRST + plan.idle, &mut held).await?;
    let opened = plan.idle as f64 / begun.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLE).await;
    let after = resident(&replica)?;
    let cpu = replica.cpu();
    tokio::time::sleep(WATCHED).await;
    let cpu = replica.cpu().zip(cpu).map_or(0.0, |(after, before)| (after - before).as_secs_f64());
    if held.try_join_next().is_some() {
        return Err(BaselineError::Nothing { what: "a connection ended while it was idle".to_owned() });
    }
    held.shutdown().await;
    replica.stop().await?;
    let each = (after as f64 - before as f64) / plan.idle as f64;
    let (name, limit, other) = match transport {
        Transport::WebSocket => ("memory of an idle WebSocket", 5.0 * 1024.0, "Centrifugo's, as published"),
        Transport::Stream => ("memory of an idle stream", 16.0 * 1024.0, "the goal itself"),
    };
    let baseline = if transport == Transport::WebSocket { 10.9 * 1000.0 } else { limit };
    let ratio = Ratio::new(
        name,
        Measurement::new("resident bytes of the replica for each", Unit::Bytes, each),
        Measurement::new(other, Unit::Bytes, baseline),
        Some(Limit::AtMost(limit / baseline)),
    );
    let note = format!(
        "{} of them, each of another user: from {:.1} to {:.1} MiB; {opened:.0} opened in a second; idle they cost \
         {:.1} % of a core",
        plan.idle,
        mib(before),
        mib(after),
        cpu / WATCHED.as_secs_f64() * 100.0
    );
    Ok(Row { ratio, note, generator_busy: 0.0 })
}

async fn open(
    at: &Surroundings,
    endpoint: &Endpoint,
    transport: Transport,
    numbers: std::ops::Range<usize>,
    held: &mut JoinSet<()>,
) -> Result<(), BaselineError> {
    let opening = futures_util::stream::iter(numbers).map(|number| async move {
        let token = at.mint.token(&format!("bench-idle-{number}"), Duration::from_secs(3600))?;
        Ok::<_, BaselineError>(IdleConnection::open(endpoint, transport, &token, number).await?)
    });
    let mut opening = std::pin::pin!(opening.buffer_unordered(AT_ONCE));
    while let Some(opened) = opening.next().await {
        held.spawn(opened?.hold());
    }
    Ok(())
}

fn resident(replica: &Replica) -> Result<u64, BaselineError> {
    replica.resident_bytes().ok_or_else(|| BaselineError::Nothing { what: "the replica is gone".to_owned() })
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
