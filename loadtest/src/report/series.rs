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
    /// Its actual length; rates are divided by it.
    pub length_seconds: f64,
    /// By the operation's name.
    pub operations: BTreeMap<String, OperationSecond>,
    /// WebSockets and streams that the generator held.
    pub connections: u64,
    /// The generator's state.
    pub generator: GeneratorSecond,
    /// A sample of each replica, in the order of [`super::Report::replicas`]; null if it did not answer.
    pub replicas: Vec<Option<ReplicaSample>>,
}

/// An operation in that second. Latencies belong to the second of the answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OperationSecond {
    /// The number of operations.
    #[serde(flatten)]
    pub counts: Counts,
    /// Their latencies.
    #[serde(flatten)]
    pub latency: Percentiles,
}

/// The generator's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GeneratorSecond {
    /// Its processor time in this second.
    pub cpu_seconds: f64,
    /// The load, 0 to 1, of all processors of its machine, from everything that runs there.
    pub machine_busy_share: Option<f64>,
    /// The delay between the intended time of a request and its sending.
    pub lateness_p99_seconds: Option<f64>,
    /// The longest of them.
    pub lateness_max_seconds: Option<f64>,
}

/// A replica's `/metrics` at that moment. Counters count from the start of its process: one that is lower than in the
/// previous second means that it was restarted.
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
    /// Returns the increase since an earlier sample, with current gauges; none if the process is another one.
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
