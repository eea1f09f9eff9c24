//! Metrics as OTLP has them: what `/metrics` shows, family by family.
//!
//! Translated rather than recorded a second time, so that both ways out show the same numbers under the same names.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use prometheus::proto::{LabelPair, MetricFamily, MetricType};
use std::time::SystemTime;

/// All families as they stand now; counters count since `started`.
pub(super) fn request(
    families: &[MetricFamily],
    resource: &ResourceAttributesWithSchema,
    started: SystemTime,
    now: SystemTime,
) -> ExportMetricsServiceRequest {
    let times = Times { started: nanos(started), now: nanos(now) };
    let scope = InstrumentationScope {
        name: "mana-sync".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let metrics = families.iter().map(|family| metric(family, times)).collect();
    let resource = Resource { attributes: resource.attributes.0.clone(), ..Resource::default() };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource),
            scope_metrics: vec![ScopeMetrics { scope: Some(scope), metrics, schema_url: String::new() }],
            schema_url: String::new(),
        }],
    }
}

/// In nanoseconds since 1970.
#[derive(Clone, Copy)]
struct Times {
    started: u64,
    now: u64,
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn metric(family: &MetricFamily, times: Times) -> Metric {
    let temporality = AggregationTemporality::Cumulative.into();
    let points = || family.get_metric().iter();
    let data = match family.get_field_type() {
        MetricType::COUNTER => Data::Sum(Sum {
            data_points: points().map(|one| number(one.get_label(), one.get_counter().get_value(), times)).collect(),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        MetricType::HISTOGRAM => Data::Histogram(Histogram {
            data_points: points().map(|one| distribution(one.get_label(), one.get_histogram(), times)).collect(),
            aggregation_temporality: temporality,
        }),
        // There are no other kinds here.
        _ => Data::Gauge(Gauge {
            data_points: points().map(|one| number(one.get_label(), one.get_gauge().get_value(), times)).collect(),
        }),
    };
    Metric {
        name: family.name().to_owned(),
        description: family.help().to_owned(),
        unit: unit(family.name()).to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// The unit that a name ends with, as UCUM writes it.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        Some("ratio") => "1",
        _ => "",
    }
}

fn attributes(labels: &[LabelPair]) -> Vec<KeyValue> {
    let attribute = |label: &LabelPair| KeyValue {
        key: label.name().to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(label.value().to_owned())) }),
        ..KeyValue::default()
    };
    labels.iter().map(attribute).collect()
}

fn number(labels: &[LabelPair], value: f64, times: Times) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: times.started,
        time_unix_nano: times.now,
        value: Some(Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

/// Prometheus counts what is up to a bound, OTLP what is between two; and its last bucket has no bound.
fn distribution(labels: &[LabelPair], from: &prometheus::proto::Histogram, times: Times) -> HistogramDataPoint {
    let bounded = || from.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    let (mut bucket_counts, mut below) = (Vec::new(), 0);
    for bucket in bounded() {
        bucket_counts.push(bucket.cumulative_count() - below);
        below = bucket.cumulative_count();
    }
    bucket_counts.push(from.get_sample_count() - below);
    HistogramDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: times.started,
        time_unix_nano: times.now,
        count: from.get_sample_count(),
        sum: Some(from.get_sample_sum()),
        bucket_counts,
        explicit_bounds: bounded().map(prometheus::proto::Bucket::upper_bound).collect(),
        ..HistogramDataPoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{HistogramOpts, Registry};

    #[test]
    fn buckets_count_what_is_between_their_bounds() {
        let registry = Registry::new();
        let options = HistogramOpts::new("x_seconds", "X.").buckets(vec![0.1, 1.0]);
        let histogram = prometheus::Histogram::with_opts(options).unwrap();
        registry.register(Box::new(histogram.clone())).unwrap();
        for value in [0.05, 0.06, 0.5, 30.0, 40.0, 50.0] {
            histogram.observe(value);
        }
        let metric = metric(&registry.gather()[0], Times { started: 1, now: 2 });
        assert_eq!((metric.name.as_str(), metric.unit.as_str()), ("x_seconds", "s"));
        let Some(Data::Histogram(Histogram { data_points, .. })) = metric.data else { panic!("{metric:?}") };
        assert_eq!(data_points[0].bucket_counts, [2, 1, 3]);
        assert_eq!(data_points[0].explicit_bounds, [0.1, 1.0]);
        assert_eq!((data_points[0].count, data_points[0].sum), (6, Some(120.61)));
    }
}
