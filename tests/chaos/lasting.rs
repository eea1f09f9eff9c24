//! Long faults, beyond a schedule of seconds. After each, everything is compared as after any run.

use crate::fault::Fault;
use crate::run::run;
use crate::schedule::{Plan, Planned};
use crate::suite::alone;
use std::time::Duration;

/// How long the writers write before and after the fault.
const AROUND: Duration = Duration::from_secs(1);

async fn survives(faults: &[Fault], lasts: Duration) {
    let _alone = alone().await;
    let planned = |fault: &Fault| Planned { at: AROUND, lasts, fault: *fault };
    let plan = Plan { faults: faults.iter().map(planned).collect(), ..Plan::calm(1, lasts + 2 * AROUND) };
    println!("{plan}");
    let report = run(&plan).await;
    println!("  {} changes, the slowest told {:?} after the fault's end", report.stored, report.slowest);
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make chaos"]
async fn the_database_may_be_gone_for_a_minute() {
    survives(&[Fault::PostgresGone], Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make chaos"]
async fn a_replica_may_be_frozen_for_ten_seconds() {
    survives(&[Fault::Frozen(0)], Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make chaos"]
async fn readers_may_read_nothing_for_a_minute() {
    survives(&[Fault::SlowReaders(0), Fault::SlowReaders(1)], Duration::from_secs(60)).await;
}
