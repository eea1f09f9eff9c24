//! Work that would keep a runtime thread for long: reading a large push, writing a large page (G6).
//!
//! While a thread works, nothing else of what it runs goes on, probes included. So large work leaves its thread to others
//! first, and only so much of it runs at the same time that a processor is left for the rest.

use std::sync::Arc;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use tokio::task::block_in_place;

/// Up to so many bytes, work is done where it is: it takes about a millisecond.
pub const LIGHT: usize = 128 << 10;

/// Large work, in turns.
#[derive(Clone, Debug)]
pub struct HeavyWork(Arc<Semaphore>);

impl HeavyWork {
    /// For a machine of so many processors.
    pub fn new(processors: usize) -> HeavyWork {
        HeavyWork(Arc::new(Semaphore::new(processors.saturating_sub(1).max(1))))
    }

    /// Does work on so many bytes: at once, or when it is its turn.
    pub async fn run<T>(&self, bytes: usize, work: impl FnOnce() -> T) -> T {
        if bytes <= LIGHT {
            return work();
        }
        // The semaphore is never closed.
        let _turn = self.0.acquire().await;
        // With one thread there is nobody to leave it to.
        if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread { work() } else { block_in_place(work) }
    }
}

impl Default for HeavyWork {
    /// For this machine.
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
