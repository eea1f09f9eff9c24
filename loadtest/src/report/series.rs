//! The timeline of a run, second by second.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::counts::{Counts, Percentiles};

/// One second of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Second {
    /// When it ended.
    pub at_seconds: f64,
    /// How long it really was; rates divide by it.
    pub length_seconds: f64,
    /// By the operation's name.
    pub operations: BTreeMap<String, OperationSecond>,
    /// WebSockets and streams that the generator held.
    pub connections: u64,
    /// What the generator was doing.
    pub generator: GeneratorSecond,
    /// Each replica's, in the order of [`super::Report::replicas`]; null: it did not answer.
    pub replicas: Vec<Option<ReplicaSample>>,
}

/// What one operation did in that second. Latencies belong to the second of the answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OperationSecond {
    /// How many there were.
    #[serde(flatten)]
    pub counts: Counts,
    /// How long they took.
    #[serde(flatten)]
    pub latency: Percentiles,
}

/// What the generator itself was doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GeneratorSecond {
    /// Its processor time in this second.
    pub cpu_seconds: f64,
    /// The busy share, 0 to 1, of all processors of its machine, everything that runs there included.
    pub machine_busy_share: Option<f64>,
    /// Between the intended time of a request and its being sent.
    pub lateness_p99_seconds: Option<f64>,
    /// The longest of them.
    pub lateness_max_seconds: Option<f64>,
}

/// A replica's `/metrics` at that moment. Counters count from the start of its process: one that is lower than in the
/// second before says that it was restarted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaSample {
    /// `process_cpu_seconds_total`.
    pub cpu_seconds: f64,
    /// `process_resident_memory_bytes`.
    pub resident_bytes: u64,
    /// `mana_sync_pushes_total`, all outcomes.
    pub pushes: u64,
    /// `mana_sync_changes_stored_total`.
    pub changes_stored: u64,
    /// `mana_sync_connections_total`: open WebSockets and streams.
    pub connections: u64,
    /// `process_start_time_seconds`.
    pub process_start_seconds: f64,
}

impl ReplicaSample {
    /// What was added since a sample before, its gauges as they are now; none: the process is another one.
    pub fn since(&self, before: &Self) -> Option<Self> {
        let same = (self.process_start_seconds - before.process_start_seconds).abs() < 0.5;
        same.then(|| Self {
            cpu_seconds: (self.cpu_seconds - before.cpu_seconds).max(0.0),
            pushes: self.pushes.saturating_sub(before.pushes),
            changes_stored: self.changes_stored.saturating_sub(before.changes_stored),
            ..self.clone()
        })
    }
}
