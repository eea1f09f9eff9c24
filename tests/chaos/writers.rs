//! Devices that write all the time: records of their own, and a few fields that all of them write.

use crate::cluster::FaultyCluster;
use crate::support::*;
use crate::workload::{TABLES, Workload, insert_of};
use mana_load::device::{Device, Mode};
use mana_load::protocol::{Change, FieldWrite, Op};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const HOUR: i64 = 3_600_000;
/// Pause between two steps, in milliseconds.
const PAUSE: std::ops::Range<u64> = 5..60;
/// Fraction of pushes whose response is discarded, so that they are sent twice.
const LOST_ANSWERS: f64 = 0.05;

/// Writes until told to stop; returns the party and the device.
pub async fn write(
    cluster: Arc<FaultyCluster>,
    workload: Arc<Workload>,
    party: usize,
    number: usize,
) -> (usize, Device) {
    let mut rng = workload.rng(1_000 + (party * 100 + number) as u64);
    let client = format!("writer-{party}-{number}");
    let mut options = workload.options(&cluster, party, &client);
    options.mode = *[Mode::IgnoresHasMore, Mode::FollowsHasMore, Mode::TakesAdjusted].choose(&mut rng).unwrap();
    options.lost_answers = LOST_ANSWERS;
    let mut device = Device::new(cluster.inner.http.clone(), options).unwrap();
    // The first device's clock is correct.
    let skew = if number == 0 { 0 } else { *[0, -3 * HOUR, 2 * HOUR].choose(&mut rng).unwrap() };
    while !workload.stop_writing.is_cancelled() {
        if rng.random_bool(0.2) {
            if let Err(error) = device.pull_all().await {
                workload.failed(&client, &error);
                break;
            }
        } else {
            let changes = some_changes(&mut rng, &workload, &client, skew);
            if !workload.push(party, &mut device, changes).await {
                break;
            }
        }
        let pause = tokio::time::sleep(Duration::from_millis(rng.random_range(PAUSE)));
        workload.stop_writing.run_until_cancelled(pause).await;
    }
    (party, device)
}

/// New records, or edits of shared records. Stamps are coarse, so that they often tie.
fn some_changes(rng: &mut StdRng, workload: &Workload, client: &str, skew: i64) -> Vec<Change> {
    let mark = |workload: &Workload| format!("{client}-{}", workload.next_number());
    if rng.random_bool(0.6) {
        // Large pushes among small ones: they take longest from start to visibility.
        let count = if rng.random_bool(0.05) { 300 } else { rng.random_range(1..=5) };
        let table = |rng: &mut StdRng| *TABLES.choose(rng).unwrap();
        return (0..count).map(|_| insert_of(table(rng), &mark(workload))).collect();
    }
    let stamp = iso((now_millis() + skew) / 20 * 20);
    let mut changes = Vec::new();
    for id in ["shared-a", "shared-b"] {
        let field = *["title", "done"].choose(rng).unwrap();
        let op = match rng.next_u32() % 12 {
            0 => Op::Delete { deleted_at: Some(stamp.clone()) },
            _ => {
                let write = FieldWrite { value: json!(mark(workload)), updated_at: stamp.clone() };
                Op::Update { fields: BTreeMap::from([(field.to_owned(), write)]) }
            }
        };
        changes.push(Change { table: TABLES[0].into(), id: id.into(), op });
    }
    changes
}
