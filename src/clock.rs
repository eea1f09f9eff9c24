//! Time and randomness. The only module that asks the machine for either; all others are passed a [`Clock`].
//!
//! A clock moved by hand ([`ManualClock`]) controls everything that depends on the date or on elapsed time: whether a
//! token has expired, how far ahead a stamp may be, when a quota refills, when something that failed is retried, what
//! is old enough to be trimmed. Timeouts and heartbeats are not part of this: they use tokio's time
//! (`tokio::time::Instant`), which a test may pause.
//!
//! Positions in a log use the database's own time, whatever clock a replica has.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::Instant;

/// Time and randomness: the machine's, or those of a [`ManualClock`]. Clones share the same clock.
#[derive(Clone, Debug)]
pub struct Clock {
    /// `None`: the machine's.
    manual: Option<Arc<Manual>>,
}

/// A clock that stands still until it is moved, with randomness determined by its seed. For tests.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Manual>);

#[derive(Debug)]
struct Manual {
    begun: (SystemTime, Instant),
    advanced: watch::Sender<Duration>,
    rng: Mutex<StdRng>,
}

impl Clock {
    /// Returns the machine's clock.
    pub fn system() -> Clock {
        Clock { manual: None }
    }

    /// Returns the current date and time.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now(&self) -> SystemTime {
        match &self.manual {
            None => SystemTime::now(),
            Some(manual) => manual.begun.0 + manual.advanced(),
        }
    }

    /// Returns the time since 1970, or zero before it.
    pub fn since_epoch(&self) -> Duration {
        self.now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// Returns the time since 1970, in milliseconds.
    pub fn millis(&self) -> u64 {
        // Enough for 500 million years.
        self.since_epoch().as_millis() as u64
    }

    /// Returns a monotonic time to measure from, which advances with this clock.
    pub fn instant(&self) -> Instant {
        match &self.manual {
            None => Instant::now(),
            Some(manual) => manual.begun.1 + manual.advanced(),
        }
    }

    /// Waits until a time of this clock. Cancel safe.
    pub async fn sleep_until(&self, moment: Instant) {
        match &self.manual {
            None => tokio::time::sleep_until(moment).await,
            // Boxed, so that waiting by the machine's clock does not reserve space for it.
            Some(manual) => Box::pin(manual.reach(moment)).await,
        }
    }

    /// Waits for this long.
    pub async fn sleep(&self, time: Duration) {
        self.sleep_until(self.instant() + time).await;
    }

    /// Returns how far this clock has been moved, to adjust for decisions that the database makes by its own clock.
    pub fn advanced(&self) -> Duration {
        self.manual.as_ref().map_or(Duration::ZERO, |manual| manual.advanced())
    }

    /// Returns an unguessable number; for a manual clock, the next one of its seed.
    pub fn random_u64(&self) -> u64 {
        self.draw(|rng| rng.random())
    }

    /// Returns the same with 128 bits, for ids.
    pub fn random_u128(&self) -> u128 {
        self.draw(|rng| rng.random())
    }

    /// Returns true once in this many times, at random.
    pub fn once_in(&self, times: u32) -> bool {
        self.draw(|rng| rng.random_ratio(1, times.max(1)))
    }

    /// Returns a random multiple of a time within this range, to avoid many doing the same thing at once.
    pub fn jitter(&self, time: Duration, between: Range<f64>) -> Duration {
        time.mul_f64(self.draw(|rng| rng.random_range(between)))
    }

    /// Shuffles a list.
    pub fn shuffle<T>(&self, list: &mut [T]) {
        self.draw(|mut rng| list.shuffle(&mut rng));
    }

    #[expect(clippy::disallowed_methods, reason = "this is the source of randomness")]
    fn draw<T>(&self, draw: impl FnOnce(&mut dyn Rng) -> T) -> T {
        match &self.manual {
            None => draw(&mut rand::rng()),
            // A number drawn before a panic is lost, which leaves nothing half done.
            Some(manual) => draw(&mut *manual.rng.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

impl ManualClock {
    /// Creates a clock that stands at this date.
    pub fn at(date: SystemTime, seed: u64) -> ManualClock {
        ManualClock(Arc::new(Manual {
            begun: (date, Instant::now()),
            advanced: watch::Sender::new(Duration::ZERO),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
        }))
    }

    /// Creates a clock that stands at the machine's date, which the database has too.
    pub fn at_present(seed: u64) -> ManualClock {
        ManualClock::at(Clock::system().now(), seed)
    }

    /// Returns the clock to pass to its users.
    pub fn clock(&self) -> Clock {
        Clock { manual: Some(self.0.clone()) }
    }

    /// Moves the clock, and wakes those waiting for the new time.
    pub fn advance(&self, by: Duration) {
        self.0.advanced.send_modify(|advanced| *advanced += by);
    }
}

impl Manual {
    fn advanced(&self) -> Duration {
        *self.advanced.borrow()
    }

    async fn reach(&self, moment: Instant) {
        let reached = |advanced: &Duration| self.begun.1 + *advanced >= moment;
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.advanced.subscribe().wait_for(reached).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_manual_clock_moves_date_moments_and_those_who_wait_and_only_when_it_is_told() {
        let manual = ManualClock::at(UNIX_EPOCH + HOUR, 1);
        let (clock, same) = (manual.clock(), manual.clock());
        let (date, moment) = (clock.now(), clock.instant());
        assert_eq!((date, clock.millis()), (UNIX_EPOCH + HOUR, 3_600_000));
        let mut waiting = Box::pin(clock.sleep(HOUR));
        assert_eq!((&mut waiting).now_or_never(), None);
        manual.advance(HOUR - Duration::from_nanos(1));
        assert_eq!((&mut waiting).now_or_never(), None, "not quite");
        manual.advance(Duration::from_nanos(1));
        waiting.await;
        assert_eq!((same.now(), same.instant(), same.advanced()), (date + HOUR, moment + HOUR, HOUR));
        assert_eq!(same.sleep_until(moment).now_or_never(), Some(()), "what is over is not waited for");
    }

    #[test]
    fn chance_is_the_same_for_the_same_seed_and_no_other() {
        let drawn = |seed| {
            let clock = ManualClock::at(UNIX_EPOCH, seed).clock();
            let mut list = [1, 2, 3, 4, 5, 6, 7, 8];
            clock.shuffle(&mut list);
            (clock.random_u64(), clock.random_u128(), clock.jitter(HOUR, 0.5..1.5), list)
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        let system = Clock::system();
        assert_ne!(system.random_u128(), system.random_u128());
        let jitters: Vec<_> = (0..100).map(|_| system.jitter(HOUR, 0.5..1.5)).collect();
        assert!(jitters.iter().all(|jitter| (HOUR / 2..HOUR * 3 / 2).contains(jitter)), "{jitters:?}");
    }

    #[tokio::test]
    async fn the_machines_clock_is_the_machines() {
        let clock = Clock::system();
        let (date, moment) = (clock.since_epoch(), Instant::now());
        assert!(clock.instant() >= moment && clock.advanced().is_zero());
        clock.sleep(Duration::from_millis(2)).await;
        assert!(moment.elapsed() >= Duration::from_millis(2));
        assert!(clock.since_epoch() >= date);
    }
}
