//! Tokens and key sets whose JSON is not quite what it should be: nothing of them is read in two ways.

use crate::claims::{changed, good, lacking, now};
use crate::support::*;
use mana_dev::SigningKey;
use serde_json::{Value, json};

const PULL: &str = "/sync/todo/pull?collection=todos&since=1970-01-01T00:00:00.000Z";

async fn status(cluster: &Cluster, token: &str) -> u16 {
    cluster.get_as(&format!("Bearer {token}"), PULL).await.status.as_u16()
}

#[tokio::test]
async fn a_header_is_read_in_one_way_or_not_at_all() {
    let cluster = shared().await;
    let (key, kid) = (&cluster.key, cluster.key.kid());
    let claims = good().to_string();
    for (header, expected) in [
        (format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#), 200),
        (format!(r#"{{ "al\u0067" : "EdDSA" , "k\u0069d":"{kid}"}} "#), 200),
        (format!(r#"{{"alg":"EdDSA","kid":"{kid}","Crit":["x"],"CRIT":[]}}"#), 200),
        (format!(r#"{{"alg":"EdDSA","alg":"none","kid":"{kid}"}}"#), 401),
        (format!(r#"{{"alg":"none","alg":"EdDSA","kid":"{kid}"}}"#), 401),
        (format!(r#"{{"alg":"EdDSA","kid":"other","kid":"{kid}"}}"#), 401),
        (format!(r#"{{"alg":"EdDSA","kid":"{kid}","cr\u0069t":["b64"]}}"#), 401),
        (format!(r#"{{"alg":"EdDSA","kid":"{kid}","crit":[],"crit":["b64"]}}"#), 401),
        (format!(r#"{{"alg":"EdDSA","kid":"{kid}","crit":[1,{{}}]}}"#), 401),
        (format!(r#"{{"alg":"EdDSA","kid":"{kid}","crit":0}}"#), 401),
        (format!(r#"{{"alg":["EdDSA"],"kid":"{kid}"}}"#), 401),
        (format!(r#"{{"alg":"EdDSA","kid":["{kid}"]}}"#), 401),
        (format!(r#"{{"alg":"Ed25519","kid":"{kid}"}}"#), 401),
        (format!(r#"{{"alg":"EdDSA ","kid":"{kid}"}}"#), 401),
        (format!(r#"{{"alg":"EdDSA","kid":"{kid}\u0000"}}"#), 401),
        (format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}x"#), 401),
        (format!(r#"[{{"alg":"EdDSA","kid":"{kid}"}}]"#), 401),
        (format!(r#"["JWT","EdDSA","{kid}"]"#), 401),
        (format!("\u{feff}{{\"alg\":\"EdDSA\",\"kid\":\"{kid}\"}}"), 401),
        (format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, "k".repeat(10_000)), 401),
        (String::new(), 401),
    ] {
        assert_eq!(status(cluster, &key.sign_texts(&header, &claims)).await, expected, "{header}");
    }
    assert_eq!(status(cluster, &key.sign_texts(b"\xff", &claims)).await, 401);
    let token = key.mint(&good());
    for spelled in [format!("{token}="), token.replace('_', "/").replace('-', "+") + "==", token.replacen('.', ". ", 1)]
    {
        assert_eq!(status(cluster, &spelled).await, 401, "{spelled}");
    }
}

#[tokio::test]
async fn claims_are_read_in_one_way_or_not_at_all() {
    let cluster = shared().await;
    let key = &cluster.key;
    let header = json!({ "alg": "EdDSA", "kid": key.kid() }).to_string();
    let exp = now() + 600;
    for (claims, expected) in [
        (format!(r#"{{"sub":"u","exp":{exp}}}"#), 200),
        (format!(r#"{{"sub":"u","exp":{exp}.75}}"#), 200),
        // No time that there could be.
        (r#"{"sub":"u","exp":1e300}"#.to_owned(), 401),
        (format!(r#"{{"sub":"u","exp":{exp},"nbf":-1e300}}"#), 200),
        (r#"{"sub":"u","exp":1e400}"#.to_owned(), 401),
        (r#"{"sub":"u","exp":-1e300}"#.to_owned(), 401),
        (format!(r#"{{"sub":"u","exp":"{exp}"}}"#), 401),
        (format!(r#"{{"sub":"u","exp":[{exp}]}}"#), 401),
        (r#"{"sub":"u","exp":true}"#.to_owned(), 401),
        (r#"{"sub":"u","exp":{}}"#.to_owned(), 401),
        (format!(r#"{{"sub":"u","exp":{exp},"exp":1}}"#), 401),
        (format!(r#"{{"sub":"u","exp":1,"exp":{exp}}}"#), 401),
        (format!(r#"{{"sub":"u","sub":"v","exp":{exp}}}"#), 401),
        (format!(r#"{{"sub":"u","s\u0075b":"v","exp":{exp}}}"#), 401),
        (format!(r#"{{"sub":"\ud800","exp":{exp}}}"#), 401),
        (format!(r#"{{"sub":"u","exp":{exp},"nbf":1e300}}"#), 401),
        (format!(r#"{{"sub":"u","exp":{exp},"nbf":"now"}}"#), 401),
        (format!(r#"{{"sub":"u","exp":{exp},"nbf":{}}}"#, now() + 3_600), 401),
        (format!(r#"{{"sub":"u","exp":{exp}}}{{}}"#), 401),
        (format!(r#"["u",{exp}]"#), 401),
        (String::new(), 401),
    ] {
        assert_eq!(status(cluster, &key.sign_texts(&header, &claims)).await, expected, "{claims}");
    }
    let latin = format!("{{\"sub\":\"\u{fc}\",\"exp\":{exp}}}");
    let latin: Vec<u8> = latin.chars().map(|c| c as u8).collect();
    assert_eq!(status(cluster, &key.sign_texts(&header, latin)).await, 401);
}

#[tokio::test]
async fn issuer_and_audience_are_compared_as_they_are() {
    let settings = [("JWT_ISSUER", "https://id.example"), ("JWT_AUDIENCE", "sync")];
    let cluster = Cluster::start_with(1, &settings).await;
    let (issuer, audience) = (json!("https://id.example"), json!("sync"));
    let token = |issuer: &Value, audience: &Value| {
        cluster.key.mint(&changed(changed(good(), "iss", issuer.clone()), "aud", audience.clone()))
    };
    for (other, expected) in [
        (json!("https://id.example/"), 401),
        (json!("HTTPS://ID.EXAMPLE"), 401),
        (json!(" https://id.example"), 401),
        (json!(""), 401),
        (json!(7), 401),
        // One text, and not a list of them (RFC 7519, section 4.1.1).
        (json!([]), 401),
        (json!(["https://evil.example", "https://id.example"]), 401),
        (json!(["https://id.example"]), 401),
        (json!({ "https://id.example": 1 }), 401),
    ] {
        assert_eq!(status(&cluster, &token(&other, &audience)).await, expected, "iss {other}");
    }
    for (other, expected) in [
        (json!(["sync", "sync"]), 200),
        (json!([]), 401),
        (json!([["sync"]]), 401),
        (json!({ "sync": 1 }), 401),
        (json!("sync "), 401),
        (json!("Sync"), 401),
        (json!("sync,other"), 401),
        (json!(["other", ""]), 401),
        (json!(""), 401),
    ] {
        assert_eq!(status(&cluster, &token(&issuer, &other)).await, expected, "aud {other}");
    }
    assert_eq!(status(&cluster, &cluster.key.mint(&lacking(good(), "sub"))).await, 401);
}

#[tokio::test]
async fn what_else_is_in_a_key_set_is_passed_over() {
    let cluster = Cluster::start_with(1, &[("JWKS_COOLDOWN_MS", "20")]).await;
    let key = SigningKey::generate().unwrap();
    let ours = key.public_jwk();
    let others = |jwk: &Value| {
        let mut with_private = jwk.clone();
        with_private["d"] = json!("A".repeat(43));
        let with = |name: &str, value: Value| changed(jwk.clone(), name, value);
        vec![
            json!(null),
            json!([]),
            json!("key"),
            json!({}),
            with("kid", json!(7)),
            lacking(jwk.clone(), "kid"),
            with("x", json!("")),
            with("x", json!("A".repeat(42))),
            with("x", json!("not base64url!")),
            with("x", json!(["A"])),
            with("crv", json!("Ed448")),
            json!({ "kty": "RSA", "kid": key.kid(), "n": "AQAB", "e": "AQAB" }),
            json!({ "kty": "oct", "kid": key.kid(), "k": "AAAA" }),
            with_private,
        ]
    };
    let mut set = others(&ours);
    set.extend((0..1_000).map(|_| SigningKey::generate().unwrap().public_jwk()));
    set.push(ours.clone());
    cluster.issuer.set_jwks(set);
    eventually("it is found among all of them", async || status(&cluster, &key.mint(&good())).await == 200).await;
    // Nothing of the rest is a key.
    let stranger = SigningKey::generate().unwrap();
    cluster.issuer.set_jwks(others(&stranger.public_jwk()).into_iter().take(13).chain([ours]).collect());
    assert_eq!(status(&cluster, &stranger.mint(&good())).await, 401);
    assert_eq!(status(&cluster, &key.mint(&good())).await, 200);
}
