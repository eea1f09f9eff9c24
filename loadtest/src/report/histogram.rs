//! A histogram of latencies in whole microseconds, with three significant digits from 1 µs to 10 minutes.
//!
//! In JSON it is a string: HdrHistogram's V2 encoding, deflated, in base64 (`HISTFAAA…`). A list of percentiles would
//! be readable, but it can neither be added to another run's nor asked for a percentile that is not in it; and every
//! implementation of HdrHistogram, in any language, reads this form. The usual percentiles are stored next to it
//! ([`super::model::Percentiles`]).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer as HdrDeserializer, Serializer as _, V2DeflateSerializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// The maximum latency that is recorded exactly.
pub const LONGEST: Duration = Duration::from_secs(600);

/// Recorded latencies. Two histograms can be added without loss.
#[derive(Clone, Debug, PartialEq)]
pub struct LatencyHistogram(Histogram<u64>);

impl Default for LatencyHistogram {
    fn default() -> Self {
        let longest = micros(LONGEST);
        Self(Histogram::new_with_bounds(1, longest, 3).unwrap_or_else(|_| unreachable!("the bounds are constants")))
    }
}

impl LatencyHistogram {
    /// Adds a latency; one longer than [`LONGEST`] counts as that.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(micros(latency));
    }

    /// Adds all latencies of another histogram.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds unless one was read from a foreign file; then its values are clamped to ours.
        for value in other.0.iter_recorded() {
            self.0.saturating_record_n(value.value_iterated_to(), value.count_at_value());
        }
    }

    /// Forgets everything but keeps the memory.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// The number of recorded latencies.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Returns the latency in seconds that this fraction (0 to 1) of the recorded ones does not exceed; none if there
    /// are none.
    pub fn quantile_seconds(&self, share: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| seconds(self.0.value_at_quantile(share)))
    }

    /// The longest; none if there are none.
    pub fn max_seconds(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| seconds(self.0.max()))
    }

    /// The mean; none if there are none.
    pub fn mean_seconds(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.mean() / 1e6)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

impl Serialize for LatencyHistogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&self.0, &mut bytes).map_err(ser::Error::custom)?;
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for LatencyHistogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(de::Error::custom)?;
        HdrDeserializer::new().deserialize(&mut bytes.as_slice()).map(Self).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_json_and_adds_up() {
        let mut first = LatencyHistogram::default();
        (1..=1000).for_each(|ms| first.record(Duration::from_millis(ms)));
        let json = serde_json::to_string(&first).unwrap();
        assert!(json.starts_with("\"HISTFAAA"), "{json}");
        let mut sum: LatencyHistogram = serde_json::from_str(&json).unwrap();
        assert_eq!(sum, first);

        let mut second = LatencyHistogram::default();
        second.record(Duration::from_secs(3600));
        sum.merge(&second);
        assert_eq!(sum.count(), 1001);
        assert!((sum.max_seconds().unwrap() - 600.0).abs() < 1.0, "{:?}", sum.max_seconds());
        assert!((sum.quantile_seconds(0.5).unwrap() - 0.501).abs() < 0.001);
    }

    #[test]
    fn nothing_recorded_has_no_latency() {
        let empty = LatencyHistogram::default();
        assert_eq!((empty.quantile_seconds(0.5), empty.max_seconds(), empty.mean_seconds()), (None, None, None));
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(serde_json::from_str::<LatencyHistogram>("\"not base64!\"").is_err());
        assert!(serde_json::from_str::<LatencyHistogram>("\"AAAA\"").is_err());
    }
}
