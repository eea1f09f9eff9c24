//! What time it is, and chance. The only module that asks the machine for either; everybody else is handed a [`Clock`].
//!
//! A clock that is moved by hand ([`ManualClock`]) decides what depends on the date or on how long ago something was:
//! whether a token has expired, how far a stamp may be ahead, when a quota is full again, when something that failed is
//! tried again, what is old enough to be trimmed. How long to wait for an answer, and how often to say that one is alive,
//! is no matter of it: that is tokio's time (`tokio::time::Instant`), which a test may pause.
//!
//! Positions in a log are the database's own time, whatever clock a replica has.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::Instant;

/// What time it is, and chance: the machine's, or those of a [`ManualClock`]. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct Clock {
    /// None: the machine's.
    manual: Option<Arc<Manual>>,
}

/// A clock that stands still until it is moved, and whose chance is the same for the same seed. For tests.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Manual>);

#[derive(Debug)]
struct Manual {
    begun: (SystemTime, Instant),
    advanced: watch::Sender<Duration>,
    rng: Mutex<StdRng>,
}

impl Clock {
    /// The machine's.
    pub fn system() -> Clock {
        Clock { manual: None }
    }

    /// The date.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now(&self) -> SystemTime {
        match &self.manual {
            None => SystemTime::now(),
            Some(manual) => manual.begun.0 + manual.advanced(),
        }
    }

    /// The date as the time since 1970; zero before.
    pub fn since_epoch(&self) -> Duration {
        self.now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// The date in milliseconds since 1970.
    pub fn millis(&self) -> u64 {
        // Enough for 500 million years.
        self.since_epoch().as_millis() as u64
    }

    /// A moment to measure from: of a clock that nobody sets, and that moves with this one.
    pub fn instant(&self) -> Instant {
        match &self.manual {
            None => Instant::now(),
            Some(manual) => manual.begun.1 + manual.advanced(),
        }
    }

    /// Waits until a moment of this clock. May be given up and asked again.
    pub async fn sleep_until(&self, moment: Instant) {
        match &self.manual {
            None => tokio::time::sleep_until(moment).await,
            // Boxed: who waits by the machine's clock has no room set aside for it.
            Some(manual) => Box::pin(manual.reach(moment)).await,
        }
    }

    /// Waits for so long.
    pub async fn sleep(&self, time: Duration) {
        self.sleep_until(self.instant() + time).await;
    }

    /// How far this clock has been moved: for what the database decides by its own.
    pub fn advanced(&self) -> Duration {
        self.manual.as_ref().map_or(Duration::ZERO, |manual| manual.advanced())
    }

    /// A number that nobody can guess; by a manual clock, the next one of its seed.
    pub fn random_u64(&self) -> u64 {
        self.draw(|rng| rng.random())
    }

    /// The same, twice as long: for ids.
    pub fn random_u128(&self) -> u128 {
        self.draw(|rng| rng.random())
    }

    /// Whether something happens that happens once in so many times.
    pub fn once_in(&self, times: u32) -> bool {
        self.draw(|rng| rng.random_ratio(1, times.max(1)))
    }

    /// A random part of a time, between these multiples of it: so that many do not do the same at once.
    pub fn jitter(&self, time: Duration, between: Range<f64>) -> Duration {
        time.mul_f64(self.draw(|rng| rng.random_range(between)))
    }

    /// Puts a list into a random order.
    pub fn shuffle<T>(&self, list: &mut [T]) {
        self.draw(|mut rng| list.shuffle(&mut rng));
    }

    #[expect(clippy::disallowed_methods, reason = "this is where chance comes from")]
    fn draw<T>(&self, draw: impl FnOnce(&mut dyn Rng) -> T) -> T {
        match &self.manual {
            None => draw(&mut rand::rng()),
            // A number that was drawn before a panic is gone, which leaves nothing half done.
            Some(manual) => draw(&mut *manual.rng.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

impl ManualClock {
    /// A clock that stands at this date.
    pub fn at(date: SystemTime, seed: u64) -> ManualClock {
        ManualClock(Arc::new(Manual {
            begun: (date, Instant::now()),
            advanced: watch::Sender::new(Duration::ZERO),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
        }))
    }

    /// A clock that stands at the machine's date, which the database has as well.
    pub fn at_present(seed: u64) -> ManualClock {
        ManualClock::at(Clock::system().now(), seed)
    }

    /// What is handed to those who are to live by it.
    pub fn clock(&self) -> Clock {
        Clock { manual: Some(self.0.clone()) }
    }

    /// Moves it, and wakes who has waited for that.
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
        // The sender lives in what we borrow: the wait does not fail.
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
