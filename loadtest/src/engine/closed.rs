//! Closed loop: as fast as N connections can. For throughput, and for ratios whose other side does the same; latencies
//! of a closed loop mean little, because a slow server gets fewer requests.

use std::collections::BTreeMap;
use std::future::Future;
use std::thread;
use std::time::{Duration, Instant};

use super::client::Failure;
use super::usage::ThreadMeter;
use crate::report::LatencyHistogram;

/// Work that a connection does repeatedly.
pub trait Work: Send + 'static {
    /// Does it once. Failures are counted by kind, and the work continues.
    fn once(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The results.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub done: u64,
    pub errors: BTreeMap<&'static str, u64>,
    pub elapsed: Duration,
    pub latency: LatencyHistogram,
    /// The load of the generator's busiest thread, as a fraction of its time.
    pub busiest: f64,
}

impl Measured {
    pub fn per_second(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.busiest = self.busiest.max(other.busiest);
        self.latency.merge(&other.latency);
        for (&kind, count) in &other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
    }
}

/// The reasons why load could not be generated.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("a thread of the generator could not run")]
    Thread(#[source] std::io::Error),
    #[error("a thread of the generator panicked")]
    Panicked,
}

/// Runs all workers for `warm_up`, uncounted, and then for `length`, distributed over `threads` threads. Returns the
/// workers with their state.
pub async fn closed_loop<W: Work>(
    workers: Vec<W>,
    threads: usize,
    warm_up: Duration,
    length: Duration,
) -> Result<(Measured, Vec<W>), LoadError> {
    let mut shares: Vec<Vec<W>> = (0..threads.max(1)).map(|_| Vec::new()).collect();
    for (index, worker) in workers.into_iter().enumerate() {
        shares[index % threads.max(1)].push(worker);
    }
    let run = move || {
        let spawn = |share: Vec<W>| thread::spawn(move || on_this_thread(share, warm_up, length));
        let running: Vec<_> = shares.into_iter().map(spawn).collect();
        let (mut total, mut workers) = (Measured::default(), Vec::new());
        for thread in running {
            let (measured, share) = thread.join().map_err(|_| LoadError::Panicked)??;
            total.add(&measured);
            workers.extend(share);
        }
        Ok((total, workers))
    };
    tokio::task::spawn_blocking(run).await.map_err(|_| LoadError::Panicked)?
}

fn on_this_thread<W: Work>(
    workers: Vec<W>,
    warm_up: Duration,
    length: Duration,
) -> Result<(Measured, Vec<W>), LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(LoadError::Thread)?;
    let from = Instant::now() + warm_up;
    let until = from + length;
    let meter = ThreadMeter::default();
    let (mut total, workers) = runtime.block_on(async {
        let running: Vec<_> = workers.into_iter().map(|worker| tokio::spawn(repeat(worker, from, until))).collect();
        let (mut total, mut workers) = (Measured::default(), Vec::new());
        for task in running {
            let (measured, worker) = task.await.map_err(|_| LoadError::Panicked)?;
            total.add(&measured);
            workers.push(worker);
        }
        Ok((total, workers))
    })?;
    total.busiest = meter.share();
    Ok((total, workers))
}

/// Work that ends after `until` is not counted, so that the rate is that of the measured time.
async fn repeat<W: Work>(mut worker: W, from: Instant, until: Instant) -> (Measured, W) {
    let mut measured = Measured { elapsed: until - from, ..Measured::default() };
    loop {
        let begun = Instant::now();
        if begun >= until {
            return (measured, worker);
        }
        let outcome = worker.once().await;
        let ended = Instant::now();
        if ended < from || ended >= until {
            continue;
        }
        match outcome {
            Ok(()) => {
                measured.done += 1;
                measured.latency.record(ended - begun);
            }
            Err(failure) => {
                *measured.errors.entry(failure.kind()).or_default() += 1;
                // A server that refuses at once must not get a hundred thousand requests a second.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}
