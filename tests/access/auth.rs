//! Token checks, sentence by sentence of docs/protocol.md.

use crate::claims::{changed, good as claims, lacking, now};
use crate::support::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mana_dev::{Mode, SigningKey};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const AT: &str = "2024-01-01T10:05:00.000Z";
const PULL: &str = "/sync/todo/pull?collection=todos&since=1970-01-01T00:00:00.000Z";

fn with(name: &str, value: impl Into<Value>) -> Value {
    changed(claims(), name, value)
}

fn without(name: &str) -> Value {
    lacking(claims(), name)
}

/// Valid claims that have not been sent before.
fn fresh() -> Value {
    with("jti", uuid::Uuid::new_v4().to_string())
}

async fn pull(cluster: &Cluster, token: &str) -> Reply {
    cluster.get_as(&format!("Bearer {token}"), PULL).await
}

async fn assert_refused(cluster: &Cluster, what: &str, token: &str) {
    let reply = pull(cluster, token).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{what}: {reply:?}");
    reply.refused(401, "unauthorized");
}

async fn assert_accepted(cluster: &Cluster, what: &str, token: &str) {
    let reply = pull(cluster, token).await;
    assert_eq!(reply.status, StatusCode::OK, "{what}: {reply:?}");
}

#[tokio::test]
async fn without_a_bearer_token_every_sync_endpoint_answers_401() {
    let cluster = shared().await;
    let token = cluster.user().token;
    for path in [PULL, "/sync/todo/stream", "/sync/todo/stream?collections=todos"] {
        cluster.get(path).await.refused(401, "unauthorized");
        for header in ["", "Bearer", "Bearer ", "Basic YTpi", &token, &format!("Token {token}"), "Bearer a b"] {
            let reply = cluster.get_as(header, path).await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{path} {header:?}: {reply:?}");
            reply.refused(401, "unauthorized");
        }
    }
    let url = format!("{}/sync/todo", cluster.url(0));
    let push = json!({ "clientId": "phone", "changes": [insert("todos", "a", "Milk", AT)] });
    Reply::to(cluster.http.post(url).json(&push)).await.refused(401, "unauthorized");
}

#[tokio::test]
async fn the_scheme_is_read_whatever_its_case() {
    let cluster = shared().await;
    let token = cluster.user().token;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        assert_eq!(cluster.get_as(&format!("{scheme} {token}"), PULL).await.status, StatusCode::OK, "{scheme}");
    }
}

#[tokio::test]
async fn what_is_no_jwt_is_refused() {
    let cluster = shared().await;
    let token = cluster.user().token;
    let (head, rest) = token.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    for garbage in [
        "x",
        "...",
        "a.b.c",
        "null",
        &token[..token.len() - 4],
        &format!("{token}.x"),
        &format!("{head}.{body}."),
        &format!("{head}.{body}"),
        &format!("{head}..{signature}"),
        &format!(".{body}.{signature}"),
        &"A".repeat(20_000),
    ] {
        assert_refused(cluster, garbage, garbage).await;
    }
}

#[tokio::test]
async fn only_eddsa_counts() {
    let cluster = shared().await;
    let (key, kid) = (&cluster.key, cluster.key.kid());
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let header = |alg: &str| json!({ "alg": alg, "typ": "JWT", "kid": kid });
    for alg in ["none", "None", "NONE", "HS256", "RS256", "ES256", "EdDSA2", ""] {
        // Signed with the right key anyway, and not signed at all.
        assert_refused(cluster, alg, &key.mint_with(&header(alg), &claims())).await;
        assert_refused(cluster, alg, &format!("{}.{}.", part(header(alg)), part(claims()))).await;
    }
    // The public key as the secret of an HMAC.
    let jwk = key.public_jwk();
    let x = jwk["x"].as_str().unwrap();
    for secret in [URL_SAFE_NO_PAD.decode(x).unwrap(), x.as_bytes().to_vec(), jwk.to_string().into_bytes()] {
        for alg in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let mut header = Header::new(alg);
            header.kid = Some(kid.to_owned());
            let token = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&secret)).unwrap();
            assert_refused(cluster, "a keyed hash", &token).await;
        }
    }
    assert_accepted(cluster, "EdDSA", &key.mint_with(&header("EdDSA"), &claims())).await;
}

#[tokio::test]
async fn a_token_that_needs_an_extension_is_refused() {
    let cluster = shared().await;
    let token = |crit: Value, more: &str| {
        let mut header = json!({ "alg": "EdDSA", "kid": cluster.key.kid(), "crit": crit });
        if !more.is_empty() {
            header[more] = json!(false);
        }
        cluster.key.mint_with(&header, &claims())
    };
    for crit in [
        json!(["b64"]),
        json!(["exp"]),
        json!(["http://example.com/x"]),
        json!([]),
        json!(null),
        json!("b64"),
        json!({}),
    ] {
        for more in ["", "b64", "http://example.com/x"] {
            assert_refused(cluster, &format!("{crit} {more}"), &token(crit.clone(), more)).await;
        }
    }
    // Headers that need not be understood are allowed.
    let header = json!({ "alg": "EdDSA", "kid": cluster.key.kid(), "typ": "at+jwt", "x": { "crit": [] } });
    assert_accepted(cluster, "no crit", &cluster.key.mint_with(&header, &claims())).await;
}

#[tokio::test]
async fn the_token_names_a_key_that_the_issuer_publishes_and_is_signed_by_it() {
    let cluster = shared().await;
    let stranger = SigningKey::generate().unwrap();
    let header = |kid: Value| json!({ "alg": "EdDSA", "kid": kid });
    let ours = json!(cluster.key.kid());
    assert_refused(cluster, "no kid", &cluster.key.mint_with(&json!({ "alg": "EdDSA" }), &claims())).await;
    // All at once: each waits until the issuer has been asked again.
    let kids =
        [json!(null), json!(""), json!(7), json!("unknown"), json!("../../etc/passwd"), json!("x".repeat(4_000))];
    let tokens = kids.map(|kid| cluster.key.mint_with(&header(kid), &claims()));
    let tokens = tokens.into_iter().chain([stranger.mint(&claims())]);
    join_all(tokens.map(async |token| assert_refused(cluster, "another kid", &token).await)).await;
    assert_refused(cluster, "a stranger's signature", &stranger.mint_with(&header(ours.clone()), &claims())).await;
    // A key that comes with the token is not trusted.
    let header = json!({ "alg": "EdDSA", "kid": ours, "jwk": stranger.public_jwk(), "jku": "http://127.0.0.1:1/" });
    assert_refused(cluster, "a key of its own", &stranger.mint_with(&header, &claims())).await;
    // The claims must be the ones that were signed.
    let [mine, other] = ["mine", "other"].map(|user| cluster.key.mint(&with("sub", user)));
    let (mine, other): (Vec<&str>, Vec<&str>) = (mine.split('.').collect(), other.split('.').collect());
    assert_refused(cluster, "another's claims", &[mine[0], other[1], mine[2]].join(".")).await;
}

#[tokio::test]
async fn exp_and_a_user_are_required_and_times_are_kept_to() {
    let cluster = shared().await;
    for (what, claims) in [
        ("no exp", without("exp")),
        ("exp is null", with("exp", Value::Null)),
        ("exp is a text", with("exp", "tomorrow")),
        ("expired", with("exp", now() - 1)),
        ("expired long ago", with("exp", 0)),
        ("expired before the epoch", with("exp", -1)),
        ("no sub", without("sub")),
        ("an empty sub", with("sub", "")),
        ("sub is null", with("sub", Value::Null)),
        ("sub is a number", with("sub", 7)),
        ("sub is a list", with("sub", json!(["somebody"]))),
        ("sub has a NUL", with("sub", "a\0b")),
        ("sub of 256 bytes", with("sub", "u".repeat(256))),
        ("sub of 256 bytes in fewer characters", with("sub", "ü".repeat(128))),
        ("sub of many bytes", with("sub", "u".repeat(3_000))),
        ("nbf in the future", with("nbf", now() + 300)),
        ("claims are a list", json!(["somebody", now() + 600])),
        ("claims are a text", json!("somebody")),
    ] {
        assert_refused(cluster, what, &cluster.key.mint(&claims)).await;
    }
    for (what, claims) in [
        ("only what is required", json!({ "sub": "somebody", "exp": now() + 600 })),
        ("sub of 255 bytes", with("sub", "u".repeat(255))),
        ("nbf in the past", with("nbf", now() - 300)),
        ("nbf a little ahead of our clock", with("nbf", now() + 10)),
        ("exp with a fraction", with("exp", now() as f64 + 600.5)),
        ("exp in the far future", with("exp", 1e18)),
        ("claims that nobody asked for", with("roles", json!(["admin"]))),
        ("an issuer and an audience where none is configured", {
            let mut claims = with("iss", "anybody");
            claims["aud"] = json!(["anything"]);
            claims
        }),
    ] {
        assert_accepted(cluster, what, &cluster.key.mint(&claims)).await;
    }
}

#[tokio::test]
async fn issuer_and_audience_are_checked_where_configured() {
    let settings = [("JWT_ISSUER", "https://id.example"), ("JWT_AUDIENCE", "sync")];
    let cluster = Cluster::start_with(1, &settings).await;
    let token = |issuer: Value, audience: Value| {
        let mut claims = claims();
        for (name, value) in [("iss", issuer), ("aud", audience)] {
            if !value.is_null() {
                claims[name] = value;
            }
        }
        cluster.key.mint(&claims)
    };
    let (issuer, audience) = (json!("https://id.example"), json!("sync"));
    for (what, token) in [
        ("neither", token(json!(null), json!(null))),
        ("no audience", token(issuer.clone(), json!(null))),
        ("no issuer", token(json!(null), audience.clone())),
        ("another audience", token(issuer.clone(), json!(["other", "one more"]))),
        ("another issuer", token(json!("https://id.example.evil"), audience.clone())),
    ] {
        assert_refused(&cluster, what, &token).await;
    }
    assert_accepted(&cluster, "both", &token(issuer.clone(), audience.clone())).await;
    assert_accepted(&cluster, "one of several audiences", &token(issuer, json!(["other", "sync"]))).await;
}

#[tokio::test]
async fn a_rotated_key_is_picked_up_and_the_old_one_is_refused_once_it_is_gone() {
    let settings = [("JWKS_COOLDOWN_MS", "50"), ("JWKS_REFRESH_MS", "200")];
    let cluster = Cluster::start_with(1, &settings).await;
    let next = SigningKey::generate().unwrap();
    // A token that was accepted may be cached for a while, so each one is new.
    let (old_token, new_token) = (|| cluster.key.mint(&fresh()), || next.mint(&fresh()));
    assert_accepted(&cluster, "before", &old_token()).await;
    assert_refused(&cluster, "not yet published", &new_token()).await;
    cluster.issuer.set_keys(&[cluster.key.clone(), next.clone()]);
    eventually("the new key counts", async || pull(&cluster, &new_token()).await.status == 200).await;
    assert_accepted(&cluster, "both are published", &old_token()).await;
    cluster.issuer.set_keys(std::slice::from_ref(&next));
    eventually("the old key is gone", async || pull(&cluster, &old_token()).await.status == 401).await;
    assert_accepted(&cluster, "after", &new_token()).await;
}

#[tokio::test]
async fn a_token_that_was_good_a_moment_ago_is_refused_once_it_has_expired() {
    let cluster = shared().await;
    let token = cluster.key.mint(&with("exp", now() + 5));
    assert_accepted(cluster, "not expired yet", &token).await;
    eventually("expired", async || pull(cluster, &token).await.status == 401).await;
    let message = pull(cluster, &token).await.refused(401, "unauthorized");
    assert!(message.contains("expired"), "{message}");
}

#[tokio::test]
async fn unknown_keys_do_not_make_us_call_the_issuer_at_will() {
    let cluster = Cluster::start_with(1, &[("JWKS_COOLDOWN_MS", "1000")]).await;
    assert_accepted(&cluster, "a known key", &cluster.user().token).await;
    let began = Instant::now();
    let tokens: Vec<String> = (0..100).map(|_| SigningKey::generate().unwrap().mint(&claims())).collect();
    for batch in tokens.chunks(20) {
        join_all(batch.iter().map(|token| assert_refused(&cluster, "unknown", token))).await;
        assert_accepted(&cluster, "a known key", &cluster.user().token).await;
    }
    // The first fetch, and one for each cool-down that may have passed.
    let allowed = 2 + began.elapsed().as_secs();
    assert!(cluster.issuer.requests() <= allowed, "asked {} times", cluster.issuer.requests());
}

#[tokio::test]
async fn many_first_requests_at_once_ask_the_issuer_once() {
    let cluster = Cluster::start(1).await;
    cluster.issuer.set_mode(Mode::Slow(Duration::from_millis(200)));
    let token = cluster.user().token;
    join_all((0..50).map(|_| assert_accepted(&cluster, "a known key", &token))).await;
    assert_eq!(cluster.issuer.requests(), 1);
}

#[tokio::test]
async fn an_issuer_that_goes_down_after_it_was_asked_disturbs_nobody() {
    let settings = [("JWKS_COOLDOWN_MS", "20"), ("JWKS_REFRESH_MS", "40")];
    let cluster = Cluster::start_with(1, &settings).await;
    let token = || cluster.key.mint(&fresh());
    assert_accepted(&cluster, "before", &token()).await;
    for mode in [Mode::Error(500), Mode::Garbage, Mode::Error(404), Mode::Hang] {
        cluster.issuer.set_mode(mode);
        let asked = cluster.issuer.requests();
        let began = Instant::now();
        eventually("the issuer was asked again", async || {
            assert_accepted(&cluster, "meanwhile", &token()).await;
            cluster.issuer.requests() > asked
        })
        .await;
        assert_accepted(&cluster, "afterwards", &token()).await;
        assert_soon(&cluster, Duration::from_secs(3), "nobody waits for it", began.elapsed()).await;
    }
}

#[tokio::test]
async fn while_the_issuer_was_never_reached_the_answer_is_503_with_retry_after() {
    let mut cluster = Cluster::start_with(1, &[("JWKS_COOLDOWN_MS", "20")]).await;
    cluster.nodes[0].process.kill().await;
    cluster.issuer.set_mode(Mode::Error(500));
    cluster.nodes[0].respawn();
    let health = format!("{}/health/ready", cluster.url(0));
    eventually("it serves, without keys", async || match cluster.http.get(&health).send().await {
        Ok(answer) => answer.text().await.is_ok_and(|text| text.contains("JWKS_URL")),
        Err(_) => false,
    })
    .await;
    let token = cluster.user().token;
    for mode in [Mode::Error(500), Mode::Garbage, Mode::Error(404)] {
        cluster.issuer.set_mode(mode);
        for _ in 0..3 {
            let reply = pull(&cluster, &token).await;
            reply.refused(503, "unavailable");
            assert!(reply.header("retry-after").is_some(), "{reply:?}");
            assert!(!reply.text.contains("127.0.0.1"), "{reply:?}");
        }
    }
    // Tokens that no key could make valid are still refused.
    assert_refused(&cluster, "no JWT", "x").await;
    cluster.issuer.set_mode(Mode::Serve);
    eventually("the issuer is back", async || pull(&cluster, &token).await.status == 200).await;
}

#[tokio::test]
async fn other_keys_in_the_set_do_not_disturb() {
    let cluster = Cluster::start(1).await;
    let kid = cluster.key.kid();
    cluster.issuer.set_jwks(vec![
        json!({ "kty": "RSA", "kid": "rsa", "alg": "RS256", "n": "sXch", "e": "AQAB" }),
        json!({ "kty": "EC", "kid": "ec", "crv": "P-256", "x": "f83O", "y": "x_FE" }),
        json!({ "kty": "oct", "kid": "hmac", "k": "c2VjcmV0" }),
        json!({ "kty": "OKP", "crv": "X25519", "kid": "x25519", "x": "hSDw" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": "broken", "x": "!" }),
        json!({ "kty": "OKP", "crv": "Ed25519" }),
        json!({ "kty": "NEW", "kid": [1] }),
        json!("not a key"),
        json!(null),
        cluster.key.public_jwk(),
    ]);
    assert_accepted(&cluster, "the one good key", &cluster.user().token).await;
    let others = ["rsa", "ec", "hmac", "x25519", "broken"].map(async |other| {
        let token = cluster.key.mint_with(&json!({ "alg": "EdDSA", "kid": other }), &claims());
        assert_refused(&cluster, other, &token).await;
    });
    join_all(others).await;
    assert_accepted(&cluster, kid, &cluster.user().token).await;
}

#[tokio::test]
async fn a_user_id_of_any_text_works_everywhere() {
    let cluster = shared().await;
    let long = "u".repeat(254);
    for id in
        [long.clone(), format!("{long}x"), "a/b?c#d%2F ü🍎".to_owned(), "'; drop table sync_changes; --".to_owned()]
    {
        let user = cluster.user_named(&id);
        let body = json!({ "clientId": "phone", "changes": [insert("todos", "a", "Milk", AT)] });
        cluster.pushed_to(0, &user, "todo", body.clone()).await;
        cluster.pushed_to(1, &user, "todo", body).await;
        let delta = cluster.pushed_to(2, &user, "todo", json!({ "clientId": "laptop" })).await;
        assert_eq!(ids(&delta), ["a"], "{id}");
        assert_eq!(ids(&cluster.pulled(&user, "todo", "todos", BEGINNING, None).await), ["a"], "{id}");
        assert_eq!(cluster.stored(&user).await, 1, "{id}");
    }
}
