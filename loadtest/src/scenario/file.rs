//! A scenario as in its file. Every member is explained in `loadtest/README.md`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The reasons why a file is not a scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It is not a scenario.
    #[error("{} is not a scenario", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Its contents are inconsistent.
    #[error("{}: {problem}", path.display())]
    Meaning {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
}

/// The whole file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// Its purpose, in a sentence.
    pub description: String,
    /// The users.
    #[serde(default)]
    pub users: Users,
    /// The connections held open.
    #[serde(default)]
    pub connections: Connections,
    /// The weight of each operation when one is drawn.
    #[serde(default)]
    pub mix: Vec<Share>,
    /// The phases, in order.
    pub phases: Vec<PhasePlan>,
    /// The limits for the run.
    #[serde(default)]
    pub thresholds: Vec<ThresholdPlan>,
    /// The resources of the generator.
    #[serde(default)]
    pub generator: GeneratorPlan,
}

/// The users.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Users {
    pub count: usize,
    /// Devices of each user that push and pull.
    pub devices: usize,
    /// Changes that every user has before the first phase, pushed 200 at a time.
    pub history: usize,
    /// Maximum number of users whose devices are compared at the end.
    pub verified: usize,
}

impl Default for Users {
    fn default() -> Self {
        Self { count: 100, devices: 3, history: 0, verified: 200 }
    }
}

/// Connections held open from before the first phase to the end, assigned to the users in turn.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connections {
    pub websockets: usize,
    pub streams: usize,
}

/// A kind of request.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Share {
    pub operation: Kind,
    /// For a push: the number of changes.
    #[serde(default = "one")]
    pub changes: usize,
    pub weight: f64,
}

fn one() -> usize {
    1
}

/// The operation of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Pushes changes, and takes the delta.
    Push,
    /// Pulls a table page by page until there is no more, from the device's cursor.
    Pull,
    /// The same from the beginning, like a new device.
    Hydrate,
}

impl Share {
    /// Returns the operation's name in reports.
    pub fn name(&self) -> String {
        match (self.operation, self.changes) {
            (Kind::Push, changes) => format!("push {changes}"),
            (Kind::Pull, _) => "pull".to_owned(),
            (Kind::Hydrate, _) => "hydrate".to_owned(),
        }
    }
}

/// A part of the run.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PhasePlan {
    pub name: String,
    pub seconds: f64,
    /// Requests per second; it changes linearly from `rate` to `rate_to`.
    #[serde(default)]
    pub rate: f64,
    pub rate_to: Option<f64>,
    #[serde(default)]
    pub arrivals: Arrivals,
    /// False for a warm-up.
    #[serde(default = "yes")]
    pub measured: bool,
    /// What happens when it begins.
    #[serde(default)]
    pub event: Event,
}

fn yes() -> bool {
    true
}

/// The distribution of requests over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Like many independent users.
    #[default]
    Poisson,
    /// Evenly.
    Constant,
}

/// An event at the beginning of a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    #[default]
    Nothing,
    /// All WebSockets and streams break and reconnect at once.
    DropConnections,
    /// Each user gets one push, at the phase's rate, instead of the mix.
    WakeAll,
    /// The replicas are replaced one by one.
    Rollout,
}

/// A limit that decides whether the run passed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ThresholdPlan {
    /// `push 1`, `pull`, `hydrate`, `wakeup`, `delivery`, `connect`.
    pub operation: String,
    #[serde(flatten)]
    pub limit: LimitPlan,
}

/// The limited value, and its limit.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitPlan {
    P50Ms(f64),
    P99Ms(f64),
    MaxMs(f64),
    /// Failed attempts divided by all.
    ErrorShare(f64),
    /// Minimum number done per second.
    PerSecond(f64),
}

/// The resources of the generator.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneratorPlan {
    pub threads: usize,
    /// Maximum number of requests waiting for answers; further ones wait, and their latency counts from their intended
    /// time.
    pub in_flight: usize,
    /// Maximum time for a request including retries, from its intended time. One that waits longer is not sent.
    pub patience_seconds: f64,
    pub seed: u64,
}

impl Default for GeneratorPlan {
    fn default() -> Self {
        Self { threads: 1, in_flight: 128, patience_seconds: 30.0, seed: 1 }
    }
}

impl Scenario {
    /// Reads and checks a scenario.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
        let scenario: Self = toml::from_str(&text)
            .map_err(|source| ScenarioError::Toml { path: path.to_owned(), source: Box::new(source) })?;
        match scenario.problem() {
            None => Ok(scenario),
            Some(problem) => Err(ScenarioError::Meaning { path: path.to_owned(), problem }),
        }
    }

    /// Makes every phase this many times as long, and every rate this many times as high.
    pub fn scale(&mut self, time: f64, rate: f64) {
        for phase in &mut self.phases {
            phase.seconds *= time;
            phase.rate *= rate;
            phase.rate_to = phase.rate_to.map(|to| to * rate);
        }
    }

    fn problem(&self) -> Option<String> {
        let asks = self.phases.iter().any(|phase| phase.rate > 0.0 && phase.event != Event::WakeAll);
        if self.users.count == 0 || self.users.devices == 0 {
            return Some("there must be at least one user and one device each".to_owned());
        }
        if asks && self.mix.iter().map(|share| share.weight).sum::<f64>() <= 0.0 {
            return Some("a phase has a rate, but [[mix]] has no operations".to_owned());
        }
        if let Some(phase) = self.phases.iter().find(|phase| !(phase.seconds > 0.0 && phase.rate >= 0.0)) {
            return Some(format!("the phase {} needs seconds, and a rate that is not negative", phase.name));
        }
        if self.mix.iter().any(|share| share.operation == Kind::Push && !(1..=10_000).contains(&share.changes)) {
            return Some("a push has 1 to 10,000 changes".to_owned());
        }
        let names: Vec<String> = self.operations();
        let unknown = self.thresholds.iter().find(|threshold| !names.contains(&threshold.operation));
        unknown.map(|it| format!("a threshold is for {:?}; the operations are {}", it.operation, names.join(", ")))
    }

    /// Returns the operations that a run of this scenario can have, in the order of reports.
    pub fn operations(&self) -> Vec<String> {
        let mut names: Vec<String> = self.mix.iter().map(Share::name).collect();
        if self.phases.iter().any(|phase| phase.event == Event::WakeAll) {
            names.push("push 1".to_owned());
        }
        if self.connections.websockets > 0 {
            names.push("wakeup".to_owned());
        }
        if self.connections.streams > 0 {
            names.push("delivery".to_owned());
        }
        if self.connections.websockets + self.connections.streams > 0 {
            names.push("connect".to_owned());
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_of_the_repository_is_one() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let scenario = Scenario::read(&path).unwrap();
            assert_eq!(Some(scenario.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
            names.push(scenario.name);
        }
        assert_eq!(names.len(), 9, "{names:?}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let folder = std::env::temp_dir().join(format!("mana-load-scenario-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let refused = |text: &str| {
            let path = folder.join("it.toml");
            std::fs::write(&path, format!("name = \"it\"\ndescription = \"d\"\n{text}")).unwrap();
            Scenario::read(&path).unwrap_err().to_string()
        };
        assert!(refused("[[phases]]\nname = \"p\"\nseconds = 1\nrate = 5").contains("[[mix]]"));
        assert!(refused("[[phases]]\nname = \"p\"\nseconds = 0").contains("seconds"));
        assert!(refused("phases = []\n[[thresholds]]\noperation = \"pull\"\np99_ms = 5").contains("pull"));
        assert!(refused("phases = []\nlenght = 5").contains("not a scenario"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
