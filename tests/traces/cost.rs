//! The cost of tracing. A measurement, to be run alone and optimized:
//! `cargo test --release --test traces cost -- --ignored --nocapture`

use crate::collector::Collector;
use crate::support::live::NO_DELTA;
use crate::support::{Cluster, User, insert};
use mana_sync::telemetry::Traces;
use mana_sync::telemetry::traces::{self, PushSpan, Query};
use opentelemetry_sdk::trace::Sampler;
use reqwest::{Client, Method};
use serde_json::json;
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;
const ROUNDS: usize = 10;
const ROUND: Duration = Duration::from_secs(2);

/// The pushes per second of several clients that each wait for their answer.
async fn rate(cluster: &Cluster, http: &Client, users: &[User]) -> f64 {
    let until = Instant::now() + ROUND;
    let client = async |user: &User| {
        let mut done = 0;
        while Instant::now() < until {
            let id = uuid::Uuid::new_v4().to_string();
            let change = insert("tasks", &id, "T", "2024-01-01T10:00:00.000Z");
            let body = json!({ "clientId": "laptop", "since": NO_DELTA, "changes": [change] });
            let push = http.request(Method::POST, format!("{}/sync/todo", cluster.url(0))).bearer_auth(&user.token);
            push.json(&body).send().await.unwrap().error_for_status().unwrap();
            done += 1;
        }
        done
    };
    let done = futures_util::future::join_all(users.iter().map(client)).await;
    done.iter().sum::<usize>() as f64 / ROUND.as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn cost() {
    let collector = Collector::http().await;
    let settings = |ratio: &'static str| {
        vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", ratio),
        ]
    };
    let kinds = [("off", vec![]), ("off again", vec![]), ("1 %", settings("0.01")), ("100 %", settings("1"))];
    let mut runs = Vec::new();
    for (name, settings) in kinds {
        let cluster = Cluster::start_with(1, &settings).await;
        let users: Vec<User> = (0..CLIENTS).map(|_| cluster.user()).collect();
        runs.push((name, cluster, users, Vec::new()));
    }
    let http = Client::builder().no_proxy().build().unwrap();
    // In turns, so that the machine's other work affects all of them.
    for _ in 0..=ROUNDS {
        for (_, cluster, users, rates) in &mut runs {
            rates.push(rate(cluster, &http, users).await);
        }
    }
    // The first round is a warm-up.
    let rates: Vec<(&str, Vec<f64>)> =
        runs.into_iter().map(|(name, _, _, rates)| (name, rates[1..].to_vec())).collect();
    for (name, rates) in &rates {
        let (least, median, most) = spread(rates.clone());
        println!("tracing {name:>9}: {median:6.0} pushes/s (median of {ROUNDS}; {least:.0} to {most:.0})");
    }
    // Round by round, because adjacent rounds meet the same conditions. The difference of "off again" is noise.
    let (_, off) = &rates[0];
    for (name, rates) in &rates[1..] {
        let ratios = rates.iter().zip(off).map(|(rate, off)| (rate / off - 1.0) * 100.0).collect();
        let (least, median, most) = spread(ratios);
        println!("{name:>9} against off: {median:+.1} % (median of {ROUNDS} rounds; {least:+.1} to {most:+.1})");
    }
}

/// The minimum, the median and the maximum.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}

/// The cost of a push that is not sampled: the sampling decision, and a check wherever it might have had a span.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_push_that_is_not_sampled() {
    const PUSHES: u32 = 1_000_000;
    const QUERY: Query = Query { operation: "INSERT", summary: "INSERT sync_changes" };
    let ratio = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(0.0)));
    let headers = axum::http::HeaderMap::new();
    for (name, traces) in [("off", Traces::default()), ("on", Traces::new(ratio))] {
        let started = Instant::now();
        for _ in 0..PUSHES {
            let request = traces.request(&Method::POST, Some("/sync/{app}"), "/sync/todo", "http", &headers);
            let query = traces::database(QUERY);
            let push = PushSpan::current();
            std::hint::black_box((request, query, push));
        }
        println!("tracing {name}: {:?} a push", started.elapsed() / PUSHES);
    }
}
