//! Access to the admin port, its refusals, and what it discloses.

use super::*;

#[tokio::test]
async fn without_the_token_nothing_is_told_or_done() {
    let it = administered(1, &[]).await;
    let paths = [
        (Method::GET, "cluster"),
        (Method::GET, "load"),
        (Method::GET, "user?id=alice"),
        (Method::GET, "record?user=a&app=b&table=c&id=d"),
        (Method::GET, "refused-tokens"),
        (Method::GET, "openapi.yaml"),
        (Method::POST, "disconnect"),
        (Method::POST, "refused-tokens"),
        (Method::POST, "drain"),
        (Method::POST, "compact"),
        (Method::POST, "settings"),
        (Method::GET, "no-such-thing"),
    ];
    let user = it.cluster.user();
    let given = [
        "",
        "Bearer",
        "Bearer wrong",
        &format!("Basic {TOKEN}"),
        &format!("Bearer {TOKEN}x"),
        &format!("Bearer {}", user.token),
    ];
    for (method, path) in paths {
        for authorization in given {
            let url = format!("{}/api/v1/{path}", it.admin[0]);
            let mut request = it.cluster.http.request(method.clone(), url).timeout(TIMEOUT);
            if !authorization.is_empty() {
                request = request.header("Authorization", authorization);
            }
            let reply = Reply::to(request).await;
            reply.refused(401, "unauthorized");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
    }
    let log = it.cluster.nodes[0].log();
    assert!(log.contains("a request without a valid admin token was refused") && !log.contains(TOKEN), "{log}");
    // The public port serves none of it.
    let public = it.cluster.get_as(&format!("Bearer {TOKEN}"), "/api/v1/cluster").await;
    public.refused(404, "not_found");
}

#[tokio::test]
async fn what_is_wrong_is_said_and_nothing_is_done() {
    let it = administered(1, &[]).await;
    let long = "x".repeat(256);
    for (path, body) in [
        ("disconnect", json!({})),
        ("disconnect", json!({ "userId": "" })),
        ("disconnect", json!({ "userId": 7 })),
        ("disconnect", json!({ "userId": "a\u{0}" })),
        ("disconnect", json!({ "userId": long })),
        ("disconnect", json!({ "userId": "a", "devise": "phone" })),
        ("disconnect", json!({ "userId": "a", "device": "" })),
        ("disconnect", json!([])),
        ("refused-tokens", json!({ "tokenId": "" })),
        ("refused-tokens", json!({ "tokenId": long })),
        ("refused-tokens", json!({ "tokenId": "a", "until": "tomorrow" })),
        ("refused-tokens", json!({ "tokenId": "a", "until": "2020-01-01T00:00:00Z" })),
        ("refused-tokens", json!({ "tokenId": "a", "until": "2999-01-01T00:00:00Z" })),
        ("drain", json!({ "drained": true })),
        ("drain", json!({ "replica": "replica-1" })),
        ("settings", json!({})),
    ] {
        it.post(0, path, body.clone()).await.refused(400, "bad_request");
    }
    for path in ["user", "user?id=", "user?id=a&sessions=x", "user?id=a&sessions=2001", &format!("user?id={long}")] {
        Reply::to(it.request(0, Method::GET, path)).await.refused(400, "bad_request");
    }
    it.post(0, "drain", json!({ "replica": "replica-9", "drained": true })).await.refused(404, "not_found");
    it.post(0, "cluster", json!({})).await.refused(405, "method_not_allowed");
    let text = it.request(0, Method::POST, "drain").header("Content-Type", "text/plain").body("{}");
    Reply::to(text).await.refused(415, "unsupported_media_type");
    let large = it.request(0, Method::POST, "drain").header("Content-Type", "application/json");
    Reply::to(large.body(" ".repeat(70_000))).await.refused(413, "payload_too_large");
    assert_eq!(it.get(0, "refused-tokens").await["refusedTokens"], json!([]));
    assert_eq!(it.get(0, "cluster").await["replicas"][0]["drained"], false);
}

#[tokio::test]
async fn health_and_metrics_are_on_the_admin_port_and_can_be_taken_off_the_public_one() {
    let it = administered(1, &[("PUBLIC_METRICS", "false")]).await;
    let at =
        async |base: &str, path: &str| Reply::to(it.cluster.http.get(format!("{base}{path}")).timeout(TIMEOUT)).await;
    let (public, admin) = (it.cluster.url(0), it.admin[0].as_str());
    at(public, "/metrics").await.refused(404, "not_found");
    assert!(at(admin, "/metrics").await.text.contains("mana_sync_connections_total 0\n"));
    let members = |reply: &Reply| reply.json().as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let health = at(public, "/health").await;
    assert!(health.text.starts_with(r#"{"status":"ok","service":"mana-sync","timestamp":""#), "{health:?}");
    assert_eq!(members(&health), ["service", "status", "timestamp"]);
    assert_eq!(members(&at(admin, "/health").await), ["connections", "service", "status", "timestamp", "users"]);
    for base in [public, admin] {
        assert_eq!(at(base, "/health/live").await.json(), json!({ "status": "ok" }));
        assert_eq!(at(base, "/health/ready").await.json(), json!({ "status": "ready" }));
    }
    it.act(0, "drain", json!({ "replica": "replica-1", "drained": true })).await;
    let told = at(public, "/health/ready").await;
    assert!(!told.refused(503, "not_ready").contains("drained"), "{told:?}");
    assert!(at(admin, "/health/ready").await.refused(503, "not_ready").contains("drained"));
}

#[tokio::test]
async fn a_port_without_a_token_stops_the_start_and_no_token_is_ever_printed() {
    let run = async |settings: &[(&str, &str)]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
        command.env_clear().env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none").env("PORT", "39999");
        let output = command.envs(settings.iter().copied()).kill_on_drop(true).output();
        let output = tokio::time::timeout(TIMEOUT, output).await.expect("it must end").unwrap();
        assert!(!output.status.success());
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
    };
    for (settings, said) in [
        (vec![("ADMIN_PORT", "0")], "ADMIN_PORT needs ADMIN_TOKEN"),
        (vec![("ADMIN_PORT", "39999"), ("ADMIN_TOKEN", TOKEN)], "ADMIN_PORT must not be the same as PORT"),
        (vec![("ADMIN_PORT", "0"), ("ADMIN_TOKEN", "too-short")], "at least 16"),
        (vec![("ADMIN_PORT", "0"), ("ADMIN_TOKEN", "a token with spaces in it")], "at least 16"),
    ] {
        let output = run(&settings).await;
        assert!(output.contains(said), "{output}");
        for (_, value) in settings.iter().filter(|(name, _)| *name == "ADMIN_TOKEN") {
            assert!(!output.contains(value), "{output}");
        }
    }
}
