//! An OTLP collector that keeps what it receives, over HTTP or gRPC; and unusable ones.

use crate::support::TIMEOUT;
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// A span as received. Ids are hexadecimal and attributes are strings; `numbers` names those that arrived as integers.
#[derive(Clone, Debug)]
pub struct Span {
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    pub kind: SpanKind,
    pub attributes: BTreeMap<String, String>,
    pub numbers: BTreeSet<String>,
    /// The (trace, span) of each link.
    pub links: Vec<(String, String)>,
    pub failed: bool,
    pub resource: BTreeMap<String, String>,
    pub nanos: u64,
}

impl Span {
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    pub fn replica(&self) -> &str {
        &self.resource["service.instance.id"]
    }
}

/// The spans received.
#[derive(Clone, Debug, Default)]
pub struct Spans(Arc<Mutex<Vec<Span>>>);

impl Spans {
    pub fn all(&self) -> Vec<Span> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for a span for which this is true.
    pub async fn find(&self, what: &str, is_it: impl Fn(&Span) -> bool) -> Span {
        let found = mana_dev::wait::until(TIMEOUT, async || self.all().into_iter().find(|span| is_it(span)));
        found.await.unwrap_or_else(|| panic!("no {what} among {:#?}", self.all()))
    }

    fn take_in(&self, request: ExportTraceServiceRequest) {
        for resource in request.resource_spans {
            let attributes = texts(&resource.resource.unwrap_or_default().attributes);
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| read(span, &attributes)));
        }
    }
}

fn read(span: opentelemetry_proto::tonic::trace::v1::Span, resource: &BTreeMap<String, String>) -> Span {
    Span {
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        kind: span.kind(),
        attributes: texts(&span.attributes),
        numbers: numbers(&span.attributes),
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        failed: span.status.as_ref().is_some_and(|status| status.code == 2),
        resource: resource.clone(),
        nanos: span.end_time_unix_nano - span.start_time_unix_nano,
        name: span.name,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pair = |pair: &KeyValue| Some((pair.key.clone(), text(pair.value.as_ref()?.value.as_ref()?)));
    attributes.iter().filter_map(pair).collect()
}

/// The names of the integer attributes.
fn numbers(attributes: &[KeyValue]) -> BTreeSet<String> {
    let is_number = |pair: &&KeyValue| {
        let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
        matches!(value, Some(Value::IntValue(_)))
    };
    attributes.iter().filter(is_number).map(|pair| pair.key.clone()).collect()
}

/// A collector, which stops when this is dropped.
#[derive(Debug)]
pub struct Collector {
    pub spans: Spans,
    pub url: String,
    _serving: AbortOnDropHandle<()>,
}

impl Collector {
    async fn start<F: Future<Output = ()> + Send + 'static>(serve: impl FnOnce(TcpListener, Spans) -> F) -> Collector {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let spans = Spans::default();
        let serving = AbortOnDropHandle::new(tokio::spawn(serve(listener, spans.clone())));
        Collector { spans, url, _serving: serving }
    }

    /// A collector for OTLP over HTTP.
    pub async fn http() -> Collector {
        Collector::start(|listener, spans| async move {
            let take = move |body: Bytes| {
                let spans = spans.clone();
                async move { spans.take_in(ExportTraceServiceRequest::decode(body).unwrap()) }
            };
            let router = Router::new().route("/v1/traces", post(take));
            axum::serve(listener, router).await.unwrap();
        })
        .await
    }

    /// A collector for OTLP over gRPC.
    pub async fn grpc() -> Collector {
        Collector::start(|listener, spans| async move {
            let incoming = futures_util::stream::unfold(listener, async |listener| {
                let accepted = listener.accept().await.map(|(stream, _)| stream);
                Some((accepted, listener))
            });
            let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(spans));
            server.serve_with_incoming(incoming).await.unwrap();
        })
        .await
    }

    /// A collector that accepts connections and requests, but never answers.
    pub async fn silent() -> Collector {
        Collector::start(|listener, _| async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        })
        .await
    }

    /// Settings with which replicas soon send it every trace that callers sample.
    pub fn settings(&self) -> [(&str, &str); 3] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &self.url),
            ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ]
    }
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.take_in(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}
