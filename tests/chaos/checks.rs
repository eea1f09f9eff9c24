//! The checks after every schedule: the guarantees by number.

use crate::cluster::{FaultyCluster, REPLICAS};
use crate::epilogue::{SOON, until};
use crate::trimmed::{self, Expected, LogRow};
use crate::workload::{Kind, TABLES, Workload, mark_of};
use chrono::DateTime;
use mana_load::device::Device;
use mana_load::fold::{Row, fold_rows};
use mana_load::snapshot::Snapshot;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// Maximum time for readers that poll.
const PATIENT: Duration = Duration::from_secs(10);
/// Maximum resident memory of a replica, in bytes. A debug build needs more than a release build.
const MEMORY: u64 = 300 << 20;
/// Number of differences shown per reader.
const SHOWN: usize = 3;

async fn rows(cluster: &FaultyCluster, workload: &Workload, party: usize) -> Vec<LogRow> {
    let party = &workload.parties[party];
    trimmed::read_log(&cluster.inner.pool, &party.user.id, &party.app).await
}

async fn rows_by_party(cluster: &FaultyCluster, workload: &Workload) -> Vec<Vec<LogRow>> {
    let mut all = Vec::new();
    for party in 0..workload.parties.len() {
        all.push(rows(cluster, workload, party).await);
    }
    all
}

/// A wait for readers to have everything that was stored when it began, unless it has been trimmed.
struct Waiting<'a> {
    cluster: &'a FaultyCluster,
    workload: &'a Workload,
    /// The number of rows stored per party.
    stored: Vec<usize>,
    waiting: Vec<(std::sync::Arc<crate::workload::Reader>, Expected)>,
}

impl<'a> Waiting<'a> {
    async fn begin(cluster: &'a FaultyCluster, workload: &'a Workload, only_told: bool) -> Waiting<'a> {
        let rows = rows_by_party(cluster, workload).await;
        let readers = workload.readers().into_iter();
        let readers = readers.filter(|reader| reader.kind != Kind::Beginning && (!only_told || reader.is_told()));
        let waiting = readers.map(|reader| (reader.clone(), Expected::of(&rows[reader.party], &reader))).collect();
        Waiting { cluster, workload, stored: rows.iter().map(Vec::len).collect(), waiting }
    }

    /// True once no reader has to be waited for.
    async fn is_over(&mut self) -> bool {
        self.waiting.retain(|(reader, expected)| !expected.is_met(reader));
        if !self.waiting.is_empty() {
            // Changes trimmed in the meantime need not have been read.
            let rows = rows_by_party(self.cluster, self.workload).await;
            for (reader, expected) in &mut self.waiting {
                let rows = &rows[reader.party];
                *expected = Expected::of(&rows[..self.stored[reader.party].min(rows.len())], reader);
            }
            self.waiting.retain(|(reader, expected)| !expected.is_met(reader));
        }
        self.waiting.is_empty()
    }
}

/// G4: every reader that is notified soon has everything stored by now. Returns how long the slowest took.
pub async fn all_are_told(cluster: &FaultyCluster, workload: &Workload) -> Duration {
    let begin = Instant::now();
    let mut waiting = Waiting::begin(cluster, workload, true).await;
    let mut slowest = Duration::ZERO;
    let done = until(cluster, SOON, async || {
        let is_over = waiting.is_over().await;
        slowest = begin.elapsed();
        is_over.then_some(())
    });
    if done.await.is_none() {
        for (reader, expected) in &waiting.waiting {
            let count = reader.count();
            workload.violated(format!(
                "G4: {} has {count} of {} changes after {SOON:?}",
                reader.name,
                expected.count()
            ));
        }
    }
    slowest
}

/// Waits for the readers that poll.
pub async fn readers_are_complete(cluster: &FaultyCluster, workload: &Workload) {
    let mut waiting = Waiting::begin(cluster, workload, false).await;
    let complete = until(cluster, PATIENT, async || waiting.is_over().await.then_some(()));
    if complete.await.is_none() {
        for (reader, expected) in waiting.waiting {
            workload.violated(format!("G2: {} has {} of {} changes", reader.name, reader.count(), expected.count()));
        }
    }
}

fn mark_of_row(row: &Row) -> String {
    let data = row.data.as_ref().and_then(|data| data.as_object());
    let value = match row.op.as_str() {
        "insert" => data.and_then(|data| data.get("mark")),
        "update" => data.and_then(|data| data.values().next()),
        _ => None,
    };
    mark_of(&row.table_name, &row.record_id, &row.op, value.and_then(|value| value.as_str()))
}

/// G1: what was acknowledged is stored, once, in each device's order; only whole pushes. Returns the number of changes
/// stored.
pub async fn stored_is_acknowledged(cluster: &FaultyCluster, workload: &Workload) -> usize {
    let rows = rows_by_party(cluster, workload).await;
    let mut stored: BTreeMap<(usize, String), Vec<String>> = BTreeMap::new();
    for (party, rows) in rows.iter().enumerate() {
        for LogRow { row, .. } in rows {
            stored.entry((party, row.client_id.clone())).or_default().push(mark_of_row(row));
        }
    }
    for (party, push) in workload.unanswered() {
        let same = |marks: &Vec<String>| *marks == push;
        stored.retain(|(owner, _), marks| *owner != party || !same(marks));
    }
    let acknowledged = workload.acknowledged();
    for ((party, client), marks) in &acknowledged {
        let found = stored.remove(&(*party, client.clone())).unwrap_or_default();
        if found != *marks {
            workload.violated(format!("G1: {client}: {}", first_difference(marks, &found, "acknowledged", "stored")));
        }
    }
    for ((_, client), marks) in stored {
        workload.violated(format!("G1: of {client} {} changes are stored that were never acknowledged", marks.len()));
    }
    rows.iter().map(Vec::len).sum()
}

/// Describes where two lists first differ.
fn first_difference<T: std::fmt::Debug + PartialEq>(left: &[T], right: &[T], of_left: &str, of_right: &str) -> String {
    let at = left.iter().zip(right).position(|(a, b)| a != b).unwrap_or(left.len().min(right.len()));
    format!(
        "{} {of_left}, {} {of_right}; at {at}: {of_left} {:?}, {of_right} {:?}",
        left.len(),
        right.len(),
        left.get(at),
        right.get(at)
    )
}

/// G2, G5: each reader's list is the log in its order (on a stream, in the order of each table), except for what was
/// trimmed before it was read; nothing else, and nothing twice.
pub async fn readers_saw_the_log(cluster: &FaultyCluster, workload: &Workload) {
    let rows = rows_by_party(cluster, workload).await;
    for reader in workload.readers() {
        let expected = Expected::of(&rows[reader.party], &reader);
        if let Err(what) = expected.explains(&reader) {
            workload.violated(format!("G2: {}: {what}", reader.name));
        }
    }
}

/// G3: all devices, and a new one, end up with the records that the rules yield from the log.
pub async fn devices_converge(cluster: &FaultyCluster, workload: &Workload, mut devices: Vec<(usize, Device)>) {
    for party in 0..workload.parties.len() {
        devices.push((party, workload.device(cluster, party, &format!("fresh-{party}"))));
    }
    let rows = rows_by_party(cluster, workload).await;
    let fold = |rows: &Vec<LogRow>| {
        let rows: Vec<Row> = rows.iter().map(|row| row.row.clone()).collect();
        only_pulled(&fold_rows(&rows).unwrap())
    };
    let folded: Vec<Snapshot> = rows.iter().map(fold).collect();
    for (party, device) in &mut devices {
        if let Err(error) = device.pull_until_quiet().await {
            workload.failed(device.client_id(), &error);
            continue;
        }
        for difference in folded[*party].differences(&only_pulled(&device.snapshot()), SHOWN) {
            workload.violated(format!("G3: {} differs from the log: {difference}", device.client_id()));
        }
    }
}

/// Keeps the tables that devices pull. Stamps stored as values are as spelled by their writer until it takes
/// `adjusted`; only their presence counts.
fn only_pulled(snapshot: &Snapshot) -> Snapshot {
    let mut snapshot = snapshot.clone();
    snapshot.0.retain(|table, _| TABLES.contains(&table.as_str()));
    for fields in snapshot.0.values_mut().flat_map(|records| records.values_mut()) {
        for (name, value) in fields.iter_mut() {
            let is_stamp = value.as_str().is_some_and(|text| DateTime::parse_from_rfc3339(text).is_ok());
            if matches!(name.as_str(), "updatedAt" | "deletedAt") && is_stamp {
                *value = json!("a stamp");
            }
        }
    }
    snapshot
}

/// G6, and no process or task has died silently.
pub async fn replicas_are_well(cluster: &FaultyCluster, workload: &Workload) {
    for replica in 0..REPLICAS {
        if let Some(status) = cluster.ended(replica).await {
            workload.violated(format!("replica {replica} ended by itself with {status}"));
        }
        let memory = cluster.memory(replica).await;
        if memory > MEMORY {
            workload.violated(format!("G6: replica {replica} has {} MiB resident", memory >> 20));
        }
        let empty = async || (cluster.metric(replica, "mana_sync_publish_queue").await == Some(0.0)).then_some(());
        if until(cluster, SOON, empty).await.is_none() {
            workload.violated(format!("G6: wake-ups of replica {replica} are still waiting to be published"));
        }
        let log = cluster.log(replica).await;
        for line in log.lines().filter(|line| line.contains("panicked") || line.contains("essential task")) {
            workload.violated(format!("replica {replica} logged: {line}"));
        }
    }
}

/// Checks that every replica has noticed that all clients have left.
pub async fn sessions_are_gone(cluster: &FaultyCluster) -> Result<(), String> {
    for replica in 0..REPLICAS {
        let gone = async || (cluster.metric(replica, "mana_sync_connections_total").await == Some(0.0)).then_some(());
        if until(cluster, SOON, gone).await.is_none() {
            return Err(format!("G6: replica {replica} still has sessions after all clients have left"));
        }
    }
    Ok(())
}

/// No session and no database connection is left over from clients that have gone.
pub async fn nothing_is_left(cluster: &FaultyCluster, workload: &Workload) {
    if let Err(left) = sessions_are_gone(cluster).await {
        workload.violated(left);
    }
    // Connections that the network has forgotten are not the replicas' fault.
    cluster.doors.iter().flat_map(|doors| [&doors.query, &doors.listen]).for_each(|proxy| proxy.cut_silent());
    let listeners = "select application_name, count(*) from pg_stat_activity
                     where application_name like 'mana-sync % listen' group by application_name";
    let mut found: HashMap<String, i64> = HashMap::new();
    let alone = until(cluster, SOON, async || {
        found = sqlx::query_as(listeners).fetch_all(&cluster.inner.pool).await.unwrap().into_iter().collect();
        (found.len() == REPLICAS && found.values().all(|count| *count == 1)).then_some(())
    });
    if alone.await.is_none() {
        workload.violated(format!("each replica must have one listening connection: {found:?}"));
    }
}
