//! Where a collector is and how it is spoken to: what all signals share.

use url::Url;

/// The port that is registered for OTLP over gRPC.
const GRPC_PORT: u16 = 4317;

/// Where a signal goes.
pub type Exporter = Option<ExporterKind>;
/// Where the collector is.
pub type Endpoint = Option<Url>;
/// How it is spoken to.
pub type Protocol = Option<OtlpProtocol>;

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

/// A collector, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    pub endpoint: Url,
    pub protocol: OtlpProtocol,
}

impl Collector {
    /// The collector at a signal's own endpoint, else at the one of all signals, else at this host's.
    pub(super) fn at(own: Option<&Url>, base: Option<&Url>, protocol: Protocol, signal: &str) -> Collector {
        let protocol = protocol.unwrap_or(match own.or(base).and_then(Url::port) {
            Some(GRPC_PORT) => OtlpProtocol::Grpc,
            _ => OtlpProtocol::HttpProtobuf,
        });
        let endpoint = match (own, base, protocol) {
            (Some(url), ..) | (None, Some(url), OtlpProtocol::Grpc) => url.clone(),
            (None, Some(base), OtlpProtocol::HttpProtobuf) => with_path(base, signal),
            (None, None, OtlpProtocol::Grpc) => local(GRPC_PORT),
            (None, None, OtlpProtocol::HttpProtobuf) => with_path(&local(GRPC_PORT + 1), signal),
        };
        Collector { endpoint, protocol }
    }
}

fn local(port: u16) -> Url {
    Url::parse(&format!("http://localhost:{port}")).expect("a URL with any port can be read")
}

/// Where a collector at this base takes a signal.
fn with_path(base: &Url, signal: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/v1/{signal}", base.path().trim_end_matches('/')));
    url
}

pub(super) fn exporter(text: &str) -> Result<Exporter, &'static str> {
    match text.trim() {
        "" => Ok(None),
        "otlp" => Ok(Some(ExporterKind::Otlp)),
        "none" => Ok(Some(ExporterKind::None)),
        _ => Err("must be otlp or none"),
    }
}

pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    match text.trim() {
        "" => Ok(None),
        text => super::http_url(text).map(Some),
    }
}

pub(super) fn protocol(text: &str) -> Result<Protocol, &'static str> {
    match text.trim() {
        "" => Ok(None),
        "grpc" => Ok(Some(OtlpProtocol::Grpc)),
        "http/protobuf" => Ok(Some(OtlpProtocol::HttpProtobuf)),
        _ => Err("must be grpc or http/protobuf"),
    }
}
