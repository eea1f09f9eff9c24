//! Trace settings, with the names and meanings from the OpenTelemetry specification.
//!
//! The exporter itself reads headers and compression from the environment, which are validated here, and some others:
//! `OTEL_EXPORTER_OTLP_TRACES_HEADERS`, `_TIMEOUT`, `_COMPRESSION`, `OTEL_BSP_*` for the queue, and
//! `OTEL_RESOURCE_ATTRIBUTES`. As the specification requires, an empty setting counts as unset.

use super::otlp::{
    Collector, Compression, Endpoint, Exporter, ExporterKind, Headers, Protocol, compression, endpoint, exporter,
    headers, protocol,
};
use clap::{ArgAction, Args};
use std::time::Duration;

/// The export and sampling of traces.
#[derive(Args, Clone, Debug)]
pub struct TracesConfig {
    /// `true` disables traces, whatever else is set.
    #[arg(long, env, default_value = "false", value_parser = is_true, action = ArgAction::Set)]
    pub otel_sdk_disabled: bool,

    /// Exporter for traces: `otlp` or `none`. Default: `otlp` if an endpoint is set, else `none`.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = exporter)]
    pub otel_traces_exporter: Exporter,

    /// URL of the OTLP collector, such as http://localhost:4318.
    #[arg(long, env, hide_env_values = true, default_value = "", hide_default_value = true, value_parser = endpoint)]
    pub otel_exporter_otlp_endpoint: Endpoint,

    /// The same for traces alone, including the path.
    #[arg(long, env, hide_env_values = true, default_value = "", hide_default_value = true, value_parser = endpoint)]
    pub otel_exporter_otlp_traces_endpoint: Endpoint,

    /// `grpc` or `http/protobuf`. Default: `grpc` if the endpoint's port is 4317, else `http/protobuf`.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = protocol)]
    pub otel_exporter_otlp_protocol: Protocol,

    /// The same for traces alone.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = protocol)]
    pub otel_exporter_otlp_traces_protocol: Protocol,

    /// Timeout of requests to the collector, in milliseconds.
    #[arg(long, env, default_value = "10000", value_parser = super::millis)]
    pub otel_exporter_otlp_timeout: Duration,

    /// Headers to send to the collector with each request, comma-separated, such as api-key=secret.
    #[arg(long, env, hide_env_values = true, default_value = "", hide_default_value = true, value_parser = headers)]
    pub otel_exporter_otlp_headers: Headers,

    /// Compression of requests: `gzip` or `none`. Default: `none`.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = compression)]
    pub otel_exporter_otlp_compression: Compression,

    /// Sampler: `always_on`, `always_off`, `traceidratio`, or one of them prefixed with `parentbased_`, which follows
    /// the caller's traceparent if there is one.
    #[arg(long, env, default_value = "parentbased_traceidratio", value_parser = sampler)]
    pub otel_traces_sampler: Sampler,

    /// Fraction of traces that `traceidratio` keeps: 0.01 is one in a hundred.
    #[arg(long, env, default_value = "0.01", value_parser = ratio)]
    pub otel_traces_sampler_arg: f64,

    /// The name of this service in traces. Default: the one in OTEL_RESOURCE_ATTRIBUTES, else mana-sync.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = name)]
    pub otel_service_name: Name,

    /// Maximum number of callers' traces (traceparent) to follow per second, on average, with bursts of five seconds'
    /// worth. Beyond it, and always with 0, the header is ignored. Load balancers in front should remove it.
    #[arg(long, env, default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub client_traces_per_second: u32,
}

/// A service name.
pub type Name = Option<String>;

/// A sampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// True if the caller's decision is followed when there is one.
    pub parent_based: bool,
    /// The sampler for requests without a decision.
    pub root: RootSampler,
}

/// The samplers of the OpenTelemetry specification that decide on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootSampler {
    /// Keeps all.
    AlwaysOn,
    /// Keeps none.
    AlwaysOff,
    /// Keeps a fraction, by trace id.
    TraceIdRatio,
}

impl TracesConfig {
    /// Returns the collector that traces are sent to, or `None` if they are not exported.
    pub fn collector(&self) -> Option<Collector> {
        let own = self.otel_exporter_otlp_traces_endpoint.as_ref();
        let base = self.otel_exporter_otlp_endpoint.as_ref();
        let wanted = match self.otel_traces_exporter {
            Some(kind) => kind == ExporterKind::Otlp,
            None => own.or(base).is_some(),
        };
        let protocol = self.otel_exporter_otlp_traces_protocol.or(self.otel_exporter_otlp_protocol);
        (wanted && !self.otel_sdk_disabled).then(|| Collector::at(own, base, protocol, "traces"))
    }
}

fn is_true(text: &str) -> Result<bool, std::convert::Infallible> {
    // By the specification, anything but "true" is false.
    Ok(text.trim().eq_ignore_ascii_case("true"))
}

fn sampler(text: &str) -> Result<Sampler, &'static str> {
    let text = match text.trim() {
        "" => "parentbased_traceidratio",
        text => text,
    };
    let (parent_based, root) = match text.strip_prefix("parentbased_") {
        Some(root) => (true, root),
        None => (false, text),
    };
    let root = match root {
        "always_on" => RootSampler::AlwaysOn,
        "always_off" => RootSampler::AlwaysOff,
        "traceidratio" => RootSampler::TraceIdRatio,
        _ => return Err("must be always_on, always_off or traceidratio, with or without parentbased_ before it"),
    };
    Ok(Sampler { parent_based, root })
}

fn ratio(text: &str) -> Result<f64, &'static str> {
    match text.trim() {
        "" => Ok(0.01),
        text => text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or("must be a number between 0 and 1"),
    }
}

fn name(text: &str) -> Result<Name, std::convert::Infallible> {
    Ok(Some(text.trim()).filter(|name| !name.is_empty()).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OtlpProtocol;
    use crate::config::without_environment;

    fn collector(settings: &[&str]) -> Option<(String, OtlpProtocol)> {
        let traces: TracesConfig = without_environment(settings).unwrap();
        traces.collector().map(|collector| (collector.endpoint.to_string(), collector.protocol))
    }

    #[test]
    fn traces_are_off_unless_asked_for() {
        assert_eq!(collector(&[]), None);
        assert_eq!(collector(&["--otel-exporter-otlp-endpoint="]), None);
        assert_eq!(collector(&["--otel-exporter-otlp-endpoint=http://c:4317", "--otel-traces-exporter=none"]), None);
        assert_eq!(collector(&["--otel-traces-exporter=otlp", "--otel-sdk-disabled=TRUE"]), None);
    }

    #[test]
    fn endpoints_get_the_path_and_the_protocol_that_the_specification_gives_them() {
        use OtlpProtocol::{Grpc, HttpProtobuf};
        for (settings, expected, protocol) in [
            (&["--otel-traces-exporter=otlp"][..], "http://localhost:4318/v1/traces", HttpProtobuf),
            (&["--otel-traces-exporter=otlp", "--otel-exporter-otlp-protocol=grpc"], "http://localhost:4317/", Grpc),
            (&["--otel-exporter-otlp-endpoint=http://c:4317"], "http://c:4317/", Grpc),
            (&["--otel-exporter-otlp-endpoint=https://c/otlp/"], "https://c/otlp/v1/traces", HttpProtobuf),
            (
                &["--otel-exporter-otlp-endpoint=http://c:1", "--otel-exporter-otlp-traces-endpoint=http://t:2/x"],
                "http://t:2/x",
                HttpProtobuf,
            ),
        ] {
            assert_eq!(collector(settings), Some((expected.to_owned(), protocol)), "{settings:?}");
        }
    }
}
