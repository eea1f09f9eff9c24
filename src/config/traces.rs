//! Settings of traces, by the names and with the meanings that OpenTelemetry's specification gives them.
//!
//! The exporter reads headers and compression from the environment by itself, which are checked here; and some more:
//! `OTEL_EXPORTER_OTLP_TRACES_HEADERS`, `_TIMEOUT`, `_COMPRESSION`, `OTEL_BSP_*` for the queue, `OTEL_RESOURCE_ATTRIBUTES`. As
//! the specification asks, an empty setting is none.

use super::otlp::{
    Collector, Compression, Endpoint, Exporter, ExporterKind, Headers, Protocol, compression, endpoint, exporter,
    headers, protocol,
};
use clap::{ArgAction, Args};
use std::time::Duration;

/// Where traces go, and how many of them.
#[derive(Args, Clone, Debug)]
pub struct TracesConfig {
    /// `true` turns traces off, whatever else is set.
    #[arg(long, env, default_value = "false", value_parser = is_true, action = ArgAction::Set)]
    pub otel_sdk_disabled: bool,

    /// Where traces go: `otlp` or `none`. Default: `otlp` if an endpoint is set, else `none`.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = exporter)]
    pub otel_traces_exporter: Exporter,

    /// The OTLP collector, such as http://localhost:4318.
    #[arg(long, env, hide_env_values = true, default_value = "", hide_default_value = true, value_parser = endpoint)]
    pub otel_exporter_otlp_endpoint: Endpoint,

    /// The same for traces alone, with the whole path.
    #[arg(long, env, hide_env_values = true, default_value = "", hide_default_value = true, value_parser = endpoint)]
    pub otel_exporter_otlp_traces_endpoint: Endpoint,

    /// `grpc` or `http/protobuf`. Default: `grpc` where the endpoint has the port 4317, else `http/protobuf`.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = protocol)]
    pub otel_exporter_otlp_protocol: Protocol,

    /// The same for traces alone.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = protocol)]
    pub otel_exporter_otlp_traces_protocol: Protocol,

    /// How long the collector may take, in milliseconds.
    #[arg(long, env, default_value = "10000", value_parser = super::millis)]
    pub otel_exporter_otlp_timeout: Duration,

    /// What the collector wants to be told with each request, such as api-key=secret, comma-separated.
    #[arg(long, env, hide_env_values = true, default_value = "", hide_default_value = true, value_parser = headers)]
    pub otel_exporter_otlp_headers: Headers,

    /// How requests are compressed: `gzip` or `none`. Default: `none`.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = compression)]
    pub otel_exporter_otlp_compression: Compression,

    /// Which traces are kept: `always_on`, `always_off`, `traceidratio`, or one of them with `parentbased_` before
    /// it, which does as the caller's traceparent says, where there is one.
    #[arg(long, env, default_value = "parentbased_traceidratio", value_parser = sampler)]
    pub otel_traces_sampler: Sampler,

    /// The part of all traces that `traceidratio` keeps: 0.01 is one in a hundred.
    #[arg(long, env, default_value = "0.01", value_parser = ratio)]
    pub otel_traces_sampler_arg: f64,

    /// The name of this service in traces. Default: as in OTEL_RESOURCE_ATTRIBUTES, else mana-sync.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = name)]
    pub otel_service_name: Name,

    /// Callers' traces (traceparent) that are followed per second, on average: five seconds' worth at once. Beyond,
    /// and with 0 always, a request is traced as if it had none. Balancers in front should take the header off.
    #[arg(long, env, default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub client_traces_per_second: u32,
}

/// What a service is called.
pub type Name = Option<String>;

/// Which traces are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// Whether the caller's decision counts, where there is one.
    pub parent_based: bool,
    /// What becomes of a request that comes with no decision.
    pub root: RootSampler,
}

/// The samplers of the OpenTelemetry specification that decide by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootSampler {
    /// All.
    AlwaysOn,
    /// None.
    AlwaysOff,
    /// A share, by trace id.
    TraceIdRatio,
}

impl TracesConfig {
    /// The collector that gets the traces; none if there are to be none.
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
    // The specification: anything but "true" is false.
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
