//! The shortest time that something has taken lately: how long it takes if nothing else is going on.

use std::time::Duration;
use tokio::time::Instant;

/// Approximate time for which the shortest time counts; then a longer one may take its place, as the connection may have
/// become longer.
const LATELY: Duration = Duration::from_secs(60);

/// The shortest time lately, and when it was last updated.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShortestLately(Option<(Duration, Instant)>);

impl ShortestLately {
    /// Records how long it took this time. Returns the shortest time lately, including this one.
    pub fn note(&mut self, took: Duration, now: Instant) -> Duration {
        let shortest = match self.0 {
            Some((shortest, then)) => {
                let grown = shortest.mul_f64(1.0 + now.duration_since(then).as_secs_f64() / LATELY.as_secs_f64());
                took.min(grown)
            }
            None => took,
        };
        self.0 = Some((shortest, now));
        shortest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_time_takes_its_place_after_a_while() {
        let (mut shortest, mut now, milli) = (ShortestLately::default(), Instant::now(), Duration::from_millis(1));
        assert_eq!(shortest.note(2 * milli, now), 2 * milli);
        assert_eq!(shortest.note(milli, now), milli);
        assert_eq!(shortest.note(10 * milli, now), milli);
        let minutes = (1..)
            .find(|_| {
                now += LATELY;
                shortest.note(10 * milli, now) == 10 * milli
            })
            .unwrap();
        assert_eq!(minutes, 4, "doubled each minute: 2, 4, 8, 16 ms");
        assert_eq!(shortest.note(milli, now), milli, "a shorter one counts at once");
    }
}
