//! Tracks how far devices have read, as far as this replica has seen: a device that sends a cursor has everything
//! before it.

use crate::clock::Clock;
use crate::protocol::{Cursor, Log, UserKey};
use moka::future::Cache;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Approximate maximum of bytes remembered; how long they are remembered; and the maximum number of devices per user.
const MAX_BYTES: u64 = 16 << 20;
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
const MAX_DEVICES: usize = 64;
/// Approximate memory of a user without its devices, and of a device without its names, in bytes.
const USER_BYTES: usize = 320;
const DEVICE_BYTES: usize = 144;

/// The last cursors that devices sent. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct DeviceReads {
    /// `None` if nobody asks and nothing is noted.
    users: Option<(Users, Clock)>,
}

type Users = Cache<UserKey, Arc<Mutex<Devices>>>;
type Devices = HashMap<(Arc<str>, Arc<str>), DeviceRead>;

/// A device's last report of how far it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRead {
    /// The cursor up to which it has read.
    pub until: Cursor,
    /// When it reported this.
    pub at: SystemTime,
}

impl DeviceReads {
    /// Creates an instance that notes what devices report.
    pub fn noting(clock: Clock) -> DeviceReads {
        let users = Cache::builder().max_capacity(MAX_BYTES).weigher(weight).time_to_idle(REMEMBERED).build();
        DeviceReads { users: Some((users, clock)) }
    }

    /// Notes that a device has sent this cursor of a log.
    pub async fn note(&self, log: &Log, device: &str, until: Cursor) {
        let Some((users, clock)) = &self.users else { return };
        let of_user = users.get_with(log.user, async { Arc::default() }).await;
        let read = DeviceRead { until, at: clock.now() };
        if insert(&of_user, (log.app.clone(), Arc::from(device)), read) {
            // Its weight has grown, which the cache does not notice by itself.
            users.insert(log.user, of_user).await;
        }
    }

    /// Returns the last reports of a user's devices, by app and device.
    pub async fn of(&self, user: UserKey) -> Vec<((Arc<str>, Arc<str>), DeviceRead)> {
        let Some((users, _)) = &self.users else { return vec![] };
        let Some(devices) = users.get(&user).await else { return vec![] };
        let devices = devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.iter().map(|(device, read)| (device.clone(), *read)).collect()
    }
}

/// Adds a device's report; true if the device was not known.
fn insert(devices: &Mutex<Devices>, device: (Arc<str>, Arc<str>), read: DeviceRead) -> bool {
    let mut devices = devices.lock().unwrap_or_else(PoisonError::into_inner);
    let is_new = !devices.contains_key(&device);
    if is_new && devices.len() >= MAX_DEVICES {
        let longest_ago = devices.iter().min_by_key(|(_, read)| read.at).map(|(device, _)| device.clone());
        longest_ago.and_then(|device| devices.remove(&device));
    }
    devices.insert(device, read);
    is_new
}

/// Approximate memory of a user's devices in bytes.
fn weight(_: &UserKey, devices: &Arc<Mutex<Devices>>) -> u32 {
    let devices = devices.lock().unwrap_or_else(PoisonError::into_inner);
    let names: usize = devices.keys().map(|(app, device)| app.len() + device.len() + DEVICE_BYTES).sum();
    u32::try_from(USER_BYTES + names).unwrap_or(u32::MAX)
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

    #[tokio::test]
    async fn what_is_remembered_is_bounded_in_bytes_however_many_users_name_devices() {
        let (reads, long) = (DeviceReads::noting(Clock::system()), "d".repeat(250));
        let Some((users, _)) = &reads.users else { unreachable!("it notes") };
        for n in 0..2_000 {
            let log = Log::new(n.to_string().into(), &"a".repeat(250));
            for device in 0..MAX_DEVICES {
                reads.note(&log, &format!("{device}{long}"), Cursor::after(20)).await;
            }
        }
        users.run_pending_tasks().await;
        let bytes: u64 = users.iter().map(|(user, devices)| u64::from(weight(&user, &devices))).sum();
        assert!(bytes <= MAX_BYTES, "{bytes}");
        assert!(users.weighted_size() <= MAX_BYTES && bytes > MAX_BYTES / 2, "{bytes}");
    }
}
