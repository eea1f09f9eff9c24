//! The playground page, over HTTP and in Chromium (`make test-browser`).

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use mana_dev::wait::until;
use nix::sys::signal::Signal;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use super::command::{Dev, LIMIT, folder};

const PAGE: &str = "page to try it";

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

async fn replicas(page: &str) -> Vec<Value> {
    let answer = client().get(format!("{page}cluster")).send().await.unwrap().text().await.unwrap();
    serde_json::from_str::<Value>(&answer).unwrap()["replicas"].as_array().unwrap().clone()
}

#[tokio::test]
async fn the_guide_names_a_console_and_a_page_to_try_it() {
    let folder = folder();
    let mut dev = Dev::start(folder.path(), &[]);
    let console = client().get(format!("{}login", dev.address("console"))).send().await.unwrap();
    assert_eq!(console.status(), 200);
    assert!(dev.after("log in with").contains("mana-dev-admin-token"));

    let page = dev.address(PAGE).to_owned();
    let get = async |path: &str| client().get(format!("{page}{path}")).send().await.unwrap();
    for path in ["", "playground.js", "playground.css", "device.js", "client/engine.js", "dexie.mjs", "cluster"] {
        assert_eq!(get(path).await.status(), 200, "{path}");
    }
    for path in ["client/..%2f..%2fpackage.json", "..%2fCargo.toml", "nothing.js", "client/nothing.js"] {
        assert_eq!(get(path).await.status(), 404, "{path}");
    }
    // Its origin may push to a replica.
    let url = replicas(&page).await[1]["url"].as_str().unwrap().to_owned();
    let push = client().request(reqwest::Method::OPTIONS, format!("{url}/sync/playground"));
    let asked = push.header("Origin", page.trim_end_matches('/')).header("Access-Control-Request-Method", "POST");
    let allowed = asked.send().await.unwrap();
    assert_eq!(allowed.headers()["access-control-allow-origin"], page.trim_end_matches('/'));
    dev.signal(Signal::SIGINT);
    assert!(dev.ended().await.success());
}

#[tokio::test]
async fn it_kills_a_replica_that_comes_back_and_obeys_no_other_page() {
    let folder = folder();
    let mut dev = Dev::start(folder.path(), &[]);
    let page = dev.address(PAGE).to_owned();
    let kill = |number: u32| client().post(format!("{page}replicas/{number}/kill"));
    let runs = async |number: usize| replicas(&page).await[number - 1]["runs"] == true;
    let foreign = [
        kill(1).header("Origin", "http://elsewhere.example.com"),
        kill(1).header("Sec-Fetch-Site", "cross-site"),
        kill(1).header("Host", "rebound.example.com"),
        client().post(format!("{page}token")).header("Sec-Fetch-Site", "same-site"),
    ];
    for request in foreign {
        assert_eq!(request.send().await.unwrap().status(), StatusCode::FORBIDDEN);
    }
    assert!(runs(1).await && runs(2).await);
    for number in [0, 3] {
        assert_eq!(kill(number).send().await.unwrap().status(), 404);
    }
    assert_eq!(kill(1).send().await.unwrap().status(), 200);
    assert!(until(LIMIT, async || (!runs(1).await).then_some(())).await.is_some());
    assert!(runs(2).await);
    assert!(until(LIMIT, async || (runs(1).await).then_some(())).await.is_some());
    dev.signal(Signal::SIGINT);
    assert!(dev.ended().await.success());
}

#[tokio::test]
#[ignore = "needs Chromium: make test-browser"]
async fn two_devices_edit_while_offline_and_agree_when_they_are_back() {
    let folder = folder();
    let mut dev = Dev::start(folder.path(), &[]);
    let settings = json!({ "page": dev.address(PAGE), "screenshots": std::env::var("SCREENSHOTS").ok() });
    let browser = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/browser");
    let output = folder.path().join("output");
    let file = fs::File::create(&output).unwrap();
    let mut program = Command::new("node");
    program.arg("playground/main.js").current_dir(browser).stdin(Stdio::piped());
    program.stdout(file.try_clone().unwrap()).stderr(file);
    let mut child = program.spawn().expect("scripts/bootstrap browser installs node");
    child.stdin.take().unwrap().write_all(settings.to_string().as_bytes()).unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    let said = fs::read_to_string(output).unwrap();
    assert!(status.success(), "{said}");
    println!("{said}");
    dev.signal(Signal::SIGINT);
    assert!(dev.ended().await.success());
}
