//! The stages of shutdown (G7): not ready, stop accepting, let running work finish, then the background tasks, then
//! exit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The stages of shutdown, each a token that is cancelled when it begins.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Told to stop: no longer ready, but still accepting, until balancers have noticed.
    pub draining: CancellationToken,
    /// No new connections; open ones end within the drain window.
    pub closing: CancellationToken,
    /// Connections are gone: background tasks finish their work.
    pub stopping: CancellationToken,
    /// Connections, and the requests and sessions on them.
    pub connections: TaskTracker,
    /// Background tasks.
    pub background: TaskTracker,
    /// Set while an operator has drained this replica, which may be taken back.
    pub drained: Drained,
    /// The essential task that ended first, before it was told to.
    failed: Arc<OnceLock<&'static str>>,
}

/// Maximum time for requests after the drain window, and for background tasks after the last connection.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

impl Shutdown {
    /// Goes through the stages once `draining` is cancelled.
    pub async fn run(&self, delay: Duration, window: Duration) {
        self.draining.cancelled().await;
        tracing::info!(?delay, ?window, "stopping: no longer ready, still accepting");
        tokio::time::sleep(delay).await;
        self.closing.cancel();
        self.connections.close();
        if tokio::time::timeout(window + STEP_TIMEOUT, self.connections.wait()).await.is_err() {
            tracing::warn!(left = self.connections.len(), "some connections did not end in time");
        }
        self.stopping.cancel();
        self.background.close();
        if tokio::time::timeout(STEP_TIMEOUT, self.background.wait()).await.is_err() {
            tracing::warn!(left = self.background.len(), "some background tasks did not end in time");
        }
        tracing::info!("stopped");
    }

    /// Returns the essential task whose early end stops this process, if there is one.
    pub fn failure(&self) -> Option<&'static str> {
        self.failed.get().copied()
    }

    /// Runs a background task that must not end before it is told to. If it does, the process stops with a failure:
    /// without it the replica would look healthy and not work.
    pub fn essential(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.clone();
        self.background.spawn(async move {
            let ended = tokio::spawn(task).await;
            if !shutdown.stopping.is_cancelled() {
                tracing::error!(name, panicked = ended.is_err(), "an essential task ended; stopping");
                // Another one may have ended before: the first is the cause.
                let _ = shutdown.failed.set(name);
                shutdown.draining.cancel();
            }
        });
    }
}

/// Tracks whether an operator has drained a replica: it is not ready and its sessions leave, but it keeps running and
/// can be taken back. Clones share the state.
#[derive(Clone, Debug, Default)]
pub struct Drained(Arc<DrainedState>);

#[derive(Debug, Default)]
struct DrainedState {
    is_on: AtomicBool,
    /// Every session waits for this all its life: nothing takes less memory per waiter.
    changed: Notify,
}

impl Drained {
    /// Drains the replica, or takes it back; false if that is already its state.
    pub fn set(&self, drained: bool) -> bool {
        let changed = self.0.is_on.swap(drained, Ordering::SeqCst) != drained;
        if changed {
            self.0.changed.notify_waiters();
        }
        changed
    }

    /// True while it is drained.
    pub fn is_on(&self) -> bool {
        self.0.is_on.load(Ordering::SeqCst)
    }

    /// Waits until it is drained.
    pub async fn begun(&self) {
        self.wait_for(true).await;
    }

    /// Waits until it is not drained.
    pub async fn ended(&self) {
        self.wait_for(false).await;
    }

    async fn wait_for(&self, drained: bool) {
        loop {
            // Registered before the check: it sees every change from now on.
            let changed = self.0.changed.notified();
            if self.is_on() == drained {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn stopped(shutdown: &Shutdown) {
        shutdown.run(Duration::ZERO, Duration::ZERO).await;
    }

    #[tokio::test]
    async fn an_essential_task_that_panics_or_ends_stops_the_process_and_is_why() {
        let panicking = Shutdown::default();
        panicking.essential("panics", async { panic!("as it should") });
        stopped(&panicking).await;
        assert_eq!(panicking.failure(), Some("panics"));
        let ending = Shutdown::default();
        ending.essential("ends", async {});
        stopped(&ending).await;
        assert_eq!(ending.failure(), Some("ends"));
    }

    #[tokio::test]
    async fn one_that_ends_when_it_is_told_to_is_no_failure() {
        let shutdown = Shutdown::default();
        shutdown.essential("patient", shutdown.stopping.clone().cancelled_owned());
        shutdown.draining.cancel();
        stopped(&shutdown).await;
        assert_eq!(shutdown.failure(), None);
    }
}
