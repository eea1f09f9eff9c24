//! Pushes per second over HTTP, compared with pgbench running the minimal statement on the same PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::Row;
use crate::baseline::pgbench::Pgbench;
use crate::baseline::{BaselineError, Plan, median};
use crate::engine::closed::{Measured, Work, closed_loop};
use crate::engine::device::Identity;
use crate::engine::push_body::Shape;
use crate::engine::{Client, Endpoint, Failure, LeanDevice};
use crate::local::Surroundings;
use crate::report::model::{Limit, Measurement, Ratio, Unit};

/// The connections of a replica with many clients.
pub const MANY: usize = 256;
pub const WARM_UP: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);
const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// Pushes from random devices, one push at a time.
pub struct Pusher {
    client: Client,
    rng: StdRng,
    devices: Vec<LeanDevice>,
}

impl Pusher {
    /// Pushes one change of each user, and sends each target one request of each: the queries that a replica makes once
    /// per user are not part of a push.
    pub async fn introduce(&mut self, targets: &[Endpoint]) -> Result<(), Failure> {
        for device in &mut self.devices {
            device.push(&mut self.client, &mut self.rng).await?;
        }
        for target in targets {
            let mut client = Client::new([target.clone()].into(), TIMEOUT);
            for device in &mut self.devices {
                device.delta(&mut client, &mut self.rng).await?;
            }
        }
        Ok(())
    }
}

impl Work for Pusher {
    async fn once(&mut self) -> Result<(), Failure> {
        let device = self.rng.random_range(0..self.devices.len());
        self.devices[device].push(&mut self.client, &mut self.rng).await.map(|_| ())
    }
}

/// Returns one pusher per connection; the users are divided among them, so that pushes of one user never overlap.
pub fn pushers(
    at: &Surroundings,
    plan: &Plan,
    endpoints: &Arc<[Endpoint]>,
    changes: usize,
) -> Result<Vec<Pusher>, BaselineError> {
    let each = (plan.users / plan.connections).max(1);
    let pusher = |connection: usize| {
        let device = |index: usize| {
            let user = format!("bench-user-{}", connection * each + index);
            let token = at.mint.token(&user, TOKEN_TTL)?;
            let client = format!("device-{connection:04}-{index:04}");
            let identity = Identity { user, app: "bench".to_owned(), client, token };
            Ok(LeanDevice::new(&identity, "packages", changes, Shape::Fields)?)
        };
        Ok(Pusher {
            client: Client::new(endpoints.clone(), TIMEOUT),
            rng: StdRng::seed_from_u64(connection as u64),
            devices: (0..each).map(device).collect::<Result<_, BaselineError>>()?,
        })
    };
    (0..plan.connections).map(pusher).collect()
}

/// Measures both sides alternately.
pub async fn measure(at: &Surroundings, plan: &Plan, changes: usize) -> Result<Row, BaselineError> {
    let (server, bare) = ("bench_pushes", "bench_pgbench");
    at.fresh_database(server).await?;
    at.fresh_database(bare).await?;
    let replica = at.replica("replica", server, &[]).await?;
    let endpoints = Endpoint::resolve_all(&[replica.base().to_owned()]).await?;
    let mut workers = pushers(at, plan, &endpoints, changes)?;
    let url = at.url_of(bare);
    let pgbench = Pgbench { pg_bin: &at.pg_bin, database_url: &url, clients: plan.connections, folder: &at.folder };
    let each = (plan.users / plan.connections).max(1);
    let (mut ours, mut theirs, mut rounds, mut busy) = (Vec::new(), Vec::new(), Vec::new(), 0.0_f64);
    for _ in 0..plan.rounds {
        let limit = pgbench.pushes(changes, each, plan.length).await?;
        let cpu = replica.cpu();
        let (measured, back) = closed_loop(workers, 1, WARM_UP, plan.length).await?;
        workers = back;
        refuse_failures(&measured)?;
        let cpu = replica.cpu().zip(cpu).map_or(0.0, |(after, before)| (after - before).as_secs_f64());
        let cpu_each = cpu / (WARM_UP + plan.length).as_secs_f64() / measured.per_second() * 1e6;
        rounds.push(format!("{:.0} of {limit:.0} ({cpu_each:.0} µs of the replica's CPU each)", measured.per_second()));
        busy = busy.max(measured.busiest);
        ours.push(measured.per_second());
        theirs.push(limit);
    }
    replica.stop().await?;
    let many = if changes == 1 { "1 change".to_owned() } else { format!("{changes} changes") };
    let connections = if plan.connections == MANY { format!(", {MANY} connections") } else { String::new() };
    let ratio = Ratio::new(
        format!("pushes of {many}{connections}"),
        Measurement::new("over HTTP, one replica", Unit::PerSecond, median(ours)),
        Measurement::new("pgbench, the same statement", Unit::PerSecond, median(theirs)),
        // A batch is one statement for many pushes, which pgbench lacks; with ten changes the statement itself
        // dominates.
        Some(Limit::AtLeast(if changes == 1 { 1.0 } else { 0.9 })),
    );
    Ok(Row { ratio, note: rounds.join("; "), generator_busy: busy })
}

/// Fails if there were errors: a rate with errors is meaningless.
pub fn refuse_failures(measured: &Measured) -> Result<(), BaselineError> {
    match measured.failed() {
        0 if measured.done > 0 => Ok(()),
        failed => Err(BaselineError::Nothing {
            what: format!("{failed} requests failed, {} succeeded: {:?}", measured.done, measured.errors),
        }),
    }
}
