//! Metrics.

use clap::Args;

/// Metrics.
#[derive(Args, Clone, Debug)]
pub struct MetricsConfig {
    /// Apps whose pushes are counted separately, comma-separated; all others are counted together as `other`.
    #[arg(long, env, default_value = "", hide_default_value = true, value_delimiter = ',')]
    pub metric_apps: Vec<String>,
}
