//! Limits the database connections used by the reads of one user, and by all reads together (G6).
//!
//! A page may take the database long. Therefore, one user's reads use only a fraction of the pool's connections, and
//! wait for each other rather than making everybody wait; and all reads together leave some connections to pushes,
//! however many users there are. Of the statements that take long, only a few run at the same time.

use crate::protocol::UserKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// One user reads on at most this fraction of the pool's connections at the same time,
const SHARE: usize = 4;
/// or on this many if that is more. If there is more than one connection, at least one is always left to others.
const LEAST: usize = 2;

/// All reads together leave this fraction of the pool's connections to pushes.
const FOR_PUSHES: usize = 4;

/// Statements that take long have this fraction of the pool's connections. Each of them occupies a processor of the
/// database for tenths of a second; the more run at the same time, the longer everybody's statements wait for one, and
/// none of them ends earlier (docs/adr/0045-what-takes-long-runs-in-turns.md).
const FOR_LONG: usize = 6;

/// Limits the concurrent reads of all users on one pool.
#[derive(Clone, Debug)]
pub struct ReadLane {
    all: Arc<Semaphore>,
    long: LongLane,
}

/// The lane of the statements that take long.
#[derive(Clone, Debug)]
struct LongLane {
    places: Arc<Semaphore>,
    /// How long to wait for a place.
    patience: Duration,
}

impl ReadLane {
    /// Creates the lane of a pool with this many connections. `patience`: how long a read waits until a statement that
    /// takes long may run.
    pub fn new(pool_size: usize, patience: Duration) -> ReadLane {
        let semaphore = |places| Arc::new(Semaphore::new(places));
        let places = semaphore((pool_size / FOR_LONG).max(1));
        ReadLane { all: semaphore(all_but_a_part(pool_size, FOR_PUSHES)), long: LongLane { places, patience } }
    }
}

/// Subtracts a fraction from a number of places, and at least one place, if there are two.
pub fn all_but_a_part(places: usize, part: usize) -> usize {
    places.saturating_sub((places / part).max(1)).max(1)
}

/// The shares of the users who are reading.
#[derive(Clone, Debug)]
pub struct ReadShares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    at_once: usize,
    users: Mutex<HashMap<UserKey, Weak<Semaphore>>>,
}

/// A user's place among those who read; released on drop.
#[derive(Debug)]
pub struct ReadTurn {
    shares: ReadShares,
    user: UserKey,
    share: Option<Arc<Semaphore>>,
    permit: Option<OwnedSemaphorePermit>,
    of_all: Option<OwnedSemaphorePermit>,
    long: Option<LongLane>,
}

impl ReadShares {
    /// Creates the shares of a pool with this many connections.
    pub fn new(pool_size: usize) -> ReadShares {
        let at_once = (pool_size / SHARE).max(LEAST).min(pool_size.saturating_sub(1)).max(1);
        ReadShares(Arc::new(Inner { at_once, users: Mutex::default() }))
    }

    /// Returns a place in the queue of a user's reads.
    pub fn of(&self, user: UserKey) -> ReadTurn {
        let mut users = self.users();
        let share = users.get(&user).and_then(Weak::upgrade).unwrap_or_else(|| {
            let share = Arc::new(Semaphore::new(self.0.at_once));
            users.insert(user, Arc::downgrade(&share));
            share
        });
        drop(users);
        ReadTurn { shares: self.clone(), user, share: Some(share), permit: None, of_all: None, long: None }
    }

    fn users(&self) -> MutexGuard<'_, HashMap<UserKey, Weak<Semaphore>>> {
        self.0.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadTurn {
    /// Waits for this read's turn, first come, first served: among the user's reads, then among all reads on the same
    /// pool. The turn ends when the returned value is dropped.
    pub async fn wait(self, lane: &ReadLane) -> ReadTurn {
        self.among_own().await.among_all(lane).await
    }

    /// Waits for the turn among the user's reads.
    pub async fn among_own(mut self) -> ReadTurn {
        // The semaphores are never closed.
        if let Some(share) = &self.share {
            self.permit = share.clone().acquire_owned().await.ok();
        }
        self
    }

    /// Then waits for the turn among all reads on the same pool. While holding it, a read must not wait for anything of
    /// its user's, such as memory: others would wait with it.
    pub async fn among_all(mut self, lane: &ReadLane) -> ReadTurn {
        self.of_all = lane.all.clone().acquire_owned().await.ok();
        self.long = Some(lane.long.clone());
        self
    }

    /// Yields the turn to the reads waiting in the lane, then waits for its own again: a long read keeps nobody else
    /// from reading.
    pub async fn after_others(&mut self) {
        let Some(turn) = self.of_all.take() else { return };
        let lane = turn.semaphore().clone();
        drop(turn);
        self.of_all = lane.acquire_owned().await.ok();
    }

    /// Waits until another statement that takes long may run, without keeping others from reading meanwhile. To be held
    /// until it has ended. Returns `None` before the turn among all, when there is nothing to wait for.
    ///
    /// # Errors
    /// [`Elapsed`]: it did not become its turn within the lane's patience.
    pub async fn for_long(&mut self) -> Result<Option<OwnedSemaphorePermit>, Elapsed> {
        let Some(LongLane { places, patience }) = self.long.clone() else { return Ok(None) };
        if let Ok(free) = places.clone().try_acquire_owned() {
            return Ok(Some(free));
        }
        let lane = self.of_all.take().map(|turn| turn.semaphore().clone());
        // The semaphores are never closed.
        let permit = timeout(patience, places.acquire_owned()).await?.ok();
        if let Some(lane) = lane {
            self.of_all = lane.acquire_owned().await.ok();
        }
        Ok(permit)
    }
}

impl Drop for ReadTurn {
    fn drop(&mut self) {
        self.permit = None;
        let mut users = self.shares.users();
        self.share = None;
        if users.get(&self.user).is_some_and(|share| share.strong_count() == 0) {
            users.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn one_user_reads_on_a_part_of_the_pool_and_others_do_not_wait() {
        let (shares, lane) = (ReadShares::new(8), ReadLane::new(8, PATIENCE));
        let (alice, bob) = (UserKey::of("alice"), UserKey::of("bob"));
        let turn = |user| shares.of(user).wait(&lane).now_or_never();
        let (first, second) = (turn(alice), turn(alice));
        assert!(first.is_some() && second.is_some() && turn(alice).is_none());
        assert!(turn(bob).is_some(), "another user has a share too");
        drop(first);
        assert!(turn(alice).is_some());
        drop(second);
        assert!(shares.users().is_empty(), "nothing is kept of users who do not read");
        let at_once = |pool_size| ReadShares::new(pool_size).0.at_once;
        assert_eq!([1, 2, 3, 4, 8, 20].map(at_once), [1, 1, 2, 2, 2, 5], "one is left to others, if there are two");
    }

    #[test]
    fn whoever_reads_for_long_lets_others_read_in_between() {
        let (shares, lane) = (ReadShares::new(4), ReadLane::new(2, PATIENCE));
        let mut long = shares.of(UserKey::of("alice")).wait(&lane).now_or_never().expect("it is free");
        assert!(long.after_others().now_or_never().is_some(), "nobody waits");
        let mut other = Box::pin(shares.of(UserKey::of("bob")).wait(&lane));
        assert!((&mut other).now_or_never().is_none());
        let mut again = Box::pin(long.after_others());
        assert!((&mut again).now_or_never().is_none(), "it is the other's turn");
        let other = other.now_or_never().expect("it is");
        assert!((&mut again).now_or_never().is_none());
        drop(other);
        assert!(again.now_or_never().is_some());
    }

    #[tokio::test]
    async fn few_statements_run_that_take_long_and_whoever_waits_for_that_lets_others_read() {
        let (shares, lane) = (ReadShares::new(8), ReadLane::new(8, PATIENCE));
        let turn = |n: usize| shares.of(UserKey::of(&n.to_string())).wait(&lane).now_or_never();
        let mut turns: Vec<_> = (0..6).map_while(turn).collect();
        let (first, others) = turns.split_first_mut().unwrap();
        let long = first.for_long().now_or_never();
        assert!(matches!(long, Some(Ok(Some(_)))));
        let mut waits = Box::pin(others[0].for_long());
        assert!((&mut waits).now_or_never().is_none(), "one of eight connections");
        let reads = turn(6);
        assert!(reads.is_some(), "others read in its place");
        drop(long);
        assert!((&mut waits).now_or_never().is_none(), "its own place is taken");
        drop(reads);
        assert!(matches!(waits.now_or_never(), Some(Ok(Some(_)))));
        let at_once = |pool_size| ReadLane::new(pool_size, PATIENCE).long.places.available_permits();
        assert_eq!([1, 2, 3, 4, 8, 20].map(at_once), [1, 1, 1, 1, 1, 3]);
    }

    #[tokio::test]
    async fn nobody_waits_for_ever_to_read_for_long() {
        let patience = Duration::from_millis(20);
        let (shares, lane) = (ReadShares::new(8), ReadLane::new(8, patience));
        let mut first = shares.of(UserKey::of("alice")).wait(&lane).await;
        let mut second = shares.of(UserKey::of("bob")).wait(&lane).await;
        let long = first.for_long().await.unwrap();
        let asked = tokio::time::Instant::now();
        assert!(second.for_long().await.is_err());
        assert!(asked.elapsed() >= patience);
        drop(long);
        assert!(second.for_long().await.unwrap().is_some());
    }

    #[test]
    fn all_users_together_leave_connections_to_pushes() {
        let (shares, lane) = (ReadShares::new(8), ReadLane::new(8, PATIENCE));
        let turn = |n: usize| shares.of(UserKey::of(&n.to_string())).wait(&lane).now_or_never();
        let mut turns: Vec<_> = (0..6).map(turn).collect();
        assert!(turns.iter().all(Option::is_some));
        assert!(turn(6).is_none());
        turns.pop();
        assert!(turn(6).is_some());
        let at_once = |pool_size| ReadLane::new(pool_size, PATIENCE).all.available_permits();
        assert_eq!([1, 2, 3, 4, 8, 20].map(at_once), [1, 1, 2, 3, 6, 15]);
    }
}
