//! An issuer that is slow, faulty or away, and impatient clients. See auth.rs for which tokens are accepted.

use crate::support::live::closed;
use crate::support::*;
use axum::Router;
use axum::http::header::LOCATION;
use axum::http::{StatusCode, Uri};
use axum::response::IntoResponse;
use futures_util::future::join_all;
use mana_dev::{Mode, SigningKey, stub::Stub};
use mana_load::wakeups::{WakeMessage, Wakeups};
use reqwest::Method;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const PULL: &str = "/sync/todo/pull?collection=todos&since=1970-01-01T00:00:00.000Z";
/// The timeout of clients that hang up.
const IMPATIENT: Duration = Duration::from_millis(50);

fn anywhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

async fn pull(cluster: &Cluster, token: &str) -> Reply {
    cluster.get_as(&format!("Bearer {token}"), PULL).await
}

/// Returns the status, for a client with this timeout.
async fn pull_within(cluster: &Cluster, token: &str, limit: Duration) -> Option<u16> {
    let url = format!("{}{PULL}", cluster.url(0));
    let answer = cluster.http.get(url).bearer_auth(token).timeout(limit).send().await;
    answer.ok().map(|answer| answer.status().as_u16())
}

fn token(key: &SigningKey) -> String {
    key.mint(&json!({ "sub": "somebody", "exp": now_millis() / 1000 + 600, "jti": uuid::Uuid::new_v4().to_string() }))
}

#[tokio::test]
async fn at_a_cold_start_keys_arrive_though_every_client_is_impatient() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes[0].process.kill().await;
    cluster.issuer.set_mode(Mode::Slow(Duration::from_secs(2)));
    let asked = cluster.issuer.requests();
    cluster.nodes[0].respawn();
    eventually("it serves", async || cluster.nodes[0].log().matches("\"serving\"").count() == 2).await;
    let user = cluster.user();
    let mut hung_up = 0;
    eventually("the keys are there", async || {
        let status = pull_within(&cluster, &user.token, IMPATIENT).await;
        hung_up += u64::from(status.is_none());
        status == Some(200)
    })
    .await;
    assert!(hung_up > 3, "{hung_up}");
    assert_eq!(cluster.issuer.requests(), asked + 1);
}

#[tokio::test]
async fn a_flood_of_unknown_keys_that_hangs_up_costs_one_request_per_cool_down() {
    let cluster = Cluster::start_with(1, &[("JWKS_COOLDOWN_MS", "1000")]).await;
    assert_eq!(pull(&cluster, &cluster.user().token).await.status, StatusCode::OK);
    let began = Instant::now();
    for mode in [Mode::Serve, Mode::Slow(Duration::from_millis(300)), Mode::Error(500), Mode::Hang] {
        cluster.issuer.set_mode(mode);
        for _ in 0..5 {
            let tokens: Vec<String> = (0..20).map(|_| token(&SigningKey::generate().unwrap())).collect();
            let statuses = join_all(tokens.iter().map(|token| pull_within(&cluster, token, IMPATIENT))).await;
            assert!(!statuses.contains(&Some(200)));
            // A client with a valid token notices nothing.
            assert_eq!(pull_within(&cluster, &token(&cluster.key), TIMEOUT).await, Some(200), "{mode:?}");
        }
    }
    // The first fetch, and one for each cool-down that may have begun.
    let allowed = 2 + began.elapsed().as_secs();
    assert!(cluster.issuer.requests() <= allowed, "asked {} times in {:?}", cluster.issuer.requests(), began.elapsed());
}

#[tokio::test]
async fn a_key_that_was_published_a_moment_ago_is_not_refused() {
    let cluster = Cluster::start_with(1, &[("JWKS_COOLDOWN_MS", "2000")]).await;
    assert_eq!(pull(&cluster, &cluster.user().token).await.status, StatusCode::OK);
    let next = SigningKey::generate().unwrap();
    cluster.issuer.set_keys(&[cluster.key.clone(), next.clone()]);
    // The issuer was asked a moment ago, when it did not have this key yet: that says nothing about now.
    let replies = join_all((0..10).map(async |_| pull(&cluster, &token(&next)).await.status.as_u16())).await;
    assert_eq!(replies, [200; 10]);
    let mut socket = Wakeups::open(cluster.url(0), None).await.unwrap();
    let third = SigningKey::generate().unwrap();
    cluster.issuer.set_keys(&[cluster.key.clone(), next, third.clone()]);
    socket.authenticate(&token(&third), None).await.unwrap();
    assert_eq!(socket.next(TIMEOUT).await.unwrap(), mana_load::wakeups::WakeMessage::AuthOk);
}

#[tokio::test]
async fn a_session_goes_on_while_the_issuer_does_not_say_whether_its_fresh_token_is_good() {
    for mode in [Mode::Error(500), Mode::Hang] {
        let cluster = Cluster::start_with(1, &[("JWKS_COOLDOWN_MS", "20")]).await;
        let user = cluster.user();
        let mut socket = live::socket(&cluster, 0, &user, None, None).await;
        cluster.issuer.set_mode(mode);
        let next = SigningKey::generate().unwrap();
        let fresh = next.mint(&json!({ "sub": user.id, "exp": now_millis() / 1000 + 600 }));
        socket.authenticate(&fresh, None).await.unwrap();
        // Nothing waits for the issuer, and its silence closes nothing.
        for round in 0..3 {
            let asked = Instant::now();
            live::store(&cluster, 0, &user, "phone", &[("todos", &round.to_string())]).await;
            assert_eq!(live::woken(&mut socket).await.1, ["todos"], "{mode:?}");
            assert_soon(&cluster, Duration::from_secs(4), "nothing waits", asked.elapsed()).await;
            let failed = live::metric(&cluster, 0, "mana_sync_jwks_fetches_total{outcome=\"failed\"}").await;
            eventually("the issuer is asked once more", async || {
                live::metric(&cluster, 0, "mana_sync_jwks_fetches_total{outcome=\"failed\"}").await > failed
            })
            .await;
        }
        cluster.issuer.set_keys(&[cluster.key.clone(), next]);
        cluster.issuer.set_mode(Mode::Serve);
        assert_eq!(socket.next(TIMEOUT).await.unwrap(), WakeMessage::AuthOk, "{mode:?}");
        // A token that the issuer does not know closes the socket.
        socket.authenticate(&token(&SigningKey::generate().unwrap()), None).await.unwrap();
        assert!(matches!(socket.next(TIMEOUT).await.unwrap(), WakeMessage::Error { .. }), "{mode:?}");
        assert_eq!(closed(&mut socket).await, Some(1008), "{mode:?}");
    }
}

#[tokio::test]
async fn while_the_issuer_fails_an_unknown_key_is_not_refused_for_good() {
    for mode in [Mode::Error(500), Mode::Error(404), Mode::Garbage, Mode::Hang] {
        let settings = [("JWKS_COOLDOWN_MS", "20")];
        let cluster = Cluster::start_with(1, &settings).await;
        assert_eq!(pull(&cluster, &cluster.user().token).await.status, StatusCode::OK);
        cluster.issuer.set_mode(mode);
        let next = SigningKey::generate().unwrap();
        let reply = pull(&cluster, &token(&next)).await;
        reply.refused(503, "unavailable");
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
        let mut socket = Wakeups::open(cluster.url(0), None).await.unwrap();
        socket.authenticate(&token(&next), None).await.unwrap();
        assert_eq!(closed(&mut socket).await, Some(1013), "{mode:?}");
        cluster.issuer.set_mode(Mode::Serve);
        eventually("refused once the issuer is back", async || pull(&cluster, &token(&next)).await.status == 401).await;
    }
}

#[tokio::test]
async fn an_empty_key_set_does_not_replace_a_good_one() {
    let settings = [("JWKS_COOLDOWN_MS", "20"), ("JWKS_REFRESH_MS", "40")];
    let cluster = Cluster::start_with(1, &settings).await;
    assert_eq!(pull(&cluster, &token(&cluster.key)).await.status, StatusCode::OK);
    let foreign = json!({ "kty": "RSA", "kid": "rsa", "alg": "RS256", "n": "sXch", "e": "AQAB" });
    let no_key = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "short", "x": "AAAA" });
    for keys in [vec![], vec![foreign], vec![json!({}), json!(null)], vec![no_key]] {
        cluster.issuer.set_jwks(keys);
        let asked = cluster.issuer.requests();
        eventually("asked again", async || cluster.issuer.requests() > asked + 2).await;
        assert_eq!(pull(&cluster, &token(&cluster.key)).await.status, StatusCode::OK);
        // Nobody knows whether such a key is valid.
        pull(&cluster, &token(&SigningKey::generate().unwrap())).await.refused(503, "unavailable");
    }
}

#[tokio::test]
async fn a_key_that_is_withdrawn_ends_with_the_next_refresh_also_for_tokens_that_were_seen() {
    let settings = [("JWKS_COOLDOWN_MS", "50"), ("JWKS_REFRESH_MS", "200")];
    let cluster = Cluster::start_with(1, &settings).await;
    let seen = token(&cluster.key);
    assert_eq!(pull(&cluster, &seen).await.status, StatusCode::OK);
    assert_eq!(pull(&cluster, &seen).await.status, StatusCode::OK);
    let next = SigningKey::generate().unwrap();
    cluster.issuer.set_keys(std::slice::from_ref(&next));
    let began = Instant::now();
    eventually("refused", async || pull(&cluster, &seen).await.status == 401).await;
    // Tokens are cached for a minute.
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    assert_eq!(pull(&cluster, &token(&next)).await.status, StatusCode::OK);
    // A key with the same id is still a different key.
    let mut impostor = cluster.key.public_jwk();
    impostor["kid"] = json!(next.kid());
    let seen = token(&next);
    assert_eq!(pull(&cluster, &seen).await.status, StatusCode::OK);
    cluster.issuer.set_jwks(vec![impostor]);
    eventually("refused", async || pull(&cluster, &seen).await.status == 401).await;
}

/// As an issuer does that has lost its key, or gives each of its keys the same id.
#[tokio::test]
async fn a_key_that_takes_the_place_of_another_under_its_name_counts_soon() {
    let cluster = Cluster::start_with(1, &[("JWKS_COOLDOWN_MS", "1000")]).await;
    let before = token(&cluster.key);
    assert_eq!(pull(&cluster, &before).await.status, StatusCode::OK);
    let next = SigningKey::generate().unwrap();
    let named = |mut jwk: serde_json::Value| {
        jwk["kid"] = json!(cluster.key.kid());
        jwk
    };
    cluster.issuer.set_jwks(vec![named(next.public_jwk())]);
    let header = json!({ "alg": "EdDSA", "kid": cluster.key.kid() });
    let after = next.mint_with(&header, &json!({ "sub": "somebody", "exp": now_millis() / 1000 + 600 }));
    eventually("the new key counts", async || pull(&cluster, &after).await.status == 200).await;
    assert_eq!(pull(&cluster, &before).await.status, StatusCode::UNAUTHORIZED);

    // Forged signatures do not cause more requests to the issuer than unknown key ids do.
    let (began, asked) = (Instant::now(), cluster.issuer.requests());
    let forged =
        |_| SigningKey::generate().unwrap().mint_with(&header, &json!({ "sub": "somebody", "exp": 1_u64 << 40 }));
    for _ in 0..10 {
        let tokens: Vec<String> = (0..20).map(forged).collect();
        let replies = join_all(tokens.iter().map(async |token| pull(&cluster, token).await.status.as_u16())).await;
        assert_eq!(replies, [401; 20]);
    }
    let asked = cluster.issuer.requests() - asked;
    assert!(asked <= 2 + began.elapsed().as_secs(), "asked {asked} times in {:?}", began.elapsed());
}

/// A cluster that uses this issuer.
async fn asking(router: Router) -> (Cluster, Stub) {
    let issuer = Stub::start(anywhere(), router).await.unwrap();
    let url = format!("http://user:Hunter2@{}/jwks?Hunter2", issuer.address());
    // However long the test takes, it is not asked again.
    (Cluster::start_with(1, &[("JWKS_URL", url.as_str()), ("JWKS_COOLDOWN_MS", "200000")]).await, issuer)
}

#[tokio::test]
async fn a_redirect_of_the_issuer_is_not_followed() {
    for code in [301, 302, 303, 307, 308] {
        let key = SigningKey::generate().unwrap();
        let jwks = json!({ "keys": [key.public_jwk()] }).to_string();
        let target = Stub::start(anywhere(), Router::new().fallback(async move || jwks.clone())).await.unwrap();
        let to = format!("http://{}/jwks", target.address());
        let redirect =
            async move |_: Uri| (StatusCode::from_u16(code).unwrap(), [(LOCATION, to.clone())]).into_response();
        let (cluster, issuer) = asking(Router::new().fallback(redirect)).await;
        pull(&cluster, &token(&key)).await.refused(503, "unavailable");
        assert_eq!((issuer.requests(), target.requests()), (1, 0), "{code}");
        assert!(!cluster.nodes[0].log().contains("Hunter2"), "{}", cluster.nodes[0].log());
    }
}

#[tokio::test]
async fn a_key_set_of_more_than_a_mebibyte_is_none() {
    for (padding, status) in [(900 << 10, 200), (1 << 20, 503)] {
        let key = SigningKey::generate().unwrap();
        let jwks = format!("{}{}", json!({ "keys": [key.public_jwk()] }), " ".repeat(padding));
        let (cluster, _issuer) = asking(Router::new().fallback(async move || jwks.clone())).await;
        assert_eq!(pull(&cluster, &token(&key)).await.status, status, "{padding}");
    }
}

#[tokio::test]
async fn an_issuer_that_is_not_there_is_not_named_in_the_log() {
    let nowhere = format!("http://user:Hunter2@127.0.0.1:{}/Hunter2?Hunter2", mana_dev::free_port().unwrap());
    let cluster = Cluster::start_with(1, &[("JWKS_URL", &nowhere)]).await;
    let request = cluster.request(&cluster.user(), Method::GET, PULL);
    Reply::to(request).await.refused(503, "unavailable");
    let log = cluster.nodes[0].log();
    assert!(log.contains("cannot fetch the issuer's keys") && !log.contains("Hunter2"), "{log}");
}
