//! Connections are rebalanced: where replicas were added, those that hold more than the others close some, so that their
//! clients come back elsewhere. Connections do not move by themselves, and a balancer only places new ones.
//!
//! Every replica knows from presence what the others hold. One that has more than a tenth more than the mean, or more
//! than it while another has a tenth less, begins a *wave*: it closes what is too many, evenly over the window
//! ([`FanoutConfig::rebalance_ms`](crate::config::FanoutConfig::rebalance_ms)), and looks at what the others hold as it
//! goes, so never more than is needed. Only sessions that were there three windows before the wave are closed, the oldest
//! first: no device is closed twice by one.
//!
//! A wave begins with a few, and goes on when they have come back elsewhere. Where they do not, because the balancer sends
//! clients back to where they were or does not know the replica that has few, it ends, and the next one is a long while
//! off. It ends so, too, when it has closed what should have been enough.
//!
//! While a replica drains, and so during a rollout, nobody closes anything else.

use crate::fanout::Presence;
use crate::fanout::presence::Replica;
use crate::hub::Hub;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::REBALANCE_OUTCOMES;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Steps of a window.
const STEPS: u32 = 60;
/// How far from the mean is far, as one in so many of it; and how near is even.
const FAR: f64 = 10.0;
const EVEN: f64 = 50.0;
/// Towards the end of a wave it goes no slower than this part of how it began.
const SLOWEST: f64 = 0.25;
/// How long clients may take to come back, as a part of the window: until then they count as if they were here.
const RETURN: u32 = 3;
/// Windows that a session must have been there when a wave begins.
const AGE: u32 = 3;
/// How many times what is too many may be closed in a window, because most of it comes back to those that have too many.
const MOST: f64 = 10.0;
/// How many should have come to those with few before a wave is judged by it; and the least part of what should have,
/// to go on.
const PROOF: f64 = 20.0;
const HELPFUL: f64 = 0.25;
/// How many times what should be enough may be closed by a wave.
const WAVE_FACTOR: f64 = 2.0;
/// Windows from a wave that did not help to the next one: at first, and at most.
const REST: (u32, u32) = (10, 120);

/// Closes connections that are too many.
#[derive(Debug)]
pub struct Rebalancer {
    window: Duration,
    metrics: Arc<Metrics>,
    wave: Option<Wave>,
    /// What was closed and may not have come back yet.
    closed: VecDeque<(Instant, usize)>,
    rest: u32,
    rests_until: Option<Instant>,
}

#[derive(Debug)]
struct Wave {
    begun: Instant,
    /// What was too many when it began.
    excess: f64,
    /// What may be closed, as it has come about so far.
    due: f64,
    trial: Trial,
}

/// Whether what a wave closes comes to those that have few, since they are as many as they are.
#[derive(Debug)]
struct Trial {
    replicas: usize,
    /// What they had.
    few: HashMap<String, u64>,
    /// How many should come to them for each that this replica closes: others close as well.
    yield_each: f64,
    /// What should be enough to close.
    enough: f64,
    closed: usize,
}

/// How a wave ended, as a label.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// Connections are even.
    Even,
    /// What was closed did not come to those that have few.
    Uneven,
    /// A replica drains, or this one is alone or not ready.
    Interrupted,
}

impl Trial {
    /// As replicas are now, of which this one has `excess` too many.
    fn begin(replicas: &[Replica], load: &Load, excess: f64) -> Trial {
        let ready = replicas.iter().filter(|replica| replica.ready);
        let few = ready.clone().filter(|replica| (replica.connections as f64) < load.mean);
        let over = ready.clone().map(|replica| (replica.connections as f64 - load.mean).max(0.0)).sum::<f64>();
        Trial {
            replicas: ready.count(),
            few: few.map(|replica| (replica.id.clone(), replica.connections)).collect(),
            yield_each: (over / excess).max(1.0) / load.detours,
            enough: (excess * load.detours * WAVE_FACTOR).max(PROOF),
            closed: 0,
        }
    }

    /// What has come to those with few since.
    fn gained(&self, replicas: &[Replica]) -> f64 {
        let gain = |replica: &Replica| Some(replica.connections as f64 - *self.few.get(&replica.id)? as f64);
        replicas.iter().filter_map(gain).sum()
    }

    /// Whether so many, of which `returning` may still be on their way, are no help.
    fn is_vain(&self, replicas: &[Replica], returning: usize) -> bool {
        let expected = self.closed.saturating_sub(returning) as f64 * self.yield_each;
        expected >= PROOF && self.gained(replicas) < expected * HELPFUL || self.closed as f64 >= self.enough
    }

    /// What may be closed before it is known whether it helps.
    fn allowance(&self, replicas: &[Replica]) -> f64 {
        let proven = self.gained(replicas) >= PROOF * HELPFUL && self.closed as f64 * self.yield_each >= PROOF;
        if proven { f64::MAX } else { (PROOF / self.yield_each).ceil() - self.closed as f64 }
    }
}

/// How many connections to close, of those that came before some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    count: usize,
    joined_before: Instant,
}

/// What the replicas that take part hold.
struct Load {
    own: f64,
    mean: f64,
    least: f64,
    /// How many times as many have to be closed, if each comes back to any of them, for one to stay away.
    detours: f64,
}

impl Load {
    /// None while nothing is to be done: a replica drains, this one does not take part, or it is alone.
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

    /// Whether another replica has far less than the mean.
    fn lacks(&self) -> bool {
        self.least < self.mean - self.far()
    }

    /// What this replica has above the mean, if that is worth anything.
    fn excess(&self) -> Option<f64> {
        let worth = if self.lacks() { 1.0 } else { (self.mean / EVEN).max(1.0) };
        Some(self.own - self.mean).filter(|excess| *excess >= worth)
    }

    fn is_uneven(&self) -> bool {
        self.own > self.mean + self.far() || self.lacks()
    }
}

impl Rebalancer {
    /// One that takes about `window` for what is too many. It must not be zero.
    pub fn new(window: Duration, metrics: Arc<Metrics>) -> Rebalancer {
        Rebalancer { window, metrics, wave: None, closed: VecDeque::new(), rest: REST.0, rests_until: None }
    }

    /// Looks after the connections of this replica until told to stop.
    pub async fn run(mut self, presence: Presence, hub: Arc<Hub>, stop: CancellationToken) {
        let mut ticks = interval((self.window / STEPS).max(Duration::from_millis(20)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let mut replicas = presence.replicas().to_vec();
            // What others hold is as of what they said; what this one holds is known better.
            replicas[0] = presence.own();
            let Some(step) = self.step(Instant::now(), &replicas) else { continue };
            let closed = hub.close_oldest(step.count, step.joined_before);
            self.has_closed(Instant::now(), closed, step.count);
        }
    }

    /// What to do now; this replica is the first.
    fn step(&mut self, now: Instant, replicas: &[Replica]) -> Option<Step> {
        while self.closed.front().is_some_and(|(at, _)| *at + self.window / RETURN <= now) {
            self.closed.pop_front();
        }
        let returning = self.closed.iter().map(|(_, count)| count).sum::<usize>();
        let Some(load) = Load::of(replicas, returning) else {
            self.end_wave(Outcome::Interrupted);
            return None;
        };
        let Some(excess) = load.excess() else {
            // Those on their way may yet come back to where they were.
            if returning == 0 {
                self.end_wave(Outcome::Even);
            }
            return None;
        };
        if self.wave.is_none() && load.is_uneven() && self.rests_until.is_none_or(|until| until <= now) {
            tracing::info!(connections = load.own, mean = load.mean, "closing connections that are too many");
            self.wave = Some(Wave { begun: now, excess, due: 0.0, trial: Trial::begin(replicas, &load, excess) });
        }
        let wave = self.wave.as_mut()?;
        if wave.trial.replicas != replicas.iter().filter(|replica| replica.ready).count() {
            wave.trial = Trial::begin(replicas, &load, excess);
        }
        if wave.trial.is_vain(replicas, returning) {
            self.give_up(now);
            return None;
        }
        let pace = excess.max(wave.excess * SLOWEST) * load.detours / f64::from(STEPS);
        wave.due = (wave.due + pace).min(excess).min(wave.trial.allowance(replicas));
        let count = wave.due.max(0.0) as usize;
        wave.due -= count as f64;
        // Not before the process began, where the clock does.
        let joined_before = wave.begun.checked_sub(self.window * AGE).unwrap_or(wave.begun);
        (count > 0).then_some(Step { count, joined_before })
    }

    /// Takes note of how many were closed of those that were to be.
    fn has_closed(&mut self, now: Instant, closed: usize, of: usize) {
        if closed > 0 {
            self.closed.push_back((now, closed));
        }
        if let Some(wave) = &mut self.wave {
            wave.trial.closed += closed;
        }
        if closed < of {
            self.give_up(now);
        }
    }

    /// What was closed did not help: the next wave is a while off.
    fn give_up(&mut self, now: Instant) {
        tracing::warn!(
            "connections that were closed came back to where they were: the balancer does not even them out"
        );
        self.wave = None;
        self.rests_until = Some(now + self.window * self.rest);
        self.rest = (self.rest * 2).min(REST.1);
        self.count(Outcome::Uneven);
    }

    /// It is even, or nothing is to be done.
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
