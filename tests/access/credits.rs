//! Misbehaving credits services and hostile user ids. See billing.rs for what the gate promises.

use crate::support::*;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use mana_dev::{Credits, stub::Stub};
use reqwest::Method;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PULL: &str = "/sync/todo/pull?collection=todos&since=1970-01-01T00:00:00.000Z";
const ACTIVE: &str = r#"{"active":true,"interval":"month","pausedAt":null}"#;
const INACTIVE: &str = r#"{"active":false,"interval":"month","pausedAt":null}"#;

fn anywhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

async fn status(cluster: &Cluster, user: &User) -> u16 {
    Reply::to(cluster.request(user, Method::GET, PULL)).await.status.as_u16()
}

/// A cluster that uses this service.
async fn asking(service: &Stub, path: &str, more: &[(&str, &str)]) -> Cluster {
    let url = format!("http://{}{path}", service.address());
    Cluster::start_with(1, &[&[("MANA_CREDITS_URL", url.as_str())], more].concat()).await
}

/// The paths requested from a service.
type Paths = Arc<Mutex<Vec<String>>>;

async fn noting() -> (Stub, Paths) {
    let paths = Paths::default();
    let note = async |State(paths): State<Paths>, uri: Uri| {
        paths.lock().unwrap().push(uri.to_string());
        INACTIVE
    };
    (Stub::start(anywhere(), Router::new().fallback(note).with_state(paths.clone())).await.unwrap(), paths)
}

#[tokio::test]
async fn whatever_a_user_is_called_one_part_of_the_path_is_the_user() {
    let (service, paths) = noting().await;
    let cluster = asking(&service, "/base/", &[]).await;
    let ids =
        ["..", ".", "/", "//", "../..", "%2e%2e", ".%2E", "a/../b", "?", "#", "a?b=c", "%", " ", "\\", "ü", "..;/"];
    for id in ids {
        // The service must be asked about exactly this user: it says 402 of everybody.
        assert_eq!(status(&cluster, &cluster.user_named(id)).await, 402, "{id}");
        let asked = paths.lock().unwrap().last().cloned().expect(id);
        let user = asked.strip_prefix("/base/api/v1/internal/sync/status/").unwrap_or_else(|| panic!("{id}: {asked}"));
        assert!(!user.contains(['/', '?', '#']), "{id}: {asked}");
        assert_eq!(percent_encoding::percent_decode_str(user).decode_utf8().unwrap(), id, "{asked}");
    }
    assert_eq!(paths.lock().unwrap().len(), ids.len(), "each was another user");
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_our_key_stays_here() {
    for code in [301, 302, 303, 307, 308] {
        let (target, paths) = noting().await;
        let to = format!("http://{}/api/v1/internal/sync/status/somebody", target.address());
        let redirect = async move || {
            let mut response = Redirect::to(&to).into_response();
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            response
        };
        let service = Stub::start(anywhere(), Router::new().fallback(redirect)).await.unwrap();
        let cluster = asking(&service, "", &[]).await;
        for _ in 0..4 {
            assert_eq!(status(&cluster, &cluster.user()).await, 200);
        }
        assert!(service.requests() > 0);
        assert_eq!(*paths.lock().unwrap(), Vec::<String>::new(), "{code}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_none_and_is_not_read_to_its_end() {
    let huge = async || {
        // An endless body.
        let chunks = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(" ".repeat(8 << 10)));
        axum::body::Body::from_stream(chunks)
    };
    let padded = async || format!("{INACTIVE}{}", " ".repeat(70 << 10));
    let large = async || format!("{INACTIVE}{}", " ".repeat(60 << 10));
    for (what, router, expected) in [
        ("endless", Router::new().fallback(huge), 200),
        ("just too large", Router::new().fallback(padded), 200),
        ("large", Router::new().fallback(large), 402),
    ] {
        let service = Stub::start(anywhere(), router).await.unwrap();
        let cluster = asking(&service, "", &[("BILLING_TIMEOUT_MS", "60000")]).await;
        let began = Instant::now();
        assert_eq!(status(&cluster, &cluster.user()).await, expected, "{what}");
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: {:?}", began.elapsed());
    }
}

/// A service that fails for some users only: with a 5xx, a 4xx, an invalid body, or no answer.
async fn failing_for_some() -> Stub {
    let answer = async |uri: Uri| -> Response {
        match uri.path().rsplit('/').next().unwrap_or_default() {
            user if user.starts_with("error") => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            user if user.starts_with("forbidden") => StatusCode::FORBIDDEN.into_response(),
            user if user.starts_with("nonsense") => "nonsense".into_response(),
            user if user.starts_with("hang") => std::future::pending().await,
            user if user.starts_with("paid") => ACTIVE.into_response(),
            _ => INACTIVE.into_response(),
        }
    };
    Stub::start(anywhere(), Router::new().fallback(answer)).await.unwrap()
}

#[tokio::test]
async fn failing_users_do_not_make_everybody_free() {
    for kind in ["error", "forbidden", "nonsense", "hang"] {
        let service = failing_for_some().await;
        // What hangs is waited for each time; what answers is given all the time it takes.
        let timeout = if kind == "hang" { "1500" } else { "20000" };
        let cluster = asking(&service, "", &[("BILLING_TIMEOUT_MS", timeout)]).await;
        // At first the service has answered about nobody, later about somebody.
        for round in 0..3 {
            for number in 0..5 {
                let user = cluster.user_named(&format!("{kind}{round}{number}"));
                assert_eq!(status(&cluster, &user).await, 200, "{kind} {round} {number}");
            }
            let unpaid = cluster.user_named(&format!("unpaid{round}"));
            assert_eq!(status(&cluster, &unpaid).await, 402, "{kind} {round}");
            assert_eq!(status(&cluster, &cluster.user_named(&format!("paid{round}"))).await, 200);
        }
    }
}

#[tokio::test]
async fn a_user_without_an_answer_is_not_asked_about_with_every_request() {
    let service = failing_for_some().await;
    let cluster = asking(&service, "", &[]).await;
    let user = cluster.user_named("error");
    for _ in 0..20 {
        assert_eq!(status(&cluster, &user).await, 200);
    }
    assert_eq!(service.requests(), 1);
}

#[tokio::test]
async fn users_and_passwords_of_its_url_are_sent_and_a_key_that_no_header_can_have_stops_the_start() {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let note = async |State(seen): State<Arc<Mutex<BTreeSet<String>>>>, headers: axum::http::HeaderMap| {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        seen.lock().unwrap().insert(format!("{} {}", text("authorization"), text("x-service-key")));
        ACTIVE
    };
    let service = Stub::start(anywhere(), Router::new().fallback(note).with_state(seen.clone())).await.unwrap();
    let url = format!("http://us%3Aer:pass@{}", service.address());
    let cluster = Cluster::start_with(1, &[("MANA_CREDITS_URL", url.as_str())]).await;
    assert_eq!(status(&cluster, &cluster.user()).await, 200);
    let expected = format!("Basic dXM6ZXI6cGFzcw== {SERVICE_KEY}");
    assert_eq!(seen.lock().unwrap().iter().collect::<Vec<_>>(), [&expected]);
    assert!(!cluster.nodes[0].log().contains("pass@"));

    let mut replica = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
    replica.env("DATABASE_URL", &cluster.database_url).env("MANA_SERVICE_KEY", "Hunter2\n");
    let ended = tokio::time::timeout(TIMEOUT, replica.kill_on_drop(true).output()).await.expect("it ends").unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success() && said.contains("MANA_SERVICE_KEY") && !said.contains("Hunter2"), "{said}");
}

#[tokio::test]
async fn the_development_service_is_found_by_the_same_path() {
    let credits = Credits::start(anywhere(), SERVICE_KEY).await.unwrap();
    let cluster = Cluster::start_with(1, &[("MANA_CREDITS_URL", credits.url().as_str())]).await;
    credits.set_active("..", false);
    assert_eq!(status(&cluster, &cluster.user_named("..")).await, 402);
    assert_eq!(credits.requests_of(".."), 1);
}
