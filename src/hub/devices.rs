//! How far devices have read, as far as this replica has seen it: a device that sends a cursor has what is before it.

use crate::clock::Clock;
use crate::protocol::{Cursor, Log, UserKey};
use moka::future::Cache;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Users whose devices are remembered, at most; for how long; and how many devices of each.
const MAX_USERS: u64 = 20_000;
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
const MAX_DEVICES: usize = 64;

/// The cursors that devices sent last. Clones share what they know.
#[derive(Clone, Debug, Default)]
pub struct DeviceReads {
    /// None: nobody asks, and nothing is noted.
    users: Option<(Users, Clock)>,
}

type Users = Cache<UserKey, Arc<Mutex<Devices>>>;
type Devices = HashMap<(Arc<str>, Arc<str>), DeviceRead>;

/// What a device said last of how far it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRead {
    /// Up to which cursor.
    pub until: Cursor,
    /// When.
    pub at: SystemTime,
}

impl DeviceReads {
    /// Notes what devices say.
    pub fn noting(clock: Clock) -> DeviceReads {
        let users = Cache::builder().max_capacity(MAX_USERS).time_to_idle(REMEMBERED).build();
        DeviceReads { users: Some((users, clock)) }
    }

    /// A device has sent this cursor of a log.
    pub async fn note(&self, log: &Log, device: &str, until: Cursor) {
        let Some((users, clock)) = &self.users else { return };
        let devices = users.get_with(log.user, async { Arc::default() }).await;
        let mut devices = devices.lock().unwrap_or_else(PoisonError::into_inner);
        let device = (log.app.clone(), Arc::from(device));
        if devices.len() >= MAX_DEVICES && !devices.contains_key(&device) {
            let longest_ago = devices.iter().min_by_key(|(_, read)| read.at).map(|(device, _)| device.clone());
            longest_ago.and_then(|device| devices.remove(&device));
        }
        devices.insert(device, DeviceRead { until, at: clock.now() });
    }

    /// What the devices of a user said last, by app and device.
    pub async fn of(&self, user: UserKey) -> Vec<((Arc<str>, Arc<str>), DeviceRead)> {
        let Some((users, _)) = &self.users else { return vec![] };
        let Some(devices) = users.get(&user).await else { return vec![] };
        let devices = devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.iter().map(|(device, read)| (device.clone(), *read)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn until(reads: &DeviceReads, log: &Log, device: &str) -> Option<Cursor> {
        let all = reads.of(log.user).await;
        let this = |((app, name), _): &&((Arc<str>, Arc<str>), DeviceRead)| *app == log.app && &**name == device;
        all.iter().find(this).map(|(_, read)| read.until)
    }

    #[tokio::test]
    async fn the_last_cursor_of_each_device_and_log_is_remembered_if_somebody_asks() {
        let (todo, notes) = (Log::new("alice".into(), "todo"), Log::new("alice".into(), "notes"));
        let reads = DeviceReads::noting(Clock::system());
        reads.note(&todo, "phone", Cursor::after(40)).await;
        reads.note(&todo, "phone", Cursor::after(20)).await;
        reads.note(&notes, "phone", Cursor::after(60)).await;
        assert_eq!(until(&reads, &todo, "phone").await, Some(Cursor::after(20)), "it may have lost its database");
        assert_eq!(until(&reads, &notes, "phone").await, Some(Cursor::after(60)));
        assert_eq!(until(&reads, &todo, "laptop").await, None);
        let nobody_asks = DeviceReads::default();
        nobody_asks.note(&todo, "phone", Cursor::after(40)).await;
        assert_eq!(until(&nobody_asks, &todo, "phone").await, None);
    }

    #[tokio::test]
    async fn of_too_many_devices_those_that_came_last_are_remembered() {
        let (log, reads) = (Log::new("alice".into(), "todo"), DeviceReads::noting(Clock::system()));
        for n in 0..MAX_DEVICES + 10 {
            reads.note(&log, &n.to_string(), Cursor::after(20)).await;
        }
        assert_eq!(reads.of(log.user).await.len(), MAX_DEVICES);
        assert_eq!(until(&reads, &log, &(MAX_DEVICES + 9).to_string()).await, Some(Cursor::after(20)));
    }
}
