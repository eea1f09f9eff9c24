//! G3: once no device writes and all have pulled, all hold the same records, as given by the rules.

use crate::support::*;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures_util::stream::{self, StreamExt};
use mana_load::device::{Device, DeviceOptions, Mode};
use mana_load::fold::{fold_rows, read_rows};
use mana_load::protocol::{Change, FieldWrite, Op};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// `CASES=400` for more: `make histories`.
const CASES: u64 = 40;
const AT_ONCE: usize = 6;
const DEVICES: usize = 6;
const STEPS: usize = 40;
const APP: &str = "todo";
const TABLE: &str = "tasks";

/// A device and its clock.
struct Writer {
    device: Device,
    /// The error of its clock.
    skew: TimeDelta,
    mode: Mode,
    /// Its spelling of stamps.
    spelling: fn(DateTime<Utc>) -> String,
    /// Its deletes with their stamps: the same one again would be the same change.
    deleted: HashSet<(String, String)>,
}

/// Spellings of one instant, as client libraries write them.
const SPELLINGS: [fn(DateTime<Utc>) -> String; 6] = [
    |at| at.to_rfc3339_opts(SecondsFormat::Millis, true),
    |at| at.to_rfc3339_opts(SecondsFormat::Millis, false),
    |at| at.to_rfc3339_opts(SecondsFormat::Micros, true),
    |at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true),
    |at| at.with_timezone(&chrono::FixedOffset::east_opt(7_200).unwrap()).to_rfc3339_opts(SecondsFormat::Millis, false),
    |at| at.with_timezone(&chrono::FixedOffset::west_opt(19_800).unwrap()).to_rfc3339_opts(SecondsFormat::Nanos, false),
];

fn a_change(rng: &mut StdRng, writer: &mut Writer, now: DateTime<Utc>, value: Value) -> Change {
    // Only a few milliseconds for all devices, so that stamps tie all the time.
    let stamp = (writer.spelling)(now + writer.skew);
    let id = ["a", "b"].choose(rng).unwrap().to_string();
    let op = match rng.random_range(0..10) {
        0 => Op::Insert { data: Map::from_iter([("title".into(), value), ("updatedAt".into(), json!(stamp))]) },
        1 if writer.deleted.insert((id.clone(), stamp.clone())) => Op::Delete { deleted_at: Some(stamp) },
        _ => {
            let fields = ["title", "done", "deletedAt"].choose_multiple_fields(rng);
            Op::Update {
                fields: fields
                    .map(|name| (name, FieldWrite { value: value.clone(), updated_at: stamp.clone() }))
                    .collect(),
            }
        }
    };
    Change { table: TABLE.into(), id, op }
}

trait ChooseFields {
    fn choose_multiple_fields(&self, rng: &mut StdRng) -> impl Iterator<Item = String>;
}

impl<const N: usize> ChooseFields for [&str; N] {
    fn choose_multiple_fields(&self, rng: &mut StdRng) -> impl Iterator<Item = String> {
        let count = rng.random_range(1..=2);
        self.sample(rng, count).map(|name| (*name).to_owned()).collect::<Vec<_>>().into_iter()
    }
}

fn writers(cluster: &Cluster, user: &User, rng: &mut StdRng) -> Vec<Writer> {
    let hours = [0, 0, 0, -3, 2];
    (0..DEVICES)
        .map(|number| {
            let client = format!("device-{number}");
            let mut options = DeviceOptions::new(APP, &client, &user.token, &cluster.urls(), &[TABLE]);
            let mode = *[Mode::IgnoresHasMore, Mode::FollowsHasMore, Mode::TakesAdjusted].choose(rng).unwrap();
            options.mode = mode;
            options.seed = rng.random();
            options.lost_answers = 0.1;
            options.canonical_stamps = true;
            // Two devices may delete at the same instant: such deletes look like a change that comes back.
            options.check_own = false;
            let device = Device::new(cluster.http.clone(), options).unwrap();
            let skew = TimeDelta::hours(*hours.choose(rng).unwrap());
            Writer { device, skew, mode, spelling: *SPELLINGS.choose(rng).unwrap(), deleted: HashSet::new() }
        })
        .collect()
}

/// Six devices write the same few fields in random order; returns the differences at the end.
async fn case(cluster: &Cluster, seed: u64) -> Vec<String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let user = cluster.user();
    let mut writers = writers(cluster, &user, &mut rng);
    let mut now = Utc::now() - TimeDelta::minutes(10);
    for step in 0..STEPS {
        let writer = &mut writers[rng.random_range(0..DEVICES)];
        if rng.random_bool(0.2) {
            now += TimeDelta::milliseconds(rng.random_range(0..3));
        }
        if rng.random_bool(0.4) {
            writer.device.pull_all().await.unwrap();
            continue;
        }
        for n in 0..rng.random_range(1..=2) {
            let change = a_change(&mut rng, writer, now, json!(format!("{step}-{n}")));
            writer.device.edit(change);
        }
        writer.device.push().await.unwrap();
    }
    for writer in &mut writers {
        writer.device.pull_until_quiet().await.unwrap();
    }
    let mut late = DeviceOptions::new(APP, "late", &user.token, &cluster.urls(), &[TABLE]);
    late.canonical_stamps = true;
    let mut late = Device::new(cluster.http.clone(), late).unwrap();
    late.pull_until_quiet().await.unwrap();

    let expected = fold_rows(&read_rows(&cluster.pool, &user.id, APP).await.unwrap()).unwrap();
    let mut found = differences(seed, "a fresh device", &expected, &late.snapshot());
    for (number, writer) in writers.iter().enumerate() {
        let who = format!("device {number} ({:?}, {} ahead)", writer.mode, writer.skew);
        found.extend(differences(seed, &who, &expected, &writer.device.snapshot()));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_devices_with_tied_differently_spelled_and_skewed_stamps_end_equal() {
    let cases = std::env::var("CASES").map_or(CASES, |cases| cases.parse().unwrap());
    let cluster = Cluster::start_with(3, &[("PAGE_MAX_CHANGES", "7")]).await;
    let found: Vec<Vec<String>> =
        stream::iter(0..cases).map(|seed| case(&cluster, seed)).buffer_unordered(AT_ONCE).collect().await;
    let found = found.concat();
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found[..found.len().min(20)].join("\n"));
}
