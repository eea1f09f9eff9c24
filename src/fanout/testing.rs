//! What the tests of the fan-out share.

use crate::config::{FanoutConfig, without_environment};

/// The settings, as on the command line.
pub(super) fn fanout_config(settings: &[&str]) -> FanoutConfig {
    without_environment(settings).unwrap()
}
