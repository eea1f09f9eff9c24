//! CORS, sentence by sentence of docs/protocol.md.

use crate::support::*;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::collections::BTreeSet;
use tokio::sync::OnceCell;

const TODO: &str = "https://todo.example.com";
const LOCAL: &str = "http://localhost:5173";
const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const PULL: &str = "/sync/todo/pull?collection=todos&since=1970-01-01T00:00:00.000Z";

async fn cluster() -> &'static Cluster {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    const SETTINGS: &[(&str, &str)] = &[("CORS_ORIGINS", "https://todo.example.com, http://localhost:5173")];
    CLUSTER.get_or_init(|| Cluster::start_with(1, SETTINGS)).await
}

async fn preflight(origin: &str, path: &str, method: &str, headers: &str) -> Reply {
    let cluster = cluster().await;
    let request = cluster.http.request(Method::OPTIONS, format!("{}{path}", cluster.url(0)));
    let request = request.header("Origin", origin).header("Access-Control-Request-Method", method);
    Reply::to(request.header("Access-Control-Request-Headers", headers).timeout(TIMEOUT)).await
}

/// The elements of a header's list, in lower case.
fn list(reply: &Reply, name: &str) -> BTreeSet<String> {
    let header = reply.header(name).unwrap_or_else(|| panic!("no {name}: {reply:?}"));
    header.split(',').map(|member| member.trim().to_ascii_lowercase()).collect()
}

#[tokio::test]
async fn a_preflight_of_a_named_origin_is_allowed_with_credentials_methods_and_headers() {
    let wanted = "authorization,content-type,x-client-id,last-event-id";
    for origin in [TODO, LOCAL] {
        for (path, method) in [("/sync/todo", "POST"), (PULL, "GET"), ("/sync/todo/stream", "GET")] {
            // No token: browsers do not send one with a preflight.
            let reply = preflight(origin, path, method, wanted).await;
            assert!(reply.status.is_success(), "{reply:?}");
            assert_eq!(reply.header(ALLOW_ORIGIN), Some(origin));
            assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
            let methods = list(&reply, "access-control-allow-methods");
            assert!(["get", "post", "options"].iter().all(|method| methods.contains(*method)), "{methods:?}");
            let headers = list(&reply, "access-control-allow-headers");
            assert!(wanted.split(',').all(|header| headers.contains(header)), "{headers:?}");
            assert!(list(&reply, "vary").contains("origin"), "{reply:?}");
        }
    }
}

#[tokio::test]
async fn other_origins_are_not_allowed() {
    for origin in [
        "https://evil.example.com",
        "http://todo.example.com",
        "https://todo.example.com:8443",
        "https://todo.example.com.evil.com",
        "https://sub.todo.example.com",
        "http://localhost:5174",
        "null",
        "*",
    ] {
        let reply = preflight(origin, "/sync/todo", "POST", "authorization").await;
        assert_eq!(reply.header(ALLOW_ORIGIN), None, "{origin}: {reply:?}");
        let user = cluster().await.user();
        let request = cluster().await.request(&user, Method::GET, PULL).header("Origin", origin);
        assert_eq!(Reply::to(request).await.header(ALLOW_ORIGIN), None, "{origin}");
    }
}

#[tokio::test]
async fn a_pattern_allows_the_subdomains_of_its_domain_and_nothing_else() {
    const ORIGINS: &str = "https://*.example.com,http://*.localhost:5173, HTTPS://Exact.Example.ORG";
    let cluster = Cluster::start_with(1, &[("CORS_ORIGINS", ORIGINS)]).await;
    let user = cluster.user();
    let allowed = async |origin: &str| {
        let request = cluster.request(&user, Method::GET, PULL).header("Origin", origin);
        let preflight = cluster.http.request(Method::OPTIONS, format!("{}{PULL}", cluster.url(0)));
        let preflight = preflight.header("Origin", origin).header("Access-Control-Request-Method", "GET");
        let replies = [Reply::to(request).await, Reply::to(preflight).await];
        replies.map(|reply| reply.header(ALLOW_ORIGIN).map(str::to_owned))
    };
    for origin in [
        "https://todo.example.com",
        "https://a.b.example.com",
        "http://app.localhost:5173",
        "https://exact.example.org",
    ] {
        assert_eq!(allowed(origin).await, [Some(origin.to_owned()), Some(origin.to_owned())], "{origin}");
    }
    for origin in [
        "https://example.com",
        "http://todo.example.com",
        "https://todo.example.com:8443",
        "https://todo.example.com.evil.com",
        "https://evil.com/.example.com",
        "https://notexample.com",
        "http://app.localhost",
        "https://sub.exact.example.org",
        "null",
    ] {
        assert_eq!(allowed(origin).await, [None, None], "{origin}");
    }
}

#[tokio::test]
async fn a_pattern_that_can_never_match_stops_the_start() {
    for pattern in [
        "*",
        "https://*",
        "https://*.",
        "https://*.com",
        "https://a.*.com",
        "*.example.com",
        "https://*.example.com/",
        "https://user@*.example.com",
        "https://*.example.com:443",
        "https://fine.example.com,https://*.*.example.com",
    ] {
        let mut replica = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
        replica.env_clear().env("DATABASE_URL", "postgres://127.0.0.1:1/nowhere").env("CORS_ORIGINS", pattern);
        let ended = tokio::time::timeout(TIMEOUT, replica.kill_on_drop(true).output()).await.expect(pattern).unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(!ended.status.success() && said.contains("CORS_ORIGINS"), "{pattern}: {said}");
    }
}

#[tokio::test]
async fn answers_and_errors_alike_may_be_read_by_a_named_origin() {
    let cluster = cluster().await;
    let user = cluster.user();
    let of = |request: reqwest::RequestBuilder| Reply::to(request.header("Origin", TODO));
    let push = cluster.request(&user, Method::POST, "/sync/todo");
    let mut replies = vec![
        of(cluster.request(&user, Method::GET, PULL)).await,
        of(push.try_clone().unwrap().json(&json!({ "clientId": "phone" }))).await,
        of(push.try_clone().unwrap().json(&json!([]))).await,
        of(push.try_clone().unwrap()).await,
        of(push.header("Content-Type", "application/json").body(" ".repeat(11 << 20))).await,
        of(cluster.http.get(format!("{}{PULL}", cluster.url(0)))).await,
        of(cluster.request(&user, Method::GET, "/nothing")).await,
        of(cluster.request(&user, Method::GET, "/sync/todo")).await,
    ];
    cluster.credits.set_active(&cluster.user_named("unpaid").id, false);
    replies.push(of(cluster.request(&cluster.user_named("unpaid"), Method::GET, PULL)).await);
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status.as_u16()).collect();
    assert_eq!(statuses, [200, 200, 400, 415, 413, 401, 404, 405, 402]);
    for reply in replies {
        assert_eq!(reply.header(ALLOW_ORIGIN), Some(TODO), "{reply:?}");
        assert_eq!(reply.header("access-control-allow-credentials"), Some("true"), "{reply:?}");
    }
}

#[tokio::test]
async fn a_stream_may_be_read_by_a_named_origin() {
    let cluster = cluster().await;
    let request = cluster.request(&cluster.user(), Method::GET, "/sync/todo/stream").header("Origin", LOCAL);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[ALLOW_ORIGIN], LOCAL);
}

#[tokio::test]
async fn without_configured_origins_none_is_allowed_and_callers_that_are_no_pages_are_served() {
    let cluster = shared().await;
    let user = cluster.user();
    let request = cluster.request(&user, Method::GET, PULL);
    let reply = Reply::to(request.try_clone().unwrap().header("Origin", TODO)).await;
    assert_eq!((reply.status, reply.header(ALLOW_ORIGIN)), (StatusCode::OK, None));
    assert_eq!(Reply::to(request).await.status, StatusCode::OK);
}

#[tokio::test]
async fn preflights_are_counted_by_whether_the_page_may_and_the_refused_page_is_logged() {
    let cluster = Cluster::start_with(1, &[("CORS_ORIGINS", TODO), ("RUST_LOG", "info")]).await;
    let ask = async |origin: &str, path: &str, is_preflight: bool| {
        let request =
            cluster.http.request(Method::OPTIONS, format!("{}{path}", cluster.url(0))).header("Origin", origin);
        let request = if is_preflight { request.header("Access-Control-Request-Method", "POST") } else { request };
        Reply::to(request.timeout(TIMEOUT)).await;
    };
    const EVIL: &str = "https://evil.example.com";
    for path in ["/sync/todo", "/sync/todo/stream", PULL, "/sync/stream"] {
        ask(EVIL, path, true).await;
    }
    ask(TODO, "/sync/todo", true).await;
    // Neither of these is a preflight for an endpoint.
    ask(EVIL, "/nothing", true).await;
    ask(EVIL, "/sync/todo", false).await;
    let text = cluster.get("/metrics").await.text;
    let count = |labels: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("mana_sync_requests_{labels}")));
        line.and_then(|line| line.rsplit_once(' ')).unwrap_or_else(|| panic!("{labels}: {text}")).1.to_owned()
    };
    assert_eq!(count("refused_total{endpoint=\"preflight\",reason=\"origin\"}"), "4");
    assert_eq!(count("accepted_total{endpoint=\"preflight\"}"), "1");
    assert_eq!(count("refused_total{endpoint=\"push\",reason=\"origin\"}"), "0");
    let log = cluster.nodes[0].log();
    assert!(log.contains("requests are refused") && log.contains(EVIL), "{log}");
}
