//! Log lines on standard output: JSON for machines, text for people. `RUST_LOG` chooses what is shown.
//!
//! `info` is what a replica does by itself, `warn` what somebody should look at by day, `error` what should not
//! happen. What clients do wrong is `debug`: nobody is to be woken, and no disk filled, by them.

use super::lines::Lines;
use super::traces::TARGET;
use crate::config::LogFormat;
use opentelemetry_sdk::trace::SdkTracer;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, FilterExt, Targets, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Sends this process's log to standard output. The first call in a process counts.
pub fn init(format: LogFormat) {
    init_with(format, None);
}

/// The same, and spans to a tracer.
pub(super) fn init_with(format: LogFormat, tracer: Option<SdkTracer>) {
    let chosen = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Spans for the tracer are no business of the log, and the other way round.
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Lines { format })
        .with_filter(chosen.and(filter_fn(|metadata| metadata.target() != TARGET)));
    let traces = tracer.map(|tracer| {
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(TARGET, LevelFilter::INFO))
    });
    // Only a second call in one process fails, and then the first one's log goes on.
    let _ = tracing_subscriber::registry().with(traces).with(lines).try_init();
}
