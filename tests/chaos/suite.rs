//! Random schedules: none of them may break a guarantee.

use crate::run::run;
use crate::schedule::Plan;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, MutexGuard};

/// Seeds that always run; each has shown something once, or has many kinds of fault.
const FIXED: [u64; 3] = [1, 2, 3];
/// How long the writers write, and faults begin.
pub const LENGTH: Duration = Duration::from_secs(4);

/// The machine for oneself: runs at the same time would disturb each other's times.
pub async fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::const_new(());
    MACHINE.lock().await
}

pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

/// The seeds asked for.
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
    let _alone = alone().await;
    let mut failed = Vec::new();
    for seed in seeds() {
        // Whatever has lost for a second goes from the log, while everybody reads and writes.
        let plan = Plan::random(seed, LENGTH).with("COMPACT_AFTER_MS", "1000");
        println!("{plan}");
        let begin = Instant::now();
        let report = run(&plan).await;
        println!(
            "  {} changes, the slowest told {:?} after the last fault, {:?} in all, {} violations",
            report.stored,
            report.slowest,
            begin.elapsed(),
            report.violations.len()
        );
        for violation in &report.violations {
            println!("  VIOLATION with CHAOS_SEED={seed}: {violation}");
        }
        if !report.violations.is_empty() {
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds with violations, shown above: {failed:?}");
}
