//! What the outside sees of the inside: logs, metrics and traces.
//!
//! * [`logs`]: lines on standard output, with the ids of the request and the trace that they belong to.
//! * [`metrics`]: every metric, named once.
//! * [`seldom`]: lines that are written once in a while, however often there is reason.
//! * [`traces`]: which requests are traced, and every span, named once; [`export`] sends them to a collector.
//!
//! None of them says who a user is or what a user stores.

mod causes;
mod export;
mod lines;
pub mod logs;
pub mod metrics;
pub mod request_id;
pub mod seldom;
pub mod traces;

pub use metrics::Metrics;
pub use traces::Traces;

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
    pub metrics: Arc<Metrics>,
    pub traces: Traces,
    provider: Option<SdkTracerProvider>,
}

/// Why there is no telemetry.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be exported as the settings OTEL_… say")]
pub struct TelemetryError(#[from] ExporterBuildError);

/// Who makes the spans, and by which conventions they are named.
fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("mana-sync")
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url("https://opentelemetry.io/schemas/1.44.0")
        .build()
}

impl Telemetry {
    /// Starts logging, and tracing if the settings ask for it. Spans are sent by the current runtime.
    pub fn start(config: &Config) -> Result<Telemetry, TelemetryError> {
        let metrics = Arc::new(Metrics::new());
        let collector = config.traces.collector();
        let provider = collector.map(|collector| export::provider(config, &collector, metrics.clone())).transpose()?;
        let traces = provider.as_ref().map_or_else(Traces::default, |_| Traces::new(export::sampler(&config.traces)));
        logs::init_with(config.log_format, provider.as_ref().map(|provider| provider.tracer_with_scope(scope())));
        Ok(Telemetry { metrics, traces, provider })
    }

    /// Sends the last spans, if that can be done in so much time. Blocks.
    pub fn flush(&self, limit: Duration) {
        if let Some(Err(error)) = self.provider.as_ref().map(|provider| provider.shutdown_with_timeout(limit)) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the last traces could not be exported");
        }
    }
}
