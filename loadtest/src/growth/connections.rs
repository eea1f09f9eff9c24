//! The cost of a replica's idle WebSockets, each of another user, and how soon one of them is woken by a push.

use std::ops::Range;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::limits::{CONNECTIONS_MEMORY, CONNECTIONS_WAKEUP_P50, CONNECTIONS_WAKEUP_P99, as_the_size};
use super::{Log, Measured, Plan};
use crate::baseline::BaselineError;
use crate::baseline::rows::idle::local_address;
use crate::engine::closed::LoadError;
use crate::engine::device::Identity;
use crate::engine::push_body::Shape;
use crate::engine::{Client, Endpoint, LeanDevice, Socket, SocketEvent};
use crate::local::{Replica, Surroundings};
use crate::report::LatencyHistogram;
use crate::report::model::{Growth, GrowthLine, Unit};
use crate::report::units::{bytes, number, seconds};

const DATABASE: &str = "bench_connections";
/// Opened, used and closed before memory is first measured, so that one-time costs are not divided among the rest.
const FIRST: usize = 10;
const AT_ONCE: usize = 64;
/// Pushes timed until their wake-up.
const PUSHES: u64 = 200;
const LATE: Duration = Duration::from_secs(5);
const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// The measurements at one size.
struct Point {
    /// The replica's resident bytes before any was open, and with all of them.
    resident: (u64, u64),
    /// The fraction of a core that the replica used while all were idle.
    cpu: f64,
    wakeups: LatencyHistogram,
}

pub async fn measure(at: &Surroundings, plan: &Plan, log: Log<'_>) -> Result<Measured, BaselineError> {
    let mut points = Vec::with_capacity(plan.connections.len());
    for &count in &plan.connections {
        let point = point(at, count, plan.idle).await?;
        log(&format!("idle WebSockets {}: {}", number(count as f64), shown(&point, count)));
        points.push(point);
    }
    let sizes: Vec<f64> = plan.connections.iter().map(|&count| count as f64).collect();
    let each = |(point, &count): (&Point, &usize)| grown(point) / count as f64;
    let wakeup = |share: f64| points.iter().map(move |p| p.wakeups.quantile_seconds(share).unwrap_or(f64::NAN));
    let lines = vec![
        GrowthLine::new(
            "resident memory for each",
            Unit::Bytes,
            points.iter().zip(&plan.connections).map(each).collect(),
            Some(CONNECTIONS_MEMORY),
        ),
        GrowthLine::new(
            "processor, share of one core, while idle",
            Unit::Share,
            points.iter().map(|point| point.cpu).collect(),
            as_the_size(&sizes),
        ),
        GrowthLine::new("push to wake-up p50", Unit::Seconds, wakeup(0.5).collect(), Some(CONNECTIONS_WAKEUP_P50)),
        GrowthLine::new("push to wake-up p99", Unit::Seconds, wakeup(0.99).collect(), Some(CONNECTIONS_WAKEUP_P99)),
    ];
    let note = format!(
        "A replica for each size, every WebSocket of another user; watched while idle for {}; {PUSHES} pushes one \
         after the other by another device of random ones of these users, from sending a push to the wake-up",
        seconds(plan.idle.as_secs_f64())
    );
    let (name, size) = ("connections".to_owned(), "idle WebSockets".to_owned());
    Ok(Measured { growth: Growth { name, size, note, sizes, lines }, generator_busy: None })
}

fn grown(point: &Point) -> f64 {
    point.resident.1 as f64 - point.resident.0 as f64
}

fn shown(point: &Point, count: usize) -> String {
    let wakeup = |share| point.wakeups.quantile_seconds(share).map_or_else(String::new, seconds);
    format!(
        "resident {} before, {} more for each; idle {} % of a core; push to wake-up p50 {}, p99 {}",
        bytes(point.resident.0 as f64),
        bytes(grown(point) / count as f64),
        number(point.cpu * 100.0),
        wakeup(0.5),
        wakeup(0.99)
    )
}

async fn point(at: &Surroundings, count: usize, idle: Duration) -> Result<Point, BaselineError> {
    at.fresh_database(DATABASE).await?;
    let replica = at.replica("replica", DATABASE, &[]).await?;
    let endpoint = Endpoint::resolve(replica.base()).await?;
    // All on one thread, so that the times include no wake-up of one of our threads.
    let at = at.clone();
    let alone = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(LoadError::Thread)?;
        let point = runtime.block_on(hold(&at, &replica, &endpoint, count, idle))?;
        Ok::<_, BaselineError>((point, replica))
    };
    let (point, replica) = tokio::task::spawn_blocking(alone).await.map_err(|_| LoadError::Panicked)??;
    replica.stop().await?;
    Ok(point)
}

async fn hold(
    at: &Surroundings,
    replica: &Replica,
    endpoint: &Endpoint,
    count: usize,
    idle: Duration,
) -> Result<Point, BaselineError> {
    let mut first = IdleSockets::open(at, endpoint, count..count + FIRST).await?;
    first.wakeups(at, endpoint, 1).await?;
    first.close().await;
    let before = resident(replica)?;
    let mut idle_sockets = IdleSockets::open(at, endpoint, 0..count).await?;
    let (begun, cpu) = (Instant::now(), replica.cpu());
    tokio::time::sleep(idle).await;
    let cpu = replica.cpu().zip(cpu).map(|(after, before)| after - before).ok_or_else(gone)?;
    let cpu = cpu.as_secs_f64() / begun.elapsed().as_secs_f64();
    let after = resident(replica)?;
    let wakeups = idle_sockets.wakeups(at, endpoint, PUSHES).await?;
    if idle_sockets.tasks.try_join_next().is_some() {
        return Err(BaselineError::Nothing { what: "a connection ended while it was idle".to_owned() });
    }
    idle_sockets.close().await;
    Ok(Point { resident: (before, after), cpu, wakeups })
}

fn resident(replica: &Replica) -> Result<u64, BaselineError> {
    replica.resident_bytes().ok_or_else(gone)
}

fn gone() -> BaselineError {
    BaselineError::Nothing { what: "the replica is gone".to_owned() }
}

/// Open WebSockets, each with a task that listens on it.
struct IdleSockets {
    users: Range<usize>,
    tasks: JoinSet<()>,
    /// The user whose WebSocket was woken, and when.
    woken: UnboundedReceiver<(usize, Instant)>,
}

impl IdleSockets {
    async fn open(at: &Surroundings, endpoint: &Endpoint, users: Range<usize>) -> Result<Self, BaselineError> {
        let (tell, woken) = unbounded_channel();
        let opening = futures_util::stream::iter(users.clone()).map(|user| async move {
            let token = at.mint.token(&name(user), TOKEN_TTL)?;
            let socket = Socket::open(endpoint, &token, Some("listener"), Some(local_address(user))).await?;
            Ok::<_, BaselineError>((user, socket))
        });
        let mut opening = std::pin::pin!(opening.buffer_unordered(AT_ONCE));
        let mut tasks = JoinSet::new();
        while let Some(opened) = opening.next().await {
            let (user, socket) = opened?;
            tasks.spawn(listen(user, socket, tell.clone()));
        }
        Ok(Self { users, tasks, woken })
    }

    /// Measures the time from sending a push to the wake-up, this many times, one after the other, for random users.
    async fn wakeups(
        &mut self,
        at: &Surroundings,
        endpoint: &Endpoint,
        pushes: u64,
    ) -> Result<LatencyHistogram, BaselineError> {
        let (mut client, mut rng) = (Client::new([endpoint.clone()].into(), LATE), StdRng::seed_from_u64(1));
        let mut latency = LatencyHistogram::default();
        for number in 0..pushes {
            let user = rng.random_range(self.users.clone());
            let (token, client_id) = (at.mint.token(&name(user), TOKEN_TTL)?, format!("writer-{number}"));
            let identity = Identity { user: name(user), app: "bench".to_owned(), client: client_id, token };
            let mut device = LeanDevice::new(&identity, "packages", 1, Shape::Fields)?;
            // The first is not counted: it starts the log, and triggers the queries made once per user.
            self.wakeup(user, &mut device, &mut client, &mut rng).await?;
            latency.record(self.wakeup(user, &mut device, &mut client, &mut rng).await?);
        }
        Ok(latency)
    }

    async fn wakeup(
        &mut self,
        user: usize,
        device: &mut LeanDevice,
        client: &mut Client,
        rng: &mut StdRng,
    ) -> Result<Duration, BaselineError> {
        while self.woken.try_recv().is_ok() {}
        let sent = Instant::now();
        let push = async { device.push(client, rng).await.map(|_| ()).map_err(BaselineError::from) };
        let heard = async {
            loop {
                match tokio::time::timeout(LATE, self.woken.recv()).await {
                    Ok(Some((woken, when))) if woken == user => return Ok(when),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => {
                        return Err(BaselineError::Nothing { what: format!("no wake-up within {LATE:?}") });
                    }
                }
            }
        };
        let ((), when) = tokio::try_join!(push, heard)?;
        Ok(when - sent)
    }

    async fn close(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Receives what arrives, as a client would, until the connection ends.
async fn listen(user: usize, mut socket: Socket, tell: UnboundedSender<(usize, Instant)>) {
    loop {
        match socket.next().await {
            Ok(SocketEvent::Wakeup) if tell.send((user, Instant::now())).is_err() => return,
            Ok(SocketEvent::Wakeup | SocketEvent::Other(_)) => {}
            Ok(SocketEvent::Closed(_)) | Err(_) => return,
        }
    }
}

fn name(user: usize) -> String {
    format!("bench-idle-{user}")
}
