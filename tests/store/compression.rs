//! Pages are compressed only for clients that accept it, with an encoding they accept.

use crate::support::*;
use flate2::read::GzDecoder;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use std::io::Read;

const APP: &str = "todo";

/// Stores this many records.
async fn fill(cluster: &Cluster, user: &User, records: usize) {
    let at = iso(now_millis());
    let text = "The quick brown fox jumps over the lazy dog";
    let changes: Vec<Value> =
        (0..records).map(|n| insert("tasks", &format!("task-{n}"), &format!("{text}, {n} times"), &at)).collect();
    cluster.pushed(user, APP, json!({ "clientId": "phone", "since": BEGINNING, "changes": changes })).await;
}

/// A fresh device's page as received, by pull or by push.
async fn page(cluster: &Cluster, user: &User, by_push: bool, accept: Option<&str>) -> (HeaderMap, Vec<u8>) {
    let mut request = if by_push {
        let body = json!({ "clientId": "fresh", "since": BEGINNING, "changes": [] });
        let request = cluster.request(user, reqwest::Method::POST, &format!("/sync/{APP}"));
        request.header("Content-Type", "application/json").body(body.to_string())
    } else {
        let path = format!("/sync/{APP}/pull?collection=tasks&since={BEGINNING}");
        cluster.request(user, reqwest::Method::GET, &path)
    };
    if let Some(accept) = accept {
        request = request.header("Accept-Encoding", accept);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    (response.headers().clone(), response.bytes().await.unwrap().to_vec())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn a_page_comes_as_its_client_takes_it() {
    let cluster = shared().await;
    let user = cluster.user();
    fill(cluster, &user, 900).await;
    for by_push in [false, true] {
        let (headers, plain) = page(cluster, &user, by_push, None).await;
        assert_eq!(header(&headers, "content-encoding"), [""; 0]);
        assert_eq!(header(&headers, "content-length"), [plain.len().to_string()]);
        let changes = serde_json::from_slice::<Value>(&plain).unwrap()["serverChanges"].as_array().unwrap().len();
        assert_eq!(changes, 900);
        for accept in ["gzip", "zstd", "br", "gzip, deflate, br, zstd", "gzip;q=1.0, *;q=0.1"] {
            let (headers, packed) = page(cluster, &user, by_push, Some(accept)).await;
            let encoding = header(&headers, "content-encoding")[0].to_owned();
            assert!(accept.contains(&encoding), "{encoding} for {accept}");
            assert!(
                header(&headers, "vary").iter().any(|names| names.to_ascii_lowercase().contains("accept-encoding"))
            );
            assert_eq!(header(&headers, "content-type"), ["application/json"]);
            assert!(packed.len() * 10 <= plain.len() * 3, "{encoding}: {} of {} bytes", packed.len(), plain.len());
            println!("{encoding}: {} of {} bytes", packed.len(), plain.len());
            match encoding.as_str() {
                "gzip" => {
                    let mut unpacked = Vec::new();
                    GzDecoder::new(&*packed).read_to_end(&mut unpacked).unwrap();
                    assert_eq!(unpacked, plain);
                }
                "zstd" => assert_eq!(packed[..4], [0x28, 0xb5, 0x2f, 0xfd]),
                _ => assert_ne!(packed, plain),
            }
        }
        for refused in ["identity", "gzip;q=0, br;q=0, zstd;q=0", "compress"] {
            let (headers, as_is) = page(cluster, &user, by_push, Some(refused)).await;
            assert_eq!((header(&headers, "content-encoding"), as_is), (vec![], plain.clone()), "{refused}");
        }
    }
}

#[tokio::test]
async fn what_is_small_and_what_is_told_as_it_happens_goes_out_as_it_is() {
    let cluster = shared().await;
    let user = cluster.user();
    fill(cluster, &user, 2).await;
    let (headers, small) = page(cluster, &user, true, Some("gzip")).await;
    assert_eq!(header(&headers, "content-encoding"), [""; 0]);
    assert!(serde_json::from_slice::<Value>(&small).is_ok());
    fill(cluster, &cluster.user(), 1).await;
    let request = cluster.request(&user, reqwest::Method::GET, &format!("/sync/{APP}/stream?collections=tasks"));
    let stream = request.header("Accept-Encoding", "gzip, br, zstd").send().await.unwrap();
    assert_eq!(stream.status(), 200);
    assert_eq!(header(stream.headers(), "content-encoding"), [""; 0]);
}

/// No available encoding suits them. Their push is stored anyway, and answered unencoded.
#[tokio::test]
async fn clients_that_take_nothing_get_their_answers_as_they_are() {
    let cluster = shared().await;
    let user = cluster.user();
    fill(cluster, &user, 900).await;
    let (_, plain) = page(cluster, &user, false, None).await;
    for accept in ["identity;q=0", "*;q=0", "identity;q=0, *;q=0", "deflate, identity;q=0", "gzip;q=0, *;q=0.0"] {
        for by_push in [false, true] {
            let (headers, as_is) = page(cluster, &user, by_push, Some(accept)).await;
            assert_eq!((header(&headers, "content-encoding"), as_is), (vec![], plain.clone()), "{accept}");
        }
        let other = cluster.user();
        let body = json!({ "clientId": "phone", "changes": [insert("tasks", "a", "Milk", &iso(now_millis()))] });
        for (body, expected) in [(body.to_string(), 200), ("{".to_owned(), 400)] {
            let request = cluster.request(&other, reqwest::Method::POST, &format!("/sync/{APP}"));
            let request = request.header("Content-Type", "application/json").header("Accept-Encoding", accept);
            assert_eq!(request.body(body).send().await.unwrap().status(), expected, "{accept}");
        }
        assert_eq!(cluster.stored(&other).await, 1, "{accept}");
    }
}

/// A push to the app "stream" has the same path as a stream of several apps.
#[tokio::test]
async fn the_answer_to_a_push_is_compressed_whatever_its_app_is_called() {
    let cluster = shared().await;
    let user = cluster.user();
    let at = iso(now_millis());
    let changes: Vec<Value> = (0..100).map(|n| insert("tasks", &format!("task-{n}"), "Milk", &at)).collect();
    for (client, encodings) in [("phone", vec![]), ("laptop", vec!["gzip"])] {
        let body =
            json!({ "clientId": client, "since": "", "changes": if client == "phone" { &changes[..] } else { &[] } });
        let request = cluster.request(&user, reqwest::Method::POST, "/sync/stream").header("Accept-Encoding", "gzip");
        let reply = request.header("Content-Type", "application/json").body(body.to_string()).send().await.unwrap();
        assert_eq!(
            (reply.status().as_u16(), header(reply.headers(), "content-encoding")),
            (200, encodings),
            "{client}"
        );
    }
}
