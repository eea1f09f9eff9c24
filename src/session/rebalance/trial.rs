//! Whether the connections that a wave closes go where they should.

use super::Load;
use crate::fanout::presence::Replica;
use std::collections::HashMap;

/// Expected number of clients gained by the replicas with few before a wave is judged, and the minimum share of the
/// expected gain for the wave to continue.
const PROOF: f64 = 20.0;
const HELPFUL: f64 = 0.25;
/// Maximum number of closes in a wave, as a multiple of what should be enough.
const WAVE_FACTOR: f64 = 2.0;

/// Measures whether the clients that a wave closes move to the replicas with few, since the number of replicas last
/// changed.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) replicas: usize,
    /// The connections they had, by replica.
    few: HashMap<String, u64>,
    /// Expected gain of those replicas for each connection that this replica closes: other replicas close as well.
    yield_each: f64,
    /// The number of closes that should be enough.
    enough: f64,
    pub(super) closed: usize,
}

impl Trial {
    /// Begins a trial with the replicas as they are now; this one has an excess of `excess`.
    pub(super) fn begin(replicas: &[Replica], load: &Load, excess: f64) -> Trial {
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

    /// The connections that the replicas with few have gained since.
    fn gained(&self, replicas: &[Replica]) -> f64 {
        let gain = |replica: &Replica| Some(replica.connections as f64 - *self.few.get(&replica.id)? as f64);
        replicas.iter().filter_map(gain).sum()
    }

    /// True if what was closed has gone to the replicas with few, or was too little to tell.
    pub(super) fn has_helped(&self, replicas: &[Replica]) -> bool {
        let expected = self.closed as f64 * self.yield_each;
        expected < PROOF || self.gained(replicas) >= expected * HELPFUL
    }

    /// True if the closes did not help, not counting `returning` clients that may still be on their way.
    pub(super) fn is_vain(&self, replicas: &[Replica], returning: usize) -> bool {
        let expected = self.closed.saturating_sub(returning) as f64 * self.yield_each;
        expected >= PROOF && self.gained(replicas) < expected * HELPFUL || self.closed as f64 >= self.enough
    }

    /// Closes allowed until it is known whether they help.
    pub(super) fn allowance(&self, replicas: &[Replica]) -> f64 {
        let proven = self.gained(replicas) >= PROOF * HELPFUL && self.closed as f64 * self.yield_each >= PROOF;
        if proven { f64::MAX } else { (PROOF / self.yield_each).ceil() - self.closed as f64 }
    }
}
