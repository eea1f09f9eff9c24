//! Sends a number of requests one after the other: for latencies in which nothing waits for anything else.

use std::time::Instant;

use super::client::Failure;
use super::closed::{LoadError, Work};
use crate::report::LatencyHistogram;

/// Does the work `warm_up` times, uncounted, and then `count` times, on a thread of its own. Ends at the first failure.
/// Returns the worker with its state.
pub async fn one_by_one<W: Work>(
    worker: W,
    warm_up: usize,
    count: usize,
) -> Result<(Result<LatencyHistogram, Failure>, W), LoadError> {
    let run = move || on_this_thread(worker, warm_up, count);
    tokio::task::spawn_blocking(run).await.map_err(|_| LoadError::Panicked)?
}

fn on_this_thread<W: Work>(
    mut worker: W,
    warm_up: usize,
    count: usize,
) -> Result<(Result<LatencyHistogram, Failure>, W), LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(LoadError::Thread)?;
    let measured = runtime.block_on(repeat(&mut worker, warm_up, count));
    Ok((measured, worker))
}

async fn repeat<W: Work>(worker: &mut W, warm_up: usize, count: usize) -> Result<LatencyHistogram, Failure> {
    for _ in 0..warm_up {
        worker.once().await?;
    }
    let mut latency = LatencyHistogram::default();
    for _ in 0..count {
        let begun = Instant::now();
        worker.once().await?;
        latency.record(begun.elapsed());
    }
    Ok(latency)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Succeeds this many times.
    struct Patient(usize);

    impl Work for Patient {
        async fn once(&mut self) -> Result<(), Failure> {
            self.0 = self.0.checked_sub(1).ok_or(Failure::Closed)?;
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_is_counted_is_counted_and_a_failure_ends_it() {
        let (measured, left) = one_by_one(Patient(20), 5, 10).await.unwrap();
        assert_eq!((measured.unwrap().count(), left.0), (10, 5));
        let (measured, left) = one_by_one(left, 0, 10).await.unwrap();
        assert!(matches!(measured, Err(Failure::Closed)) && left.0 == 0);
    }
}
