//! Collects the workers' measurements: cheap for them, gathered by [`super::timeline`] each second.
//!
//! Workers share a few shards, each behind a lock that is nearly always free; a histogram takes some 170 KB, so ten
//! thousand connections can't have one each. Gathering swaps a shard's tally for an empty one, so that no worker waits
//! while latencies are added up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::histogram::LatencyHistogram;
use super::model::Counts;

/// More than the number of threads that are busy at once on the intended machines.
const SHARDS: usize = 8;

/// One of the recorder's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationId(usize);

/// Records what all workers of a run do.
#[derive(Debug)]
pub struct Recorder {
    operations: Vec<String>,
    shards: Vec<Mutex<Tally>>,
    spare: Mutex<Tally>,
    next_shard: AtomicUsize,
    connections: AtomicI64,
}

impl Recorder {
    /// Creates a recorder for operations with these names, in the order of reports.
    pub fn new(operations: impl IntoIterator<Item = impl Into<String>>) -> Arc<Self> {
        let operations: Vec<String> = operations.into_iter().map(Into::into).collect();
        let tally = || Mutex::new(Tally::new(operations.len()));
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| tally()).collect(),
            spare: tally(),
            next_shard: AtomicUsize::new(0),
            connections: AtomicI64::new(0),
            operations,
        })
    }

    /// Returns the operation with this name; none if the recorder was created without it.
    pub fn operation(&self, name: &str) -> Option<OperationId> {
        self.operations.iter().position(|operation| operation == name).map(OperationId)
    }

    /// The names of all operations.
    pub fn operations(&self) -> &[String] {
        &self.operations
    }

    /// Returns a handle for a worker to record with. Each task should have its own, however many there are.
    pub fn worker(self: &Arc<Self>) -> Worker {
        let shard = self.next_shard.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        Worker { recorder: self.clone(), shard }
    }

    /// The WebSockets and streams that workers hold now.
    pub fn connections(&self) -> u64 {
        u64::try_from(self.connections.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Moves everything recorded since the last call into `sum`.
    pub(super) fn drain_into(&self, sum: &mut Tally) {
        let mut spare = lock(&self.spare);
        for shard in &self.shards {
            std::mem::swap(&mut *lock(shard), &mut *spare);
            sum.add(&spare);
            spare.clear();
        }
    }
}

/// Records into its shard of a [`Recorder`].
#[derive(Clone, Debug)]
pub struct Worker {
    recorder: Arc<Recorder>,
    shard: usize,
}

impl Worker {
    /// Counts a request whose time has come, although it may never be sent.
    pub fn intended(&self, operation: OperationId) {
        self.tally().operations[operation.0].intended += 1;
    }

    /// Counts a request sent this long after its time.
    pub fn sent(&self, operation: OperationId, lateness: Duration) {
        let mut tally = self.tally();
        tally.operations[operation.0].sent += 1;
        tally.lateness.record(lateness);
    }

    /// Counts a request intended and sent at once: a closed loop has no schedule.
    pub fn sent_now(&self, operation: OperationId) {
        let mut tally = self.tally();
        tally.operations[operation.0].intended += 1;
        tally.operations[operation.0].sent += 1;
    }

    /// Counts a request answered correctly, this long after its time.
    pub fn done(&self, operation: OperationId, latency: Duration) {
        let mut tally = self.tally();
        let operation = &mut tally.operations[operation.0];
        operation.done += 1;
        operation.latency.record(latency);
    }

    /// Counts a failed request. Its latency is not recorded: a quick refusal is not a fast answer.
    pub fn failed(&self, operation: OperationId, kind: &'static str) {
        *self.tally().operations[operation.0].errors.entry(kind).or_default() += 1;
    }

    /// Counts a WebSocket or a stream for as long as the value lives.
    pub fn connected(&self) -> Connected {
        self.recorder.connections.fetch_add(1, Ordering::Relaxed);
        Connected(self.recorder.clone())
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.recorder.shards[self.shard])
    }
}

/// An open connection of the generator.
#[derive(Debug)]
pub struct Connected(Arc<Recorder>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The measurements recorded in some period.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) operations: Vec<OperationTally>,
    pub(super) lateness: LatencyHistogram,
}

#[derive(Clone, Debug, Default)]
pub(super) struct OperationTally {
    intended: u64,
    sent: u64,
    done: u64,
    errors: BTreeMap<&'static str, u64>,
    pub(super) latency: LatencyHistogram,
}

impl Tally {
    pub(super) fn new(operations: usize) -> Self {
        Self { operations: vec![OperationTally::default(); operations], lateness: LatencyHistogram::default() }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.lateness.merge(&other.lateness);
        for (sum, more) in self.operations.iter_mut().zip(&other.operations) {
            sum.intended += more.intended;
            sum.sent += more.sent;
            sum.done += more.done;
            more.errors.iter().for_each(|(&kind, count)| *sum.errors.entry(kind).or_default() += count);
            sum.latency.merge(&more.latency);
        }
    }

    pub(super) fn clear(&mut self) {
        self.lateness.clear();
        for operation in &mut self.operations {
            operation.latency.clear();
            operation.errors.clear();
            (operation.intended, operation.sent, operation.done) = (0, 0, 0);
        }
    }
}

impl OperationTally {
    pub(super) fn counts(&self) -> Counts {
        let errors = self.errors.iter().map(|(&kind, &count)| (kind.to_owned(), count)).collect();
        Counts { intended: self.intended, sent: self.sent, done: self.done, errors }
    }
}

/// A worker that panicked left its numbers consistent: each is written in one step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_or_counted_twice_while_workers_record() {
        let recorder = Recorder::new(["push"]);
        let push = recorder.operation("push").unwrap();
        let mut sum = Tally::new(1);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    let worker = recorder.worker();
                    scope.spawn(move || {
                        for n in 0..10_000_u64 {
                            worker.intended(push);
                            worker.sent(push, Duration::from_micros(n));
                            match n % 10 {
                                0 => worker.failed(push, "status_503"),
                                _ => worker.done(push, Duration::from_micros(n)),
                            }
                        }
                    })
                })
                .collect();
            while workers.iter().any(|worker| !worker.is_finished()) {
                recorder.drain_into(&mut sum);
            }
        });
        recorder.drain_into(&mut sum);
        let push = &sum.operations[0];
        let counts = push.counts();
        assert_eq!((counts.intended, counts.sent, counts.done), (40_000, 40_000, 36_000));
        assert_eq!(counts.errors["status_503"], 4_000);
        assert_eq!((push.latency.count(), sum.lateness.count()), (36_000, 40_000));
    }

    #[test]
    fn connections_count_while_they_are_held() {
        let recorder = Recorder::new(["wakeup"]);
        let worker = recorder.worker();
        let held = (worker.connected(), worker.connected());
        assert_eq!(recorder.connections(), 2);
        drop(held);
        assert_eq!(recorder.connections(), 0);
    }
}
