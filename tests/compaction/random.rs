//! The model test on PostgreSQL: devices with tied and skewed stamps, lost answers and small pages, and trimming
//! between any two steps; the model in `protocol/merge/tests/trimmed.rs` runs many more cases.

use super::support::*;
use super::{APP, TABLE, Trimmer, fold};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::stream::{self, StreamExt};
use mana_load::device::{Device, DeviceOptions, Mode};
use mana_load::protocol::{Change, FieldWrite, Op};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, json};
use std::collections::HashSet;
use std::time::Duration;

/// `CASES=400` for more: `make histories`.
const CASES: u64 = 16;
/// This many cases reveal a defective trimmer.
const CASES_WITH_DEFECT: u64 = 40;
const AT_ONCE: usize = 4;
const DEVICES: usize = 4;
const STEPS: usize = 40;

/// A device and its clock.
struct Writer {
    device: Device,
    skew: TimeDelta,
    /// Its deletes and undeletes with their stamps: the same one again would be the same change.
    made: HashSet<(String, String)>,
}

fn new_device(cluster: &Cluster, user: &User, name: &str, rng: &mut StdRng) -> Device {
    let mut options = DeviceOptions::new(APP, name, &user.token, &cluster.urls(), &[TABLE]);
    options.mode = *[Mode::IgnoresHasMore, Mode::FollowsHasMore, Mode::TakesAdjusted].choose(rng).unwrap();
    options.seed = rng.random();
    options.lost_answers = 0.2;
    options.canonical_stamps = true;
    options.check_own = false;
    Device::new(cluster.http.clone(), options).unwrap()
}

fn a_change(rng: &mut StdRng, writer: &mut Writer, now: DateTime<Utc>, value: String) -> Option<Change> {
    let stamp = iso((now + writer.skew).timestamp_millis());
    let id = ["a", "b"].choose(rng).unwrap().to_string();
    let is_known = writer.device.holds(TABLE, &id);
    let op = match rng.random_range(0..10) {
        _ if !is_known => Op::Insert {
            data: Map::from_iter([
                ("title".into(), json!(value)),
                ("done".into(), json!(false)),
                ("updatedAt".into(), json!(stamp)),
            ]),
        },
        0 if writer.made.insert((id.clone(), stamp.clone())) => Op::Delete { deleted_at: Some(stamp) },
        0 => return None,
        _ => {
            let field = *["title", "done", "deletedAt"].choose(rng).unwrap();
            if field == "deletedAt" && !writer.made.insert((id.clone(), format!("not {stamp}"))) {
                return None;
            }
            let value = if field == "deletedAt" { json!(null) } else { json!(value) };
            Op::Update { fields: [(field.to_owned(), FieldWrite { value, updated_at: stamp })].into() }
        }
    };
    Some(Change { table: TABLE.into(), id, op })
}

/// Devices write, read and lose their databases, and the log is trimmed; returns the differences at the end.
async fn case(cluster: &Cluster, seed: u64, trimmer: Trimmer) -> Vec<String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let user = cluster.user();
    let mut writers: Vec<Writer> = (0..DEVICES)
        .map(|number| {
            let device = new_device(cluster, &user, &format!("device-{number}"), &mut rng);
            let skew = TimeDelta::hours(*[0, 0, 0, -3, 2].choose(&mut rng).unwrap());
            Writer { device, skew, made: HashSet::new() }
        })
        .collect();
    let mut now = Utc::now() - TimeDelta::minutes(10);
    for step in 0..STEPS {
        let number = rng.random_range(0..DEVICES);
        let writer = &mut writers[number];
        if rng.random_bool(0.2) {
            now += TimeDelta::milliseconds(rng.random_range(0..3));
        }
        match rng.random_range(0..20) {
            0..10 => {
                for n in 0..rng.random_range(1..=2) {
                    if let Some(change) = a_change(&mut rng, writer, now, format!("{step}-{n}")) {
                        writer.device.edit(change);
                    }
                }
                writer.device.push().await.unwrap();
            }
            10..15 => drop(writer.device.pull(TABLE).await.unwrap()),
            15 if writer.device.pending() == 0 => {
                writer.device = new_device(cluster, &user, &format!("device-{number}"), &mut rng);
            }
            _ => {
                let after = *[0, 0, 50].choose(&mut rng).unwrap();
                // Sometimes two at once.
                let one = trimmer.trim(cluster, &user, Duration::from_millis(after));
                let other = async {
                    if seed.is_multiple_of(2) {
                        trimmer.trim(cluster, &user, Duration::ZERO).await;
                    }
                };
                tokio::join!(one, other);
            }
        }
    }
    let expected = fold::untrimmed(cluster, &user, APP).await;
    let mut fresh = new_device(cluster, &user, "fresh", &mut rng);
    for writer in &mut writers {
        writer.device.pull_until_quiet().await.unwrap();
        trimmer.trim(cluster, &user, Duration::ZERO).await;
    }
    let expected = if fold::untrimmed(cluster, &user, APP).await == expected {
        expected
    } else {
        // Some changes had not been pushed before.
        fold::untrimmed(cluster, &user, APP).await
    };
    fresh.pull_until_quiet().await.unwrap();
    let mut found = differences(seed, "a fresh device", &expected, &fresh.snapshot());
    for (number, writer) in writers.iter().enumerate() {
        let who = format!("device {number} ({} ahead)", writer.skew);
        found.extend(differences(seed, &who, &expected, &writer.device.snapshot()));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimming_between_any_two_steps_changes_nothing_for_anybody() {
    let cases = std::env::var("CASES").map_or(CASES, |cases| cases.parse().unwrap());
    let cluster = Cluster::start_with(2, &[("PAGE_MAX_CHANGES", "3")]).await;
    let found: Vec<Vec<String>> = stream::iter(0..cases)
        .map(|seed| case(&cluster, seed, Trimmer::Here))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let found = found.concat();
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found[..found.len().min(20)].join("\n"));
}

/// Checks the test above: a defective trimmer must make some case differ.
async fn is_noticed(failpoint: &'static str) {
    let cluster = Cluster::start_with(2, &[("PAGE_MAX_CHANGES", "3")]).await;
    for seed in 0..CASES_WITH_DEFECT {
        if let Some(difference) = case(&cluster, seed, Trimmer::Failing(failpoint)).await.first() {
            println!("{failpoint}: {difference}");
            return;
        }
    }
    panic!("{CASES_WITH_DEFECT} cases did not show {failpoint}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_winner_that_is_trimmed_is_noticed() {
    is_noticed("trim-drops-winner").await;
}
