//! The stand-ins for other services behave as configured.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use mana_dev::{Credits, Issuer, Mode, SigningKey};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

fn anywhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn published(issuer: &Issuer) -> Value {
    let response = client().get(issuer.jwks_url()).send().await.unwrap();
    let text = response.error_for_status().unwrap().text().await.unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn the_issuer_publishes_its_keys_and_rotates_them() {
    let [first, second] = [(); 2].map(|()| SigningKey::generate().unwrap());
    let issuer = Issuer::start(anywhere(), std::slice::from_ref(&first)).await.unwrap();
    assert_eq!(published(&issuer).await, json!({ "keys": [first.public_jwk()] }));
    issuer.set_keys(std::slice::from_ref(&second));
    assert_eq!(published(&issuer).await["keys"][0]["kid"], second.kid());
    assert_eq!(issuer.requests(), 2);
}

#[tokio::test]
async fn an_issuer_of_its_own_publishes_the_key_of_its_file_until_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("issuer-key.json");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-dev"));
    command.args(["issuer", "--bind", "127.0.0.1:0", "--key"]).arg(&key);
    let mut issuer = command.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(issuer.stdout.take().unwrap()).lines();
    let url = lines.next_line().await.unwrap().expect("it says where it listens");
    let answer = client().get(url.strip_prefix("JWKS_URL=").unwrap()).send().await.unwrap().text().await.unwrap();
    let published: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(published, json!({ "keys": [SigningKey::load(&key).unwrap().public_jwk()] }));
    let pid = Pid::from_raw(issuer.id().unwrap().cast_signed());
    kill(pid, Signal::SIGTERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), issuer.wait()).await;
    assert_eq!(ended.expect("it ends when it is told to").unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_stand_in_misbehaves_on_demand() {
    let issuer = Issuer::start(anywhere(), &[]).await.unwrap();
    let get = || client().get(issuer.jwks_url()).send();
    issuer.set_mode(Mode::Error(502));
    assert_eq!(get().await.unwrap().status(), StatusCode::BAD_GATEWAY);
    issuer.set_mode(Mode::Garbage);
    let text = get().await.unwrap().text().await.unwrap();
    assert!(serde_json::from_str::<Value>(&text).is_err());
    issuer.set_mode(Mode::Slow(Duration::from_millis(50)));
    let asked = std::time::Instant::now();
    assert_eq!(get().await.unwrap().status(), StatusCode::OK);
    assert!(asked.elapsed() >= Duration::from_millis(50));
    issuer.set_mode(Mode::Hang);
    let hanging = tokio::time::timeout(Duration::from_millis(100), get()).await;
    assert!(hanging.is_err());
    issuer.set_mode(Mode::Serve);
    assert_eq!(get().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_stopped_stand_in_refuses_connections_and_its_port_can_be_used_again() {
    let issuer = Issuer::start(anywhere(), &[]).await.unwrap();
    let (address, url) = (issuer.address(), issuer.jwks_url());
    published(&issuer).await;
    issuer.stop().await;
    assert!(client().get(&url).send().await.unwrap_err().is_connect());
    let again = Issuer::start(address, &[]).await.unwrap();
    assert_eq!(published(&again).await, json!({ "keys": [] }));
}

#[tokio::test]
async fn credits_tell_who_is_active_to_those_who_know_the_key() {
    let credits = Credits::start(anywhere(), "secret").await.unwrap();
    let ask = async |user: &str, key: &str| {
        let url = format!("{}/api/v1/internal/sync/status/{user}", credits.url());
        let request = client().get(url).header("X-Service-Key", key);
        request.send().await.unwrap()
    };
    let body = async |user: &str| -> Value {
        let text = ask(user, "secret").await.text().await.unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let active = json!({ "active": true, "interval": "month", "pausedAt": null });
    assert_eq!(body("alice").await, active);
    credits.set_active("bob", false);
    assert_eq!(body("bob").await["active"], false);
    assert_eq!(body("alice").await["active"], true);
    assert_eq!(ask("alice", "wrong").await.status(), StatusCode::FORBIDDEN);
    assert_eq!((credits.requests(), credits.requests_of("alice")), (4, 2));
    assert_eq!(credits.requests_of("carol"), 0);
}
