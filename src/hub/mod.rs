//! The sessions of this replica, by user. Does no I/O.
//!
//! A wake-up reaches every session of its user that is interested (G4), and no other user's (G5): the user's key is the
//! only way in. For each user the hub also keeps the position up to which each log has been announced, so that the
//! reconciler can tell what was missed. All of it is dropped with the user's last session.

mod connected;
mod devices;
mod inspect;
mod mailbox;
mod merges;
mod pending_tables;
mod session;
mod watermarks;

pub use devices::{DeviceRead, DeviceReads};
pub use mailbox::{Interest, Mail, Mailbox};
pub use pending_tables::PendingTables;
pub use session::{SessionInfo, SessionState};

use crate::clock::Clock;
use crate::fanout::{IsConnected, Listening, SessionRegistry, Wakeup};
use crate::mail_budget::{MailBudget, MailCharge, UserMail};
use crate::protocol::UserKey;
use crate::store::Head;
use crate::telemetry::{Metrics, traces};
use connected::Connected;
use merges::Merges;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;
use watermarks::Watermarks;

/// Number of locks that sessions are spread over.
const SHARDS: usize = 64;

/// All sessions of this replica.
#[derive(Debug)]
pub struct Hub {
    shards: Vec<Mutex<HashMap<UserKey, User>>>,
    /// All users of all shards. Only changed while the user's shard is locked.
    connected: Connected,
    mail: MailBudget,
    names: MailBudget,
    metrics: Arc<Metrics>,
    clock: Clock,
}

#[derive(Debug)]
struct User {
    merges: Arc<Merges>,
    /// Charged for the names that the user's streams request.
    names: UserMail,
    mailboxes: Vec<Arc<Mailbox>>,
    /// The number of mailboxes that belong to WebSockets and streams.
    sessions: usize,
    watermarks: Watermarks,
}

/// A session's place in the hub; released when dropped.
#[derive(Debug)]
pub struct Membership {
    hub: Arc<Hub>,
    user: UserKey,
    mailbox: Arc<Mailbox>,
    /// `None`: not a session, but a request that waits.
    transport: Option<&'static str>,
}

impl Hub {
    /// Creates a hub without sessions.
    pub fn new(metrics: Arc<Metrics>, clock: Clock) -> Hub {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let (mail, names) = (metrics.mailbox_bytes.clone(), metrics.stream_name_bytes.clone());
        let (mail, names) = (MailBudget::new(mail), MailBudget::new(names));
        Hub { shards, connected: Connected::default(), mail, names, metrics, clock }
    }

    /// Adds a session. From now on its mailbox gets the wake-ups it is interested in.
    pub fn join(self: &Arc<Hub>, user: UserKey, interest: Interest, transport: &'static str) -> Membership {
        self.metrics.connections.inc();
        self.metrics.sessions.with_label_values(&[transport]).inc();
        self.enter(user, interest, Some(transport))
    }

    /// Like [`join`](Self::join), for a request that waits a moment for something to be stored. It does not count as a
    /// session.
    pub fn wait(self: &Arc<Hub>, user: UserKey, interest: Interest) -> Membership {
        self.enter(user, interest, None)
    }

    fn enter(self: &Arc<Hub>, user: UserKey, interest: Interest, transport: Option<&'static str>) -> Membership {
        let mut users = self.shard(user);
        let entry = users.entry(user).or_insert_with(|| {
            self.connected.add(user);
            User::new(self.mail.user(), self.names.user())
        });
        let mailbox = Arc::new(Mailbox::new(interest, entry.merges.clone(), transport, self.clock.clone()));
        entry.mailboxes.push(mailbox.clone());
        if transport.is_some() {
            entry.sessions += 1;
            if entry.sessions == 1 {
                self.metrics.users.inc();
            }
        }
        Membership { hub: self.clone(), user, mailbox, transport }
    }

    /// Tells up to `count` sessions to end, oldest first, so that their clients reconnect elsewhere; returns how many
    /// there were. `may`: whether one that joined at that moment may be told.
    pub fn close_oldest(&self, count: usize, may: impl Fn(Instant) -> bool) -> usize {
        let mut oldest: Vec<(Instant, Arc<Mailbox>)> = Vec::new();
        for shard in &self.shards {
            let users = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let sessions = users.values().flat_map(|user| &user.mailboxes);
            let due = sessions.filter(|mailbox| may(mailbox.joined()) && !mailbox.is_closing());
            oldest.extend(due.map(|mailbox| (mailbox.joined(), mailbox.clone())));
        }
        if oldest.len() > count {
            oldest.select_nth_unstable_by_key(count, |(joined, _)| *joined);
            oldest.truncate(count);
        }
        oldest.into_iter().filter(|(_, mailbox)| mailbox.close()).count()
    }

    fn shard(&self, user: UserKey) -> MutexGuard<'_, HashMap<UserKey, User>> {
        let shard = user.0.as_u128() as usize % SHARDS;
        // Every change to a shard is complete before the lock is released: a panic leaves nothing half done.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, membership: &Membership) {
        let mut users = self.shard(membership.user);
        let Some(user) = users.get_mut(&membership.user) else { return };
        user.mailboxes.retain(|mailbox| !Arc::ptr_eq(mailbox, &membership.mailbox));
        if let Some(transport) = membership.transport {
            user.sessions -= 1;
            if user.sessions == 0 {
                self.metrics.users.dec();
            }
            self.metrics.connections.dec();
            self.metrics.sessions.with_label_values(&[transport]).dec();
        }
        if user.mailboxes.is_empty() {
            users.remove(&membership.user);
            self.connected.remove(membership.user);
        }
    }
}

impl User {
    fn new(mail: UserMail, names: UserMail) -> User {
        let merges = Arc::new(Merges::new(mail));
        User { merges, names, mailboxes: Vec::new(), sessions: 0, watermarks: Watermarks::default() }
    }

    /// Adds what the user's sessions listen to: all apps, or each app once.
    fn add_listening(&self, user: UserKey, all: &mut Vec<Listening>) {
        let mut apps: Vec<&Arc<str>> = Vec::new();
        for mailbox in &self.mailboxes {
            match mailbox.app() {
                Some(app) => apps.push(app),
                None => return all.push(Listening { user, app: None }),
            }
        }
        apps.sort_unstable();
        apps.dedup();
        all.extend(apps.into_iter().map(|app| Listening { user, app: Some(app.clone()) }));
    }
}

impl Membership {
    /// The session's mailbox.
    pub fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// The session's state, which operators can see and close.
    pub fn session(&self) -> &SessionState {
        &self.mailbox.session
    }

    /// Charges the user for the names that the session keeps, in bytes; none if there is no room for them.
    pub fn charge_names(&self, bytes: usize) -> Option<MailCharge> {
        self.hub.shard(self.user).get(&self.user)?.names.charge(bytes)
    }

    /// Returns the number of this user's sessions here, including this one.
    pub fn sessions_of_user(&self) -> usize {
        self.hub.shard(self.user).get(&self.user).map_or(0, |user| user.sessions)
    }

    /// True if the positions of this user's logs are known, so that nothing stored from now on is missed.
    pub fn has_begun(&self) -> bool {
        self.hub.shard(self.user).get(&self.user).is_some_and(|user| user.watermarks.has_begun())
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.hub.leave(self);
    }
}

impl SessionRegistry for Hub {
    fn announce(&self, wakeup: &Wakeup) {
        if let Some(user) = self.shard(wakeup.user).get_mut(&wakeup.user) {
            user.watermarks.note(&wakeup.app, &wakeup.ranges);
            let woken = user.mailboxes.iter().filter(|mailbox| mailbox.deliver(wakeup)).count();
            if !wakeup.pushes.is_empty() {
                traces::woken(woken);
            }
        }
    }

    fn is_connected(&self, user: UserKey) -> bool {
        self.connected.has(user)
    }

    fn with_connected(&self, ask: &mut dyn FnMut(IsConnected<'_>)) {
        self.connected.with(ask);
    }

    fn listening(&self) -> Vec<Listening> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let users = shard.lock().unwrap_or_else(PoisonError::into_inner);
            users.iter().for_each(|(key, user)| user.add_listening(*key, &mut all));
        }
        all
    }

    fn listening_of(&self, user: UserKey) -> Vec<Listening> {
        let mut all = Vec::new();
        self.shard(user).get(&user).iter().for_each(|of_user| of_user.add_listening(user, &mut all));
        all
    }

    fn begin(&self, user: UserKey, heads: &[Head], others: i64) {
        if let Some(user) = self.shard(user).get_mut(&user) {
            user.watermarks.begin(heads.iter().map(|head| (head.app.as_str(), head.at)), others);
        }
    }

    fn announced_before(&self, user: UserKey, app: &str, head: i64) -> Option<i64> {
        self.shard(user).get(&user)?.watermarks.before(app, head)
    }

    fn watermark(&self, user: UserKey, app: &str) -> Option<i64> {
        self.shard(user).get(&user)?.watermarks.of(app)
    }

    fn forget(&self, user: UserKey, app: &str) {
        if let Some(user) = self.shard(user).get_mut(&user) {
            user.watermarks.forget(app);
        }
    }
}

#[cfg(test)]
mod tests;
