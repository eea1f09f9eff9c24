//! A single run: full load, the planned faults, recovery, and then the checks.

use crate::cluster::{FaultyCluster, REPLICAS};
use crate::readers::Woken;
use crate::schedule::Plan;
use crate::workload::Workload;
use crate::{checks, epilogue, readers, writers};
use mana_load::device::Device;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// A run that takes longer is stuck.
const LIMIT: Duration = Duration::from_secs(300);

/// The result of a run.
#[derive(Debug, Default)]
pub struct Report {
    pub violations: Vec<String>,
    /// Number of changes stored, over all users.
    pub stored: usize,
    /// Time until the last notified reader had everything, after the end of the last fault or after the last push,
    /// whichever took longer.
    pub slowest: Duration,
}

/// All clients at work on a cluster.
pub struct Play {
    pub cluster: Arc<FaultyCluster>,
    pub workload: Arc<Workload>,
    reading: Mutex<JoinSet<()>>,
    woken: Mutex<Woken>,
    writing: Mutex<JoinSet<(usize, Device)>>,
}

impl Play {
    /// Starts this many users with their readers, and this many writing devices for each.
    pub async fn start(cluster: FaultyCluster, seed: u64, users: usize, writers: usize) -> Play {
        let cluster = Arc::new(cluster);
        let workload = Arc::new(Workload::new(&cluster, seed, users));
        let (reading, woken) = readers::start(&cluster, &workload);
        let mut writing = JoinSet::new();
        for party in 0..users {
            for number in 0..writers {
                writing.spawn(writers::write(cluster.clone(), workload.clone(), party, number));
            }
        }
        Play { cluster, workload, reading: reading.into(), woken: woken.into(), writing: writing.into() }
    }

    /// Waits for the writers to finish.
    async fn stop_writing(&self) -> Vec<(usize, Device)> {
        self.workload.stop_writing.cancel();
        std::mem::take(&mut *self.writing.lock().await).join_all().await
    }

    /// Waits for the readers to finish, and compares what they have seen. Returns the number of changes stored.
    async fn compare(&self, mut devices: Vec<(usize, Device)>) -> usize {
        let (cluster, workload) = (&self.cluster, &self.workload);
        workload.enter("waiting for readers to leave");
        checks::readers_are_complete(cluster, workload).await;
        checks::replicas_are_well(cluster, workload).await;
        workload.stop_reading.cancel();
        let mut reading = self.reading.lock().await;
        while reading.join_next().await.is_some() {}
        devices.extend(std::mem::take(&mut *self.woken.lock().await).join_all().await);
        workload.enter("comparing what everybody has");
        let stored = checks::stored_is_acknowledged(cluster, workload).await;
        checks::readers_saw_the_log(cluster, workload).await;
        checks::devices_converge(cluster, workload, devices).await;
        workload.enter("looking for what is left over");
        checks::nothing_is_left(cluster, workload).await;
        stored
    }

    /// Ends a test that caused its own faults, with all comparisons. Returns the violations.
    pub async fn end(&self) -> Vec<String> {
        self.cluster.mend_network();
        let ending = timeout(LIMIT, async {
            let devices = self.stop_writing().await;
            self.compare(devices).await
        });
        if ending.await.is_err() {
            self.workload.violated(format!("no end after {LIMIT:?}, but still {}", self.workload.stage()));
        }
        self.workload.violations()
    }
}

/// Checks what must hold after any fault: notified readers soon have everything, and further changes arrive at once.
pub async fn settle(play: &Play) {
    checks::all_are_told(&play.cluster, &play.workload).await;
    epilogue::nothing_is_slow(&play.cluster, &play.workload).await;
}

/// Runs a plan, and reports the violations.
pub async fn run(plan: &Plan) -> Report {
    run_in(FaultyCluster::start(&plan.settings).await, plan).await
}

/// The same on an existing cluster.
pub async fn run_in(cluster: FaultyCluster, plan: &Plan) -> Report {
    let play = Play::start(cluster, plan.seed, plan.users, plan.writers).await;
    let running = timeout(LIMIT, follow(&play, plan)).await;
    let mut report = running.unwrap_or_else(|_| {
        let stage = play.workload.stage();
        play.workload.violated(format!("the run had not ended after {LIMIT:?}, but was {stage}"));
        Report::default()
    });
    report.violations = play.workload.violations();
    if !report.violations.is_empty() {
        keep_logs(&play.cluster, plan.seed).await;
    }
    report
}

/// Saves the replicas' logs for debugging.
async fn keep_logs(cluster: &FaultyCluster, seed: u64) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}"));
    std::fs::create_dir_all(&folder).unwrap();
    for replica in 0..REPLICAS {
        std::fs::write(folder.join(format!("replica-{replica}.log")), cluster.log(replica).await).unwrap();
    }
    println!("  the logs are in {}", folder.display());
}

async fn follow(play: &Play, plan: &Plan) -> Report {
    let (cluster, workload) = (&play.cluster, &play.workload);
    break_things(cluster, workload, plan).await;
    cluster.mend_network();
    workload.enter("waiting for the writers to finish");
    let (told, devices) = tokio::join!(checks::all_are_told(cluster, workload), play.stop_writing());
    workload.enter("waiting for those who are told");
    let slowest = told.max(checks::all_are_told(cluster, workload).await);
    workload.enter("pushing in health");
    epilogue::nothing_is_slow(cluster, workload).await;
    workload.enter("opening streams");
    epilogue::late_comers_miss_nothing(cluster, workload).await;
    epilogue::new_keys_are_accepted(cluster, workload).await;
    let stored = play.compare(devices).await;
    Report { stored, slowest, ..Report::default() }
}

/// Runs every fault of the plan, and waits until all are over.
async fn break_things(cluster: &FaultyCluster, workload: &Workload, plan: &Plan) {
    let begin = Instant::now();
    let faults = plan.faults.iter().map(|planned| async move {
        sleep_until(begin + planned.at).await;
        planned.fault.happen(cluster, workload, planned.lasts).await;
    });
    tokio::join!(futures_util::future::join_all(faults), sleep_until(begin + plan.length));
}
