//! Types of metrics, each created and registered with all the series it will ever have.

use super::bounds::SECONDS;
use super::exemplars::TracedHistogram;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

// The names are constants in metrics.rs, valid and unique; otherwise no replica would start.
fn register<M: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("metric names are constants of metrics.rs");
    registry.register(Box::new(metric.clone())).expect("every metric is named once");
    metric
}

pub(super) fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help))
}

pub(super) fn fraction_gauge(registry: &Registry, name: &str, help: &str) -> Gauge {
    register(registry, Gauge::new(name, help))
}

pub(super) fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

pub(super) fn histogram(registry: &Registry, name: &str, help: &str) -> Histogram {
    register(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec())))
}

/// Creates a histogram with exemplars.
pub(super) fn traced_histogram(registry: &Registry, name: &'static str, help: &str) -> TracedHistogram {
    TracedHistogram::new(name, histogram(registry, name, help))
}

pub(super) fn counters(registry: &Registry, name: &str, help: &str, label: &str, values: &[&str]) -> IntCounterVec {
    let metric = register(registry, IntCounterVec::new(Opts::new(name, help), &[label]));
    values.iter().for_each(|value| metric.with_label_values(&[value]).reset());
    metric
}

pub(super) fn gauges(registry: &Registry, name: &str, help: &str, label: &str, values: &[&str]) -> IntGaugeVec {
    let metric = register(registry, IntGaugeVec::new(Opts::new(name, help), &[label]));
    values.iter().for_each(|value| metric.with_label_values(&[value]).set(0));
    metric
}

pub(super) fn histograms(registry: &Registry, name: &str, help: &str, label: &str, values: &[&str]) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
    let metric = register(registry, HistogramVec::new(options, &[label]));
    values.iter().for_each(|value| drop(metric.with_label_values(&[value])));
    metric
}

/// A gauge that is always 1, with two informational labels.
pub(super) fn paired_gauge(
    registry: &Registry,
    name: &str,
    help: &str,
    (label, value): (&str, &str),
    (other, other_value): (&str, &str),
) {
    let metric = register(registry, IntGaugeVec::new(Opts::new(name, help), &[label, other]));
    metric.with_label_values(&[value, other_value]).set(1);
}

/// Counters with two labels, one for each pair of values.
pub(super) fn paired_counters(
    registry: &Registry,
    name: &str,
    help: &str,
    (label, values): (&str, &[&str]),
    (other, others): (&str, &[&str]),
) -> IntCounterVec {
    let metric = register(registry, IntCounterVec::new(Opts::new(name, help), &[label, other]));
    for value in values {
        others.iter().for_each(|other| metric.with_label_values(&[value, other]).reset());
    }
    metric
}
