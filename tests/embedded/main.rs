//! Replicas inside another process: `app::run` leaves everything that belongs to a process to its caller.

mod moved_clock;
#[path = "../support/mod.rs"]
mod support;

use mana_load::wakeups::{WakeMessage, Wakeups};
use mana_sync::app::{self, Listeners, RunError};
use mana_sync::clock::Clock;
use mana_sync::config::Config;
use mana_sync::shutdown::Shutdown;
use mana_sync::telemetry::Telemetry;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use support::*;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A replica that runs in this process, over the database of a cluster.
struct Embedded {
    url: String,
    /// The admin port's, if it has one.
    admin_url: Option<String>,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), RunError>>,
}

fn config(cluster: &Cluster) -> Config {
    let mut config = Config::with_defaults(&cluster.database_url).unwrap();
    (config.bind_address, config.port) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    config.auth.jwks_url = cluster.issuer.jwks_url().parse().unwrap();
    config.billing.mana_credits_url = cluster.credits.url().parse().unwrap();
    config.billing.mana_service_key = SERVICE_KEY.parse().unwrap();
    // Also on a busy machine, it answers in time.
    config.billing.billing_timeout_ms = TIMEOUT;
    config.drain.drain_delay_ms = Duration::ZERO;
    config.drain.drain_window_ms = Duration::from_millis(100);
    config
}

impl Embedded {
    async fn start(cluster: &Cluster, name: &str) -> Embedded {
        let config = Config { replica_id: Some(name.to_owned()), ..config(cluster) };
        Embedded::start_with(cluster, config, Clock::system()).await
    }

    async fn start_with(cluster: &Cluster, config: Config, clock: Clock) -> Embedded {
        let listeners = Listeners::bind(&config).unwrap();
        let url_of = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let (url, admin_url) = (url_of(&listeners.public[0]), listeners.admin.as_ref().map(url_of));
        let (shutdown, telemetry) = (Shutdown::default(), Telemetry::start(&config, &clock).unwrap());
        let its = shutdown.clone();
        let running = tokio::spawn(async move { app::run(listeners, config, clock, &telemetry, its).await });
        let ready = format!("{url}/health/ready");
        eventually("it is ready", async || {
            cluster.http.get(&ready).send().await.is_ok_and(|answer| answer.status() == StatusCode::OK)
        })
        .await;
        Embedded { url, admin_url, shutdown, running }
    }

    async fn stop(self) -> Result<(), RunError> {
        self.shutdown.draining.cancel();
        tokio::time::timeout(TIMEOUT, self.running).await.unwrap().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_run_in_one_process_beside_one_of_its_own_and_stop_when_told() {
    let cluster = Cluster::start(1).await;
    let (first, second) = (Embedded::start(&cluster, "first").await, Embedded::start(&cluster, "second").await);
    let user = cluster.user();
    let mut elsewhere = Wakeups::connect(&second.url, Some("todo"), &user.token, None).await.unwrap();
    let mut outside = Wakeups::connect(cluster.url(0), Some("todo"), &user.token, None).await.unwrap();

    let change = update("tasks", "r1", "title", "Milk", "2024-01-01T10:00:00.000Z");
    let body = json!({ "clientId": "phone", "since": BEGINNING, "changes": [change] });
    let request = cluster.http.request(Method::POST, format!("{}/sync/todo", first.url)).bearer_auth(&user.token);
    let (status, pushed) = answer(request.json(&body)).await;
    assert_eq!(status, StatusCode::OK, "{pushed}");
    for socket in [&mut elsewhere, &mut outside] {
        let woken = socket.next(TIMEOUT).await.unwrap();
        assert!(matches!(&woken, WakeMessage::SyncAvailable { app_id, .. } if app_id == "todo"), "{woken:?}");
    }

    first.stop().await.unwrap();
    let ready = cluster.http.get(format!("{}/health/ready", second.url)).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::OK, "the other one runs on");
    second.stop().await.unwrap();
}

#[tokio::test]
async fn settings_that_do_not_go_together_are_refused_before_anything_is_opened() {
    let cluster = shared().await;
    let mut config = config(cluster);
    config.sessions.sse_heartbeat_ms = Duration::from_secs(31);
    let clock = Clock::system();
    let (listeners, telemetry) = (Listeners::bind(&config).unwrap(), Telemetry::start(&config, &clock).unwrap());
    let refused = app::run(listeners, config, clock, &telemetry, Shutdown::default()).await;
    assert!(matches!(refused, Err(RunError::Config(_))), "{refused:?}");
}
