//! Pushes of everybody else, at a low rate on three replicas, while another session holds the head of one log to which
//! devices push, and while one user keeps twenty pushes of 5 MB running; compared with neither.
//!
//! The row is about the replica where it made the most difference.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::Row;
use super::fanout::REPLICAS;
use super::paced::{CONNECTIONS, Paced};
use super::pushes::{pushers, refuse_failures};
use crate::baseline::{BaselineError, Plan};
use crate::engine::closed::{LoadError, closed_loop};
use crate::engine::device::Identity;
use crate::engine::push_body::Shape;
use crate::engine::{Client, Endpoint, Failure, LeanDevice};
use crate::local::{Surroundings, stop_all};
use crate::report::LatencyHistogram;
use crate::report::model::{Limit, Measurement, Ratio, Unit};
use crate::report::units::seconds;

const DATABASE: &str = "bench_beside";
/// How long a head stays locked.
const HELD: Duration = Duration::from_secs(10);
/// Connections that push to the locked log, and changes in each push.
const WAITING: (usize, usize) = (10, 1);
/// Connections that push much, and changes in each push: 5 MB, with the long name of their table.
const LARGE: (usize, usize) = (20, 20_000);
const LONG_NAME: usize = 96;
/// Longer than a replica lets a push wait.
const TIMEOUT: Duration = Duration::from_secs(60);
const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// What somebody else does meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Neighbour {
    None,
    Locked,
    Large,
}

/// The latencies of everybody else, by replica.
#[derive(Default)]
struct Seen([LatencyHistogram; REPLICAS]);

/// Measures each in turn, several times.
pub async fn measure(at: &Surroundings, plan: &Plan) -> Result<Vec<Row>, BaselineError> {
    at.fresh_database(DATABASE).await?;
    let replicas = at.replicas(REPLICAS, DATABASE, &[]).await?;
    let bases: Vec<String> = replicas.iter().map(|replica| replica.base().to_owned()).collect();
    let endpoints = Endpoint::resolve_all(&bases).await?;
    let plan = Plan { connections: CONNECTIONS, ..plan.clone() };
    // Each connection stays with one replica.
    let (mut connections, mut replica_of) = (Vec::new(), Vec::new());
    for (replica, endpoint) in endpoints.iter().enumerate() {
        let pushers = pushers(at, &plan, &[endpoint.clone()].into(), 1)?.into_iter().enumerate();
        let here = pushers.filter(|(n, _)| n % REPLICAS == replica).map(|(_, pusher)| pusher);
        connections.extend(here);
        replica_of.resize(connections.len(), replica);
    }
    let mut workers = Paced::spread(connections);
    let (mut rows, mut busy) = (Vec::new(), 0.0_f64);
    // One after the other: checkpoints after large pushes would slow down what follows.
    for what in [Neighbour::Locked, Neighbour::Large] {
        let (mut quiet, mut beside) = (Seen::default(), Seen::default());
        for round in 0..=plan.rounds {
            for (what, seen) in [(Neighbour::None, &mut quiet), (what, &mut beside)] {
                workers.iter_mut().for_each(Paced::reset);
                let neighbour = neighbour(at, what, &endpoints).await?;
                let (measured, back) = closed_loop(workers, 1, Duration::ZERO, HELD).await?;
                neighbour.end().await?;
                workers = back;
                refuse_failures(&measured)?;
                busy = busy.max(measured.busiest);
                // In the first round statements are planned.
                if round > 0 {
                    workers.iter().zip(&replica_of).for_each(|(worker, at)| seen.0[*at].merge(&worker.latency));
                }
            }
        }
        rows.push(row(what, &beside, &quiet, busy));
    }
    stop_all(replicas).await?;
    Ok(rows)
}

fn row(what: Neighbour, seen: &Seen, quiet: &Seen, generator_busy: f64) -> Row {
    let p99 = |seen: &LatencyHistogram| seen.quantile_seconds(0.99).unwrap_or(f64::NAN);
    let each: Vec<(f64, f64)> = seen.0.iter().zip(&quiet.0).map(|(seen, quiet)| (p99(seen), p99(quiet))).collect();
    let worst = each.iter().copied().max_by(|(a, b), (c, d)| (a / b).total_cmp(&(c / d))).unwrap_or_default();
    let shown = each.iter().map(|(seen, quiet)| format!("{} of {}", seconds(*seen), seconds(*quiet)));
    let (name, meanwhile) = match what {
        Neighbour::Locked => ("p99 of others while a head is locked", "another session holds a log's head"),
        _ => ("p99 of others beside pushes of 5 MB", "one user keeps 20 of them running"),
    };
    let ratio = Ratio::new(
        name,
        Measurement::new(meanwhile, Unit::Seconds, worst.0),
        Measurement::new("alone", Unit::Seconds, worst.1),
        Some(Limit::AtMost(1.5)),
    );
    Row { ratio, note: format!("by replica: {}", shown.collect::<Vec<_>>().join(", ")), generator_busy }
}

/// What runs meanwhile.
struct Running {
    devices: JoinSet<Result<(), Failure>>,
    /// Set when no further pushes are wanted.
    is_over: Arc<AtomicBool>,
    session: Option<tokio_postgres::Client>,
}

impl Running {
    /// Waits for the last pushes.
    async fn end(mut self) -> Result<(), BaselineError> {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(session) = &self.session {
            let release = session.batch_execute("rollback").await;
            release.map_err(|source| BaselineError::Database { action: "release a head", source })?;
        }
        while let Some(ended) = self.devices.join_next().await {
            ended.map_err(|_| LoadError::Panicked)??;
        }
        Ok(())
    }
}

async fn neighbour(at: &Surroundings, what: Neighbour, endpoints: &[Endpoint]) -> Result<Running, BaselineError> {
    let (connections, changes) = match what {
        Neighbour::None => (0, 0),
        Neighbour::Locked => WAITING,
        Neighbour::Large => LARGE,
    };
    let mut devices = JoinSet::new();
    let (user, table) = (format!("bench-neighbour-{what:?}"), "t".repeat(LONG_NAME));
    let device = |n: usize, changes: usize| {
        let (user, app, client) = (user.clone(), "bench".to_owned(), format!("neighbour-{n}"));
        let token = at.mint.token(&user, TOKEN_TTL)?;
        LeanDevice::new(&Identity { user, app, client, token }, &table, changes, Shape::Fields)
            .map_err(BaselineError::from)
    };
    let client = |n: usize| Client::new([endpoints[n % endpoints.len()].clone()].into(), TIMEOUT);
    let (mut session, is_over) = (None, Arc::new(AtomicBool::new(false)));
    if what == Neighbour::Locked {
        device(connections, 1)?.push(&mut client(0), &mut StdRng::seed_from_u64(0)).await?;
        let holding = at.connect(DATABASE).await?;
        let hold = format!("begin; select 1 from sync_heads where user_id = '{user}' for update");
        let held = holding.batch_execute(&hold).await;
        held.map_err(|source| BaselineError::Database { action: "lock a head", source })?;
        session = Some(holding);
    }
    for n in 0..connections {
        let (mut device, mut client, mut rng) = (device(n, changes)?, client(n), StdRng::seed_from_u64(n as u64));
        let is_over = is_over.clone();
        devices.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                match device.push(&mut client, &mut rng).await {
                    Ok(_) => {}
                    // It waited for too long, which is the point.
                    Err(failure) if failure.is_passing() => tokio::time::sleep(Duration::from_millis(100)).await,
                    Err(failure) => return Err(failure),
                }
            }
            Ok(())
        });
    }
    Ok(Running { devices, is_over, session })
}
