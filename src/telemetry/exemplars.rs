//! Histograms with exemplars: for each bucket, the trace of the last observation made in a sampled span.

use super::bounds::SECONDS;
use super::traces;
use crate::clock::Clock;
use opentelemetry::trace::{SpanId, TraceId};
use prometheus::Histogram;
use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// One bucket for each bound, and one for everything beyond.
const BUCKETS: usize = SECONDS.len() + 1;

/// A histogram of latencies, with an exemplar for each bucket.
#[derive(Clone, Debug)]
pub struct TracedHistogram {
    pub(super) name: &'static str,
    histogram: Histogram,
    exemplars: Arc<RwLock<[Option<Exemplar>; BUCKETS]>>,
}

/// An observation, and the span it was made in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exemplar {
    trace: TraceId,
    span: SpanId,
    value: f64,
    at: SystemTime,
}

impl TracedHistogram {
    pub(super) fn new(name: &'static str, histogram: Histogram) -> TracedHistogram {
        TracedHistogram { name, histogram, exemplars: Arc::default() }
    }

    /// Records an observation, in seconds. If the current span is sampled, the observation becomes its bucket's
    /// exemplar; `observe` leaves none.
    pub fn record(&self, seconds: f64, clock: &Clock) {
        self.histogram.observe(seconds);
        let Some((trace, span)) = traces::current() else { return };
        let bucket = SECONDS.partition_point(|bound| *bound < seconds);
        let exemplar = Exemplar { trace, span, value: seconds, at: clock.now() };
        self.exemplars.write().unwrap_or_else(PoisonError::into_inner)[bucket] = Some(exemplar);
    }

    /// Returns the exemplar of each bucket, in ascending order.
    pub(super) fn exemplars(&self) -> [Option<Exemplar>; BUCKETS] {
        *self.exemplars.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for TracedHistogram {
    type Target = Histogram;

    fn deref(&self) -> &Histogram {
        &self.histogram
    }
}

/// Formats the exemplar as it appears after the value of a bucket.
impl std::fmt::Display for Exemplar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let Exemplar { trace, span, value, .. } = self;
        write!(f, " # {{trace_id=\"{trace}\",span_id=\"{span}\"}} {value:?} {:.3}", at.as_secs_f64())
    }
}
