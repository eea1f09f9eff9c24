//! How much streams hold in memory that their clients have not read yet (G6).
//!
//! A stream holds a page from reading it until its client has taken it, and a page is as large as its changes are.
//! So each takes room for its page, out of what the replica allows for all. Who finds none waits, without a page and
//! with heartbeats, until somebody has read or was given up (`WRITE_TIMEOUT_MS`). One user's streams get a share of
//! it only: those of others are not to wait for them.

use crate::protocol::UserKey;
use crate::telemetry::Metrics;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit that memory is counted in, in bytes.
const UNIT: usize = 1 << 10;
/// One user gets this part of all the room,
const SHARE: usize = 8;
/// and at least what the largest change needs, in bytes.
const LEAST_SHARE: usize = 12 << 20;

/// The room of all streams.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    total: usize,
    units: Arc<Semaphore>,
    /// Of the users that have streams.
    shares: Mutex<HashMap<UserKey, Arc<Semaphore>>>,
    metrics: Arc<Metrics>,
}

/// What one user's streams may take of the room.
#[derive(Debug)]
pub(super) struct Share {
    room: Room,
    user: UserKey,
    units: Arc<Semaphore>,
}

/// Room taken for a page, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    of_share: OwnedSemaphorePermit,
    of_room: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Room {
    /// Room for so many bytes.
    pub(super) fn new(bytes: usize, metrics: Arc<Metrics>) -> Room {
        let total = bytes / UNIT;
        let units = Arc::new(Semaphore::new(total));
        Room(Arc::new(Inner { total, units, shares: Mutex::default(), metrics }))
    }

    /// The share of a user.
    pub(super) fn share(&self, user: UserKey) -> Share {
        let new = || Arc::new(Semaphore::new(self.share_size()));
        let units = self.shares().entry(user).or_insert_with(new).clone();
        Share { room: self.clone(), user, units }
    }

    fn share_size(&self) -> usize {
        (self.0.total / SHARE).max(LEAST_SHARE / UNIT).min(self.0.total)
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<UserKey, Arc<Semaphore>>> {
        self.0.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Waits for room for so many bytes. What is larger than the whole share waits for all of it. None if there is
    /// to be no room any more.
    pub(super) async fn take(&self, bytes: usize) -> Option<Held> {
        let units = self.units_of(bytes);
        let of_share = self.units.clone().acquire_many_owned(units).await.ok()?;
        let of_room = self.room.0.units.clone().acquire_many_owned(units).await.ok()?;
        let metrics = self.room.0.metrics.clone();
        metrics.stream_bytes.add(i64::from(units) * UNIT as i64);
        Some(Held { of_share, of_room, metrics })
    }

    /// Makes what is held fit so many bytes. Does not wait: false, and nothing changed, if there is not so much.
    pub(super) fn fit(&self, held: &mut Held, bytes: usize) -> bool {
        let (units, has) = (self.units_of(bytes) as usize, held.of_room.num_permits());
        if units <= has {
            drop((held.of_share.split(has - units), held.of_room.split(has - units)));
        } else {
            let more = (units - has) as u32;
            let Ok(of_share) = self.units.clone().try_acquire_many_owned(more) else { return false };
            let Ok(of_room) = self.room.0.units.clone().try_acquire_many_owned(more) else { return false };
            held.of_share.merge(of_share);
            held.of_room.merge(of_room);
        }
        held.metrics.stream_bytes.add((units as i64 - has as i64) * UNIT as i64);
        true
    }

    fn units_of(&self, bytes: usize) -> u32 {
        bytes.div_ceil(UNIT).clamp(1, self.room.share_size().max(1)) as u32
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.room.shares();
        // The map's and ours: no other stream of this user, and nothing held.
        if Arc::strong_count(&self.units) == 2 {
            shares.remove(&self.user);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.metrics.stream_bytes.sub((self.of_room.num_permits() * UNIT) as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::at_once;
    use super::*;

    const MIB: usize = 1 << 20;

    #[tokio::test]
    async fn one_user_gets_a_share_and_waits_for_what_it_holds_itself() {
        let metrics = Arc::new(Metrics::new());
        let room = Room::new(48 * MIB, metrics.clone());
        let (alice, bob) = (room.share(UserKey::of("alice")), room.share(UserKey::of("bob")));
        let mut held = alice.take(10 * MIB).await.unwrap();
        assert_eq!(metrics.stream_bytes.get() as usize, 10 * MIB);
        assert!(at_once(room.share(UserKey::of("alice")).take(3 * MIB)).await.is_none(), "a share is 12 MiB");
        let of_bob = at_once(bob.take(100 * MIB)).await.flatten().expect("another user has a share too");
        let mut other = room.share(UserKey::of("alice")).take(MIB).await.unwrap();
        assert!(!alice.fit(&mut other, 3 * MIB), "not so much is left");
        drop(other);
        assert!(alice.fit(&mut held, MIB));
        assert_eq!(metrics.stream_bytes.get() as usize, 13 * MIB);
        assert!(at_once(alice.take(11 * MIB)).await.is_some());
        drop((held, of_bob));
        assert_eq!(metrics.stream_bytes.get(), 0);
        drop((alice, bob));
        assert!(room.shares().is_empty(), "nothing is kept of users who have left");
    }

    #[tokio::test]
    async fn all_together_get_what_there_is() {
        let room = Room::new(24 * MIB, Arc::default());
        let shares = ["a", "b", "c"].map(|user| room.share(UserKey::of(user)));
        let held = [shares[0].take(12 * MIB).await, shares[1].take(12 * MIB).await];
        assert!(at_once(shares[2].take(1)).await.is_none());
        drop(held);
        assert!(at_once(shares[2].take(1)).await.is_some());
    }
}
