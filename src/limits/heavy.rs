//! Work that would occupy a runtime thread for long: parsing a large push, serializing a large page (G6).
//!
//! While a thread is working, nothing else on it makes progress, including probes. Therefore, heavy work first hands
//! over its thread's other tasks, and its concurrency is limited to leave one processor for everything else.

use std::sync::Arc;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use tokio::task::block_in_place;

/// Work on at most this many bytes is done in place: it takes about a millisecond.
pub const LIGHT: usize = 128 << 10;

/// Heavy work, run in turns.
#[derive(Clone, Debug)]
pub struct HeavyWork(Arc<Semaphore>);

impl HeavyWork {
    /// Creates the limit for a machine with this many processors.
    pub fn new(processors: usize) -> HeavyWork {
        HeavyWork(Arc::new(Semaphore::new(processors.saturating_sub(1).max(1))))
    }

    /// Runs work on this many bytes: at once, or when it is its turn.
    pub async fn run<T>(&self, bytes: usize, work: impl FnOnce() -> T) -> T {
        if bytes <= LIGHT {
            return work();
        }
        // The semaphore is never closed.
        let _turn = self.0.acquire().await;
        // With a single thread there is nobody to hand over to.
        if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread { work() } else { block_in_place(work) }
    }
}

impl Default for HeavyWork {
    /// Creates the limit for this machine.
    fn default() -> Self {
        HeavyWork::new(std::thread::available_parallelism().map_or(1, usize::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_go_on_while_something_large_is_done() {
        let heavy = HeavyWork::new(2);
        let (done, waiting) = mpsc::channel();
        let other = tokio::spawn(async move { done.send(()) });
        let heard = heavy.run(LIGHT + 1, || waiting.recv_timeout(Duration::from_secs(10))).await;
        assert!(heard.is_ok(), "the only thread was left to the other task");
        assert!(other.await.unwrap().is_ok());
    }
}
