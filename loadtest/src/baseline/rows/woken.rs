//! From the answer to a push to the wake-up through another replica, while three replicas store 1,000 pushes a second:
//! as long as the machine has capacity, nothing should wait.

use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};

use super::Row;
use super::wakeup::{LATE, Times, one};
use crate::baseline::{BaselineError, Plan};
use crate::engine::device::Identity;
use crate::engine::push_body::Shape;
use crate::engine::usage::ThreadMeter;
use crate::engine::{Client, Endpoint, LeanDevice, Socket};
use crate::local::{Surroundings, stop_all};
use crate::report::model::{Limit, Measurement, Ratio, Unit};

const DATABASE: &str = "bench_woken";
const REPLICAS: usize = 3;
/// Number of users, each of whom pushes to one replica and listens on the next, and the period of each.
const USERS: usize = 100;
const PERIOD: Duration = Duration::from_millis(100);
/// Uncounted time at the beginning.
const WARM_UP: Duration = Duration::from_secs(2);
/// Limits in seconds: for half of the wake-ups, and for all but one in a hundred.
const GOALS: [(f64, f64, &str); 2] = [(0.5, 600e-6, "p50"), (0.99, 5e-3, "p99")];

/// Measures both at once.
pub async fn measure(at: &Surroundings, plan: &Plan) -> Result<Vec<Row>, BaselineError> {
    at.fresh_database(DATABASE).await?;
    let replicas = at.replicas(REPLICAS, DATABASE, &[]).await?;
    let bases: Vec<String> = replicas.iter().map(|replica| replica.base().to_owned()).collect();
    let identities: Vec<Identity> = (0..USERS).map(|n| identity(at, n)).collect::<Result<_, _>>()?;
    let length = plan.length * 2;
    let alone = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(crate::engine::closed::LoadError::Thread)?;
        let meter = ThreadMeter::default();
        let waits = runtime.block_on(all(&bases, identities, length))?;
        Ok::<_, BaselineError>((waits, meter.share()))
    };
    let (mut waits, busy) =
        tokio::task::spawn_blocking(alone).await.map_err(|_| crate::engine::closed::LoadError::Panicked)??;
    stop_all(replicas).await?;
    waits.sort_unstable_by(f64::total_cmp);
    let rate = waits.len() as f64 / length.as_secs_f64();
    let row = |(share, goal, name): (f64, f64, &str)| {
        let index = ((waits.len() - 1) as f64 * share) as usize;
        let wait = waits.get(index).copied().unwrap_or(f64::NAN);
        let ratio = Ratio::new(
            format!("answer → wake-up, 1,000 pushes/s, {name}"),
            Measurement::new("on another of three replicas", Unit::Seconds, wait),
            Measurement::new("the goal itself", Unit::Seconds, goal),
            Some(Limit::AtMost(1.0)),
        );
        Row { ratio, note: format!("{rate:.0} pushes a second"), generator_busy: busy }
    };
    Ok(GOALS.into_iter().map(row).collect())
}

fn identity(at: &Surroundings, number: usize) -> Result<Identity, BaselineError> {
    let user = format!("bench-woken-{number}");
    let token = at.mint.token(&user, Duration::from_secs(3600))?;
    Ok(Identity { user, app: "bench".to_owned(), client: "writer".to_owned(), token })
}

/// Returns the delays between answers and wake-ups in seconds; at least 0, as some wake-ups come first.
async fn all(bases: &[String], identities: Vec<Identity>, length: Duration) -> Result<Vec<f64>, BaselineError> {
    let endpoints = Endpoint::resolve_all(bases).await?;
    let (from, mut running) = (Instant::now() + WARM_UP, JoinSet::new());
    for (n, identity) in identities.into_iter().enumerate() {
        let (near, far) = (endpoints[n % REPLICAS].clone(), endpoints[(n + 1) % REPLICAS].clone());
        let offset = PERIOD * n as u32 / USERS as u32;
        running.spawn(user(identity, near, far, offset, from, length));
    }
    let mut waits = Vec::new();
    while let Some(ended) = running.join_next().await {
        waits.extend(ended.map_err(|_| crate::engine::closed::LoadError::Panicked)??);
    }
    Ok(waits)
}

async fn user(
    identity: Identity,
    near: Endpoint,
    far: Endpoint,
    offset: Duration,
    from: Instant,
    length: Duration,
) -> Result<Vec<f64>, BaselineError> {
    let mut socket = Socket::open(&far, &identity.token, Some("listener"), None).await?;
    let mut device = LeanDevice::new(&identity, "packages", 1, Shape::Fields)?;
    let (mut client, mut rng) = (Client::new([near].into(), LATE), StdRng::seed_from_u64(1));
    let mut ticks = interval_at(tokio::time::Instant::now() + offset, PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut waits = Vec::new();
    while from.elapsed() < length {
        ticks.tick().await;
        let counts = Instant::now() >= from;
        let mut times = Times::default();
        one(&mut device, &mut client, &mut rng, &mut socket, &mut times).await?;
        if counts {
            waits.extend(times.answered_to_woken.into_iter().map(|wait| wait.max(0.0)));
        }
    }
    Ok(waits)
}
