//! The OTLP collector: its endpoint and protocol.

use axum::http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use url::Url;

/// The port registered for OTLP over gRPC.
const GRPC_PORT: u16 = 4317;

/// Where a signal is exported to.
pub type Exporter = Option<ExporterKind>;
/// The collector's URL.
pub type Endpoint = Option<Url>;
/// The collector's protocol.
pub type Protocol = Option<OtlpProtocol>;

/// The compression of requests to the collector.
pub type Compression = Option<CompressionKind>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionKind {
    Gzip,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExporterKind {
    Otlp,
    None,
}

/// The protocol spoken to a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// Protocol buffers over gRPC.
    Grpc,
    /// Protocol buffers over HTTP.
    HttpProtobuf,
}

/// A collector and its protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// The URL that it listens on.
    pub endpoint: Url,
    /// The protocol that it speaks.
    pub protocol: OtlpProtocol,
}

impl Collector {
    /// Returns the collector at the signal's own endpoint, else at the common endpoint, else on this host.
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

/// Headers of requests to the collector. Hidden in debug output, because they contain keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

impl Headers {
    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over the headers in the order given.
    pub fn iter(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.0.iter()
    }
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden]")
    }
}

fn local(port: u16) -> Url {
    Url::parse(&format!("http://localhost:{port}")).expect("a URL with any port can be read")
}

/// Returns the URL at which the collector with this base accepts a signal.
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

pub(super) fn compression(text: &str) -> Result<Compression, &'static str> {
    match text.trim() {
        "" => Ok(None),
        "gzip" => Ok(Some(CompressionKind::Gzip)),
        "none" => Ok(Some(CompressionKind::None)),
        _ => Err("must be gzip or none"),
    }
}

/// Parses headers in W3C Baggage format: percent-encoded, `name=value,name=value`. The message must not repeat a value.
pub(super) fn headers(text: &str) -> Result<Headers, &'static str> {
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=').ok_or("must be name=value, comma-separated")?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| "has a name that is invalid for a header")?;
        let value = percent_decode_str(value.trim()).collect::<Vec<u8>>();
        let mut value = HeaderValue::try_from(value).map_err(|_| "has a value that is invalid for a header")?;
        value.set_sensitive(true);
        Ok((name, value))
    };
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs.map(header).collect::<Result<_, _>>().map(Headers)
}

#[cfg(test)]
mod tests {
    use super::*;

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
