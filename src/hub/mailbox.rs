//! Where one session's wake-ups wait. They merge, so a slow reader costs the same as a fast one (G6).

use super::session::SessionState;
use crate::clock::Clock;
use crate::fanout::Wakeup;
use crate::telemetry::metrics::SSE;
use crate::telemetry::traces;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Span;

/// Bytes that the names of apps and tables may take which wait for a reader: room for those of the largest push, and
/// more. One that is further behind is told to start over.
const MAX_WAITING: usize = 512 << 10;
/// What a name takes beside its letters, in bytes, about.
const NAME_BYTES: usize = 48;
/// Traced deliveries that may wait for a reader. Further ones end when they are put into the mailbox.
const MAX_DELIVERIES: usize = 8;

/// Which wake-ups a session cares for.
#[derive(Clone, Debug, Default)]
pub struct Interest {
    /// This app's only; none means all.
    pub app: Option<Arc<str>>,
    /// Those in which one of these tables changed; none means all.
    pub tables: Option<BTreeSet<String>>,
    /// The device whose own changes need no waking.
    pub client: Option<Arc<str>>,
}

/// What waits in a mailbox.
#[derive(Debug, PartialEq, Eq)]
pub enum Mail {
    /// Apps, and the tables in them that changed.
    Changed(BTreeMap<Arc<str>, BTreeSet<Arc<str>>>),
    /// More than the mailbox keeps: nothing of it was kept.
    Overflow,
    /// The session is to end, so that its client comes back elsewhere. There is no other mail after that.
    Close,
}

/// One session's wake-ups.
#[derive(Debug)]
pub struct Mailbox {
    state: Mutex<State>,
    filled: Notify,
    joined: Instant,
    pub(super) session: SessionState,
}

#[derive(Debug)]
struct State {
    interest: Interest,
    waiting: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Bytes that it takes.
    bytes: usize,
    /// How many of them a greeting added beyond the bound.
    excused: usize,
    /// The traced ones among what waits.
    deliveries: Vec<Span>,
    /// One of those that were taken last.
    delivery: Option<Span>,
    /// Whether the session is to end.
    closing: bool,
    /// Apps, and up to where a greeting has told of their logs.
    told: BTreeMap<Arc<str>, i64>,
}

impl Mailbox {
    /// An empty mailbox, of a session that has just come.
    pub fn new(interest: Interest, transport: Option<&'static str>, clock: Clock) -> Mailbox {
        let (waiting, told) = (BTreeMap::new(), BTreeMap::new());
        let state = State {
            interest,
            waiting,
            bytes: 0,
            excused: 0,
            deliveries: Vec::new(),
            delivery: None,
            closing: false,
            told,
        };
        Mailbox {
            state: Mutex::new(state),
            filled: Notify::new(),
            joined: Instant::now(),
            session: SessionState::new(transport, clock),
        }
    }

    /// When the session joined.
    pub(super) fn joined(&self) -> Instant {
        self.joined
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

    /// Makes the mailbox one of this device.
    pub fn set_client(&self, client: Option<Arc<str>>) {
        self.state().interest.client = client;
    }

    pub(super) fn interest(&self) -> Interest {
        self.state().interest.clone()
    }

    /// Adds a wake-up, if the session cares for it; says whether it does. If the wake-up is traced, the current
    /// span is its delivery, and ends for this session when the session takes its mail.
    pub fn deliver(&self, wakeup: &Wakeup) -> bool {
        let cares = self.state().add(wakeup);
        if cares {
            self.filled.notify_one();
        }
        cares
    }

    /// Adds what was stored before the session came, and everything up to the ends of these ranges: what announces
    /// no more than that is not delivered any more.
    pub fn greet(&self, recent: &[Wakeup]) {
        let cares = self.state().greet(recent);
        if cares {
            self.filled.notify_one();
        }
    }

    /// Waits until there is mail.
    pub async fn filled(&self) {
        while self.state().is_empty() {
            self.filled.notified().await;
        }
    }

    /// About how many bytes of mail there are.
    pub fn bytes(&self) -> usize {
        self.state().bytes
    }

    /// Waits until there is mail, and takes all of it. Nothing is lost if the wait is given up.
    pub async fn take(&self) -> Mail {
        loop {
            let (mail, delivery) = {
                let mut state = self.state();
                // Whoever keeps a delivery keeps its span from ending: only a stream goes on with something because of it.
                (state.take(), state.delivery.take_if(|_| self.session.transport != Some(SSE)))
            };
            drop(delivery);
            if let Some(mail) = mail {
                self.session.note_woken();
                return mail;
            }
            self.filled().await;
        }
    }

    /// One of the traced deliveries that were taken last, for what is done because of them; once.
    pub fn delivery(&self) -> Span {
        self.state().delivery.take().unwrap_or_else(Span::none)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && !self.closing
    }

    fn greet(&mut self, recent: &[Wakeup]) -> bool {
        let behind = self.is_behind();
        let mut cares = false;
        for wakeup in recent {
            cares |= self.add(wakeup);
            if !behind {
                // Who has only just come is not behind: sent away to start over, it would come back to the same.
                self.excused = self.bytes.saturating_sub(MAX_WAITING);
            }
        }
        let interest = &self.interest;
        let heard_of = |wakeup: &&Wakeup| interest.app.as_ref().is_none_or(|app| *app == wakeup.app);
        self.told.extend(recent.iter().filter(heard_of).map(|wakeup| (wakeup.app.clone(), wakeup.last())));
        cares
    }

    /// Whether more waits than is kept.
    fn is_behind(&self) -> bool {
        self.bytes - self.excused > MAX_WAITING
    }

    /// Whether the greeting has told of all that this announces.
    fn was_told(&mut self, wakeup: &Wakeup) -> bool {
        let Some(watermark) = self.told.get(&wakeup.app) else { return false };
        if wakeup.last() <= *watermark {
            return !wakeup.ranges.is_empty();
        }
        self.told.remove(&wakeup.app);
        false
    }

    fn add(&mut self, wakeup: &Wakeup) -> bool {
        if self.was_told(wakeup) {
            // It cared, and has been woken already.
            return wakeup.client.is_none() || self.interest.client != wakeup.client;
        }
        let interest = &self.interest;
        let other_app = interest.app.as_ref().is_some_and(|app| *app != wakeup.app);
        let own = wakeup.client.is_some() && interest.client == wakeup.client;
        if other_app || own {
            return false;
        }
        let cares = |table: &&Arc<str>| interest.tables.as_ref().is_none_or(|tables| tables.contains(&***table));
        let tables: Vec<&Arc<str>> = wakeup.tables.iter().flatten().filter(cares).collect();
        if tables.is_empty() || self.is_behind() {
            return false;
        }
        let waiting = self.waiting.entry(wakeup.app.clone()).or_insert_with(|| {
            self.bytes += wakeup.app.len() + NAME_BYTES;
            BTreeSet::new()
        });
        for table in tables {
            if waiting.insert(table.clone()) {
                self.bytes += table.len() + NAME_BYTES;
            }
        }
        if !wakeup.pushes.is_empty() && self.deliveries.len() < MAX_DELIVERIES {
            self.deliveries.push(Span::current());
        }
        true
    }

    fn take(&mut self) -> Option<Mail> {
        if self.closing {
            return Some(Mail::Close);
        }
        if self.waiting.is_empty() {
            return None;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let behind = self.is_behind();
        (self.bytes, self.excused) = (0, 0);
        let deliveries = std::mem::take(&mut self.deliveries);
        self.delivery = deliveries.last().cloned();
        traces::taken(deliveries);
        Some(if behind { Mail::Overflow } else { Mail::Changed(waiting) })
    }
}
