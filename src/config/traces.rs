//! Settings of traces, by the names and with the meanings that OpenTelemetry's specification gives them.
//!
//! The exporter reads some more by itself: `OTEL_EXPORTER_OTLP_HEADERS`, `_TIMEOUT`, `_COMPRESSION`, and
//! `OTEL_BSP_*` for the queue; also `OTEL_RESOURCE_ATTRIBUTES`. As the specification asks, an empty setting is none.

use clap::{ArgAction, Args};
use url::Url;

/// The port that is registered for OTLP over gRPC.
const GRPC_PORT: u16 = 4317;

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
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = endpoint)]
    pub otel_exporter_otlp_endpoint: Endpoint,

    /// The same for traces alone, with the whole path.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = endpoint)]
    pub otel_exporter_otlp_traces_endpoint: Endpoint,

    /// `grpc` or `http/protobuf`. Default: `grpc` where the endpoint has the port 4317, else `http/protobuf`.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = protocol)]
    pub otel_exporter_otlp_protocol: Protocol,

    /// The same for traces alone.
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = protocol)]
    pub otel_exporter_otlp_traces_protocol: Protocol,

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
}

/// Where traces go.
pub type Exporter = Option<ExporterKind>;
/// Where the collector is.
pub type Endpoint = Option<Url>;
/// How it is spoken to.
pub type Protocol = Option<OtlpProtocol>;
/// What a service is called.
pub type Name = Option<String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExporterKind {
    Otlp,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpProtocol {
    Grpc,
    HttpProtobuf,
}

/// Which traces are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// Whether the caller's decision counts, where there is one.
    pub parent_based: bool,
    pub root: RootSampler,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootSampler {
    AlwaysOn,
    AlwaysOff,
    TraceIdRatio,
}

/// A collector, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    pub endpoint: Url,
    pub protocol: OtlpProtocol,
}

impl TracesConfig {
    /// The collector that gets the traces; none if there are to be none.
    pub fn collector(&self) -> Option<Collector> {
        let given = self.otel_exporter_otlp_traces_endpoint.as_ref().or(self.otel_exporter_otlp_endpoint.as_ref());
        let wanted = match self.otel_traces_exporter {
            Some(kind) => kind == ExporterKind::Otlp,
            None => given.is_some(),
        };
        if !wanted || self.otel_sdk_disabled {
            return None;
        }
        let protocol = self.otel_exporter_otlp_traces_protocol.or(self.otel_exporter_otlp_protocol);
        let protocol = protocol.unwrap_or(match given.and_then(Url::port) {
            Some(GRPC_PORT) => OtlpProtocol::Grpc,
            _ => OtlpProtocol::HttpProtobuf,
        });
        let endpoint = match (&self.otel_exporter_otlp_traces_endpoint, &self.otel_exporter_otlp_endpoint, protocol) {
            (Some(url), ..) | (None, Some(url), OtlpProtocol::Grpc) => url.clone(),
            (None, Some(base), OtlpProtocol::HttpProtobuf) => with_path(base),
            (None, None, OtlpProtocol::Grpc) => local(GRPC_PORT),
            (None, None, OtlpProtocol::HttpProtobuf) => with_path(&local(GRPC_PORT + 1)),
        };
        Some(Collector { endpoint, protocol })
    }
}

fn local(port: u16) -> Url {
    Url::parse(&format!("http://localhost:{port}")).expect("a URL with any port can be read")
}

/// Where a collector at this base takes traces.
fn with_path(base: &Url) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/v1/traces", base.path().trim_end_matches('/')));
    url
}

fn is_true(text: &str) -> Result<bool, std::convert::Infallible> {
    // The specification: anything but "true" is false.
    Ok(text.trim().eq_ignore_ascii_case("true"))
}

fn exporter(text: &str) -> Result<Exporter, &'static str> {
    match text.trim() {
        "" => Ok(None),
        "otlp" => Ok(Some(ExporterKind::Otlp)),
        "none" => Ok(Some(ExporterKind::None)),
        _ => Err("must be otlp or none"),
    }
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    match text.trim() {
        "" => Ok(None),
        text => super::http_url(text).map(Some),
    }
}

fn protocol(text: &str) -> Result<Protocol, &'static str> {
    match text.trim() {
        "" => Ok(None),
        "grpc" => Ok(Some(OtlpProtocol::Grpc)),
        "http/protobuf" => Ok(Some(OtlpProtocol::HttpProtobuf)),
        _ => Err("must be grpc or http/protobuf"),
    }
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
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        traces: TracesConfig,
    }

    fn collector(settings: &[&str]) -> Option<(String, OtlpProtocol)> {
        let cli = Cli::parse_from(std::iter::once("test").chain(settings.iter().copied()));
        cli.traces.collector().map(|collector| (collector.endpoint.to_string(), collector.protocol))
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
