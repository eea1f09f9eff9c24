//! Metrics that a collector was sent, and that they are those of `/metrics`.

use crate::collector::Collector;
use crate::support::live::metric;
use crate::support::*;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::MetricsService;
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A header that replicas are told to send.
pub const TENANT: &str = "x-tenant";

/// Series by name and labels, as Prometheus writes them.
type Series = BTreeMap<String, f64>;

/// One sending.
#[derive(Clone, Debug)]
pub struct Sent {
    tenant: Option<String>,
    encoding: Option<String>,
    who: String,
    series: Series,
}

/// What has arrived.
#[derive(Clone, Debug, Default)]
pub struct Numbers(Arc<Mutex<Vec<Sent>>>);

impl Numbers {
    pub fn take_in(&self, tenant: Option<String>, encoding: Option<String>, request: ExportMetricsServiceRequest) {
        for resource in request.resource_metrics {
            let who = resource.resource.unwrap_or_default().attributes;
            let who = who.iter().find(|pair| pair.key == "service.instance.id").map(text).unwrap_or_default();
            let metrics = resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            let series = metrics.flat_map(|metric| read(&metric.name, metric.data.unwrap())).collect();
            self.0.lock().unwrap().push(Sent { tenant: tenant.clone(), encoding: encoding.clone(), who, series });
        }
    }

    pub fn latest(&self) -> Option<Sent> {
        self.0.lock().unwrap().last().cloned()
    }
}

#[tonic::async_trait]
impl MetricsService for Numbers {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        let text = |name: &str| request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (tenant, encoding) = (text(TENANT), text("grpc-encoding"));
        self.take_in(tenant, encoding, request.into_inner());
        Ok(tonic::Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn text(pair: &KeyValue) -> String {
    match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        other => panic!("{} is no text: {other:?}", pair.key),
    }
}

fn read(name: &str, data: Data) -> Vec<(String, f64)> {
    let series = |name: String, labels: &[KeyValue]| {
        let mut labels: Vec<String> = labels.iter().map(|pair| format!("{}=\"{}\"", pair.key, text(pair))).collect();
        labels.sort();
        if labels.is_empty() { name } else { format!("{name}{{{}}}", labels.join(",")) }
    };
    let points = match data {
        Data::Gauge(gauge) => gauge.data_points,
        Data::Sum(sum) => {
            assert!(sum.is_monotonic && sum.aggregation_temporality == 2, "{name}");
            sum.data_points
        }
        Data::Histogram(histogram) => {
            let points = histogram.data_points.iter();
            return points
                .map(|point| {
                    assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count, "{name}");
                    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1, "{name}");
                    (series(format!("{name}_count"), &point.attributes), point.count as f64)
                })
                .collect();
        }
        other => panic!("{name}: {other:?}"),
    };
    let value = |value| match value {
        Some(Value::AsDouble(value)) => value,
        other => panic!("{name}: {other:?}"),
    };
    points.into_iter().map(|point| (series(name.to_owned(), &point.attributes), value(point.value))).collect()
}

/// Series of Prometheus's text format; of histograms their counts.
fn scraped(text: &str) -> Series {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let series = lines.map(|line| line.rsplit_once(' ').unwrap());
    let others = |name: &str| {
        let name = name.split('{').next().unwrap();
        name.ends_with("_bucket") || name.ends_with("_seconds_sum")
    };
    series.filter(|(name, _)| !others(name)).map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

async fn arrive(collector: Collector, protocol: &str, compression: &str) {
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=seven%207"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", compression),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("DRAIN_DELAY_MS", "0"),
        ("DRAIN_WINDOW_MS", "0"),
    ];
    let cluster = Cluster::start_with(1, &settings).await;
    let user = cluster.user();
    let push = json!({ "clientId": "a", "changes": [insert("tasks", "1", "x", "2024-01-01T10:00:00.000Z")] });
    cluster.pushed(&user, "todo", push).await;
    let stored = "mana_sync_pushes_total{outcome=\"stored\"}";
    let arrived = async || collector.numbers.latest().filter(|sent| sent.series.get(stored) == Some(&1.0));
    let arrived = mana_dev::wait::until(TIMEOUT, arrived).await;
    let Sent { tenant, encoding, who, series } = arrived.expect("the push is counted at the collector");
    assert_eq!((tenant.as_deref(), who.as_str()), (Some("seven 7"), "replica-1"));
    assert_eq!(encoding.as_deref().unwrap_or("none"), compression);
    let scraped = scraped(&cluster.get("/metrics").await.text);
    let names = |series: &Series| series.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&series), names(&scraped), "the same series, whichever way they go");
    assert_eq!(series["mana_sync_push_duration_seconds_count"], 1.0);

    // What happens after the last regular sending is sent at the end.
    let exported = "mana_sync_metric_exports_total{outcome=\"exported\"}";
    eventually("the first sending is over", async || metric(&cluster, 0, exported).await >= 1.0).await;
    cluster.pushed(&user, "todo", json!({ "clientId": "b" })).await;
    cluster.nodes[0].process.terminate(TIMEOUT).await.unwrap();
    let last = collector.numbers.latest().unwrap().series;
    assert_eq!(last["mana_sync_pushes_total{outcome=\"empty\"}"], 1.0);
    assert!(last[exported] >= 1.0);
}

#[tokio::test]
async fn metrics_arrive_as_they_are_scraped() {
    for compression in ["none", "gzip"] {
        arrive(Collector::http().await, "http/protobuf", compression).await;
        arrive(Collector::grpc().await, "grpc", compression).await;
    }
}

/// A replica whose metrics go to somebody who does not take them.
async fn is_not_disturbed(url: &str, protocol: &str) {
    let settings = [
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", url),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", protocol),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "200"),
        ("DRAIN_DELAY_MS", "0"),
        ("DRAIN_WINDOW_MS", "0"),
    ];
    let cluster = Cluster::start_with(1, &settings).await;
    let user = cluster.user();
    let failed = "mana_sync_metric_exports_total{outcome=\"failed\"}";
    eventually("several attempts have failed", async || metric(&cluster, 0, failed).await >= 3.0).await;
    cluster.pushed(&user, "todo", json!({ "clientId": "a" })).await;
    let stopping = Instant::now();
    let status = cluster.nodes[0].process.terminate(TIMEOUT).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(5), "{:?}", stopping.elapsed());
    let log = cluster.nodes[0].log();
    assert_eq!(log.matches("metrics do not reach the collector").count(), 1, "{log}");
}

#[tokio::test]
async fn a_collector_that_takes_no_metrics_disturbs_nobody() {
    let silent = Collector::silent().await;
    is_not_disturbed(&silent.url, "http/protobuf").await;
    is_not_disturbed(&silent.url, "grpc").await;
    let gone = Collector::silent().await.url.clone();
    is_not_disturbed(&gone, "grpc").await;
}
