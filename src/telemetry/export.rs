//! Export of spans to a collector, over OTLP.
//!
//! A separate thread sends spans from a bounded queue; spans that do not fit are dropped. A collector that is
//! unavailable or does not respond costs requests nothing, and the process no memory.

use super::TelemetryError;
use super::metrics::Metrics;
use crate::config::{Collector, Config, OtlpProtocol, RootSampler, TracesConfig};
use opentelemetry::KeyValue;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
use reqwest::blocking::Client;
use reqwest::redirect::Policy;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use url::Url;

/// Creates the tracer provider that exports spans to the collector. Must be called on the runtime that sends them.
pub(super) fn provider(
    config: &Config,
    collector: &Collector,
    metrics: Arc<Metrics>,
) -> Result<SdkTracerProvider, TelemetryError> {
    let endpoint = collector.endpoint.clone();
    let exporter = Counting {
        exporter: exporter(collector, time_limit(config))?,
        metrics,
        endpoint,
        failing: AtomicBool::new(false),
    };
    // Sampling is decided before a request has a span; every span that exists is kept.
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::AlwaysOn)
        .with_resource(resource(config))
        .with_batch_exporter(exporter);
    Ok(provider.build())
}

fn exporter(collector: &Collector, limit: Duration) -> Result<opentelemetry_otlp::SpanExporter, TelemetryError> {
    let builder = opentelemetry_otlp::SpanExporter::builder();
    let endpoint = collector.endpoint.as_str();
    let built = match collector.protocol {
        OtlpProtocol::HttpProtobuf => {
            let builder = builder.with_http().with_protocol(Protocol::HttpBinary).with_endpoint(endpoint);
            builder.with_http_client(http_client(limit)?).build()
        }
        OtlpProtocol::Grpc => {
            let builder = builder.with_tonic().with_endpoint(endpoint);
            match collector.endpoint.scheme() {
                "https" => builder.with_tls_config(ClientTlsConfig::new().with_enabled_roots()).build(),
                _ => builder.build(),
            }
        }
    };
    Ok(built?)
}

/// Returns the collector timeout, as the exporter itself would read it.
#[expect(clippy::disallowed_methods, reason = "the exporter reads its own settings, and this is one of them")]
fn time_limit(config: &Config) -> Duration {
    let of_traces = std::env::var("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT").ok();
    let of_traces = of_traces.and_then(|millis| millis.trim().parse().ok()).map(Duration::from_millis);
    of_traces.unwrap_or(config.traces.otel_exporter_otlp_timeout)
}

/// Creates a client that follows no redirects: no other host must get the collector's keys.
fn http_client(limit: Duration) -> Result<Client, TelemetryError> {
    let builder = move || Client::builder().timeout(limit).redirect(Policy::none()).build();
    // It has its own runtime, which must not be created within another.
    let made = std::thread::spawn(builder).join();
    let failed = || TelemetryError::Traces("the HTTP client".to_owned());
    made.map_err(|_| failed())?.map_err(|_| failed())
}

/// Describes this service. Values from the environment take precedence over built-in ones.
fn resource(config: &Config) -> Resource {
    let builder = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", "mana-sync"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", config.replica_name()),
        ])
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())]);
    match &config.traces.otel_service_name {
        Some(name) => builder.with_service_name(name.clone()).build(),
        None => builder.build(),
    }
}

/// Returns the configured sampler.
pub(super) fn sampler(config: &TracesConfig) -> Sampler {
    let root = match config.otel_traces_sampler.root {
        RootSampler::AlwaysOn => Sampler::AlwaysOn,
        RootSampler::AlwaysOff => Sampler::AlwaysOff,
        RootSampler::TraceIdRatio => Sampler::TraceIdRatioBased(config.otel_traces_sampler_arg),
    };
    if config.otel_traces_sampler.parent_based { Sampler::ParentBased(Box::new(root)) } else { root }
}

/// Removes the endpoint from the exporter's message: it is a setting, and settings are not logged.
fn without_endpoint(text: &str, endpoint: &Url) -> String {
    let mut bare = endpoint.clone();
    // Both fail only for URLs that cannot have a user, and leave those unchanged.
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    text.replace(endpoint.as_str(), "[endpoint]").replace(bare.as_str(), "[endpoint]")
}

/// An exporter that counts successes and failures, and logs each change between them once.
#[derive(Debug)]
struct Counting<E> {
    exporter: E,
    metrics: Arc<Metrics>,
    endpoint: Url,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Counting<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let done = self.exporter.export(batch).await;
        let outcome = if done.is_ok() { "exported" } else { "failed" };
        self.metrics.trace_spans.with_label_values(&[outcome]).inc_by(spans);
        match (&done, self.failing.swap(done.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                let error = without_endpoint(&error.to_string(), &self.endpoint);
                tracing::warn!(error, "traces do not reach the collector; dropped");
            }
            (Ok(()), true) => tracing::info!("traces reach the collector again"),
            _ => {}
        }
        done
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
