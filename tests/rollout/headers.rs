//! What the example balancers do not let through.

use crate::balancer::{Balancer, Kind};
use crate::support::*;
use axum::Router;
use axum::http::HeaderMap;
use mana_dev::stub::Stub;
use std::net::Ipv4Addr;

/// One of the addresses that a balancer is told of.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 77, 1);
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Otherwise whoever asks could have every request traced.
async fn assert_trace_is_taken_off(kind: Kind) {
    let names = async |headers: HeaderMap| headers.keys().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let behind = Stub::start((ADDRESS, 0).into(), Router::new().fallback(names)).await.unwrap();
    let balancer = Balancer::start(kind, behind.address().port(), &[ADDRESS], 0.1).await;
    balancer.set(vec![ADDRESS], true);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for path in ["/sync/todo", "/sync/todo/stream", "/ws"] {
        let mut passed = String::new();
        eventually("it is passed on", async || {
            let request =
                http.get(format!("{}{path}", balancer.url)).header("traceparent", TRACE).header("x-client-id", "a");
            let Ok(answer) = request.send().await else { return false };
            passed = answer.text().await.unwrap();
            passed.contains("x-client-id")
        })
        .await;
        assert!(!passed.contains("traceparent"), "{kind:?}, {path}: {passed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_takes_off_what_clients_say_of_traces() {
    assert_trace_is_taken_off(Kind::HaProxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nginx, which make check-ops fetches; make rollout"]
async fn nginx_does_too() {
    assert_trace_is_taken_off(Kind::Nginx).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs caddy, which make check-ops fetches; make rollout"]
async fn caddy_does_too() {
    assert_trace_is_taken_off(Kind::Caddy).await;
}
