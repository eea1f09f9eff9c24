//! What the tests of the fan-out share.

use crate::config::FanoutConfig;
use clap::Parser;

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    fanout: FanoutConfig,
}

/// The settings, as on the command line.
pub(super) fn fanout_config(settings: &[&str]) -> FanoutConfig {
    Settings::parse_from(std::iter::once(&"replica").chain(settings)).fanout
}
