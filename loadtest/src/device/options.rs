//! What kind of client a device is, and where it finds its server.

use crate::transport::RetryPolicy;

/// Which kind of client the device is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Ignores `hasMore` on a push and stores `syncedUntil` for every table.
    #[default]
    IgnoresHasMore,
    /// Goes on with empty pushes until `hasMore` is false.
    FollowsHasMore,
    /// Follows `hasMore`, and takes the stored stamps of `adjusted` for its own edits. Nothing may be pulled between
    /// an edit and its push.
    TakesAdjusted,
}

/// How a device is made; [`DeviceOptions::new`] fills in what most tests want.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// The app.
    pub app: String,
    /// What it is called: `clientId`.
    pub client_id: String,
    /// The token.
    pub token: String,
    /// Base URLs; each request goes to a random one.
    pub targets: Vec<String>,
    /// The tables that it pulls.
    pub tables: Vec<String>,
    /// Which kind of client it is.
    pub mode: Mode,
    /// Draws its choices.
    pub seed: u64,
    /// What it does when a request fails.
    pub retry: RetryPolicy,
    /// The share of pushes whose first answer is lost, so that they are sent twice.
    pub lost_answers: f64,
    /// Keep own stamps as `toISOString` would write them, while sending them as spelled. The rule of existing clients
    /// compares strings, so it holds only for clients that spell them that way at home.
    pub canonical_stamps: bool,
    /// Complain of own changes that come back. Leave it out where two devices write equal values at equal stamps.
    pub check_own: bool,
}

impl DeviceOptions {
    /// A device of today's kind with default retries, that loses no answers.
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
