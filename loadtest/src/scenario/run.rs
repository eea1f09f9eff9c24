//! A run of a scenario, from start to verdict.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Semaphore, mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use super::arrivals::{Times, release};
use super::file::{Event, PhasePlan, Scenario};
use super::history::{HistoryError, push_history};
use super::listeners::{Account, Listener, Order, Surroundings};
use super::population::{Population, PopulationError, Tokens};
use super::rollout::{Rollout, RolloutError};
use super::thresholds::judge;
use super::verify::{verify_listeners, verify_users};
use super::worker::{Shared, Worker};
use crate::engine::{Client, Endpoint, EndpointError};
use crate::report::model::{Build, Check, Machine, SCHEMA_VERSION, Settings};
use crate::report::{Live, Recorder, Report, Scraper, Timeline};
use crate::transport::{TransportError, http_client};

/// The time that G4 allows for waking everyone.
const SETTLE: Duration = Duration::from_secs(5);
/// Maximum time for first opening all connections.
const OPENED_WITHIN: Duration = Duration::from_secs(180);
/// Connections opened at once.
const OPENING: usize = 128;

/// The scenario to run, and its targets.
pub struct RunOptions {
    /// The scenario.
    pub scenario: Scenario,
    /// Base URLs; each request goes to a random one.
    pub targets: Vec<String>,
    /// The source of the users' tokens.
    pub tokens: Tokens,
    /// How replicas are replaced, if the scenario does that.
    pub rollout: Rollout,
    /// Shows the progress on stderr.
    pub live: bool,
}

/// The reasons why a run could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A target cannot be used.
    #[error("a target cannot be used")]
    Endpoint(#[from] EndpointError),
    /// There are no users.
    #[error("there are no users")]
    Population(#[from] PopulationError),
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be created")]
    Http(#[from] TransportError),
    /// The users' history could not be pushed.
    #[error("the users' history could not be pushed")]
    History(#[from] HistoryError),
    /// Not all connections were open in this time.
    #[error("not all connections were open within {0:?}")]
    Opening(Duration),
    /// A thread of the generator could not be started.
    #[error("a thread of the generator could not be started")]
    Thread(#[source] std::io::Error),
    /// A task of the generator ended unexpectedly.
    #[error("a task of the generator ended unexpectedly")]
    Task(#[from] JoinError),
    /// The replicas could not be replaced.
    #[error("the replicas could not be replaced")]
    Rollout(#[from] RolloutError),
}

/// Runs a scenario. Its findings are in the report, including checks and thresholds.
pub async fn run(options: RunOptions) -> Result<Report, RunError> {
    let RunOptions { scenario, targets, tokens, rollout, live } = options;
    let endpoints = Endpoint::resolve_all(&targets).await?;
    let population = Arc::new(Population::new(&tokens, scenario.users.count, scenario.users.devices)?);
    let recorder = Recorder::new(scenario.operations());
    push_history(&population, &endpoints, scenario.users.history).await?;

    let http = http_client()?;
    let scraper = Scraper::new(http.clone(), targets.iter().cloned());
    let live = if live { Live::on_stderr() } else { Live::silent() };
    let timeline = Timeline::start(recorder.clone(), scraper, live);
    let (orders, order) = watch::channel(Order::default());
    let opening = Arc::new(Semaphore::new(OPENING));
    let around = Arc::new(Surroundings {
        population: population.clone(),
        recorder: recorder.clone(),
        endpoints: endpoints.clone(),
        orders: order,
        opening,
    });
    timeline.phase("connect", false);
    let listeners = open_listeners(&around, &scenario).await?;

    let timeout = Duration::from_secs_f64(scenario.generator.patience_seconds);
    let shared = Arc::new(Shared { population: population.clone(), recorder, mix: scenario.mix.clone(), timeout });
    let seed = scenario.generator.seed;
    let worker = |number| Worker::new(&shared, Client::new(endpoints.clone(), timeout), seed + number);
    let mut workers: Vec<Worker> = (0..scenario.generator.in_flight as u64).map(worker).collect();
    for (place, phase) in scenario.phases.iter().enumerate() {
        timeline.phase(&phase.name, phase.measured);
        workers = one_phase(phase, seed + place as u64, workers, &orders, &rollout).await?;
    }
    drop(workers);
    timeline.phase("settle", false);
    orders.send_modify(|order| order.until = Some(Instant::now() + SETTLE));
    let accounts = listeners.join_all().await;
    let mut report = timeline.finish().await?;
    report.checks = verify_listeners(&accounts);
    report.checks.extend(verify_users(&population, &targets, scenario.users.verified, &http).await);
    complete(&mut report, &scenario, targets);
    Ok(report)
}

/// Fills in what only the run knows.
fn complete(report: &mut Report, scenario: &Scenario, targets: Vec<String>) {
    report.schema_version = SCHEMA_VERSION;
    report.name.clone_from(&scenario.name);
    report.description.clone_from(&scenario.description);
    report.tool = Build {
        name: "mana-load".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
    };
    report.machine = Machine::here();
    report.settings = Settings { targets, scenario: serde_json::to_value(scenario).unwrap_or_default() };
    report.thresholds = judge(&scenario.thresholds, report);
    let done: u64 = report.operations.iter().map(|operation| operation.counts.done).sum();
    // A run that did nothing finds nothing wrong.
    let detail = format!("{done} requests and deliveries in the measured phases");
    report.checks.push(Check { name: "something was measured".to_owned(), passed: done > 0, detail });
}

/// Opens all connections and waits until each has been open once.
async fn open_listeners(around: &Arc<Surroundings>, scenario: &Scenario) -> Result<JoinSet<Account>, RunError> {
    let mut listeners = JoinSet::new();
    let (opened, mut all_opened) = mpsc::channel(1);
    let connections = &scenario.connections;
    for number in 0..connections.websockets + connections.streams {
        let Some(listener) = Listener::new(around, number) else { continue };
        let opened = opened.clone();
        match number < connections.websockets {
            true => listeners.spawn(listener.hold_socket(opened)),
            false => listeners.spawn(listener.hold_stream(opened)),
        };
    }
    drop(opened);
    let waiting = tokio::time::timeout(OPENED_WITHIN, all_opened.recv()).await;
    waiting.map_err(|_| RunError::Opening(OPENED_WITHIN))?;
    Ok(listeners)
}

/// Runs a phase until its time is over and all its requests are answered or given up.
async fn one_phase(
    phase: &PhasePlan,
    seed: u64,
    workers: Vec<Worker>,
    orders: &watch::Sender<Order>,
    rollout: &Rollout,
) -> Result<Vec<Worker>, RunError> {
    let begun = Instant::now();
    let (sender, receiver) = mpsc::unbounded_channel();
    let arriving = Arc::new(Mutex::new(receiver));
    release(Times::new(phase, seed), begun, sender).map_err(RunError::Thread)?;
    if phase.event == Event::DropConnections {
        orders.send_modify(|order| order.generation += 1);
    }
    let mut running = JoinSet::new();
    for worker in workers {
        running.spawn(worker.run(arriving.clone(), phase.event));
    }
    let replacing = async {
        match phase.event {
            Event::Rollout => rollout.run().await,
            _ => Ok(()),
        }
    };
    let (workers, replaced, ()) =
        tokio::join!(running.join_all(), replacing, tokio::time::sleep(Duration::from_secs_f64(phase.seconds)),);
    replaced?;
    Ok(workers)
}
