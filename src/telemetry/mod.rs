//! What the outside sees of the inside: logs and metrics.

pub mod logs;
pub mod metrics;

pub use metrics::Metrics;
