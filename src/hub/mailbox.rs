//! A mailbox for the wake-ups of one session. They merge, and long lists are shared, so a slow reader costs no more
//! than a fast one (G6).

use super::merges::Merges;
use super::pending_tables::PendingTables;
use super::session::SessionState;
use crate::clock::Clock;
use crate::fanout::Wakeup;
use crate::fanout::tables::{NAME_BYTES, Tables};
use crate::mail_budget::MailCharge;
use crate::telemetry::metrics::SSE;
use crate::telemetry::traces;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Span;

/// Maximum size of the app and table names that wait for a reader, in bytes: enough for those of the largest push, and
/// more. A reader that is further behind is told to start over.
const MAX_WAITING: usize = 512 << 10;
/// Bytes of names that are covered by the fixed cost of a session. More are charged to its user.
const FREE: usize = 4 << 10;
/// A message of more names is made of one list, in bytes.
const LONG: usize = 16 << 10;
/// Maximum number of traced deliveries that wait for a reader. The spans of others end when they enter the mailbox.
const MAX_DELIVERIES: usize = 8;

/// Selects the wake-ups that a session is interested in.
#[derive(Clone, Debug, Default)]
pub struct Interest {
    /// Only this app; `None` means all.
    pub app: Option<Arc<str>>,
    /// Only changes to these tables; `None` means all.
    pub tables: Option<BTreeSet<String>>,
    /// The device whose own changes need no wake-up.
    pub client: Option<Arc<str>>,
}

/// The contents of a mailbox.
#[derive(Debug, PartialEq, Eq)]
pub enum Mail {
    /// Apps, and their tables that changed.
    Changed(BTreeMap<Arc<str>, PendingTables>),
    /// More than the mailbox, or its user, may hold: nothing of it was kept.
    Overflow,
    /// The session is to end, so that its client reconnects elsewhere. No mail follows.
    Close,
}

/// The wake-ups of one session.
#[derive(Debug)]
pub struct Mailbox {
    state: Mutex<State>,
    filled: Notify,
    joined: Instant,
    /// The session's app, if it is interested in only one.
    app: Option<Arc<str>>,
    pub(super) session: SessionState,
}

#[derive(Debug)]
struct State {
    interest: Interest,
    waiting: BTreeMap<Arc<str>, PendingTables>,
    /// Size of the waiting mail in bytes, as if nothing of it were shared.
    bytes: usize,
    /// Bytes of it that a greeting added beyond the bound.
    excused: usize,
    /// The merged lists of its user, with the account for them, and the charge for everything that is not shared.
    merges: Arc<Merges>,
    charge: Option<MailCharge>,
    /// True after an overflow: nothing is kept until the session has been told.
    is_behind: bool,
    /// The traced deliveries among the waiting mail.
    deliveries: Vec<Span>,
    /// One of the deliveries taken last.
    delivery: Option<Box<Span>>,
    /// True if the session is to end.
    closing: bool,
    /// The position up to which a greeting has covered each app's log.
    greeted: BTreeMap<Arc<str>, i64>,
}

impl Mailbox {
    /// Creates the empty mailbox of a new session.
    pub(super) fn new(
        interest: Interest,
        merges: Arc<Merges>,
        transport: Option<&'static str>,
        clock: Clock,
    ) -> Mailbox {
        let (waiting, greeted, app) = (BTreeMap::new(), BTreeMap::new(), interest.app.clone());
        let state = State {
            interest,
            waiting,
            bytes: 0,
            excused: 0,
            merges,
            charge: None,
            is_behind: false,
            deliveries: Vec::new(),
            delivery: None,
            closing: false,
            greeted,
        };
        Mailbox {
            state: Mutex::new(state),
            filled: Notify::new(),
            joined: Instant::now(),
            app,
            session: SessionState::new(transport, clock),
        }
    }

    /// When the session joined.
    pub(super) fn joined(&self) -> Instant {
        self.joined
    }

    /// The session's app if it is interested in only one; none if it is interested in all.
    pub(super) fn app(&self) -> Option<&Arc<str>> {
        self.app.as_ref()
    }

    /// Tells the session to end; false if it has been told already.
    pub(super) fn close(&self) -> bool {
        let told = !std::mem::replace(&mut self.state().closing, true);
        if told {
            self.filled.notify_one();
        }
        told
    }

    pub(super) fn is_closing(&self) -> bool {
        self.state().closing
    }

    /// Sets the device that the mailbox belongs to.
    pub fn set_client(&self, client: Option<Arc<str>>) {
        self.state().interest.client = client;
    }

    pub(super) fn interest(&self) -> Interest {
        self.state().interest.clone()
    }

    /// Adds a wake-up if the session is interested in it, and returns whether it is. If the wake-up is traced, the
    /// current span is its delivery, and ends for this session when the session takes its mail.
    pub fn deliver(&self, wakeup: &Wakeup) -> bool {
        let cares = self.state().add(wakeup);
        if cares {
            self.filled.notify_one();
        }
        cares
    }

    /// Adds what was stored before the session began, up to the ends of these ranges: wake-ups that announce no more
    /// than that are no longer delivered.
    pub fn greet(&self, recent: &[Wakeup]) {
        let cares = self.state().greet(recent);
        if cares {
            self.filled.notify_one();
        }
    }

    /// True if there is mail.
    pub fn is_filled(&self) -> bool {
        !self.state().is_empty()
    }

    /// Waits until there is mail.
    pub async fn filled(&self) {
        while self.state().is_empty() {
            self.filled.notified().await;
        }
    }

    /// Approximate size of the mail in bytes.
    pub fn bytes(&self) -> usize {
        self.state().bytes
    }

    /// Waits until there is mail, and takes all of it. Cancel safe.
    pub async fn take(&self) -> Mail {
        loop {
            if let Some(mail) = self.take_now() {
                return mail;
            }
            self.filled().await;
        }
    }

    /// Takes all mail; none if there is none.
    pub fn take_now(&self) -> Option<Mail> {
        let (mail, delivery) = {
            let mut state = self.state();
            // Holding a delivery keeps its span from ending: only a stream does further work because of it.
            (state.take(), state.delivery.take_if(|_| self.session.transport != Some(SSE)))
        };
        drop(delivery);
        if mail.is_some() {
            self.session.note_woken();
        }
        mail
    }

    /// Returns one of the traced deliveries taken last, as the cause of subsequent work; only once.
    pub fn delivery(&self) -> Span {
        self.state().delivery.take().map_or_else(Span::none, |delivery| *delivery)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && !self.is_behind && !self.closing
    }

    fn greet(&mut self, recent: &[Wakeup]) -> bool {
        let is_full = self.stays_full();
        let mut cares = false;
        for wakeup in recent {
            cares |= self.add(wakeup);
            if !is_full {
                // A session that has only just joined is not behind: told to start over, it would end up here again.
                // What it is told at once is bounded.
                self.excused = self.bytes.saturating_sub(MAX_WAITING);
            }
        }
        let interest = &self.interest;
        let heard_of = |wakeup: &&Wakeup| interest.app.as_ref().is_none_or(|app| *app == wakeup.app);
        self.greeted.extend(recent.iter().filter(heard_of).map(|wakeup| (wakeup.app.clone(), wakeup.last())));
        cares
    }

    /// True if more is waiting than is kept.
    fn is_full(&self) -> bool {
        self.bytes.saturating_sub(self.excused) > MAX_WAITING
    }

    /// True if that is so even with each name counted once, or if its user has no room for that.
    fn stays_full(&mut self) -> bool {
        self.is_full() && (!self.fold() || self.is_full())
    }

    /// Keeps names that are in several lists only once; false if the user has no room for it.
    fn fold(&mut self) -> bool {
        if !self.waiting.values_mut().all(|tables| tables.fold(&self.merges)) {
            return false;
        }
        let of_apps: usize = self.waiting.keys().map(|app| app.len() + NAME_BYTES).sum();
        self.bytes = of_apps + self.waiting.values().map(PendingTables::bytes).sum::<usize>();
        self.excused = self.excused.min(self.bytes.saturating_sub(MAX_WAITING));
        let own_bytes = self.waiting.values().map(PendingTables::own_bytes).sum();
        self.charge.as_mut().is_none_or(|charge| charge.set(own_bytes))
    }

    /// Drops everything that waits: the session is told that it is behind.
    fn overflow(&mut self) {
        self.is_behind = true;
        self.clear();
    }

    fn clear(&mut self) -> BTreeMap<Arc<str>, PendingTables> {
        (self.bytes, self.excused, self.charge) = (0, 0, None);
        std::mem::take(&mut self.waiting)
    }

    /// True if the greeting has covered everything that this announces.
    fn greeting_covers(&mut self, wakeup: &Wakeup) -> bool {
        let Some(watermark) = self.greeted.get(&wakeup.app) else { return false };
        if wakeup.last() <= *watermark {
            return !wakeup.ranges.is_empty();
        }
        self.greeted.remove(&wakeup.app);
        false
    }

    fn add(&mut self, wakeup: &Wakeup) -> bool {
        if self.greeting_covers(wakeup) {
            // It is interested, and has been woken already.
            return wakeup.client.is_none() || self.interest.client != wakeup.client;
        }
        let interest = &self.interest;
        let other_app = interest.app.as_ref().is_some_and(|app| *app != wakeup.app);
        let own = wakeup.client.is_some() && interest.client == wakeup.client;
        if other_app || own {
            return false;
        }
        let Some(tables) = wakeup.tables.as_ref().filter(|tables| !tables.is_empty()) else { return false };
        let names = interest.tables.as_ref().map(|wanted| cared_for(wanted, tables));
        if names.as_ref().is_some_and(Vec::is_empty) || self.is_behind {
            return false;
        }
        if self.stays_full() || !self.keep(&wakeup.app, tables, names) {
            self.overflow();
        }
        if !wakeup.pushes.is_empty() && self.deliveries.len() < MAX_DELIVERIES {
            self.deliveries.push(Span::current());
        }
        true
    }

    /// Keeps these tables of an app, or the names of interest among them; false if its user has no room.
    fn keep(&mut self, app: &Arc<str>, tables: &Tables, names: Option<Vec<&Arc<str>>>) -> bool {
        if names.is_none() && !tables.charge(self.merges.mail()) {
            return false;
        }
        let waiting = match self.waiting.get_mut(app) {
            Some(waiting) => waiting,
            None => {
                self.bytes += app.len() + NAME_BYTES;
                self.waiting.entry(app.clone()).or_default()
            }
        };
        let (bytes, own_bytes) = (waiting.bytes(), waiting.own_bytes());
        match names {
            Some(names) => names.into_iter().for_each(|name| waiting.insert(name)),
            None if !waiting.add(tables, &self.merges) => return false,
            None => {}
        }
        self.bytes = (self.bytes + waiting.bytes()).saturating_sub(bytes);
        let own_bytes = waiting.own_bytes() - own_bytes;
        own_bytes == 0 || self.bytes <= FREE || self.charge(own_bytes)
    }

    fn charge(&mut self, more: usize) -> bool {
        match &mut self.charge {
            Some(charge) => charge.grow(more),
            None => {
                self.charge = self.merges.mail().charge(more);
                self.charge.is_some()
            }
        }
    }

    fn take(&mut self) -> Option<Mail> {
        if self.closing {
            return Some(Mail::Close);
        }
        if self.waiting.is_empty() && !self.is_behind {
            return None;
        }
        // The session's message is made of it: what is long is merged, and encoded, once for all sessions.
        if self.bytes > LONG {
            self.fold();
        }
        let behind = self.is_full() | std::mem::take(&mut self.is_behind);
        let waiting = self.clear();
        let deliveries = std::mem::take(&mut self.deliveries);
        // Boxed: few are traced.
        self.delivery = deliveries.last().cloned().map(Box::new);
        traces::taken(deliveries);
        Some(if behind { Mail::Overflow } else { Mail::Changed(waiting) })
    }
}

/// Returns the wanted tables in a list. Looks up the shorter list in the longer one.
fn cared_for<'a>(wanted: &BTreeSet<String>, tables: &'a Tables) -> Vec<&'a Arc<str>> {
    if wanted.len() < tables.len() {
        wanted.iter().filter_map(|table| tables.find(table)).collect()
    } else {
        tables.iter().filter(|table| wanted.contains(&***table)).collect()
    }
}
