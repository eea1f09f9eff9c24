//! How many pushes wait, and how many may.

use crate::protocol::UserKey;
use prometheus::IntGauge;
use std::collections::HashMap;

/// Maximum number of waiting pushes, in total and per user.
const MAX_WAITING: usize = 20_000;
pub(super) const MAX_WAITING_OF_USER: usize = MAX_WAITING / 8;

/// Counts of waiting pushes.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) all: usize,
    /// The count of each user who has any.
    pub(super) of_users: HashMap<UserKey, usize>,
    /// Those of all queues of this process.
    pub(super) gauge: IntGauge,
}

impl Waiting {
    pub(super) fn new(gauge: IntGauge) -> Waiting {
        Waiting { all: 0, of_users: HashMap::new(), gauge }
    }

    pub(super) fn has_room(&self, user: UserKey) -> bool {
        self.all < MAX_WAITING && self.of_users.get(&user).is_none_or(|count| *count < MAX_WAITING_OF_USER)
    }

    pub(super) fn add(&mut self, user: UserKey) {
        self.all += 1;
        self.gauge.inc();
        *self.of_users.entry(user).or_default() += 1;
    }

    pub(super) fn remove(&mut self, user: UserKey) {
        self.all -= 1;
        self.gauge.dec();
        if let Some(count) = self.of_users.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                self.of_users.remove(&user);
            }
        }
    }
}
