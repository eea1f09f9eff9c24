//! The options of a device: what kind of client it is, and where its server is.

use crate::transport::RetryPolicy;

/// The kind of client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Ignores `hasMore` on a push and stores `syncedUntil` for every table.
    #[default]
    IgnoresHasMore,
    /// Continues with empty pushes until `hasMore` is false.
    FollowsHasMore,
    /// Follows `hasMore`, and takes the stored stamps from `adjusted` for its own edits. Nothing may be pulled between
    /// an edit and its push.
    TakesAdjusted,
}

/// The options of a device; [`DeviceOptions::new`] fills in what most tests want.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// The app.
    pub app: String,
    /// Its `clientId`.
    pub client_id: String,
    /// The token.
    pub token: String,
    /// Base URLs; each request goes to a random one.
    pub targets: Vec<String>,
    /// The tables that it pulls.
    pub tables: Vec<String>,
    /// The kind of client.
    pub mode: Mode,
    /// The seed of its random choices.
    pub seed: u64,
    /// Its retries when a request fails.
    pub retry: RetryPolicy,
    /// The fraction of pushes whose first answer is lost, so that they are sent twice.
    pub lost_answers: f64,
    /// Keeps its own stamps as `toISOString` would write them, while sending them as spelled. The rule of existing
    /// clients compares strings, so it only holds for clients that store them in that form.
    pub canonical_stamps: bool,
    /// Reports own changes that come back. Must be off if two devices write equal values with equal stamps.
    pub check_own: bool,
}

impl DeviceOptions {
    /// Creates options for an existing kind of device with default retries that loses no answers.
    pub fn new(app: &str, client_id: &str, token: &str, targets: &[String], tables: &[&str]) -> Self {
        Self {
            app: app.to_owned(),
            client_id: client_id.to_owned(),
            token: token.to_owned(),
            targets: targets.to_vec(),
            tables: tables.iter().map(|&table| table.to_owned()).collect(),
            mode: Mode::default(),
            seed: 0,
            retry: RetryPolicy::default(),
            lost_answers: 0.0,
            canonical_stamps: false,
            check_own: true,
        }
    }
}
