//! Log lines on standard output: JSON for machines, text for people. `RUST_LOG` chooses what is shown.

use crate::config::LogFormat;
use tracing_subscriber::EnvFilter;

/// Sends this process's log to standard output. The first call in a process counts.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    // Only a second call in one process fails, and then the first one's log goes on.
    let _ = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.try_init(),
    };
}
