//! The schedule of faults: random, and the same for the same seed.

use crate::cluster::REPLICAS;
use crate::fault::{Fault, Network, Outside, Stop};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// Density of random schedules.
const FAULTS_A_SECOND: usize = 2;

/// A fault, with its offset from the start of the schedule.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    pub at: Duration,
    pub lasts: Duration,
    pub fault: Fault,
}

/// A run of the suite: the clients and the faults.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub users: usize,
    pub writers: usize,
    /// Minimum time that the writers write.
    pub length: Duration,
    /// Settings of all replicas, on top of the suite's own.
    pub settings: Vec<(String, String)>,
    pub faults: Vec<Planned>,
}

impl Plan {
    /// Two users with three writing devices each, for this long and without faults.
    pub fn calm(seed: u64, length: Duration) -> Plan {
        Plan { seed, users: 2, writers: 3, length, settings: vec![], faults: vec![] }
    }

    /// The same with faults of every kind.
    pub fn random(seed: u64, length: Duration) -> Plan {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = length.as_secs() as usize * FAULTS_A_SECOND;
        let faults: Vec<Fault> = (0..count).map(|_| any_fault(&mut rng)).collect();
        Plan { faults: spread(&mut rng, &faults, length), ..Plan::calm(seed, length) }
    }

    /// The same with these faults, at random times.
    pub fn of(seed: u64, length: Duration, faults: &[Fault]) -> Plan {
        let mut rng = StdRng::seed_from_u64(seed);
        Plan { faults: spread(&mut rng, faults, length), ..Plan::calm(seed, length) }
    }

    pub fn with(mut self, name: &str, value: &str) -> Plan {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {} users with {} writers each, {:?}", self.seed, self.users, self.writers, self.length)?;
        for (name, value) in &self.settings {
            write!(f, ", {name}={value}")?;
        }
        for Planned { at, lasts, fault } in &self.faults {
            write!(f, "\n  {:5} ms, for {:4} ms: {fault:?}", at.as_millis(), lasts.as_millis())?;
        }
        Ok(())
    }
}

fn any_network(rng: &mut StdRng) -> Network {
    let delay = Duration::from_millis(rng.random_range(5..150));
    *[Network::Cut, Network::Swallows, Network::Forgets, Network::Delays(delay), Network::Refuses].choose(rng).unwrap()
}

fn any_fault(rng: &mut StdRng) -> Fault {
    let replica = rng.random_range(0..REPLICAS);
    let outside = *[Outside::Fails, Outside::Hangs, Outside::Rambles].choose(rng).unwrap();
    match rng.random_range(0..30) {
        0..3 => Fault::Killed(replica),
        3..5 => Fault::KilledBeforeNotify(replica),
        5..8 => Fault::Frozen(replica),
        8 => Fault::ListenersTerminated,
        9 => Fault::EverybodyTerminated,
        10..14 => Fault::ListenNetwork(replica, any_network(rng)),
        14..18 => Fault::QueryNetwork(replica, any_network(rng)),
        18 => Fault::PostgresRestarted(Stop::Fast),
        19 => Fault::PostgresRestarted(Stop::Immediate),
        20 => Fault::PostgresGone,
        21 => Fault::TableLocked,
        22 => Fault::Issuer(outside),
        23 => Fault::KeysRotated,
        24 => Fault::Credits(outside),
        25 => Fault::GarbageNotified,
        26 => Fault::Unauthenticated(replica),
        27 => *[Fault::SlowSenders(replica), Fault::SlowReaders(replica)].choose(rng).unwrap(),
        28 => Fault::PushStorm(replica),
        _ => Fault::HugePushes(replica),
    }
}

/// Picks random times within `length`; faults that need the same resource take turns, even beyond it.
fn spread(rng: &mut StdRng, faults: &[Fault], length: Duration) -> Vec<Planned> {
    let mut free: HashMap<(u8, usize), Duration> = HashMap::new();
    let mut planned = Vec::new();
    for &fault in faults {
        let lasts = Duration::from_millis(rng.random_range(200..=length.as_millis() as u64 / 2));
        let wished = length.mul_f64(rng.random_range(0.0..0.7));
        let free = free.entry(fault.needs()).or_default();
        let at = wished.max(*free);
        *free = at + lasts + Duration::from_millis(100);
        planned.push(Planned { at, lasts, fault });
    }
    planned.sort_by_key(|planned| planned.at);
    planned
}
