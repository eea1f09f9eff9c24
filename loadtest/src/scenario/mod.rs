//! Scenarios: load with a timeline, and a verdict at the end.
//!
//! ```text
//! file (TOML) ─► run ─► arrivals: when each request is meant to be sent, on a thread of its own
//!                 │        └─► worker: does it, and notes in the population what was acknowledged
//!                 ├─► listeners: WebSockets and streams that stay, break and come back
//!                 ├─► rollout: replicas replaced under way
//!                 └─► verify, thresholds ─► report::Report
//! ```
//! Every push has a number, which is in the ids of its records: so everything that anybody reads can be compared with
//! what was acknowledged.

pub(crate) mod arrivals;
pub(crate) mod file;
pub(crate) mod history;
pub(crate) mod listeners;
pub mod population;
pub mod rollout;
mod run;
pub(crate) mod thresholds;
pub(crate) mod verify;
pub(crate) mod worker;

pub use file::{Scenario, ScenarioError};
pub use run::{RunError, RunOptions, run};
