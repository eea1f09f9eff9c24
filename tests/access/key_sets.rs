//! Key sets as issuers publish them, and tokens as proxies and programs carry them.

use crate::claims::{changed, good};
use crate::support::*;
use axum::Router;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use mana_dev::{SigningKey, stub::Stub};
use reqwest::header::AUTHORIZATION;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};

const PULL: &str = "/sync/todo/pull?collection=todos&since=1970-01-01T00:00:00.000Z";

async fn status(cluster: &Cluster, token: &str) -> u16 {
    cluster.get_as(&format!("Bearer {token}"), PULL).await.status.as_u16()
}

fn generate() -> SigningKey {
    SigningKey::generate().unwrap()
}

/// A key as its issuer publishes it, with something added or replaced.
fn published(key: &SigningKey, name: &str, value: impl Into<Value>) -> Value {
    changed(key.public_jwk(), name, value)
}

#[tokio::test]
async fn a_key_that_is_meant_for_something_else_checks_no_token() {
    let cluster = Cluster::start_with(1, &[("JWKS_COOLDOWN_MS", "20")]).await;
    let accepted = [
        ("use", json!("sig")),
        ("use", json!(null)),
        ("key_ops", json!(["verify"])),
        ("key_ops", json!(["sign", "verify"])),
        ("alg", json!("EdDSA")),
        ("alg", json!("Ed25519")),
        ("x5c", json!(["MIIB"])),
    ];
    let ignored = [
        ("use", json!("enc")),
        ("use", json!(1)),
        ("key_ops", json!(["sign"])),
        ("key_ops", json!([])),
        ("alg", json!("ES256")),
        ("alg", json!("none")),
        ("crv", json!("Ed448")),
        ("x", json!("AAAA")),
        ("x", json!("A".repeat(44))),
    ];
    let of = |(name, value): &(&'static str, Value)| (format!("{name}: {value}"), *name, value.clone(), generate());
    let (accepted, ignored): (Vec<_>, Vec<_>) = (accepted.iter().map(of).collect(), ignored.iter().map(of).collect());
    let all = accepted.iter().chain(&ignored);
    cluster.issuer.set_jwks(all.map(|(_, name, value, key)| published(key, name, value.clone())).collect());
    for (what, .., key) in &accepted {
        assert_eq!(status(&cluster, &key.mint(&good())).await, 200, "{what}");
    }
    for (what, .., key) in &ignored {
        assert_eq!(status(&cluster, &key.mint(&good())).await, 401, "{what}");
    }
}

/// As an issuer does that gives all of its keys the same id, while it replaces one by another.
#[tokio::test]
async fn of_keys_with_one_name_each_counts() {
    let cluster = Cluster::start_with(1, &[("JWKS_COOLDOWN_MS", "20")]).await;
    let [old, new, stranger] = [generate(), generate(), generate()];
    let named = |key: &SigningKey| published(key, "kid", "the key");
    let token = |key: &SigningKey| key.mint_with(&json!({ "alg": "EdDSA", "kid": "the key" }), &good());
    cluster.issuer.set_jwks(vec![named(&old), named(&new), published(&stranger, "use", "enc")]);
    for key in [&new, &old] {
        assert_eq!(status(&cluster, &token(key)).await, 200);
    }
    assert_eq!(status(&cluster, &token(&stranger)).await, 401);
    cluster.issuer.set_jwks(vec![named(&new)]);
    // It asks for a refresh.
    assert_eq!(status(&cluster, &token(&stranger)).await, 401);
    eventually("the old one is gone", async || status(&cluster, &token(&old)).await == 401).await;
    assert_eq!(status(&cluster, &token(&new)).await, 200);
}

/// Whoever does not say what it takes is said to take anything.
#[tokio::test]
async fn an_issuer_that_likes_to_compress_is_told_not_to() {
    let key = generate();
    let jwks = json!({ "keys": [key.public_jwk()] }).to_string();
    let answer = async move |headers: HeaderMap| match headers.get(ACCEPT_ENCODING) {
        Some(taken) if taken == "identity" => jwks.clone().into_response(),
        _ => (StatusCode::OK, [(CONTENT_ENCODING, "gzip")], [0x1f, 0x8b].as_slice()).into_response(),
    };
    let address: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let issuer = Stub::start(address, Router::new().fallback(answer)).await.unwrap();
    let url = format!("http://{}/jwks", issuer.address());
    let cluster = Cluster::start_with(1, &[("JWKS_URL", url.as_str())]).await;
    assert_eq!(status(&cluster, &key.mint(&good())).await, 200);
}

/// A proxy in front may have checked one of them, and another one would be used here.
#[tokio::test]
async fn of_several_authorization_headers_none_counts() {
    let cluster = shared().await;
    let (user, other) = (cluster.user(), cluster.user());
    let sent = |tokens: &[&str]| {
        let request = cluster.http.get(format!("{}{PULL}", cluster.url(0)));
        let add =
            |request: reqwest::RequestBuilder, token: &&str| request.header(AUTHORIZATION, format!("Bearer {token}"));
        Reply::to(tokens.iter().fold(request, add))
    };
    assert_eq!(sent(&[&user.token]).await.status, StatusCode::OK);
    for tokens in [[&user.token, &other.token], [&user.token, &user.token]] {
        let message = sent(&tokens.map(String::as_str)).await.refused(401, "unauthorized");
        assert!(message.contains("one Authorization header"), "{message}");
    }
}

#[tokio::test]
async fn a_token_may_be_long_but_is_not_taken_from_a_url() {
    let cluster = Cluster::start(1).await;
    let token = cluster.key.mint(&changed(good(), "groups", "g".repeat(8_000)));
    assert!(token.len() > 10_000);
    assert_eq!(status(&cluster, &token).await, 200);
    let token = cluster.user().token;
    for name in ["token", "access_token", "authorization"] {
        cluster.get(&format!("{PULL}&{name}={token}")).await.refused(401, "unauthorized");
    }
    assert!(!cluster.nodes[0].log().contains(&token), "{}", cluster.nodes[0].log());
}
