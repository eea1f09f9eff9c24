//! Real clients against the cluster: the engine of `tests/browser/` in its existing dialects, on a real Dexie. In Node
//! with every test run; in Chromium, with real CORS, sockets and streams, by `make test-browser`.
//!
//! `CLIENT_SEEDS=30` runs thirty seeds, `CLIENT_SEED=7` only that one.

#[path = "../support/mod.rs"]
mod support;

#[path = "../rollout/balancer.rs"]
mod balancer;
mod chromium;
#[path = "../rollout/names.rs"]
mod names;
mod program;

use program::run;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use support::*;

/// Devices that are objects of a Node process, on an in-memory IndexedDB.
const NODE: &str = "node/main.js";
/// For tests that need responses of several pages.
const SMALL_PAGES: &[(&str, &str)] = &[("PAGE_MAX_CHANGES", "5")];
const RECORDS: u64 = 5_000;
/// A replica is killed after one in this many steps, on average.
const STEPS_A_KILL: u32 = 12;

fn settings(cluster: &Cluster, scenario: &str) -> Value {
    json!({ "scenario": scenario, "urls": cluster.urls(), "token": cluster.user().token })
}

/// Of any three consecutive seeds, the first has engines that compare stamps and some that take inserts as they come,
/// the second one that takes everything, and the third records that several devices create.
fn seeds(by_default: u64) -> Range<u64> {
    let number = |name| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
        Some(text.parse::<u64>().unwrap_or_else(|error| panic!("{name} is {text:?}: {error}")))
    };
    match number("CLIENT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("CLIENT_SEEDS").unwrap_or(by_default),
    }
}

/// Five devices, different ones for each seed; a replica is killed and restarted after one in twelve of their steps, on
/// average.
async fn five_devices(program: &str, cluster: &mut Cluster, seeds: Range<u64>, page_port: Option<u16>) {
    for seed in seeds {
        let mut settings = settings(cluster, "five-devices");
        settings["seed"] = json!(seed);
        settings["records"] = json!(RECORDS);
        settings["port"] = json!(page_port);
        println!("five devices, seed {seed}");
        let (mut rng, mut kills) = (StdRng::seed_from_u64(seed), 0);
        let kill_one = async |_: &str| {
            if rng.random_ratio(1, STEPS_A_KILL) {
                let node = &mut cluster.nodes[rng.random_range(0..3)];
                node.process.kill().await;
                node.restart().await;
                kills += 1;
            }
        };
        run(program, settings, kill_one).await;
        println!("five devices, seed {seed}: {kills} replicas were killed");
        assert!(kills > 0, "no replica was killed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_devices_of_three_generations_end_equal_whatever_fails() {
    five_devices(NODE, &mut Cluster::start(3).await, seeds(3), None).await;
}

#[tokio::test]
async fn no_edit_is_lost_with_an_answer_whatever_the_dialect_and_the_rule_of_applying() {
    run(NODE, settings(shared().await, "lost-answers"), async |_| ()).await;
}

#[tokio::test]
async fn no_edit_is_lost_with_an_answer_where_the_device_is_answered_in_small_pages() {
    run(NODE, settings(&Cluster::start_with(1, SMALL_PAGES).await, "lost-answers"), async |_| ()).await;
}

#[tokio::test]
async fn pending_changes_are_stored_once_though_they_are_sent_again_with_more_and_with_another_cursor() {
    run(NODE, settings(shared().await, "sent-again"), async |_| ()).await;
}

#[tokio::test]
async fn the_client_of_the_documents_does_what_they_say() {
    let cluster = shared().await;
    let user = cluster.user();
    let lifetime = Duration::from_secs(12);
    let until = now_millis() + i64::try_from(lifetime.as_millis()).unwrap();
    let passing = json!({ "token": cluster.key.token(&user.id, lifetime), "until": until });
    let urls = cluster.urls();
    let lasting = cluster.key.token(&user.id, Duration::from_secs(365 * 86_400));
    let settings =
        json!({ "scenario": "example", "urls": urls, "token": user.token, "lasting": lasting, "passing": passing });
    run(NODE, settings, async |_| ()).await;
}

#[test]
fn the_documents_show_that_client() {
    let read = |path| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let (code, page) = (read("tests/browser/client/example.js"), read("docs/clients.md"));
    let shown = code.split_once("// begin\n").and_then(|(_, rest)| rest.split_once("// end\n")).unwrap().0;
    assert!(page.contains(&format!("```js\n{shown}```\n")), "docs/clients.md shows another client than {shown}");
}
