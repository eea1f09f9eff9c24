//! Wake-ups that wait to be published (G6).
//!
//! Those of one device in one app are one, whatever piles up: the union of the tables, the ranges joined. Each is bounded
//! ([`table_names`](super::wakeup::table_names)), and all together are, in number and in bytes, before anything is added.
//! Pushes leave theirs here while they are stored, so nothing that is done under the lock takes long.

use super::wakeup::Wakeup;
use crate::config::FanoutConfig;
use crate::protocol::UserKey;
use crate::telemetry::Metrics;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What may wait.
#[derive(Debug)]
pub(super) struct Queue {
    pending: Mutex<Pending>,
    filled: Notify,
    most: usize,
    most_bytes: usize,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Pending {
    wakeups: HashMap<Key, Wakeup>,
    bytes: usize,
}

/// User, app and device.
type Key = (UserKey, Arc<str>, Option<Arc<str>>);

impl Queue {
    pub(super) fn new(config: &FanoutConfig, metrics: Arc<Metrics>) -> Queue {
        Queue {
            pending: Mutex::default(),
            filled: Notify::new(),
            most: config.publish_queue as usize,
            most_bytes: config.publish_queue_bytes as usize,
            metrics,
        }
    }

    /// Adds a wake-up. What there is no room for is counted, and left to the reconcilers.
    pub(super) fn add(&self, wakeup: Wakeup) {
        let key = (wakeup.user, wakeup.app.clone(), wakeup.client.clone());
        let mut pending = self.pending();
        if let Some(waiting) = pending.wakeups.get_mut(&key) {
            let before = waiting.size();
            waiting.merge(wakeup);
            let after = waiting.size();
            pending.bytes = (pending.bytes + after).saturating_sub(before);
        } else if pending.wakeups.len() < self.most && pending.bytes + wakeup.size() <= self.most_bytes {
            pending.bytes += wakeup.size();
            pending.wakeups.insert(key, wakeup);
        } else {
            self.metrics.wakeups_dropped.inc();
        }
        self.show(&pending);
    }

    /// Says that there is something to be sent.
    pub(super) fn notify(&self) {
        self.filled.notify_one();
    }

    /// Waits for that.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes all that waits.
    pub(super) fn take(&self) -> Vec<Wakeup> {
        let taken = {
            let mut pending = self.pending();
            let taken = std::mem::take(&mut *pending);
            self.show(&pending);
            taken
        };
        // Not under the lock: there may be very many.
        taken.wakeups.into_values().collect()
    }

    fn show(&self, pending: &Pending) {
        self.metrics.publish_queue.set(pending.wakeups.len() as i64);
        self.metrics.publish_queue_bytes.set(pending.bytes as i64);
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::fanout_config;
    use super::super::wakeup::tests::{push_span, wakeup};
    use super::super::wakeup::{MAX_PUSHES, table_names};
    use super::*;

    fn queue(settings: &[&str]) -> Queue {
        Queue::new(&fanout_config(settings), Arc::default())
    }

    fn stored(client: &str, table: &str, range: (i64, i64)) -> Wakeup {
        Wakeup { ranges: vec![range], ..wakeup("u", "todo", Some(client), &[table]) }
    }

    #[test]
    fn wake_ups_of_one_device_merge_and_keep_every_table_and_range() {
        let queue = queue(&[]);
        for wakeup in [
            stored("a", "tasks", (0, 2)),
            stored("a", "lists", (2, 4)),
            stored("a", "tasks", (8, 10)),
            stored("b", "tasks", (4, 8)),
        ] {
            queue.add(wakeup);
        }
        let mut batch = queue.take();
        batch.sort_by_key(|wakeup| wakeup.client.clone());
        assert_eq!(batch[0].tables, Some(vec!["lists".into(), "tasks".into()]));
        assert_eq!(batch[0].ranges, [(0, 4), (8, 10)]);
        assert_eq!(batch[1], stored("b", "tasks", (4, 8)));
        assert_eq!(queue.take(), []);
        assert_eq!((queue.metrics.publish_queue.get(), queue.metrics.publish_queue_bytes.get()), (0, 0));
    }

    #[test]
    fn a_merged_wake_up_names_the_sampled_pushes_up_to_a_bound() {
        let queue = queue(&[]);
        for n in 0..MAX_PUSHES * 2 {
            let pushes = vec![push_span(n as u128)];
            queue.add(Wakeup { pushes, ..stored("a", "tasks", (n as i64, n as i64 + 1)) });
        }
        let expected: Vec<_> = (0..MAX_PUSHES).map(|n| push_span(n as u128)).collect();
        assert_eq!(queue.take()[0].pushes, expected);
    }

    #[test]
    fn a_full_queue_counts_what_it_leaves_to_the_reconcilers() {
        let full = queue(&["--publish-queue", "2"]);
        for client in ["a", "b", "c", "a"] {
            full.add(stored(client, "tasks", (0, 2)));
        }
        assert_eq!(full.metrics.wakeups_dropped.get(), 1);
        assert_eq!(full.take().len(), 2);
        let none = queue(&["--publish-queue", "0"]);
        none.add(stored("a", "tasks", (0, 2)));
        assert_eq!((none.metrics.wakeups_dropped.get(), none.take().len()), (1, 0));
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_however_much_pushes_name_and_is_merged_by_a_map() {
        let queue = queue(&["--publish-queue-bytes", "65536"]);
        let tables: Vec<String> = (0..60_000).map(|n| format!("table-{n}")).collect();
        for n in 0..1_000 {
            // Two pushes with very many tables, again and again, and one of a few with each of many devices.
            let all = table_names(tables.iter().map(String::as_str));
            queue.add(Wakeup { tables: all, ..stored("busy", "", (n, n + 1)) });
            queue.add(stored(&format!("{n}{}", "d".repeat(200)), &"t".repeat(255), (n, n + 1)));
            assert!(queue.metrics.publish_queue_bytes.get() <= 65_536 + 4_000);
        }
        assert!(queue.metrics.wakeups_dropped.get() > 800);
        let batch = queue.take();
        let busy = batch.iter().find(|wakeup| wakeup.client.as_deref() == Some("busy")).expect("it is there");
        assert_eq!((&busy.tables, busy.ranges.as_slice()), (&None, &[(0, 1_000)][..]));
    }
}
