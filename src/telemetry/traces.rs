//! Spans: which requests get any, and what they are called (semantic conventions 1.44).
//!
//! Sampling is decided once, when a request arrives and before there is a span: one that is not sampled costs a
//! random number, here and on every other replica. All other spans are made only inside a sampled one, or for
//! wake-ups that carry the spans of sampled pushes. None has a query parameter, a token or a user in it.

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

/// What all spans of this file have as their target. Nothing else is exported: an exporter whose own client's
/// spans are exported never comes to rest.
pub(super) const TARGET: &str = "mana_sync::trace";

/// Decides which requests are traced.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    sampling: Option<Arc<Sampling>>,
}

#[derive(Debug)]
struct Sampling {
    sampler: Sampler,
    /// Callers whose traces are followed.
    callers: Allowance,
    clock: Clock,
}

/// A statement, by its name in traces.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// The first word of the statement.
    pub operation: &'static str,
    /// What it does to which tables, in few words.
    pub summary: &'static str,
}

/// The span of a sampled push, for others to link to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushSpan {
    trace: TraceId,
    span: SpanId,
}

impl Traces {
    /// Traces of the requests that the sampler keeps. No caller's trace is followed.
    pub fn new(sampler: Sampler) -> Traces {
        Traces::following(sampler, 0, Clock::system())
    }

    /// The same, where so many callers' traces are followed per second.
    pub fn following(sampler: Sampler, callers_per_second: u32, clock: Clock) -> Traces {
        let callers = Allowance::new(callers_per_second, clock.instant());
        Traces { sampling: Some(Arc::new(Sampling { sampler, callers, clock })) }
    }

    /// The span of a request, the child of its caller's; none if it is not sampled.
    pub fn request(&self, method: &Method, route: Option<&str>, path: &str, headers: &HeaderMap) -> Span {
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
        let span = server_span(method_name(method), route, path);
        // Fails only where the span is not exported.
        let _ = span.set_parent(caller);
        span
    }
}

impl Sampling {
    /// The caller's context, if its trace is followed; else an empty one. Anybody can send a trace that is sampled, or
    /// whose id is one of those that a ratio keeps, with every request: so only so many are followed in a second. One
    /// that is not sampled costs nothing where its word counts.
    fn follow(&self, caller: Context) -> Context {
        let (known, sampled) = {
            let span = caller.span();
            (span.span_context().is_valid(), span.span_context().is_sampled())
        };
        let costs_nothing = !known || (!sampled && matches!(self.sampler, Sampler::ParentBased(_)));
        if costs_nothing || self.callers.take(self.clock.instant()) { caller } else { Context::new() }
    }
}

fn server_span(method: &str, route: Option<&str>, path: &str) -> Span {
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
        url.scheme = "http",
        "error.type" = Empty,
    )
}

/// A method as the conventions write it: any that is not well known is the same.
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

/// Notes on a request's span how it was answered.
pub fn answered(span: &Span, status: StatusCode) {
    if span.is_none() {
        return;
    }
    // As a signed number, here and below: of any other kind the bridge to OpenTelemetry makes a text.
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        failed(span, status.as_str());
    }
}

/// Notes on a span that what it stands for failed.
pub fn failed(span: &Span, error: &str) {
    span.record("error.type", error);
    span.record("otel.status_code", "ERROR");
}

/// The span of a statement; none outside of a sampled request.
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

/// The span of waiting for something that others are asked for or use; none outside of a sampled request.
pub fn wait_span(for_what: &'static str) -> Span {
    if !is_sampled() {
        return Span::none();
    }
    info_span!(target: TARGET, "wait", otel.name = for_what, otel.kind = "internal")
}

/// The span of reading a page for a stream that this delivery has woken; none if that is not traced. What is done within
/// it has no spans of its own.
pub fn page(delivery: &Span) -> Span {
    if delivery.is_none() {
        return Span::none();
    }
    info_span!(target: TARGET, parent: delivery, "page", otel.name = "read a page", otel.kind = "internal")
}

/// The span of sending wake-ups to a channel, linked to the pushes that they are about; none if none is sampled.
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

/// The span of handing a wake-up that came through a channel to the sessions of this replica, linked to the pushes
/// that it is about; none if none is sampled.
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

/// Notes on the current delivery's span how many sessions it woke.
pub fn woken(sessions: usize) {
    Span::current().record("mana_sync.sessions", count(sessions));
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

/// Ends deliveries as far as one session is concerned: it has taken the wake-up.
pub fn taken(deliveries: Vec<Span>) {
    // A span ends when it was last left, once nobody holds it any more.
    deliveries.iter().for_each(|span| span.in_scope(|| ()));
}

/// A link for each push. What is about one push alone is also part of its trace.
fn link(span: &Span, pushes: &[PushSpan]) {
    if let [only] = pushes {
        // Fails only where the span is not exported.
        let _ = span.set_parent(Context::new().with_remote_span_context(only.context()));
    }
    pushes.iter().for_each(|push| span.add_link(push.context()));
}

/// Whether this is part of a sampled request.
fn is_sampled() -> bool {
    current().is_some()
}

/// The trace and the span in which this happens, if they are sampled.
pub(super) fn current() -> Option<(TraceId, SpanId)> {
    Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        span.is_sampled().then(|| (span.trace_id(), span.span_id()))
    })
}

impl PushSpan {
    /// The current span, if it is sampled.
    pub fn current() -> Option<PushSpan> {
        current().map(|(trace, span)| PushSpan { trace, span })
    }

    /// Reads what [`Display`](std::fmt::Display) wrote.
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

/// The caller's context, as the headers `traceparent` and `tracestate` say (W3C Trace Context).
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
