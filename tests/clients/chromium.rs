//! The same clients in Chromium: `make test-browser`.

use crate::balancer::{Balancer, Kind};
use crate::program::run;
use crate::support::{Cluster, eventually};
use crate::{five_devices, seeds, settings};
use serde_json::json;
use std::net::{Ipv4Addr, TcpListener};

/// Devices that are tabs of Chromium.
const CHROMIUM: &str = "chromium/main.js";

/// Returns a cluster that allows the pages' origin, and the port that they are served on.
async fn allowing_pages(replicas: u16) -> (Cluster, u16) {
    // Below the ephemeral port range, so that it is still free when the pages are served.
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let port = std::iter::repeat_with(|| rand::random_range(20_000..32_000)).find(free).expect("some port is free");
    let origin = format!("http://localhost:{port}");
    (Cluster::start_with(replicas, &[("CORS_ORIGINS", &origin)]).await, port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium: make test-browser"]
async fn five_devices_in_chromium_end_equal_whatever_fails() {
    let (mut cluster, port) = allowing_pages(3).await;
    five_devices(CHROMIUM, &mut cluster, seeds(5), Some(port)).await;
}

#[tokio::test]
#[ignore = "needs Chromium: make test-browser"]
async fn no_edit_is_lost_with_an_answer_in_chromium() {
    let (cluster, port) = allowing_pages(1).await;
    for scenario in ["lost-answers", "sent-again"] {
        let mut settings = settings(&cluster, scenario);
        settings["port"] = json!(port);
        run(CHROMIUM, settings, async |_| ()).await;
    }
}

#[tokio::test]
#[ignore = "needs Chromium: make test-browser"]
async fn a_page_with_six_streams_pushes_through_each_balancer_over_http_2() {
    let (cluster, port) = allowing_pages(1).await;
    let replica: std::net::SocketAddr = cluster.url(0).trim_start_matches("http://").parse().unwrap();
    for kind in [Kind::HaProxy, Kind::Nginx, Kind::Caddy] {
        if kind == Kind::Caddy && !Balancer::caddy_is_here() {
            println!("Caddy is left out: make check-ops installs it");
            continue;
        }
        let balancer = Balancer::start(kind, replica.port(), &[Ipv4Addr::LOCALHOST], 1.0).await;
        balancer.set(vec![Ipv4Addr::LOCALHOST], true);
        let ready = cluster.http.get(format!("{}/health/ready", balancer.url));
        let asks = || ready.try_clone().expect("it has no body").send();
        eventually("the balancer has found the replica", async || asks().await.is_ok_and(|r| r.status().is_success()))
            .await;
        let user = cluster.user();
        let url = balancer.tls_url();
        let settings = json!({ "scenario": "six-streams", "url": url, "token": user.token, "port": port });
        run(CHROMIUM, settings, async |_| ()).await;
    }
}

#[tokio::test]
#[ignore = "needs Chromium: make test-browser"]
async fn eight_apps_are_read_on_one_stream_over_http_1() {
    let (cluster, port) = allowing_pages(2).await;
    let token = cluster.user().token;
    let (url, other) = (cluster.url(0), cluster.url(1));
    let settings = json!({ "scenario": "eight-apps", "url": url, "other": other, "token": token, "port": port });
    run(CHROMIUM, settings, async |_| ()).await;
}
