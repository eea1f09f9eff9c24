//! Streams that name very many tables: the names count for as long as the streams are open.

use crate::support::live::{metric, stream_of};
use crate::support::*;
use reqwest::{Method, Response};

/// As many names as fit into a request head.
fn names() -> Vec<String> {
    (0..240).map(|n| format!("{n:0>245}")).collect()
}

async fn named(cluster: &Cluster) -> f64 {
    metric(cluster, 0, "mana_sync_stream_name_bytes").await
}

/// Opens streams until one is refused, which must be for lack of memory; returns the open ones.
async fn open_all(open: impl AsyncFn() -> Response) -> Vec<Response> {
    let mut streams = Vec::new();
    loop {
        let response = open().await;
        if response.status() == 200 {
            streams.push(response);
            assert!(streams.len() < 150, "nothing bounds them");
            continue;
        }
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
        let body: serde_json::Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!(body["error"], "busy", "{body}");
        assert!(body["message"].as_str().unwrap().contains("name fewer"), "{body}");
        return streams;
    }
}

#[tokio::test]
async fn the_names_that_a_users_streams_ask_for_are_bounded_and_given_back() {
    let cluster = Cluster::start(1).await;
    let (user, other) = (cluster.user(), cluster.user());
    let collections = format!("collections={}", names().join(","));
    let apps = format!("/sync/stream?apps=todo:{}", names().join(";"));
    let of_one = async || stream_of(&cluster, 0, &user, &collections).send().await.unwrap();
    let of_apps = async || cluster.request(&user, Method::GET, &apps).send().await.unwrap();
    let streams = open_all(of_one).await;
    assert!(streams.len() >= 20, "{} streams", streams.len());
    assert_eq!(of_apps().await.status(), 503, "those of several apps have the same share");
    // Requests that name few tables, or none, are not affected, nor are other users.
    for query in ["collections=todos", ""] {
        assert_eq!(stream_of(&cluster, 0, &user, query).send().await.unwrap().status(), 200);
    }
    let of_other = stream_of(&cluster, 0, &other, &collections).send().await.unwrap();
    assert_eq!(of_other.status(), 200);
    let held = named(&cluster).await;
    assert!(held > 4e6 && held < 9e6, "{held} bytes");
    drop((streams, of_other));
    eventually("all of it is given back", async || named(&cluster).await == 0.0).await;
    let streams = open_all(of_apps).await;
    assert!(streams.len() >= 20, "{} streams", streams.len());
}
