//! Spans: which requests get them, and their names (semantic conventions 1.44).
//!
//! Sampling is decided once, when a request arrives and before it has a span: an unsampled request costs one random
//! number, here and on every other replica. All other spans are created only inside a sampled one, or for wake-ups that
//! carry the spans of sampled pushes. No span contains a query parameter, a token or a user.

use super::allowance::Allowance;
use crate::clock::Clock;
use axum::http::{HeaderMap, Method, StatusCode};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample};
use std::sync::Arc;
use tracing::field::Empty;
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of all spans in this file. No others are exported: exporting the spans of the exporter's own client would
/// never end.
pub(super) const TARGET: &str = "mana_sync::trace";

/// Decides which requests are traced.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    sampling: Option<Arc<Sampling>>,
}

#[derive(Debug)]
struct Sampling {
    sampler: Sampler,
    /// The rate limit on callers whose traces are followed.
    callers: Allowance,
    clock: Clock,
}

/// A statement's name in traces.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// The first word of the statement.
    pub operation: &'static str,
    /// A short summary of the operation and its tables.
    pub summary: &'static str,
}

/// The span of a sampled push, for others to link to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushSpan {
    trace: TraceId,
    span: SpanId,
}

impl Traces {
    /// Creates a tracer for the requests that the sampler keeps. No caller's trace is followed.
    pub fn new(sampler: Sampler) -> Traces {
        Traces::following(sampler, 0, Clock::system())
    }

    /// The same, following this many callers' traces per second.
    pub fn following(sampler: Sampler, callers_per_second: u32, clock: Clock) -> Traces {
        let callers = Allowance::new(callers_per_second, clock.instant());
        Traces { sampling: Some(Arc::new(Sampling { sampler, callers, clock })) }
    }

    /// Returns the span of a request, as a child of its caller's span; none if it is not sampled.
    pub fn request(&self, method: &Method, route: Option<&str>, path: &str, scheme: &str, headers: &HeaderMap) -> Span {
        let Some(sampling) = &self.sampling else { return Span::none() };
        let caller = sampling.follow(caller(headers));
        let trace = match caller.span().span_context() {
            known if known.is_valid() => known.trace_id(),
            _ => TraceId::from(sampling.clock.random_u128()),
        };
        let sampled = sampling.sampler.should_sample(Some(&caller), trace, "", &SpanKind::Server, &[], &[]);
        if sampled.decision != SamplingDecision::RecordAndSample {
            return Span::none();
        }
        let span = server_span(method_name(method), route, path, scheme);
        // Fails only if the span is not exported.
        let _ = span.set_parent(caller);
        span
    }
}

impl Sampling {
    /// Returns the caller's context if its trace is followed, else an empty one. Anybody can send a sampled trace, or
    /// one with an id that a ratio keeps, with every request; therefore only a limited number are followed per second.
    /// An unsampled trace costs nothing if the sampler respects the caller's decision.
    fn follow(&self, caller: Context) -> Context {
        let (known, sampled) = {
            let span = caller.span();
            (span.span_context().is_valid(), span.span_context().is_sampled())
        };
        let costs_nothing = !known || (!sampled && matches!(self.sampler, Sampler::ParentBased(_)));
        if costs_nothing || self.callers.take(self.clock.instant()) { caller } else { Context::new() }
    }
}

fn server_span(method: &str, route: Option<&str>, path: &str, scheme: &str) -> Span {
    let name = match (method, route) {
        ("_OTHER", Some(route)) => format!("HTTP {route}"),
        ("_OTHER", None) => "HTTP".to_owned(),
        (method, Some(route)) => format!("{method} {route}"),
        (method, None) => method.to_owned(),
    };
    info_span!(
        target: TARGET, parent: None, "request",
        otel.name = name,
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        url.path = path,
        url.scheme = scheme,
        "error.type" = Empty,
    )
}

/// Returns the method as the conventions write it: all unknown methods have the same name.
fn method_name(method: &Method) -> &str {
    const KNOWN: [Method; 8] = [
        Method::GET,
        Method::POST,
        Method::OPTIONS,
        Method::HEAD,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::TRACE,
    ];
    if KNOWN.contains(method) { method.as_str() } else { "_OTHER" }
}

/// Records on a request's span how it was answered.
pub fn answered(span: &Span, status: StatusCode) {
    if span.is_none() {
        return;
    }
    // As a signed integer, here and below: the bridge to OpenTelemetry turns any other integer type into text.
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        failed(span, status.as_str());
    }
}

/// Records on a span that its operation failed.
pub fn failed(span: &Span, error: &str) {
    span.record("error.type", error);
    span.record("otel.status_code", "ERROR");
}

/// Returns the span of a statement; none outside a sampled request.
pub fn database(query: Query) -> Span {
    if !is_sampled() {
        return Span::none();
    }
    info_span!(
        target: TARGET, "query",
        otel.name = query.summary,
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = "postgresql",
        db.operation.name = query.operation,
        db.query.summary = query.summary,
        db.response.status_code = Empty,
        "error.type" = Empty,
    )
}

/// Returns the span of waiting for another service or for a shared resource; none outside a sampled request.
pub fn wait_span(for_what: &'static str) -> Span {
    if !is_sampled() {
        return Span::none();
    }
    info_span!(target: TARGET, "wait", otel.name = for_what, otel.kind = "internal")
}

/// Returns the span of reading a page for a stream that this delivery has woken; none if that is not traced. Operations
/// within it get no spans of their own.
pub fn page(delivery: &Span) -> Span {
    if delivery.is_none() {
        return Span::none();
    }
    info_span!(target: TARGET, parent: delivery, "page", otel.name = "read a page", otel.kind = "internal")
}

/// Returns the span of sending wake-ups to a channel, linked to their pushes; none if no push is sampled.
pub fn send(channel: &str, wakeups: usize, pushes: &[PushSpan]) -> Span {
    if pushes.is_empty() {
        return Span::none();
    }
    let span = info_span!(
        target: TARGET, parent: None, "send",
        otel.name = format!("send {channel}"),
        otel.kind = "producer",
        otel.status_code = Empty,
        messaging.system = "postgresql",
        messaging.destination.name = channel,
        messaging.operation.name = "send",
        messaging.operation.type = "send",
        messaging.batch.message_count = count(wakeups),
        "error.type" = Empty,
    );
    link(&span, pushes);
    span
}

/// Returns the span of delivering a wake-up received on a channel to the sessions of this replica, linked to its
/// pushes; none if no push is sampled.
pub fn process(channel: &str, app: &str, pushes: &[PushSpan]) -> Span {
    if pushes.is_empty() {
        return Span::none();
    }
    let span = info_span!(
        target: TARGET, parent: None, "process",
        otel.name = format!("process {channel}"),
        otel.kind = "consumer",
        messaging.system = "postgresql",
        messaging.destination.name = channel,
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        mana_sync.app_id = app,
        mana_sync.sessions = Empty,
    );
    link(&span, pushes);
    span
}

/// Records on the current delivery's span how many sessions it woke.
pub fn woken(sessions: usize) {
    Span::current().record("mana_sync.sessions", count(sessions));
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

/// Ends deliveries for one session, which has taken the wake-up.
pub fn taken(deliveries: Vec<Span>) {
    // A span ends at the time it was last exited, once nobody holds it anymore.
    deliveries.iter().for_each(|span| span.in_scope(|| ()));
}

/// Adds a link for each push. A span about a single push also becomes part of its trace.
fn link(span: &Span, pushes: &[PushSpan]) {
    if let [only] = pushes {
        // Fails only if the span is not exported.
        let _ = span.set_parent(Context::new().with_remote_span_context(only.context()));
    }
    pushes.iter().for_each(|push| span.add_link(push.context()));
}

/// Returns true within a sampled request.
fn is_sampled() -> bool {
    current().is_some()
}

/// Returns the current trace and span, if they are sampled.
pub(super) fn current() -> Option<(TraceId, SpanId)> {
    Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        span.is_sampled().then(|| (span.trace_id(), span.span_id()))
    })
}

impl PushSpan {
    /// Returns the current span, if it is sampled.
    pub fn current() -> Option<PushSpan> {
        current().map(|(trace, span)| PushSpan { trace, span })
    }

    /// Parses the output of [`Display`](std::fmt::Display).
    pub fn parse(text: &str) -> Option<PushSpan> {
        let (trace, span) = text.split_once('-').filter(|(trace, span)| (trace.len(), span.len()) == (32, 16))?;
        let push = PushSpan { trace: TraceId::from_hex(trace).ok()?, span: SpanId::from_hex(span).ok()? };
        push.context().is_valid().then_some(push)
    }

    fn context(self) -> SpanContext {
        SpanContext::new(self.trace, self.span, TraceFlags::SAMPLED, true, TraceState::NONE)
    }
}

impl std::fmt::Display for PushSpan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.trace, self.span)
    }
}

/// Returns the caller's context from the headers `traceparent` and `tracestate` (W3C Trace Context).
fn caller(headers: &HeaderMap) -> Context {
    const TRACEPARENT: &str = "traceparent";
    if !headers.contains_key(TRACEPARENT) {
        return Context::new();
    }
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers))
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}
