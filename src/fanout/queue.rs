//! Holds wake-ups until they are published (G6).
//!
//! All wake-ups of one device in one app merge into one: the union of their tables, with their ranges joined. Each is
//! bounded ([`table_names`](super::wakeup::table_names)), and so are all together, in number and in bytes, before
//! anything is added. One user, who may use another device name in each push, gets only a share. Pushes add theirs
//! while they are being stored, so nothing done under the lock takes long.

use super::wakeup::Wakeup;
use crate::config::FanoutConfig;
use crate::protocol::UserKey;
use crate::telemetry::Metrics;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// One user gets this fraction of the whole, as a divisor,
const SHARE: usize = 8;
/// and at least this many wake-ups and bytes, if there are as many.
const LEAST: Waiting = Waiting { wakeups: 64, bytes: 64 << 10 };

/// The queue, and its bounds.
#[derive(Debug)]
pub(super) struct Queue {
    pending: Mutex<Pending>,
    filled: Notify,
    most: Waiting,
    share: Waiting,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Pending {
    wakeups: HashMap<Key, Wakeup>,
    of_users: HashMap<UserKey, Waiting>,
    bytes: usize,
}

/// A number of wake-ups, and their size in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    wakeups: usize,
    bytes: usize,
}

impl Waiting {
    fn has_room(self, bytes: usize, most: Waiting) -> bool {
        self.wakeups < most.wakeups && self.bytes + bytes <= most.bytes
    }
}

/// User, app and device.
type Key = (UserKey, Arc<str>, Option<Arc<str>>);

impl Queue {
    pub(super) fn new(config: &FanoutConfig, metrics: Arc<Metrics>) -> Queue {
        let most = Waiting { wakeups: config.publish_queue as usize, bytes: config.publish_queue_bytes as usize };
        let share = |most: usize, least: usize| (most / SHARE).max(least).min(most);
        let share = Waiting { wakeups: share(most.wakeups, LEAST.wakeups), bytes: share(most.bytes, LEAST.bytes) };
        Queue { pending: Mutex::default(), filled: Notify::new(), most, share, metrics }
    }

    /// Adds a wake-up. If there is no room for it, it is counted and left to the reconcilers.
    pub(super) fn add(&self, wakeup: Wakeup) {
        let key = (wakeup.user, wakeup.app.clone(), wakeup.client.clone());
        let mut pending = self.pending();
        let Pending { wakeups, of_users, bytes } = &mut *pending;
        let of_user = of_users.entry(key.0).or_default();
        if let Some(waiting) = wakeups.get_mut(&key) {
            let before = waiting.size();
            waiting.merge(wakeup);
            let after = waiting.size();
            *bytes = (*bytes + after).saturating_sub(before);
            of_user.bytes = (of_user.bytes + after).saturating_sub(before);
        } else {
            let size = wakeup.size();
            let all = Waiting { wakeups: wakeups.len(), bytes: *bytes };
            if all.has_room(size, self.most) && of_user.has_room(size, self.share) {
                *bytes += size;
                of_user.wakeups += 1;
                of_user.bytes += size;
                wakeups.insert(key, wakeup);
            } else {
                if of_user.wakeups == 0 {
                    of_users.remove(&key.0);
                }
                self.metrics.wakeups_dropped.inc();
            }
        }
        self.show(&pending);
    }

    /// Signals that there is something to send.
    pub(super) fn notify(&self) {
        self.filled.notify_one();
    }

    /// Waits for that signal.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes everything that waits.
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
        assert_eq!(batch[0].tables, Some(vec!["lists".into(), "tasks".into()].into()));
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
    fn one_user_takes_a_share_whatever_its_devices_are_called() {
        let queue = queue(&["--publish-queue", "1000", "--publish-queue-bytes", "1048576"]);
        let of = |user: &str, device: String, table: &str| wakeup(user, "todo", Some(&device), &[table]);
        for n in 0..2_000 {
            queue.add(of("many devices", n.to_string(), "tasks"));
            queue.add(of("long names", format!("{n}{}", "d".repeat(250)), &"t".repeat(255)));
        }
        assert_eq!(queue.metrics.publish_queue.get(), 125 + 125);
        assert_eq!(queue.metrics.wakeups_dropped.get(), 2 * (2_000 - 125));
        queue.add(of("many devices", "7".to_owned(), "lists"));
        for n in 0..50 {
            queue.add(of(&format!("user {n}"), "phone".to_owned(), "tasks"));
        }
        assert_eq!(
            queue.metrics.wakeups_dropped.get(),
            2 * (2_000 - 125),
            "there is room for others, and for what merges"
        );
        let batch = queue.take();
        assert_eq!(batch.len(), 300);
        assert!(batch.iter().any(|wakeup| wakeup.tables.as_ref().is_some_and(|tables| tables.len() == 2)));
        assert!(queue.pending().of_users.is_empty());
        queue.add(of("many devices", "after".to_owned(), "tasks"));
        assert_eq!(queue.take().len(), 1);
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_however_much_pushes_name_and_is_merged_by_a_map() {
        let queue = queue(&["--publish-queue-bytes", "65536"]);
        let tables: Vec<String> = (0..60_000).map(|n| format!("table-{n}")).collect();
        for n in 0..1_000 {
            // Two pushes with very many tables, repeatedly, and one with few tables from each of many devices.
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
