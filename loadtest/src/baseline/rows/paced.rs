//! PostgreSQL's cost of announcing a push to other replicas at a low rate: its processor time per push, at 200 pushes a
//! second on three replicas, with and without publishing.
//!
//! The idle cost of both sets of replicas is measured first, and not counted.

use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, interval_at};
use tokio_postgres::Client;

use super::Row;
use super::fanout::{REPLICAS, SILENT, start};
use super::pushes::{Pusher, refuse_failures};
use crate::baseline::{BaselineError, Plan};
use crate::engine::Failure;
use crate::engine::closed::{Work, closed_loop};
use crate::local::server_cpu::server_cpu;
use crate::local::{Replica, Surroundings, stop_all};
use crate::report::LatencyHistogram;
use crate::report::model::{Limit, Measurement, Ratio, Unit};
use crate::report::units::seconds;

/// Connections, and the period of pushes on each: 200 a second in all.
pub const CONNECTIONS: usize = 20;
const PERIOD: Duration = Duration::from_millis(100);

/// Pushes at a fixed rate.
pub struct Paced {
    pusher: Pusher,
    /// Delay before its first push.
    offset: Duration,
    ticks: Option<Interval>,
    /// The latency of its pushes.
    pub latency: LatencyHistogram,
}

impl Paced {
    /// Lets each push once per period, one after the other.
    pub fn spread(pushers: Vec<Pusher>) -> Vec<Self> {
        let share = PERIOD / pushers.len().max(1) as u32;
        let paced = |(pusher, n)| Self { pusher, offset: share * n, ticks: None, latency: LatencyHistogram::default() };
        pushers.into_iter().zip(0..).map(paced).collect()
    }

    /// Forgets when it pushed last, and how long that took.
    pub fn reset(&mut self) {
        self.ticks = None;
        self.latency.clear();
    }
}

impl Work for Paced {
    async fn once(&mut self) -> Result<(), Failure> {
        let ticks = self.ticks.get_or_insert_with(|| {
            let mut ticks = interval_at(tokio::time::Instant::now() + self.offset, PERIOD);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        ticks.tick().await;
        let begun = Instant::now();
        self.pusher.once().await?;
        self.latency.record(begun.elapsed());
        Ok(())
    }
}

struct Side {
    replicas: Vec<Replica>,
    workers: Vec<Paced>,
    pushed: u64,
    cpu: Duration,
    seconds: f64,
}

impl Side {
    async fn start(
        at: &Surroundings,
        plan: &Plan,
        database: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self, BaselineError> {
        let plan = Plan { connections: CONNECTIONS, ..plan.clone() };
        let (replicas, pushers) = start(at, &plan, database, settings).await?;
        let workers = Paced::spread(pushers);
        Ok(Self { replicas, workers, pushed: 0, cpu: Duration::ZERO, seconds: 0.0 })
    }

    /// Pushes for a turn.
    async fn push(&mut self, length: Duration, server: &Server, busy: &mut f64) -> Result<(), BaselineError> {
        let mut workers = std::mem::take(&mut self.workers);
        workers.iter_mut().for_each(|worker| worker.ticks = None);
        let before = server.cpu()?;
        let (measured, back) = closed_loop(workers, 1, Duration::ZERO, length).await?;
        self.cpu += server.cpu()? - before;
        self.workers = back;
        refuse_failures(&measured)?;
        self.pushed += measured.done;
        self.seconds += measured.elapsed.as_secs_f64();
        *busy = busy.max(measured.busiest);
        Ok(())
    }

    /// Returns PostgreSQL's processor time per push in seconds, given what it uses per second when idle.
    fn cpu_each(&self, idle: f64) -> f64 {
        (self.cpu.as_secs_f64() - idle * self.seconds) / self.pushed as f64
    }
}

/// The local PostgreSQL.
struct Server {
    /// The backend of this connection.
    backend: i32,
    _connection: Client,
}

impl Server {
    async fn find(at: &Surroundings) -> Result<Self, BaselineError> {
        let connection = at.connect("postgres").await?;
        let row = connection.query_one("select pg_backend_pid()", &[]).await;
        let row = row.map_err(|source| BaselineError::Database { action: "report its pid", source })?;
        Ok(Self { backend: row.get(0), _connection: connection })
    }

    fn cpu(&self) -> Result<Duration, BaselineError> {
        server_cpu(self.backend).map_err(|_| BaselineError::Nothing { what: "PostgreSQL is not local".to_owned() })
    }
}

/// Measures both sides alternately, each going first equally often.
pub async fn measure(at: &Surroundings, plan: &Plan) -> Result<Row, BaselineError> {
    let mut on = Side::start(at, plan, "bench_told", &[]).await?;
    let mut off = Side::start(at, plan, "bench_untold", &SILENT).await?;
    let (server, mut busy) = (Server::find(at).await?, 0.0_f64);
    for side in [&mut on, &mut off] {
        side.push(plan.length / 2, &server, &mut busy).await?;
        (side.pushed, side.cpu, side.seconds) = (0, Duration::ZERO, 0.0);
        side.workers.iter_mut().for_each(|worker| worker.latency.clear());
    }
    let before = server.cpu()?;
    tokio::time::sleep(plan.length).await;
    let idle = (server.cpu()? - before).as_secs_f64() / plan.length.as_secs_f64();
    for round in 0..plan.rounds * 2 {
        let (first, second) = if round % 2 == 0 { (&mut off, &mut on) } else { (&mut on, &mut off) };
        first.push(plan.length, &server, &mut busy).await?;
        second.push(plan.length, &server, &mut busy).await?;
    }
    let latency = |side: &Side| {
        let mut all = LatencyHistogram::default();
        side.workers.iter().for_each(|worker| all.merge(&worker.latency));
        let at = |share| seconds(all.quantile_seconds(share).unwrap_or(f64::NAN));
        format!("{:.0} a second, p50 {}, p99 {}", side.pushed as f64 / side.seconds, at(0.5), at(0.99))
    };
    let note = format!(
        "{REPLICAS} replicas; published: {}; not published: {}; without any push PostgreSQL uses {:.1} % of a processor",
        latency(&on),
        latency(&off),
        idle * 100.0
    );
    let ratio = Ratio::new(
        "PostgreSQL's CPU for a push, 200 a second",
        Measurement::new("published to all", Unit::Seconds, on.cpu_each(idle)),
        Measurement::new("published to nobody", Unit::Seconds, off.cpu_each(idle)),
        Some(Limit::AtMost(1.1)),
    );
    stop_all(on.replicas).await?;
    stop_all(off.replicas).await?;
    Ok(Row { ratio, note, generator_busy: busy })
}
