//! Rebalances connections: when replicas have been added, those that hold more than the others close some, so that
//! their clients reconnect elsewhere. Connections do not move by themselves, and a balancer only places new ones.
//!
//! Every replica knows from presence what the others hold. One that is more than a tenth above the mean, or above it at
//! all while another is a tenth below, begins a *wave*: it closes its excess, evenly over the window
//! ([`FanoutConfig::rebalance_ms`](crate::config::FanoutConfig::rebalance_ms)), and follows the others' counts as it
//! goes, so it never closes more than needed. Only sessions that began three windows before the wave are closed, oldest
//! first. If there are none that old, as after a rollout, it tries again a window later. Replicas announce how many they
//! have closed, and a session that joined while one did so is left alone for an hour (sixty windows), unless a replica is
//! very far from the mean when the wave begins: so no device is closed twice, not even if counts drift apart again soon
//! after.
//!
//! A wave begins with a few connections, and continues once they have come back elsewhere. If they do not, because the
//! balancer sends clients back to where they were or does not know the replica with few, it ends, and the next one is a
//! long while off. It also ends this way when it has closed what should have been enough.
//!
//! While a replica drains, and so during a rollout, no connection is closed to rebalance.

mod moved;
mod trial;

use crate::fanout::Presence;
use crate::fanout::presence::Replica;
use crate::hub::Hub;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::REBALANCE_OUTCOMES;
use moved::Moves;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use trial::Trial;

/// Steps per window.
const STEPS: u32 = 60;
/// A deviation of one `FAR`th of the mean is far from it; one below an `EVEN`th counts as even.
const FAR: f64 = 10.0;
const EVEN: f64 = 50.0;
/// Minimum pace towards the end of a wave, as a fraction of its initial pace.
const SLOWEST: f64 = 0.25;
/// Time for clients to come back, as a divisor of the window: until then they count as if they were here.
const RETURN: u32 = 3;
/// Minimum age of a session when a wave begins, in windows.
const AGE: u32 = 3;
/// Time for which a session is left alone that may be a client's which was closed before, in windows.
const SETTLED: u32 = 60;
/// The deviation, as a fraction of the mean, from which on even these are closed: waves leave replicas much closer to it.
const VERY_FAR: f64 = 0.5;
/// Maximum number of closes in a window as a multiple of the excess: most of them come back to replicas with too many.
const MOST: f64 = 10.0;
/// Windows between a wave that did not help and the next one: initially, and at most.
const REST: (u32, u32) = (10, 120);

/// Closes excess connections.
#[derive(Debug)]
pub struct Rebalancer {
    window: Duration,
    metrics: Arc<Metrics>,
    wave: Option<Wave>,
    /// Recent closes, whose clients may not have come back yet.
    closed: VecDeque<(Instant, usize)>,
    moves: Moves,
    rest: u32,
    rests_until: Option<Instant>,
}

#[derive(Debug)]
struct Wave {
    begun: Instant,
    /// True if clients that have been closed before are left alone.
    spares_moved: bool,
    /// The excess when it began.
    excess: f64,
    /// Closes allowed so far and not made yet.
    due: f64,
    /// True if there were fewer connections to close than it wanted: the others are too young.
    is_spent: bool,
    trial: Trial,
}

/// The outcome of a wave, as a label.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// Connections are even.
    Even,
    /// The closed clients did not move to the replicas with few.
    Uneven,
    /// A replica is draining, or this one is alone or not ready.
    Interrupted,
}

/// The number of connections to close, among those that joined before some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    count: usize,
    joined_before: Instant,
    spares_moved: bool,
}

/// The connections of the replicas that take part.
struct Load {
    own: f64,
    mean: f64,
    least: f64,
    /// Closes needed, on average, for one client to move to a replica with few, if each comes back to any of the
    /// replicas.
    detours: f64,
}

impl Load {
    /// None while there is nothing to do: a replica is draining, this one does not take part, or it is alone.
    fn of(replicas: &[Replica], returning: usize) -> Option<Load> {
        let own = replicas.first().filter(|own| own.ready)?;
        if replicas.iter().any(|replica| replica.draining) {
            return None;
        }
        let held = replicas.iter().filter(|replica| replica.ready).map(|replica| replica.connections as f64);
        let count = replicas.iter().filter(|replica| replica.ready).count();
        let mean = (held.clone().sum::<f64>() + returning as f64) / count as f64;
        let receiving = held.clone().filter(|held| *held < mean).count().max(1);
        let detours = (count as f64 / receiving as f64).min(MOST);
        let least = held.fold(f64::MAX, f64::min);
        (count > 1).then_some(Load { own: own.connections as f64, mean, least, detours })
    }

    fn far(&self) -> f64 {
        (self.mean / FAR).max(1.0)
    }

    /// True if another replica has far less than the mean.
    fn lacks(&self) -> bool {
        self.least < self.mean - self.far()
    }

    /// The number of this replica's connections above the mean, if it is worth closing them.
    fn excess(&self) -> Option<f64> {
        let worth = if self.lacks() { 1.0 } else { (self.mean / EVEN).max(1.0) };
        Some(self.own - self.mean).filter(|excess| *excess >= worth)
    }

    /// True if this replica has very many more than the mean, or another has very few.
    fn is_very_uneven(&self) -> bool {
        self.own > self.mean * (1.0 + VERY_FAR) || self.least < self.mean * (1.0 - VERY_FAR)
    }

    fn is_uneven(&self) -> bool {
        self.own > self.mean + self.far() || self.lacks()
    }
}

impl Rebalancer {
    /// Creates a rebalancer that closes an excess within about `window`, which must not be zero.
    pub fn new(window: Duration, metrics: Arc<Metrics>) -> Rebalancer {
        let moves = Moves::new(window / RETURN, window * SETTLED);
        Rebalancer { window, metrics, wave: None, closed: VecDeque::new(), moves, rest: REST.0, rests_until: None }
    }

    /// Rebalances the connections of this replica until told to stop.
    pub async fn run(mut self, presence: Presence, hub: Arc<Hub>, stop: CancellationToken) {
        let mut ticks = interval((self.window / STEPS).max(Duration::from_millis(20)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let mut replicas = presence.replicas().to_vec();
            // Other replicas' counts are as they last announced them; our own is known exactly.
            replicas[0] = presence.own();
            let Some(step) = self.step(Instant::now(), &replicas) else { continue };
            let closed = hub.close_oldest(step.count, |joined| self.may_close(step, joined));
            self.has_closed(Instant::now(), closed, step.count);
        }
    }

    /// Decides what to do now; this replica is the first.
    fn step(&mut self, now: Instant, replicas: &[Replica]) -> Option<Step> {
        while self.closed.front().is_some_and(|(at, _)| *at + self.window / RETURN <= now) {
            self.closed.pop_front();
        }
        self.moves.note(now, replicas);
        let returning = self.closed.iter().map(|(_, count)| count).sum::<usize>();
        let Some(load) = Load::of(replicas, returning) else {
            self.end_wave(Outcome::Interrupted);
            return None;
        };
        let Some(excess) = load.excess() else {
            // Clients on their way may yet come back to where they were.
            if returning == 0 {
                self.end_wave(Outcome::Even);
            }
            return None;
        };
        if self.wave.is_none() && load.is_uneven() && self.rests_until.is_none_or(|until| until <= now) {
            let trial = Trial::begin(replicas, &load, excess);
            self.wave = Some(Wave {
                begun: now,
                spares_moved: !load.is_very_uneven(),
                excess,
                due: 0.0,
                is_spent: false,
                trial,
            });
        }
        let wave = self.wave.as_mut()?;
        if wave.trial.replicas != replicas.iter().filter(|replica| replica.ready).count() {
            wave.trial = Trial::begin(replicas, &load, excess);
        }
        if wave.trial.is_vain(replicas, returning) {
            self.give_up(now);
            return None;
        }
        if wave.is_spent {
            let has_helped = wave.trial.has_helped(replicas);
            // Judged once all have had the time to come back.
            if returning == 0 {
                self.end_spent(now, has_helped);
            }
            return None;
        }
        let pace = excess.max(wave.excess * SLOWEST) * load.detours / f64::from(STEPS);
        wave.due = (wave.due + pace).min(excess).min(wave.trial.allowance(replicas));
        let count = wave.due.max(0.0) as usize;
        wave.due -= count as f64;
        // The clock may not reach further back than the start of the process.
        let joined_before = wave.begun.checked_sub(self.window * AGE).unwrap_or(wave.begun);
        (count > 0).then_some(Step { count, joined_before, spares_moved: wave.spares_moved })
    }

    /// True if this step may close a session that joined at that moment.
    fn may_close(&self, step: Step, joined: Instant) -> bool {
        joined < step.joined_before && !(step.spares_moved && self.moves.has_moved(joined))
    }

    /// Records how many of the connections to close were closed: fewer if the others are too young.
    fn has_closed(&mut self, now: Instant, closed: usize, of: usize) {
        if closed > 0 {
            self.closed.push_back((now, closed));
        }
        if let Some(wave) = &mut self.wave {
            if closed > 0 && wave.trial.closed == 0 {
                tracing::info!(excess = wave.excess, "closing excess connections");
            }
            wave.trial.closed += closed;
            wave.is_spent = closed < of;
        }
    }

    /// Ends a wave that has no connections left to close. If it helped, the next one finds more that are old enough.
    fn end_spent(&mut self, now: Instant, has_helped: bool) {
        if !has_helped {
            return self.give_up(now);
        }
        self.wave = None;
        self.rests_until = Some(now + self.window);
    }

    /// Ends a wave that did not help: the next one is a while off.
    fn give_up(&mut self, now: Instant) {
        tracing::warn!(
            "closed connections came back to the replicas they were on: the load balancer does not even them out"
        );
        self.wave = None;
        self.rests_until = Some(now + self.window * self.rest);
        self.rest = (self.rest * 2).min(REST.1);
        self.count(Outcome::Uneven);
    }

    /// Ends a wave because connections are even or there is nothing to do.
    fn end_wave(&mut self, outcome: Outcome) {
        if self.wave.take().is_some() {
            self.rest = REST.0;
            self.count(outcome);
        }
    }

    fn count(&self, outcome: Outcome) {
        let label = REBALANCE_OUTCOMES[outcome as usize];
        self.metrics.rebalance_waves.with_label_values(&[label]).inc();
    }
}

#[cfg(test)]
mod tests;
