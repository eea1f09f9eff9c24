//! Settings of metrics that are sent to a collector, by the names and with the meanings that OpenTelemetry's
//! specification gives them. Off unless asked for: `/metrics` is there anyway.

use super::TracesConfig;
use super::otlp::{
    Collector, Compression, CompressionKind, Endpoint, Exporter, ExporterKind, Headers, Protocol, Timeout, compression,
    endpoint, exporter, headers, protocol, timeout,
};
use clap::Args;
use std::time::Duration;

/// Where metrics go besides `/metrics`.
#[derive(Args, Clone, Debug)]
pub struct MetricsConfig {
    /// Apps whose pushes are counted apart, comma-separated; all others are counted together, as `other`.
    #[arg(long, env, default_value = "", hide_default_value = true, value_delimiter = ',')]
    pub metric_apps: Vec<String>,

    /// Where metrics go besides /metrics: `otlp` or `none`. Default: `otlp` if they have an endpoint of their own, else
    /// `none`.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = exporter)]
    pub otel_metrics_exporter: Exporter,

    /// The OTLP collector of metrics, with the whole path. Default: OTEL_EXPORTER_OTLP_ENDPOINT.
    #[arg(long, env, hide_env_values = true, default_value = "", hide_default_value = true, value_parser = endpoint)]
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

    /// The same for metrics alone.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = timeout)]
    pub otel_exporter_otlp_metrics_timeout: Timeout,

    /// What the collector wants to be told with each request, such as api-key=secret, comma-separated.
    #[arg(long, env, hide_env_values = true, default_value = "", hide_default_value = true, value_parser = headers)]
    pub otel_exporter_otlp_headers: Headers,

    /// The same for metrics alone: these instead of those.
    #[arg(long, env, hide_env_values = true, default_value = "", hide_default_value = true, value_parser = headers)]
    pub otel_exporter_otlp_metrics_headers: Headers,

    /// How requests are compressed: `gzip` or `none`. Default: `none`.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = compression)]
    pub otel_exporter_otlp_compression: Compression,

    /// The same for metrics alone.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = compression)]
    pub otel_exporter_otlp_metrics_compression: Compression,
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

    /// How long the collector may take for metrics.
    pub fn timeout(&self) -> Duration {
        self.otel_exporter_otlp_metrics_timeout.unwrap_or(self.otel_exporter_otlp_timeout)
    }

    /// What it is told with metrics.
    pub fn headers(&self) -> &Headers {
        match self.otel_exporter_otlp_metrics_headers.is_empty() {
            true => &self.otel_exporter_otlp_headers,
            false => &self.otel_exporter_otlp_metrics_headers,
        }
    }

    /// Whether metrics are sent compressed, by gzip.
    pub fn compressed(&self) -> bool {
        let own = self.otel_exporter_otlp_metrics_compression.or(self.otel_exporter_otlp_compression);
        own == Some(CompressionKind::Gzip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OtlpProtocol;
    use crate::config::without_environment;
    use clap::Args;

    #[derive(Args)]
    struct Cli {
        #[command(flatten)]
        traces: TracesConfig,
        #[command(flatten)]
        metrics: MetricsConfig,
    }

    fn read(settings: &[&str]) -> Cli {
        without_environment(settings).unwrap()
    }

    fn collector(settings: &[&str]) -> Option<(String, OtlpProtocol)> {
        let cli = read(settings);
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
    fn what_is_said_of_metrics_counts_more_than_what_is_said_of_all_signals() {
        let names = |settings: &[&str]| {
            let metrics = read(settings).metrics;
            let headers = metrics.headers().iter().map(|(name, _)| name.as_str().to_owned()).collect::<Vec<_>>();
            (metrics.timeout().as_millis(), headers.join(","), metrics.compressed())
        };
        assert_eq!(names(&[]), (10_000, String::new(), false));
        let all = [
            "--otel-exporter-otlp-timeout=7",
            "--otel-exporter-otlp-headers=a=1",
            "--otel-exporter-otlp-compression=gzip",
        ];
        assert_eq!(names(&all), (7, "a".to_owned(), true));
        let own = [
            "--otel-exporter-otlp-metrics-timeout=8",
            "--otel-exporter-otlp-metrics-headers=b=1",
            "--otel-exporter-otlp-metrics-compression=none",
        ];
        assert_eq!(names(&[all, own].concat()), (8, "b".to_owned(), false));
    }
}
