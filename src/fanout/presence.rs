//! Which replicas there are, and what each says of itself.
//!
//! Every replica says now and then on the channel that it is there, with whatever notification it sends anyway or by one
//! of its own. So every one knows how many they are, how many connections each holds, and who is gone: at once if it said
//! goodbye, else after three of its periods of silence, or one and [`GRACE`] where that is less. The period grows with the
//! replicas, so that this never costs more than a twentieth of what notifications may ([`FanoutConfig::notify_budget`]).
//!
//! What is said is signed like all notifications, and dated: an old message that somebody repeats changes nothing.
//! A replica that hears nobody, because its own listener is away or it is frozen, goes on with those that it knew.

mod message;

pub use message::Replica;

use super::dates::{Dates, MAX_AGE};
use super::rate::ReplicaCount;
use crate::clock::Clock;
use crate::config::FanoutConfig;
use crate::telemetry::Metrics;
use crate::telemetry::throttle::Throttle;
use message::{Message, Said};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// The part of all notifications that may be presence, as one in so many.
const SHARE: u32 = 20;
/// The longest period.
const LONGEST: Duration = Duration::from_secs(30);
/// The longest that a replica is taken at its word: PRESENCE_MS may be longer than the period of any number of replicas.
const LONGEST_SAID: Duration = Duration::from_secs(3_600);
/// Periods of silence after which a replica is gone.
const SILENCE: u32 = 3;
/// Or so long after it should have spoken, where periods are long: more than it may be held up ([`super::rate`]) and sending takes.
const GRACE: Duration = Duration::from_secs(4);
/// Replicas that are told apart, at most.
const MAX_REPLICAS: usize = 10_000;
/// Most bytes of a replica's name.
const MAX_NAME: usize = 255;

/// The replicas on this database, as this one knows them. Clones share what they know.
#[derive(Clone, Debug)]
pub struct Presence(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: String,
    name: String,
    since: u64,
    budget: u32,
    period: Duration,
    draining: CancellationToken,
    metrics: Arc<Metrics>,
    clock: Clock,
    count: ReplicaCount,
    state: Mutex<State>,
    known: watch::Sender<Arc<[Replica]>>,
    misdated: Throttle,
}

#[derive(Debug, Default)]
struct State {
    /// All others.
    others: HashMap<String, Other>,
    /// Those that are gone, with the date of what they said last.
    gone: HashMap<String, (u64, Instant)>,
    /// By what clock messages are dated.
    dates: Dates,
    /// When this one last said something.
    said: Option<Instant>,
    /// What that was dated, to know it again.
    said_at: u64,
    said_draining: bool,
    /// When it last looked for those who are silent.
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Other {
    replica: Replica,
    at: u64,
    /// Silent until then, it is gone.
    until: Instant,
    silence: Duration,
}

impl Presence {
    /// Knows of nobody but this replica yet.
    pub fn new(
        config: &FanoutConfig,
        name: &str,
        metrics: Arc<Metrics>,
        clock: Clock,
        draining: CancellationToken,
    ) -> Presence {
        let mut name = name.to_owned();
        name.truncate(name.floor_char_boundary(MAX_NAME));
        let presence = Presence(Arc::new(Inner {
            id: format!("{:016x}", clock.random_u64()),
            name,
            since: clock.millis(),
            budget: config.notify_budget,
            period: config.presence_ms,
            draining,
            metrics,
            clock,
            count: ReplicaCount::default(),
            misdated: Throttle::default(),
            state: Mutex::default(),
            known: watch::channel(Arc::default()).0,
        }));
        presence.tell(&mut presence.state());
        presence
    }

    /// All replicas, this one first; what they hold is as of what they said last.
    pub fn replicas(&self) -> Arc<[Replica]> {
        self.0.known.borrow().clone()
    }

    /// The same list whenever it changes.
    pub fn watch(&self) -> watch::Receiver<Arc<[Replica]>> {
        self.0.known.subscribe()
    }

    /// This replica.
    pub fn own(&self) -> Replica {
        let Inner { id, name, since, metrics, draining, .. } = &*self.0;
        Replica {
            id: id.clone(),
            name: name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: *since,
            connections: metrics.connections.get().max(0) as u64,
            ready: metrics.ready.get() == 1,
            draining: draining.is_cancelled(),
        }
    }

    /// How many they are, always up to date.
    pub(super) fn count(&self) -> ReplicaCount {
        self.0.count.clone()
    }

    /// How often each of so many replicas says that it is there.
    fn period(&self) -> Duration {
        let replicas = self.0.count.get() as f64;
        let affordable = replicas * replicas * f64::from(SHARE) / f64::from(self.0.budget);
        self.0.period.max(Duration::from_secs_f64(affordable.min(LONGEST.as_secs_f64())))
    }

    /// Waits until this replica has to say that it is there, or that it is draining.
    pub(super) async fn due(&self) {
        let (next, said_draining) = (self.next(), self.state().said_draining);
        let Some(next) = next else { return };
        tokio::select! {
            () = sleep_until(next) => {}
            () = self.0.draining.cancelled(), if !said_draining => {}
        }
    }

    /// When it has to; none: at once.
    fn next(&self) -> Option<Instant> {
        self.state().said.map(|said| said + self.period())
    }

    /// What is to be said with a notification that is sent anyway, if it is about time.
    pub(super) fn along(&self, now: Instant) -> Option<String> {
        let due = self.state().said.is_none_or(|said| now >= said + self.period() / 2);
        due.then(|| self.message(now, false))
    }

    /// What this replica says now: that it is there, or goodbye.
    pub(super) fn message(&self, now: Instant, gone: bool) -> String {
        let replica = self.own();
        let every = self.period().as_millis() as u64;
        let at = {
            let mut state = self.state();
            state.said = Some(now);
            state.said_draining = replica.draining;
            self.forget_silent(&mut state, now);
            self.tell(&mut state);
            state.said_at = state.dates.of_message(self.0.clock.millis(), now);
            state.said_at
        };
        let message = Message { replica, at, every, gone };
        // Texts and numbers always serialize.
        serde_json::to_string(&Said { presence: Some(message) }).unwrap_or_default()
    }

    /// What was last to be said did not get out.
    pub(super) fn unsaid(&self) {
        self.state().said = None;
    }

    /// Takes note of what a replica has said; the caller knows that it was one.
    pub(super) fn receive(&self, said: &str, now: Instant) -> Result<(), serde_json::Error> {
        let Some(Message { replica, at, every, gone }) = serde_json::from_str::<Said>(said)?.presence else {
            return Ok(());
        };
        let mut state = self.state();
        if replica.id == self.0.id {
            if let Some(said) = state.said.filter(|_| at == state.said_at) {
                self.0.metrics.listener_lag.set(now.saturating_duration_since(said).as_secs_f64());
            }
            return Ok(());
        }
        if let Some(off) = state.dates.off_by(at, self.0.clock.millis(), now) {
            drop(state);
            self.pass_over(&replica, off);
            return Ok(());
        }
        let last = state.others.get(&replica.id).map(|other| other.at);
        let last = last.or_else(|| state.gone.get(&replica.id).map(|(at, _)| *at));
        if last.is_some_and(|last| at <= last) {
            return Ok(());
        }
        if gone {
            state.others.remove(&replica.id);
            state.gone.insert(replica.id, (at, now));
        } else if last.is_some() || state.others.len() < MAX_REPLICAS {
            let silence = silence_of(Duration::from_millis(every).min(LONGEST_SAID));
            state.gone.remove(&replica.id);
            let until = now + silence;
            state.others.insert(replica.id.clone(), Other { replica, at, until, silence });
        }
        self.forget_silent(&mut state, now);
        self.tell(&mut state);
        Ok(())
    }

    /// Counts a message whose date is so many milliseconds off, and says so.
    fn pass_over(&self, replica: &Replica, off: u64) {
        self.0.metrics.presence_misdated.inc();
        if let Some(unwritten) = self.0.misdated.is_due() {
            let (name, seconds) = (&replica.name, off / 1_000);
            tracing::warn!(
                replica = name,
                seconds,
                unwritten,
                "a replica's word is passed over, whose date is this far off: one of two clocks is wrong, or an old notification is repeated"
            );
        }
    }

    /// The listener hears again: nobody else was silent meanwhile, as far as this replica can tell.
    pub(super) fn hears_again(&self, now: Instant) {
        self.state().others.values_mut().for_each(|other| other.until = now + other.silence);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who have been silent are gone.
    fn forget_silent(&self, state: &mut State, now: Instant) {
        let held_up = state.looked.map_or(Duration::ZERO, |looked| now.saturating_duration_since(looked));
        state.looked = Some(now);
        if held_up > silence_of(self.period()) {
            // This replica was frozen, and heard nobody meanwhile.
            state.others.values_mut().for_each(|other| other.until += held_up);
        }
        if self.0.metrics.listener_up.get() == 0 {
            return;
        }
        let silent = state.others.extract_if(|_, other| other.until <= now).collect::<Vec<_>>();
        self.0.metrics.replicas_lost.inc_by(silent.len() as u64);
        state.gone.extend(silent.into_iter().map(|(id, other)| (id, (other.at, now))));
        state.gone.retain(|_, (_, since)| now < *since + MAX_AGE * 2);
    }

    /// Shows who is there.
    fn tell(&self, state: &mut State) {
        let mut others: Vec<Replica> = state.others.values().map(|other| other.replica.clone()).collect();
        others.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        let all: Arc<[Replica]> = std::iter::once(self.own()).chain(others).collect();
        self.0.count.set(all.len());
        self.0.metrics.replicas.set(all.len() as i64);
        self.0.known.send_if_modified(|known| {
            let differs = *known != all;
            *known = all;
            differs
        });
    }
}

/// How long one that speaks so often may be silent before it is gone.
fn silence_of(every: Duration) -> Duration {
    (every * SILENCE).min(every + GRACE)
}

#[cfg(test)]
mod tests;
