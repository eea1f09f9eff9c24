//! Tracks which replicas exist, and what each reports.
//!
//! Every replica regularly announces its presence on the channel, along with any notification it sends anyway or in one
//! of its own. So each replica knows how many there are, how many connections each holds, and which are gone: at once
//! after a goodbye, otherwise after three of its periods of silence, or one and four seconds if that is less. The period
//! grows with the number of replicas, so that presence never takes more than a twentieth of the budget for
//! notifications ([`FanoutConfig::notify_budget`]).
//!
//! Reports are signed like all notifications, and dated: repeating an old message changes nothing. A replica that hears
//! nobody, because its own listener is away or it was frozen, keeps the replicas that it knew.

mod message;
mod state;

pub use message::Replica;

use super::dates::MAX_AGE;
use super::rate::ReplicaCount;
use crate::clock::Clock;
use crate::config::FanoutConfig;
use crate::protocol::close::CloseReason;
use crate::telemetry::Metrics;
use crate::telemetry::throttle::Throttle;
use message::{Envelope, Message};
use state::{Other, State, silence_of};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// The fraction of all notifications that may be presence, as a divisor.
const SHARE: u32 = 20;
/// The longest period.
const LONGEST: Duration = Duration::from_secs(30);
/// Maximum announced period that is believed: PRESENCE_MS may be longer than the period for any number of replicas.
const LONGEST_SAID: Duration = Duration::from_secs(3_600);
/// Maximum number of replicas that are tracked.
const MAX_REPLICAS: usize = 10_000;
/// Maximum length of a replica's name in bytes.
const MAX_NAME: usize = 255;

/// The replicas on this database, as this one knows them. Clones share the state.
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

impl Presence {
    /// Creates a state that knows only this replica.
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

    /// Returns all replicas, this one first; the others as of their last report.
    pub fn replicas(&self) -> Arc<[Replica]> {
        self.0.known.borrow().clone()
    }

    /// Watches that list for changes.
    pub fn watch(&self) -> watch::Receiver<Arc<[Replica]>> {
        self.0.known.subscribe()
    }

    /// Returns when a replica of this name was last heard, or as good as heard: nobody was while this one heard nothing.
    /// `None` if that was minutes ago.
    pub fn last_heard(&self, name: &str) -> Option<Instant> {
        self.state().last_heard(name)
    }

    /// Returns this replica's report.
    pub fn own(&self) -> Replica {
        let Inner { id, name, since, metrics, draining, .. } = &*self.0;
        Replica {
            id: id.clone(),
            name: name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: *since,
            connections: metrics.connections.get().max(0) as u64,
            rebalanced: metrics.closes.with_label_values(&[CloseReason::Rebalanced.label()]).get(),
            ready: metrics.ready.get() == 1,
            draining: draining.is_cancelled(),
        }
    }

    /// Returns the number of replicas, always up to date.
    pub(super) fn count(&self) -> ReplicaCount {
        self.0.count.clone()
    }

    /// Returns how often each replica reports, given their current number.
    fn period(&self) -> Duration {
        let replicas = self.0.count.get() as f64;
        let affordable = replicas * replicas * f64::from(SHARE) / f64::from(self.0.budget);
        self.0.period.max(Duration::from_secs_f64(affordable.min(LONGEST.as_secs_f64())))
    }

    /// Waits until this replica has to report, or has to report that it is draining.
    pub(super) async fn due(&self) {
        let (next, said_draining) = (self.next(), self.state().said_draining);
        let Some(next) = next else { return };
        tokio::select! {
            () = sleep_until(next) => {}
            () = self.0.draining.cancelled(), if !said_draining => {}
        }
    }

    /// Returns when that is; none means at once.
    fn next(&self) -> Option<Instant> {
        self.state().said.map(|said| said + self.period())
    }

    /// Returns the report to send along with another notification, if one is due soon.
    pub(super) fn along(&self, now: Instant) -> Option<String> {
        let due = self.state().said.is_none_or(|said| now >= said + self.period() / 2);
        due.then(|| self.message(now, false))
    }

    /// Composes this replica's report, or its goodbye.
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
        // Strings and numbers always serialize.
        serde_json::to_string(&Envelope { presence: Some(message) }).unwrap_or_default()
    }

    /// Notes that the last message was not sent.
    pub(super) fn unsaid(&self) {
        self.state().said = None;
    }

    /// Records a replica's report; the caller has checked that it came from a replica.
    pub(super) fn receive(&self, said: &str, now: Instant) -> Result<(), serde_json::Error> {
        let Some(Message { replica, at, every, gone }) = serde_json::from_str::<Envelope>(said)?.presence else {
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
        let last = last.or_else(|| state.gone.get(&replica.id).map(|(other, _)| other.at));
        if last.is_some_and(|last| at <= last) {
            return Ok(());
        }
        let silence = silence_of(Duration::from_millis(every).min(LONGEST_SAID));
        let id = replica.id.clone();
        let other = Other { replica, at, until: now + silence, silence };
        if gone {
            state.others.remove(&id);
            state.gone.insert(id, (other, now));
        } else if last.is_some() || state.others.len() < MAX_REPLICAS {
            state.gone.remove(&id);
            state.others.insert(id, other);
        }
        self.forget_silent(&mut state, now);
        self.tell(&mut state);
        Ok(())
    }

    /// Counts a message whose date is off by this many milliseconds, and logs it.
    fn pass_over(&self, replica: &Replica, off: u64) {
        self.0.metrics.presence_misdated.inc();
        if let Some(unwritten) = self.0.misdated.is_due() {
            let (name, seconds) = (&replica.name, off / 1_000);
            tracing::warn!(
                replica = name,
                seconds,
                unwritten,
                "ignoring a presence announcement whose date is this far off: one of the two clocks is wrong, or an old notification was replayed"
            );
        }
    }

    /// Returns when a message was sent, if it says so, since 1970.
    pub(super) fn date_of(said: &str) -> Option<Duration> {
        message::date_of(said)
    }

    /// Notes that the listener works again: as far as this replica can tell, nobody else was silent in the meantime.
    pub(super) fn hears_again(&self, now: Instant) {
        self.state().others.values_mut().for_each(|other| other.until = now + other.silence);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes replicas that have been silent for too long.
    fn forget_silent(&self, state: &mut State, now: Instant) {
        let held_up = state.looked.map_or(Duration::ZERO, |looked| now.saturating_duration_since(looked));
        state.looked = Some(now);
        if held_up > silence_of(self.period()) {
            // This replica was frozen, and heard nobody in the meantime.
            state.others.values_mut().for_each(|other| other.until += held_up);
        }
        if self.0.metrics.listener_up.get() == 0 {
            return;
        }
        let silent = state.others.extract_if(|_, other| other.until <= now).collect::<Vec<_>>();
        self.0.metrics.replicas_lost.inc_by(silent.len() as u64);
        state.gone.extend(silent.into_iter().map(|(id, other)| (id, (other, now))));
        state.gone.retain(|_, (_, since)| now < *since + MAX_AGE * 2);
    }

    /// Publishes the list of replicas.
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

#[cfg(test)]
mod tests;
