//! The other replicas, as far as questions and answers tell of them.

use super::super::message::Instance;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// A replica that does not answer and has not been heard of for this long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Another replica.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    /// When it last asked or answered something.
    pub(super) heard: Instant,
}

/// A replica that has not answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unanswered {
    pub(super) name: String,
    pub(super) instance: Instance,
    /// How long ago it was last heard of.
    pub(super) heard_ago: Duration,
}

/// Returns the known replicas among those that have not answered. One that has not been heard of for long is returned
/// once and forgotten. `reported`: when a replica of a name last reported that it is there. Operators may have asked
/// nothing for hours, but replicas report all the time.
pub(super) fn unanswered(
    peers: &mut HashMap<Instance, Peer>,
    expected: &HashMap<Instance, Peer>,
    now: Instant,
    reported: impl Fn(&str) -> Option<Instant>,
) -> Vec<Unanswered> {
    let mut unanswered = Vec::new();
    for instance in expected.keys() {
        let Some(peer) = peers.get(instance) else { continue };
        let heard = reported(&peer.name).map_or(peer.heard, |reported| reported.max(peer.heard));
        let heard_ago = now.saturating_duration_since(heard);
        unanswered.push(Unanswered { name: peer.name.clone(), instance: *instance, heard_ago });
        if heard_ago > FORGOTTEN {
            peers.remove(instance);
        }
    }
    unanswered.sort_by(|a, b| a.name.cmp(&b.name));
    unanswered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_has_just_reported_is_not_forgotten_however_long_nobody_asked() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut peers = HashMap::from([(7, Peer { name: "frozen".to_owned(), heard: begun })]);
        let expected = peers.clone();
        let mut ask = |now, reported: Option<Instant>| {
            let silent = unanswered(&mut peers, &expected, after(now), |name| reported.filter(|_| name == "frozen"));
            silent.into_iter().map(|silent| silent.heard_ago.as_secs()).collect::<Vec<_>>()
        };
        // Nobody has asked for an hour when it freezes.
        for now in [3_604, 3_606, 3_660] {
            assert_eq!(ask(now, Some(after(3_600))), [now - 3_600], "it is told of each time");
        }
        assert_eq!(ask(3_661, Some(after(3_600))), [61], "once more");
        assert_eq!(ask(3_662, Some(after(3_600))), [0; 0], "and it is forgotten");
    }

    #[test]
    fn one_that_never_reports_counts_from_its_last_answer() {
        let begun = Instant::now();
        let mut peers = HashMap::from([(7, Peer { name: "old".to_owned(), heard: begun })]);
        let expected = peers.clone();
        let mut ask = |now| unanswered(&mut peers, &expected, begun + Duration::from_secs(now), |_| None).len();
        assert_eq!([ask(60), ask(61), ask(62)], [1, 1, 0]);
    }
}
