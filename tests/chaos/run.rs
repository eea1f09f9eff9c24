//! One run: everybody works, the plan's faults happen, all is well again, and then it is checked that it was.

use crate::schedule::Plan;
use crate::workload::Workload;
use crate::world::{REPLICAS, World};
use crate::{checks, epilogue, readers, writers};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// A run that takes longer has got stuck somewhere.
const LIMIT: Duration = Duration::from_secs(150);

/// What came of a run.
#[derive(Debug, Default)]
pub struct Report {
    pub violations: Vec<String>,
    /// Changes stored, of all users.
    pub stored: usize,
    /// How long it took, after the end of the last fault and again after the last push, until the last of those who
    /// are told had everything.
    pub slowest: Duration,
}

/// Runs a plan, and says what was not as it should be.
pub async fn run(plan: &Plan) -> Report {
    let world = Arc::new(World::start(&plan.settings).await);
    run_in(world, plan).await
}

/// The same in a world that is there already.
pub async fn run_in(world: Arc<World>, plan: &Plan) -> Report {
    let workload = Arc::new(Workload::new(&world, plan.seed, plan.users));
    let running = timeout(LIMIT, play(&world, &workload, plan)).await;
    let mut report = running.unwrap_or_else(|_| {
        workload.violated(format!("the run had not ended after {LIMIT:?}, but was {}", workload.stage()));
        Report::default()
    });
    report.violations = workload.violations();
    if !report.violations.is_empty() {
        keep_logs(&world, plan.seed).await;
    }
    report
}

/// The replicas' logs, for whoever looks for the reason.
async fn keep_logs(world: &World, seed: u64) {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}"));
    std::fs::create_dir_all(&folder).unwrap();
    for replica in 0..REPLICAS {
        std::fs::write(folder.join(format!("replica-{replica}.log")), world.log(replica).await).unwrap();
    }
    println!("  the logs are in {}", folder.display());
}

async fn play(world: &Arc<World>, workload: &Arc<Workload>, plan: &Plan) -> Report {
    let (mut reading, mut woken) = readers::start(world, workload);
    let mut writing = JoinSet::new();
    for party in 0..plan.users {
        for number in 0..plan.writers {
            writing.spawn(writers::write(world.clone(), workload.clone(), party, number));
        }
    }
    break_things(world, workload, plan).await;
    world.mend_network();
    workload.enter("waiting for the writers to finish");
    workload.stop_writing.cancel();
    let (told, mut devices) = tokio::join!(checks::all_are_told(world, workload), writing.join_all());
    workload.enter("waiting for those who are told");
    let slowest = told.max(checks::all_are_told(world, workload).await);
    workload.enter("pushing in health");
    epilogue::nothing_is_slow(world, workload).await;
    workload.enter("opening streams");
    epilogue::late_comers_miss_nothing(world, workload).await;
    workload.enter("waiting for readers");
    checks::readers_are_complete(world, workload).await;
    workload.enter("looking at the replicas");
    checks::replicas_are_well(world, workload).await;

    workload.enter("waiting for readers to leave");
    workload.stop_reading.cancel();
    while reading.join_next().await.is_some() {}
    while let Some(device) = woken.join_next().await {
        devices.extend(device);
    }
    workload.enter("comparing");
    let stored = checks::stored_is_acknowledged(world, workload).await;
    checks::readers_saw_the_log(world, workload).await;
    workload.enter("letting devices converge");
    checks::devices_converge(world, workload, devices).await;
    workload.enter("looking for what is left");
    checks::nothing_is_left(world, workload).await;
    Report { stored, slowest, ..Report::default() }
}

/// Lets every fault of the plan happen, and waits until all are over.
async fn break_things(world: &World, workload: &Workload, plan: &Plan) {
    let begin = Instant::now();
    let faults = plan.faults.iter().map(|planned| async move {
        sleep_until(begin + planned.at).await;
        planned.fault.happen(world, workload, planned.lasts).await;
    });
    tokio::join!(futures_util::future::join_all(faults), sleep_until(begin + plan.length));
}
