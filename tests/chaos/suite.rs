//! Random schedules: none of them may break a guarantee.

use crate::run::run;
use crate::schedule::Plan;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Seeds that always run; each has found a problem before, or has many kinds of fault.
const FIXED: [u64; 3] = [1, 2, 3];
/// How long writers write and faults begin.
pub const LENGTH: Duration = Duration::from_secs(4);

/// Number of concurrent runs, `CHAOS_AT_ONCE`. One by default, because runs disturb each other's timing; `make test`
/// uses two, because most of a run is waiting.
fn at_once() -> u32 {
    number("CHAOS_AT_ONCE").map_or(1, |most| (most as u32).max(1))
}

static MACHINE: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(at_once() as usize));

/// Takes a share of the machine, for a run that mostly waits.
pub async fn beside_others() -> SemaphorePermit<'static> {
    MACHINE.acquire().await.unwrap()
}

/// Takes the whole machine, for a run with a heavy load.
pub async fn alone() -> SemaphorePermit<'static> {
    MACHINE.acquire_many(at_once()).await.unwrap()
}

pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

/// The requested seeds.
fn seeds() -> Box<dyn Iterator<Item = u64>> {
    let begin = Instant::now();
    let first = number("CHAOS_FIRST").unwrap_or(1);
    match (number("CHAOS_SEED"), number("CHAOS_SEEDS"), number("CHAOS_MINUTES")) {
        (Some(seed), _, _) => Box::new(std::iter::once(seed)),
        (_, Some(count), _) => Box::new(first..first + count),
        (_, _, Some(minutes)) => {
            Box::new((first..).take_while(move |_| begin.elapsed() < Duration::from_secs(60 * minutes)))
        }
        _ => Box::new(FIXED.into_iter()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_schedules_of_faults_break_no_guarantee() {
    let _beside = beside_others().await;
    let mut failed = Vec::new();
    for seed in seeds() {
        if !is_good(seed).await {
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds with violations, shown above: {failed:?}");
}

/// Runs the schedule of a seed. True if nothing was violated.
async fn is_good(seed: u64) -> bool {
    // Values that lost a second ago are trimmed from the log, while everybody reads and writes.
    let plan = Plan::random(seed, LENGTH).with("COMPACT_AFTER_MS", "1000");
    println!("{plan}");
    let begin = Instant::now();
    let report = run(&plan).await;
    println!(
        "  seed {seed}: {} changes, the slowest told {:?} after the last fault, {:?} in all, {} violations",
        report.stored,
        report.slowest,
        begin.elapsed(),
        report.violations.len()
    );
    for violation in &report.violations {
        println!("  VIOLATION with CHAOS_SEED={seed}: {violation}");
    }
    report.violations.is_empty()
}
