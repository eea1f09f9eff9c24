//! From a slow delivery to its trace.

use crate::collector::Collector;
use crate::support::live::{socket, woken};
use crate::support::*;
use crate::{SAMPLED, body, caller, push};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::Value;
use std::time::Duration;

/// Longer than the limit for logging a slow delivery.
const LONG: Duration = Duration::from_millis(1_100);

#[tokio::test]
async fn a_slow_delivery_is_a_line_in_the_log_that_names_its_trace() {
    let collector = Collector::http().await;
    let cluster = Cluster::start_with(2, &collector.settings()).await;
    let user = cluster.user();
    let mut socket = socket(&cluster, 1, &user, None, None).await;
    let caller = caller(SAMPLED);
    cluster.nodes[1].process.pause();
    push(&cluster, &user, &caller, body("laptop", "1")).await;
    // The replica that must deliver it does nothing for this long.
    tokio::time::sleep(LONG).await;
    cluster.nodes[1].process.resume();
    woken(&mut socket).await;

    let line = mana_dev::wait::until(TIMEOUT, async || {
        let log = cluster.nodes[1].log();
        let line = log.lines().find(|line| line.contains("a delivery was slow"))?;
        Some(serde_json::from_str::<Value>(line).unwrap())
    });
    let line = line.await.expect("the delivery was slow");
    assert_eq!(line["trace_id"], caller.trace.as_str(), "{line}");
    assert!(line["seconds"].as_f64().unwrap() >= 1.0, "{line}");
    let is_it = |span: &crate::collector::Span| span.kind == SpanKind::Consumer && span.replica() == "replica-2";
    let span = collector.spans.find("delivery", is_it).await;
    assert_eq!((span.trace.as_str(), span.id.as_str()), (caller.trace.as_str(), line["span_id"].as_str().unwrap()));
}
