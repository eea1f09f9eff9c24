//! Memory budgets for everything held on behalf of clients, in bytes (G6).
//!
//! Memory is reserved before it is used, from a budget for the whole replica, and released afterwards. If there is not
//! enough, the reservation waits. Each user may take only a share, so nobody waits because of what another user does
//! not read or send. Small reservations have a separate lane, so they do not wait for large ones: a few large requests
//! of several users may take the whole budget. Each user has only a share of this lane too; small reservations beyond
//! it come out of the main budget. Unauthenticated clients have a budget of their own, shared by address
//! ([`MemoryBudget::of_address`]), in which only so many wait: a connection costs something while it does.

use crate::protocol::UserKey;
use futures_util::poll;
use prometheus::IntGauge;
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

/// The unit of memory accounting, in bytes.
const UNIT: usize = 1 << 10;
/// One user gets this fraction of the budget,
const SHARE: usize = 8;
/// and at least enough for the largest push, in bytes.
const LEAST_SHARE: usize = 12 << 20;
/// A reservation up to this many bytes is small unless the budget says otherwise,
const SMALL: usize = 64 << 10;
/// and all small ones together get this fraction of the budget, on top of it;
const FOR_SMALL: usize = 8;
/// one user gets this fraction of that, and at least enough for one small reservation.
const SMALL_SHARE: usize = 32;

/// Maximum number of unauthenticated clients that wait for memory at the same time: each keeps a connection's buffers of
/// about 16 KiB meanwhile.
const MAX_WAITING_UNAUTHENTICATED: usize = 1_000;

/// The memory for one purpose, shared by all users.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    total: usize,
    units: Arc<Semaphore>,
    small: SmallLane,
    /// Places for reservations that wait.
    waiting: Semaphore,
    /// The users that hold memory, or are about to.
    users: Mutex<HashMap<UserKey, Weak<UserShare>>>,
    /// The bytes reserved.
    reserved: IntGauge,
}

/// The lane for small reservations.
#[derive(Debug)]
struct SmallLane {
    /// Maximum units of a small reservation; 0 if no reservation is small.
    max: usize,
    total: usize,
    units: Arc<Semaphore>,
}

/// One user's share of a [`MemoryBudget`].
#[derive(Clone, Debug)]
pub struct UserBudget(Arc<UserShare>);

#[derive(Debug)]
struct UserShare {
    budget: MemoryBudget,
    user: UserKey,
    /// Maximum units that may be reserved.
    total: usize,
    units: Arc<Semaphore>,
    /// The user's share of the lane for small reservations.
    small: Arc<Semaphore>,
}

/// Reserved memory, released on drop.
#[derive(Debug)]
pub struct Reservation {
    of_user: OwnedSemaphorePermit,
    of_all: OwnedSemaphorePermit,
    /// The permit from the user's share of the small lane, if the reservation is in that lane.
    of_small: Option<OwnedSemaphorePermit>,
    /// Keeps the user's share alive; otherwise a new one would be created.
    share: Arc<UserShare>,
}

impl MemoryBudget {
    /// Creates a budget of this many bytes. `reserved` shows how many are taken.
    pub fn new(bytes: usize, reserved: IntGauge) -> MemoryBudget {
        MemoryBudget::with_small(bytes, SMALL, reserved)
    }

    /// Like [`MemoryBudget::new`], with a different maximum for small reservations.
    pub fn with_small(bytes: usize, small: usize, reserved: IntGauge) -> MemoryBudget {
        MemoryBudget::with_waiting(bytes, small, Semaphore::MAX_PERMITS, reserved)
    }

    fn with_waiting(bytes: usize, small: usize, waiting: usize, reserved: IntGauge) -> MemoryBudget {
        let total = bytes / UNIT;
        let lane = total / FOR_SMALL;
        let small = SmallLane { max: small / UNIT, total: lane, units: Arc::new(Semaphore::new(lane)) };
        let units = Arc::new(Semaphore::new(total));
        let waiting = Semaphore::new(waiting);
        MemoryBudget(Arc::new(Inner { total, units, small, waiting, users: Mutex::default(), reserved }))
    }

    /// Returns a user's share.
    pub fn of(&self, user: UserKey) -> UserBudget {
        self.share_of(user, self.share())
    }

    /// Creates a budget for unauthenticated clients. `reserved` shows how many bytes are taken.
    pub fn of_unauthenticated(bytes: usize, reserved: IntGauge) -> MemoryBudget {
        MemoryBudget::with_waiting(bytes, 0, MAX_WAITING_UNAUTHENTICATED, reserved)
    }

    /// Returns the share of an address. Clients whose address is not known either, because they come through a load
    /// balancer, have one share together, which is the whole budget.
    pub fn of_address(&self, address: Option<IpAddr>) -> UserBudget {
        let bits = |address| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        match address {
            Some(address) => self.share_of(UserKey(Uuid::from_u128(bits(address))), self.share()),
            None => self.share_of(UserKey(Uuid::max()), self.0.total),
        }
    }

    fn share_of(&self, user: UserKey, total: usize) -> UserBudget {
        let mut users = self.users();
        if let Some(share) = users.get(&user).and_then(Weak::upgrade) {
            return UserBudget(share);
        }
        let share = self.new_share(user, total);
        users.insert(user, Arc::downgrade(&share));
        UserBudget(share)
    }

    fn new_share(&self, user: UserKey, total: usize) -> Arc<UserShare> {
        let small = &self.0.small;
        let of_small = if small.max == 0 { 0 } else { (small.total / SMALL_SHARE).max(small.max).min(small.total) };
        let (units, small) = (Arc::new(Semaphore::new(total)), Arc::new(Semaphore::new(of_small)));
        Arc::new(UserShare { budget: self.clone(), user, total, units, small })
    }

    /// Returns one user's share, in units.
    fn share(&self) -> usize {
        (self.0.total / SHARE).max(LEAST_SHARE / UNIT).min(self.0.total)
    }

    fn users(&self) -> MutexGuard<'_, HashMap<UserKey, Weak<UserShare>>> {
        self.0.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UserBudget {
    /// Waits for this many bytes, first come, first served. A request for more than the whole share waits for all of
    /// it. Returns `None` if too many wait already.
    pub async fn reserve(&self, bytes: usize) -> Option<Reservation> {
        let mut reserving = pin!(self.reserve_in_turn(bytes));
        if let Poll::Ready(reserved) = poll!(&mut reserving) {
            return reserved;
        }
        let _place = self.0.budget.0.waiting.try_acquire().ok()?;
        reserving.await
    }

    async fn reserve_in_turn(&self, bytes: usize) -> Option<Reservation> {
        // The semaphores are never closed.
        let units = self.units_of(bytes);
        let share = self.0.clone();
        let of_user = share.units.clone().acquire_many_owned(units).await.ok()?;
        let of_small = share.small(units as usize, units);
        let of_all = share.lane(of_small.is_some()).acquire_many_owned(units).await.ok()?;
        share.budget.0.reserved.add(i64::from(units) * UNIT as i64);
        Some(Reservation { of_user, of_all, of_small, share })
    }

    /// Resizes a reservation without waiting. Returns false, with nothing changed, if there is not enough memory.
    pub fn resize(&self, reservation: &mut Reservation, bytes: usize) -> bool {
        let (units, has) = (self.units_of(bytes) as usize, reservation.of_all.num_permits());
        if units <= has {
            let of_small = reservation.of_small.as_mut().and_then(|of_small| of_small.split(has - units));
            drop((reservation.of_user.split(has - units), reservation.of_all.split(has - units), of_small));
        } else {
            let more = (units - has) as u32;
            let Ok(of_user) = self.0.units.clone().try_acquire_many_owned(more) else { return false };
            let (lane, lacks, of_small) = self.0.lacks(reservation, units);
            let Ok(of_all) = lane.try_acquire_many_owned(lacks) else { return false };
            reservation.enlarge(of_user, of_all, of_small);
        }
        self.0.budget.0.reserved.add((units as i64 - has as i64) * UNIT as i64);
        true
    }

    /// Returns true if a reservation has at least this many bytes, or the whole share.
    pub fn covers(&self, reservation: &Reservation, bytes: usize) -> bool {
        reservation.of_all.num_permits() >= self.units_of(bytes) as usize
    }

    /// Waits until a reservation has at least this many bytes. Returns `None` if the budget is closed.
    pub async fn grow(&self, reservation: &mut Reservation, bytes: usize) -> Option<()> {
        let (units, has) = (self.units_of(bytes) as usize, reservation.of_all.num_permits());
        let Some(more) = units.checked_sub(has).filter(|more| *more > 0) else { return Some(()) };
        let of_user = self.0.units.clone().acquire_many_owned(more as u32).await.ok()?;
        let (lane, lacks, of_small) = self.0.lacks(reservation, units);
        let of_all = lane.acquire_many_owned(lacks).await.ok()?;
        reservation.enlarge(of_user, of_all, of_small);
        self.0.budget.0.reserved.add((more * UNIT) as i64);
        Some(())
    }

    fn units_of(&self, bytes: usize) -> u32 {
        bytes.div_ceil(UNIT).clamp(1, self.0.total.max(1)) as u32
    }
}

impl UserShare {
    /// Takes units from the user's share of the small lane, for a reservation with `in_all` units in total. `None` if
    /// that is not small, or more than is left of the share.
    fn small(&self, in_all: usize, units: u32) -> Option<OwnedSemaphorePermit> {
        let is_small = in_all <= self.budget.0.small.max;
        is_small.then(|| self.small.clone().try_acquire_many_owned(units).ok()).flatten()
    }

    /// Returns the semaphore that all users' reservations in this lane are taken from.
    fn lane(&self, is_small: bool) -> Arc<Semaphore> {
        let budget = &self.budget.0;
        if is_small { budget.small.units.clone() } else { budget.units.clone() }
    }

    /// Returns what a reservation lacks to reach this many units: the lane to take it from, the units, and the permit
    /// from the user's share of the small lane. A reservation that leaves the small lane lacks all of its units.
    fn lacks(&self, reservation: &Reservation, units: usize) -> (Arc<Semaphore>, u32, Option<OwnedSemaphorePermit>) {
        let more = (units - reservation.of_all.num_permits()) as u32;
        match reservation.of_small.as_ref().map(|_| self.small(units, more)) {
            Some(Some(of_small)) => (self.lane(true), more, Some(of_small)),
            Some(None) => (self.lane(false), units as u32, None),
            None => (self.lane(false), more, None),
        }
    }
}

impl Reservation {
    /// Returns the number of bytes reserved.
    pub fn bytes(&self) -> usize {
        self.of_all.num_permits() * UNIT
    }

    /// Adds permits from the same lane; or, for a reservation that leaves the small lane, replaces its permits.
    fn enlarge(
        &mut self,
        of_user: OwnedSemaphorePermit,
        of_all: OwnedSemaphorePermit,
        of_small: Option<OwnedSemaphorePermit>,
    ) {
        self.of_user.merge(of_user);
        match (&mut self.of_small, of_small) {
            (Some(small), Some(more)) => {
                small.merge(more);
                self.of_all.merge(of_all);
            }
            (Some(_), None) => {
                self.of_all = of_all;
                self.of_small = None;
            }
            (None, _) => self.of_all.merge(of_all),
        }
    }
}

impl Drop for UserShare {
    fn drop(&mut self) {
        let mut users = self.budget.users();
        // Another share may have been created meanwhile.
        if users.get(&self.user).is_some_and(|share| share.strong_count() == 0) {
            users.remove(&self.user);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.share.budget.0.reserved.sub((self.of_all.num_permits() * UNIT) as i64);
    }
}

#[cfg(test)]
mod tests;
