//! The schedule of requests: fixed in advance, independent of the server.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::mpsc::UnboundedSender;

use super::file::{Arrivals, PhasePlan};

/// A request to be made.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Its intended time.
    pub intended: Instant,
    /// When the schedule released it; later than its time only if the generator was too busy.
    pub released: Instant,
    /// Its index in the phase, from 0.
    pub number: u64,
}

/// The times of one phase, in seconds from its start.
pub struct Times {
    phase: PhasePlan,
    rng: StdRng,
    at: f64,
}

impl Times {
    pub fn new(phase: &PhasePlan, seed: u64) -> Self {
        Self { phase: phase.clone(), rng: StdRng::seed_from_u64(seed), at: 0.0 }
    }

    fn rate(&self) -> f64 {
        let to = self.phase.rate_to.unwrap_or(self.phase.rate);
        self.phase.rate + (to - self.phase.rate) * (self.at / self.phase.seconds).min(1.0)
    }
}

impl Iterator for Times {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        // A ramp from zero has no next time at its start; it is evaluated again after a short step.
        const STEP: f64 = 0.01;
        while self.rate() <= 0.0 {
            self.at += STEP;
            if self.at >= self.phase.seconds {
                return None;
            }
        }
        let mean = 1.0 / self.rate();
        let gap = match self.phase.arrivals {
            Arrivals::Constant => mean,
            // The gaps of a Poisson process are exponential.
            Arrivals::Poisson => -mean * (1.0 - self.rng.random::<f64>()).ln(),
        };
        // At the start of a steep ramp a single long gap would skip everything after it.
        let longest = if self.phase.rate_to.is_some() { self.phase.seconds / 10.0 } else { f64::INFINITY };
        self.at += gap.min(longest);
        (self.at < self.phase.seconds).then_some(self.at)
    }
}

/// Releases the arrivals of a phase at their times, from a thread of its own: a runtime's timers have a resolution of a
/// millisecond, and are late when it is busy. Ends with the phase, or when nobody receives.
pub fn release(times: Times, begun: Instant, to: UnboundedSender<Arrival>) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name("arrivals".to_owned()).spawn(move || {
        for (number, at) in (0..).zip(times) {
            let intended = begun + Duration::from_secs_f64(at);
            if let Some(wait) = intended.checked_duration_since(Instant::now()) {
                thread::sleep(wait);
            }
            if to.send(Arrival { intended, released: Instant::now(), number }).is_err() {
                return;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::file::Event;
    use super::*;

    fn phase(rate: f64, rate_to: Option<f64>, arrivals: Arrivals) -> PhasePlan {
        let name = "steady".to_owned();
        PhasePlan { name, seconds: 10.0, rate, rate_to, arrivals, measured: true, event: Event::Nothing }
    }

    #[test]
    fn as_many_arrive_as_the_rate_says() {
        let count = |phase: &PhasePlan| Times::new(phase, 1).count();
        assert!((998..=1000).contains(&count(&phase(100.0, None, Arrivals::Constant))));
        let poisson = count(&phase(100.0, None, Arrivals::Poisson));
        assert!((900..1100).contains(&poisson), "{poisson}");
        let ramp = count(&phase(0.0, Some(200.0), Arrivals::Poisson));
        assert!((850..1150).contains(&ramp), "{ramp}");
        assert_eq!(count(&phase(0.0, None, Arrivals::Constant)), 0);
    }

    #[test]
    fn they_are_let_go_in_order_and_not_before_their_time() {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let short = PhasePlan { seconds: 0.1, ..phase(1000.0, None, Arrivals::Poisson) };
        release(Times::new(&short, 3), Instant::now(), sender).unwrap().join().unwrap();
        let mut last = None;
        while let Ok(arrival) = receiver.try_recv() {
            assert!(arrival.released >= arrival.intended && Some(arrival.intended) > last);
            last = Some(arrival.intended);
        }
        assert!(last.is_some());
    }
}
