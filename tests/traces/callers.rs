//! Limits on callers' traces: anybody can send a trace that claims to be sampled.

use crate::collector::Collector;
use crate::support::*;
use crate::{NOT_SAMPLED, SAMPLED, body, caller, push};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use reqwest::{Method, StatusCode};

async fn with(collector: &Collector, more: &[(&str, &str)]) -> Cluster {
    Cluster::start_with(1, &[&collector.settings()[..], more].concat()).await
}

/// The number of requests that have reached the collector, once all recorded spans have been sent.
async fn requests(collector: &Collector, cluster: &Cluster) -> usize {
    // Recorded spans are sent before the process ends.
    cluster.nodes[0].process.terminate(TIMEOUT).await.unwrap();
    collector.spans.all().iter().filter(|span| span.kind == SpanKind::Server).count()
}

#[tokio::test]
async fn a_client_cannot_have_everything_traced() {
    for sampler in ["parentbased_traceidratio", "traceidratio"] {
        let collector = Collector::http().await;
        let settings = [
            ("CLIENT_TRACES_PER_SECOND", "1"),
            ("OTEL_TRACES_SAMPLER", sampler),
            ("OTEL_TRACES_SAMPLER_ARG", "0.000001"),
        ];
        let cluster = with(&collector, &settings).await;
        let user = cluster.user();
        let began = std::time::Instant::now();
        for id in 0..300 {
            let mut caller = caller(SAMPLED);
            // An id that any ratio keeps, as a malicious caller would choose it.
            caller.header.replace_range(19..35, "0000000000000000");
            push(&cluster, &user, &caller, body("laptop", &id.to_string())).await;
        }
        let allowed = 5 + began.elapsed().as_secs() as usize + 1;
        let followed = requests(&collector, &cluster).await;
        assert!((1..=allowed).contains(&followed), "{sampler}: {followed} of 300 in {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn none_is_followed_where_none_is_to_be() {
    let collector = Collector::http().await;
    let settings = [("CLIENT_TRACES_PER_SECOND", "0"), ("OTEL_TRACES_SAMPLER", "parentbased_always_off")];
    let cluster = with(&collector, &settings).await;
    for id in 0..20 {
        push(&cluster, &cluster.user(), &caller(SAMPLED), body("laptop", &id.to_string())).await;
    }
    assert_eq!(requests(&collector, &cluster).await, 0);
}

#[tokio::test]
async fn traces_that_are_not_sampled_use_up_nothing() {
    let collector = Collector::http().await;
    let cluster = with(&collector, &[("CLIENT_TRACES_PER_SECOND", "1")]).await;
    let user = cluster.user();
    for id in 0..50 {
        push(&cluster, &user, &caller(NOT_SAMPLED), body("laptop", &id.to_string())).await;
    }
    let sampled = caller(SAMPLED);
    push(&cluster, &user, &sampled, body("laptop", "sampled")).await;
    let request = collector.spans.find("request", |span| span.kind == SpanKind::Server).await;
    assert_eq!(request.trace, sampled.trace);
}

#[tokio::test]
async fn the_scheme_is_the_one_that_a_trusted_balancer_received() {
    for (trusted, said, scheme) in [
        ("127.0.0.1", Some("https"), "https"),
        ("127.0.0.1", Some("wss"), "https"),
        ("127.0.0.1", Some("HTTPS, http"), "https"),
        ("127.0.0.1", Some("http"), "http"),
        ("127.0.0.1", None, "http"),
        ("192.0.2.1", Some("https"), "http"),
    ] {
        let collector = Collector::http().await;
        let cluster = with(&collector, &[("TRUSTED_PROXIES", trusted)]).await;
        let request = cluster
            .request(&cluster.user(), Method::POST, "/sync/todo")
            .header("traceparent", caller(SAMPLED).header)
            .json(&body("laptop", "1"));
        let request = match said {
            Some(proto) => request.header("x-forwarded-proto", proto),
            None => request,
        };
        assert_eq!(Reply::to(request).await.status, StatusCode::OK);
        let request = collector.spans.find("request", |span| span.kind == SpanKind::Server).await;
        assert_eq!(request.attribute("url.scheme"), scheme, "{trusted} says {said:?}");
    }
}
