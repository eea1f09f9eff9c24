//! OpenMetrics for clients that ask for it, with exemplars of sampled traces.

use crate::collector::Collector;
use crate::support::live::{metric, socket, woken};
use crate::support::*;
use crate::{NOT_SAMPLED, SAMPLED, body, caller, push};
use reqwest::Method;
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

/// The Accept header of Prometheus.
const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
const TRACED: [&str; 3] =
    ["mana_sync_push_duration_seconds", "mana_sync_pull_duration_seconds", "mana_sync_delivery_seconds"];

struct Exemplar {
    trace: String,
    value: f64,
    at: f64,
}

/// Families with their types, samples, and the exemplars of buckets.
#[derive(Default)]
struct Exposition {
    families: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
    exemplars: BTreeMap<String, Exemplar>,
}

/// Parses OpenMetrics as strictly as the specification.
#[track_caller]
fn read(text: &str) -> Exposition {
    let mut read = Exposition::default();
    let lines = text.strip_suffix("# EOF\n").expect("it ends as whole").lines();
    let (mut family, mut kind) = (String::new(), String::new());
    for line in lines {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').unwrap();
            (family, kind) = (name.to_owned(), of.to_owned());
            assert!(["counter", "gauge", "histogram"].contains(&of), "{line}");
            assert!(read.families.insert(family.clone(), kind.clone()).is_none(), "{family} is interrupted");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.starts_with(&format!("{family} ")), "{line}");
            continue;
        }
        let (sample, exemplar) = line.split_once(" # ").map_or((line, None), |(sample, rest)| (sample, Some(rest)));
        let (series, value) = sample.rsplit_once(' ').unwrap();
        let suffix = series.split('{').next().unwrap().strip_prefix(&family).expect(line);
        let suffixes: &[&str] = match kind.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(suffixes.contains(&suffix), "{line}");
        assert!(read.samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "twice: {line}");
        if let Some(exemplar) = exemplar {
            assert_eq!(suffix, "_bucket", "{line}");
            let (labels, rest) = exemplar.strip_prefix('{').unwrap().split_once("} ").unwrap();
            let (value, at) = rest.split_once(' ').unwrap();
            let ids: BTreeMap<&str, &str> = labels.split(',').map(|label| label.split_once('=').unwrap()).collect();
            assert_eq!((ids["trace_id"].len(), ids["span_id"].len()), (34, 18), "{line}");
            let trace = ids["trace_id"].trim_matches('"').to_owned();
            let exemplar = Exemplar { trace, value: value.parse().unwrap(), at: at.parse().unwrap() };
            read.exemplars.insert(series.to_owned(), exemplar);
        }
    }
    read
}

async fn scrape(cluster: &Cluster, replica: usize) -> Exposition {
    let request = cluster.http.get(format!("{}/metrics", cluster.url(replica))).header("Accept", PROMETHEUS);
    let reply = request.send().await.unwrap();
    let kind = reply.headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    read(&reply.text().await.unwrap())
}

/// The exemplars of a histogram; their values must lie in their buckets.
#[track_caller]
fn exemplars<'a>(of: &'a Exposition, histogram: &str) -> Vec<&'a Exemplar> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let own = of.exemplars.iter().filter(|(series, _)| series.starts_with(histogram));
    own.map(|(series, exemplar)| {
        let bound = series.split("le=\"").nth(1).unwrap().trim_end_matches("\"}");
        assert!(exemplar.value <= bound.replace("+Inf", "inf").parse().unwrap(), "{series}: {}", exemplar.value);
        assert!(bound == "+Inf" || bound.contains('.'), "{series}");
        assert!((now.as_secs_f64() - exemplar.at).abs() < 60.0, "{}", exemplar.at);
        exemplar
    })
    .collect()
}

#[tokio::test]
async fn sampled_pushes_pulls_and_deliveries_are_exemplars_of_their_buckets() {
    let collector = Collector::http().await;
    let cluster = Cluster::start_with(2, &collector.settings()).await;
    let user = cluster.user();
    let mut socket = socket(&cluster, 1, &user, None, Some("phone")).await;
    push(&cluster, &user, &caller(NOT_SAMPLED), body("laptop", "1")).await;
    woken(&mut socket).await;
    for replica in [0, 1] {
        let before = scrape(&cluster, replica).await;
        assert!(before.exemplars.is_empty(), "nothing was sampled");
    }

    let pushed = caller(SAMPLED);
    push(&cluster, &user, &pushed, body("laptop", "2")).await;
    woken(&mut socket).await;
    let pulled = caller(SAMPLED);
    let path = "/sync/todo/pull?collection=tasks&since=1970-01-01T00:00:00Z";
    let pull = cluster.request(&user, Method::GET, path).header("traceparent", &pulled.header);
    assert_eq!(Reply::to(pull).await.status, 200);
    let delivered = "mana_sync_delivery_seconds_count";
    eventually("both are delivered", async || metric(&cluster, 1, delivered).await >= 2.0).await;

    let [there, elsewhere] = [scrape(&cluster, 0).await, scrape(&cluster, 1).await];
    for (of, histogram, trace) in
        [(&there, TRACED[0], &pushed.trace), (&there, TRACED[1], &pulled.trace), (&elsewhere, TRACED[2], &pushed.trace)]
    {
        let found = exemplars(of, histogram);
        let traces: Vec<&str> = found.iter().map(|exemplar| exemplar.trace.as_str()).collect();
        assert_eq!(traces, [trace], "{histogram}");
    }
    let others = there.exemplars.keys().filter(|series| !TRACED.iter().any(|name| series.starts_with(name)));
    assert_eq!(others.count(), 0, "only these have any");
}

#[tokio::test]
async fn both_forms_have_the_same_series() {
    let cluster = shared().await;
    let open = scrape(cluster, 0).await;
    let reply = cluster.get("/metrics").await;
    assert_eq!(reply.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let bound = |series: &str| match series.split_once("le=\"") {
        Some((name, rest)) => format!("{name}{:?}", rest.trim_end_matches("\"}").parse::<f64>().unwrap()),
        None => series.to_owned(),
    };
    let plain = reply.text.lines().filter(|line| !line.starts_with('#'));
    let plain: BTreeSet<String> = plain.map(|line| bound(line.rsplit_once(' ').unwrap().0)).collect();
    let open_ones: BTreeSet<String> = open.samples.keys().map(|series| bound(series)).collect();
    assert_eq!(open_ones, plain);
    assert_eq!(open.families["mana_sync_pushes"], "counter", "its samples have the suffix");
    assert_eq!(open.families["mana_sync_connections_total"], "gauge", "in spite of its name");
}
