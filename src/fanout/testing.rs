//! Shared code of the fan-out's tests.

use crate::config::{FanoutConfig, without_environment};

/// Parses settings as on the command line.
pub(super) fn fanout_config(settings: &[&str]) -> FanoutConfig {
    without_environment(settings).unwrap()
}
