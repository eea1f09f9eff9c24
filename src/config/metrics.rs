//! Settings of metrics that are sent to a collector, by the names and with the meanings that OpenTelemetry's
//! specification gives them. Off unless asked for: `/metrics` is there anyway.

use super::TracesConfig;
use super::otlp::{Collector, Endpoint, Exporter, ExporterKind, Protocol, endpoint, exporter, protocol};
use axum::http::{HeaderName, HeaderValue};
use clap::Args;
use percent_encoding::percent_decode_str;
use std::time::Duration;

/// Where metrics go besides `/metrics`.
#[derive(Args, Clone, Debug)]
pub struct MetricsConfig {
    /// Where metrics go besides /metrics: `otlp` or `none`. Default: `otlp` if they have an endpoint of their own, else
    /// `none`.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = exporter)]
    pub otel_metrics_exporter: Exporter,

    /// The OTLP collector of metrics, with the whole path. Default: OTEL_EXPORTER_OTLP_ENDPOINT.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = endpoint)]
    pub otel_exporter_otlp_metrics_endpoint: Endpoint,

    /// How it is spoken to. Default: OTEL_EXPORTER_OTLP_PROTOCOL.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = protocol)]
    pub otel_exporter_otlp_metrics_protocol: Protocol,

    /// How often metrics are sent, in milliseconds.
    #[arg(long, env, default_value = "60000", value_parser = super::millis)]
    pub otel_metric_export_interval: Duration,

    /// How long the collector may take, in milliseconds.
    #[arg(long, env, default_value = "10000", value_parser = super::millis)]
    pub otel_exporter_otlp_timeout: Duration,

    /// What the collector wants to be told with each request, such as api-key=secret, comma-separated.
    #[arg(long, env, hide_env_values = true, default_value = "", hide_default_value = true, value_parser = headers)]
    pub otel_exporter_otlp_headers: Headers,
}

/// Headers of requests to the collector. Not shown: they hold keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

impl Headers {
    pub fn iter(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.0.iter()
    }
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden]")
    }
}

impl MetricsConfig {
    /// The collector that gets the metrics; none if none is to get them.
    pub fn collector(&self, traces: &TracesConfig) -> Option<Collector> {
        let own = self.otel_exporter_otlp_metrics_endpoint.as_ref();
        let wanted = match self.otel_metrics_exporter {
            Some(kind) => kind == ExporterKind::Otlp,
            None => own.is_some(),
        };
        let base = traces.otel_exporter_otlp_endpoint.as_ref();
        let protocol = self.otel_exporter_otlp_metrics_protocol.or(traces.otel_exporter_otlp_protocol);
        (wanted && !traces.otel_sdk_disabled).then(|| Collector::at(own, base, protocol, "metrics"))
    }
}

/// As W3C Baggage writes them: percent-encoded, `name=value,name=value`. The message must not repeat a value.
fn headers(text: &str) -> Result<Headers, &'static str> {
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=').ok_or("must be name=value, comma-separated")?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| "has a name that no header can have")?;
        let value = percent_decode_str(value.trim()).collect::<Vec<u8>>();
        let mut value = HeaderValue::try_from(value).map_err(|_| "has a value that no header can have")?;
        value.set_sensitive(true);
        Ok((name, value))
    };
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs.map(header).collect::<Result<_, _>>().map(Headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OtlpProtocol;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        traces: TracesConfig,
        #[command(flatten)]
        metrics: MetricsConfig,
    }

    fn collector(settings: &[&str]) -> Option<(String, OtlpProtocol)> {
        let cli = Cli::parse_from(std::iter::once("test").chain(settings.iter().copied()));
        let collector = cli.metrics.collector(&cli.traces);
        collector.map(|collector| (collector.endpoint.to_string(), collector.protocol))
    }

    #[test]
    fn metrics_go_to_a_collector_only_if_that_is_asked_for() {
        const BASE: &str = "--otel-exporter-otlp-endpoint=http://c:4317";
        assert_eq!(collector(&[]), None);
        assert_eq!(collector(&[BASE]), None, "an endpoint of all signals is meant for traces: metrics are scraped");
        let base = collector(&[BASE, "--otel-metrics-exporter=otlp"]);
        assert_eq!(base, Some(("http://c:4317/".to_owned(), OtlpProtocol::Grpc)));
        let own = collector(&[BASE, "--otel-exporter-otlp-metrics-endpoint=http://m:9/x"]);
        assert_eq!(own, Some(("http://m:9/x".to_owned(), OtlpProtocol::HttpProtobuf)));
        assert_eq!(collector(&["--otel-metrics-exporter=otlp", "--otel-sdk-disabled=true"]), None);
        let local = collector(&["--otel-metrics-exporter=otlp"]);
        assert_eq!(local, Some(("http://localhost:4318/v1/metrics".to_owned(), OtlpProtocol::HttpProtobuf)));
    }

    #[test]
    fn headers_are_read_and_not_shown() {
        let read = headers("api-key=a%20b, x-tenant=7 ,").unwrap();
        let pairs: Vec<_> = read.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(pairs, [("api-key", "a b"), ("x-tenant", "7")]);
        assert_eq!(format!("{read:?}"), "[hidden]");
        for odd in ["secret", "a b=secret", "a=secret%0a"] {
            assert!(!headers(odd).unwrap_err().contains("secret"), "{odd}");
        }
    }
}
