//! The other replicas, as far as they were heard.

use super::super::dates::Dates;
use super::message::Replica;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Periods of silence after which a replica is gone.
const SILENCE: u32 = 3;
/// Or the time since its next report was due, if periods are long: more than a report may be held up
/// ([`crate::fanout::rate`]) and sending takes.
const GRACE: Duration = Duration::from_secs(4);

#[derive(Debug, Default)]
pub(super) struct State {
    /// All other replicas.
    pub(super) others: HashMap<String, Other>,
    /// Those that are gone, and since when.
    pub(super) gone: HashMap<String, (Other, Instant)>,
    /// Dates messages.
    pub(super) dates: Dates,
    /// When this one last sent a message.
    pub(super) said: Option<Instant>,
    /// The date of that message, to recognise it.
    pub(super) said_at: u64,
    pub(super) said_draining: bool,
    /// When it last looked for silent replicas.
    pub(super) looked: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Other {
    pub(super) replica: Replica,
    pub(super) at: u64,
    /// If silent until then, it is gone.
    pub(super) until: Instant,
    pub(super) silence: Duration,
}

impl State {
    /// Returns when a replica of this name was last heard, or as good as heard.
    pub(super) fn last_heard(&self, name: &str) -> Option<Instant> {
        let all = self.others.values().chain(self.gone.values().map(|(other, _)| other));
        all.filter(|other| other.replica.name == name).filter_map(|other| other.until.checked_sub(other.silence)).max()
    }
}

/// Returns how long a replica with this period may be silent before it is gone.
pub(super) fn silence_of(every: Duration) -> Duration {
    (every * SILENCE).min(every + GRACE)
}
