//! Log lines: a replica's on standard output, a command's on standard error; JSON for machines, text for people.
//! `RUST_LOG` selects what is shown.
//!
//! `info` is what a replica does on its own, `warn` is something to look at in working hours, `error` is something that
//! should not happen. Client errors are `debug`: clients must not be able to wake anybody or fill a disk.

use super::formatter::Formatter;
use super::traces::TARGET;
use crate::clock::Clock;
use crate::config::LogFormat;
use opentelemetry_sdk::trace::SdkTracer;
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, FilterExt, ParseError, Targets, filter_fn};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// The filter if RUST_LOG is not set.
const DEFAULT: &str = "info";
/// Our crate, as it appears in targets.
const OURS: &str = "mana_sync";

/// The log filter, which can be changed while the process runs. Clones share it.
#[derive(Clone)]
pub struct LogFilter {
    shown: Arc<Mutex<String>>,
    /// True if other crates' details are hidden, whatever the filter says.
    ours_alone: Arc<AtomicBool>,
    replace: Arc<dyn Fn(EnvFilter) -> bool + Send + Sync>,
}

/// The reason that the filter was not changed.
#[derive(Debug, thiserror::Error)]
pub enum LogFilterError {
    /// The text is not a valid RUST_LOG filter.
    #[error("this is not a filter in the form of RUST_LOG, such as info or info,mana_sync::store=debug")]
    Unreadable(#[source] Option<ParseError>),
    /// The log filter of this process cannot be changed.
    #[error("the log filter of this process cannot be changed")]
    Fixed,
}

impl LogFilter {
    /// Returns the current filter, in RUST_LOG syntax.
    pub fn shown(&self) -> String {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the filter to this one, in RUST_LOG syntax, but shows nothing below `info` from other crates. Those log
    /// messages as they arrive, with tokens and users' data, which only somebody who can start the process may see.
    pub fn set(&self, filter: &str) -> Result<(), LogFilterError> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let parsed = check(filter)?;
        self.ours_alone.store(true, Ordering::Relaxed);
        if !(self.replace)(parsed) {
            return Err(LogFilterError::Fixed);
        }
        filter.clone_into(&mut shown);
        Ok(())
    }
}

impl std::fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogFilter").field(&self.shown()).finish()
    }
}

/// Parses a filter. A word that is not a level would be taken for a target and silence the log, so it is an error.
pub fn check(filter: &str) -> Result<EnvFilter, LogFilterError> {
    let names_level = |part: &str| {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level).trim();
        !level.is_empty() && level.parse::<LevelFilter>().is_ok()
    };
    if !filter.split(',').all(names_level) {
        return Err(LogFilterError::Unreadable(None));
    }
    EnvFilter::builder().parse(filter).map_err(|error| LogFilterError::Unreadable(Some(error)))
}

/// Rewrites RUST_LOG for [`check`]: drops empty parts, and sets bare targets of our crate to `trace`.
fn written_out(setting: &str) -> String {
    let parts = setting.split(',').map(str::trim).filter(|part| !part.is_empty());
    let is_ours = |part: &str| part.strip_prefix(OURS).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let part =
        |part: &str| if is_ours(part) && !part.contains('=') { format!("{part}=trace") } else { part.to_owned() };
    parts.map(part).collect::<Vec<_>>().join(",")
}

/// Returns the initial filter, and the error in RUST_LOG if that is why it is the default. An empty RUST_LOG counts as
/// unset.
fn at_start(setting: Option<&OsStr>) -> (EnvFilter, Option<LogFilterError>) {
    let default = || EnvFilter::new(DEFAULT);
    let Some(setting) = setting.filter(|setting| !setting.is_empty()) else { return (default(), None) };
    match setting.to_str() {
        Some(text) if text.trim().is_empty() => (default(), None),
        Some(text) => check(&written_out(text)).map_or_else(|error| (default(), Some(error)), |filter| (filter, None)),
        None => (default(), Some(LogFilterError::Unreadable(None))),
    }
}

/// Logs to standard error, as text, for a command: its standard output carries its results, which programs read. Only
/// the first call in a process has an effect.
pub fn init_for_command() {
    let formatter = Formatter { format: LogFormat::Text, clock: Clock::system() };
    init_with(formatter, None, BoxMakeWriter::new(io::stderr), io::stderr().is_terminal());
}

/// Logs to standard output for a replica, and sends spans to a tracer.
pub(super) fn init(format: LogFormat, tracer: Option<SdkTracer>, clock: Clock) -> LogFilter {
    init_with(Formatter { format, clock }, tracer, BoxMakeWriter::new(io::stdout), io::stdout().is_terminal())
}

#[expect(
    clippy::disallowed_methods,
    reason = "logging starts before the settings are read, and RUST_LOG and CLICOLOR_FORCE are not among them"
)]
fn init_with(formatter: Formatter, tracer: Option<SdkTracer>, to: BoxMakeWriter, is_terminal: bool) -> LogFilter {
    let (chosen, problem) = at_start(std::env::var_os(EnvFilter::DEFAULT_ENV).as_deref());
    let shown = chosen.to_string();
    let (chosen, handle) = reload::Layer::new(chosen);
    let ours_alone = Arc::new(AtomicBool::new(false));
    let is_capped = ours_alone.clone();
    // The filter is consulted again for every callsite whenever it is replaced.
    let is_shown = move |metadata: &Metadata<'_>| {
        let is_detail = *metadata.level() > LevelFilter::INFO && !metadata.target().starts_with(OURS);
        metadata.target() != TARGET && !(is_detail && is_capped.load(Ordering::Relaxed))
    };
    // Tracer spans do not appear in the log, and log events do not appear in traces.
    let lines = tracing_subscriber::fmt::layer().event_format(formatter).with_writer(to);
    // Colors are for terminals, and for programs that show a replica's output on theirs. NO_COLOR is heeded by the layer.
    let is_asked_for = std::env::var_os("CLICOLOR_FORCE").is_some_and(|set| !set.is_empty() && set != "0");
    let lines = if is_terminal || is_asked_for { lines } else { lines.with_ansi(false) };
    let lines = lines.with_filter(chosen.and(filter_fn(is_shown)));
    let traces = tracer.map(|tracer| {
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(TARGET, LevelFilter::INFO))
    });
    // Only a second call in one process fails, and then the first one's log stays in place.
    let _ = tracing_subscriber::registry().with(traces).with(lines).try_init();
    if let Some(problem) = problem {
        tracing::warn!(
            error = &problem as &dyn std::error::Error,
            "RUST_LOG is invalid and ignored; the filter is {DEFAULT}"
        );
    }
    let (shown, replace) = (Arc::new(Mutex::new(shown)), Arc::new(move |filter| handle.reload(filter).is_ok()));
    LogFilter { shown, ours_alone, replace }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_name_no_level_do_not_silence_the_log() {
        for readable in ["info", "WARN", "info,mana_sync::store=debug", " info , mana_sync=debug,", "mana_sync", "off"]
        {
            assert!(at_start(Some(OsStr::new(readable))).1.is_none(), "{readable:?}");
        }
        assert_eq!(at_start(Some(OsStr::new("info, mana_sync=debug,"))).0.to_string(), "mana_sync=debug,info");
        for unset in [None, Some(""), Some(" ")] {
            let (filter, problem) = at_start(unset.map(OsStr::new));
            assert!(filter.to_string() == DEFAULT && problem.is_none(), "{unset:?}");
        }
        for wrong in ["warning", "verbose", "info,loud", "mana_sync=loud", "mana_sync=", "mana_syncs", "a=[[", ","] {
            let (filter, problem) = at_start(Some(OsStr::new(wrong)));
            assert!(filter.to_string() == DEFAULT && problem.is_some(), "{wrong:?}");
        }
    }
}
