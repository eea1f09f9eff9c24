//! Telemetry: logs, metrics and traces.
//!
//! - [`logs`]: lines on standard output, with the ids of their request and trace.
//! - [`metrics`]: every metric, named once. Collectors get them by scraping.
//! - [`refusals`]: accepted requests, and refused ones by reason.
//! - [`throttle`]: rate-limited log lines.
//! - [`traces`]: the sampling of requests, and every span, named once; [`export`] sends them to a collector.
//!
//! None of them reveals who a user is or what a user stores.

mod allowance;
mod apps;
mod bounds;
mod exemplars;
mod export;
mod formatter;
mod http_metrics;
pub mod logs;
pub mod metrics;
mod openmetrics;
mod process;
mod redact;
pub mod refusals;
mod registry;
pub mod request_id;
pub mod throttle;
pub mod traces;

pub use logs::{LogFilter, LogFilterError};
pub use metrics::Metrics;
pub use traces::Traces;

use crate::clock::Clock;
use crate::config::Config;
use opentelemetry::InstrumentationScope;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::sync::Arc;
use std::time::Duration;

/// The telemetry of a process.
#[derive(Debug)]
pub struct Telemetry {
    /// The counters and gauges.
    pub metrics: Arc<Metrics>,
    /// Decides which requests are traced.
    pub traces: Traces,
    /// The log filter.
    pub log: LogFilter,
    provider: Option<SdkTracerProvider>,
}

/// Telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The exporter's message contains values of settings; only the setting's name is kept.
    #[error("traces cannot be exported with these OTEL_… settings: see {0}")]
    Traces(String),
}

/// The instrumentation scope of our spans, with the semantic conventions they follow.
fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("mana-sync")
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url("https://opentelemetry.io/schemas/1.44.0")
        .build()
}

impl From<ExporterBuildError> for TelemetryError {
    fn from(error: ExporterBuildError) -> Self {
        let setting = match &error {
            ExporterBuildError::InvalidConfiguration(text) => text.split(':').next().unwrap_or_default(),
            _ => "the exporter",
        };
        TelemetryError::Traces(setting.to_owned())
    }
}

impl Telemetry {
    /// Starts logging, and tracing if it is configured. Spans are sent on the current runtime.
    pub fn start(config: &Config, clock: &Clock) -> Result<Telemetry, TelemetryError> {
        let metrics = Arc::new(Metrics::new());
        metrics.show_limits(config);
        metrics.apps.tell_apart(&config.metrics.metric_apps);
        let collector = config.traces.collector();
        let provider = collector.map(|collector| export::provider(config, &collector, metrics.clone())).transpose()?;
        let traces = provider.as_ref().map_or_else(Traces::default, |_| {
            Traces::following(export::sampler(&config.traces), config.traces.client_traces_per_second, clock.clone())
        });
        let tracer = provider.as_ref().map(|provider| provider.tracer_with_scope(scope()));
        let log = logs::init(config.log_format, tracer, clock.clone());
        Ok(Telemetry { metrics, traces, log, provider })
    }

    /// Sends the last spans within this time limit. Blocks; must not be called on a runtime.
    pub fn flush(self, limit: Duration) {
        if let Some(Err(error)) = self.provider.map(|provider| provider.shutdown_with_timeout(limit)) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the last traces could not be exported");
        }
    }
}
