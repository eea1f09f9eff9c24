//! The cost of notifications for PostgreSQL, and the delay of wake-ups, by the number of replicas: up to hundreds of
//! them, simulated in this process. Each has its own connection that really LISTENs and receives everything; each
//! publishes what is pushed to it as often as the server's rule allows (`NOTIFY_BUDGET`): between two notifications of
//! its own it leaves as much time as those it received in between are worth. Nothing is stored, so that PostgreSQL's
//! work is for notifications alone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::poll_fn;
use hdrhistogram::Histogram;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, sleep_until};
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

use super::limits::{LISTENERS_CORES, LISTENERS_CPU, LISTENERS_RATE, MANY_LISTENERS};
use super::{Log, Measured, Plan};
use crate::baseline::BaselineError;
use crate::local::Surroundings;
use crate::local::server_cpu::server_cpu;
use crate::report::model::{Growth, GrowthLine, Unit};
use crate::report::units::{number, seconds};

const CHANNEL: &str = "mana_load_replicas";
/// Pushes per second, of all replicas together.
const PUSHES: f64 = 1_000.0;
/// Listener wakes per second: the server's default.
const BUDGET: f64 = 40_000.0;
/// Connections for sending notifications: the simulated replicas share them.
const SENDERS: usize = 16;
/// Uncounted time at the beginning.
const SETTLE: Duration = Duration::from_secs(2);
/// Maximum recorded latency, in microseconds.
const LONGEST_MICROS: u64 = 60_000_000;

/// A simulated replica, with regard to notifications.
#[derive(Default)]
struct Replica {
    /// The times of the pushes waiting here.
    pending: Mutex<Vec<u64>>,
    filled: Notify,
    heard: AtomicU64,
}

/// The shared state.
struct Cluster {
    replicas: Vec<Replica>,
    begun: Instant,
    is_counting: AtomicBool,
    sent: AtomicU64,
    latencies: Mutex<Histogram<u64>>,
}

/// The measurements at one size.
struct Point {
    rate: f64,
    cpu: f64,
    p50: f64,
    p99: f64,
}

pub async fn measure(at: &Surroundings, plan: &Plan, log: Log<'_>) -> Result<Measured, BaselineError> {
    let mut points = Vec::new();
    for &replicas in &plan.listeners {
        let point = measure_one(at, replicas, plan.length * 2).await?;
        let (rate, wait) = (number(point.rate), seconds(point.p50));
        log(&format!("listeners {replicas}: {rate} notifications/s, {:.2} cores of PostgreSQL, {wait}", point.cpu));
        points.push(point);
    }
    let line = |name: &str, unit, of: &dyn Fn(&Point, f64) -> f64, limit| {
        let values = points.iter().zip(&plan.listeners).map(|(point, &replicas)| of(point, replicas as f64));
        GrowthLine::new(name, unit, values.collect(), limit)
    };
    let cores_of_many =
        |(point, replicas): (&Point, &usize)| if *replicas == MANY_LISTENERS { point.cpu } else { f64::NAN };
    let allowed = |replicas: f64| (BUDGET / replicas).min(PUSHES);
    let growth = Growth {
        name: "listeners".to_owned(),
        size: "replicas".to_owned(),
        note: format!(
            "Simulated replicas in one process, each with a listening connection; {} pushes a second of all together, of \
             which nothing is stored; a budget of {} wakes of listeners a second; {} each. By the formula: the budget \
             divided by the replicas, and half the time between two notifications of one replica",
            number(PUSHES),
            number(BUDGET),
            seconds((plan.length * 2).as_secs_f64())
        ),
        sizes: plan.listeners.iter().map(|&replicas| replicas as f64).collect(),
        lines: vec![
            line("notifications", Unit::PerSecond, &|point, _| point.rate, Some(LISTENERS_RATE)),
            line("notifications, at most by the formula", Unit::PerSecond, &|_, replicas| allowed(replicas), None),
            line("cores of PostgreSQL", Unit::Number, &|point, _| point.cpu, Some(LISTENERS_CPU)),
            GrowthLine::absolute(
                format!("cores of PostgreSQL, of {MANY_LISTENERS} replicas"),
                Unit::Number,
                points.iter().zip(&plan.listeners).map(cores_of_many).collect(),
                LISTENERS_CORES,
            ),
            line(
                "PostgreSQL for each listener and notification",
                Unit::Seconds,
                &|point, replicas| point.cpu / point.rate / replicas,
                None,
            ),
            line("push to another replica p50", Unit::Seconds, &|point, _| point.p50, None),
            line("push to another replica p99", Unit::Seconds, &|point, _| point.p99, None),
            line(
                "mean wait by the formula",
                Unit::Seconds,
                &|_, replicas| if allowed(replicas) < PUSHES { replicas * replicas / BUDGET / 2.0 } else { 0.0 },
                None,
            ),
        ],
    };
    Ok(Measured { growth, generator_busy: None })
}

async fn measure_one(at: &Surroundings, replicas: usize, length: Duration) -> Result<Point, BaselineError> {
    let cluster = Arc::new(Cluster {
        replicas: (0..replicas).map(|_| Replica::default()).collect(),
        begun: Instant::now(),
        is_counting: AtomicBool::new(false),
        sent: AtomicU64::new(0),
        latencies: Mutex::new(histogram()?),
    });
    let mut tasks = JoinSet::new();
    for index in 0..replicas {
        listen(at, &cluster, index, &mut tasks).await?;
    }
    let mut senders = Vec::new();
    for _ in 0..SENDERS.min(replicas) {
        let client = at.connect("postgres").await?;
        client.batch_execute("set synchronous_commit = off").await.map_err(database("be set up"))?;
        let notify = client.prepare("select pg_notify($1, $2)").await.map_err(database("prepare NOTIFY"))?;
        senders.push(Arc::new((client, notify)));
    }
    for index in 0..replicas {
        tasks.spawn(publish(cluster.clone(), index, senders[index % senders.len()].clone()));
    }
    tasks.spawn(push(cluster.clone()));
    sleep(SETTLE).await;
    let pid: i32 = {
        let row = senders[0].0.query_one("select pg_backend_pid()", &[]).await.map_err(database("say its pid"))?;
        row.get(0)
    };
    let cpu = || server_cpu(pid).map_err(|_| BaselineError::Nothing { what: "PostgreSQL is not local".to_owned() });
    let (begun, cpu_before, sent_before) = (Instant::now(), cpu()?, cluster.sent.load(Ordering::Relaxed));
    cluster.is_counting.store(true, Ordering::Relaxed);
    sleep(length).await;
    let took = begun.elapsed().as_secs_f64();
    let used = (cpu()? - cpu_before).as_secs_f64() / took;
    let rate = (cluster.sent.load(Ordering::Relaxed) - sent_before) as f64 / took;
    let ended = tasks.try_join_next().is_some();
    tasks.shutdown().await;
    let latencies = cluster.latencies.lock().unwrap_or_else(PoisonError::into_inner);
    if ended || latencies.is_empty() {
        return Err(BaselineError::Nothing { what: "a simulated replica lost its connection".to_owned() });
    }
    let quantile = |q| latencies.value_at_quantile(q) as f64 / 1e6;
    Ok(Point { rate, cpu: used, p50: quantile(0.5), p99: quantile(0.99) })
}

fn histogram() -> Result<Histogram<u64>, BaselineError> {
    let made = Histogram::new_with_max(LONGEST_MICROS, 3);
    made.map_err(|error| BaselineError::Nothing { what: format!("latencies cannot be recorded: {error}") })
}

fn database(action: &'static str) -> impl Fn(tokio_postgres::Error) -> BaselineError {
    move |source| BaselineError::Database { action, source }
}

/// Listens for one replica: it receives everything, and examines what its neighbour sends.
async fn listen(
    at: &Surroundings,
    cluster: &Arc<Cluster>,
    index: usize,
    tasks: &mut JoinSet<()>,
) -> Result<(), BaselineError> {
    let url = at.url_of("postgres");
    let (client, mut connection) = tokio_postgres::connect(&url, NoTls).await.map_err(database("be reached"))?;
    let (cluster, replicas) = (cluster.clone(), cluster.replicas.len());
    tasks.spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            let AsyncMessage::Notification(notification) = message else { continue };
            cluster.replicas[index].heard.fetch_add(1, Ordering::Relaxed);
            let Some((sender, pushes)) = notification.payload().split_once(' ') else { continue };
            if sender.parse().is_ok_and(|sender: usize| (sender + 1) % replicas == index) {
                cluster.arrived(pushes);
            }
        }
    });
    // The task above drives it; it lives as long as that task.
    client.batch_execute(&format!("listen {CHANNEL}")).await.map_err(database("listen"))?;
    tasks.spawn(async move {
        let _client = client;
        std::future::pending::<()>().await;
    });
    Ok(())
}

impl Cluster {
    fn now(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    /// Records the latency of pushes that were made at these times.
    fn arrived(&self, pushes: &str) {
        if !self.is_counting.load(Ordering::Relaxed) {
            return;
        }
        let now = self.now();
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        for pushed in pushes.split(',').filter_map(|pushed| pushed.parse::<u64>().ok()) {
            latencies.saturating_record(now.saturating_sub(pushed));
        }
    }
}

/// Pushes, at fixed times, to one replica after the other.
async fn push(cluster: Arc<Cluster>) {
    let mut ticks = interval(Duration::from_secs_f64(1.0 / PUSHES));
    for number in 0.. {
        // A late push counts from the time it was due.
        let due = ticks.tick().await.into_std();
        let replica = &cluster.replicas[number % cluster.replicas.len()];
        let pushed = due.saturating_duration_since(cluster.begun).as_micros() as u64;
        replica.pending.lock().unwrap_or_else(PoisonError::into_inner).push(pushed);
        replica.filled.notify_one();
    }
}

/// Publishes for one replica.
async fn publish(cluster: Arc<Cluster>, index: usize, sender: Arc<(Client, Statement)>) {
    let (replica, replicas) = (&cluster.replicas[index], cluster.replicas.len() as f64);
    let mut last: Option<(tokio::time::Instant, u64)> = None;
    loop {
        replica.filled.notified().await;
        while let Some((begun, heard)) = last {
            let between = replica.heard.load(Ordering::Relaxed).saturating_sub(heard).max(1) as f64;
            let next = begun + Duration::from_secs_f64(between * replicas / BUDGET);
            if next <= tokio::time::Instant::now() {
                break;
            }
            sleep_until(next).await;
        }
        let pushes = std::mem::take(&mut *replica.pending.lock().unwrap_or_else(PoisonError::into_inner));
        if pushes.is_empty() {
            continue;
        }
        let list: Vec<String> = pushes.iter().map(u64::to_string).collect();
        last = Some((tokio::time::Instant::now(), replica.heard.load(Ordering::Relaxed)));
        let (client, notify) = &*sender;
        if client.execute(notify, &[&CHANNEL, &format!("{index} {}", list.join(","))]).await.is_err() {
            return;
        }
        cluster.sent.fetch_add(1, Ordering::Relaxed);
    }
}
