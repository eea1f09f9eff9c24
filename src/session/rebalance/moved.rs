//! Which sessions may belong to clients that rebalancing has closed already, here or on another replica.

use crate::fanout::presence::Replica;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// The periods in which clients came back that replicas had closed to rebalance.
#[derive(Debug)]
pub(super) struct Moves {
    /// How long a closed client may be away, and a replica silent about having closed it.
    away: Duration,
    /// How long a period matters.
    kept: Duration,
    /// The closes that each replica has reported, by its id.
    reported: HashMap<String, u64>,
    /// From when to when; the oldest first. They do not overlap.
    periods: VecDeque<(Instant, Instant)>,
}

impl Moves {
    /// Knows of none yet.
    pub(super) fn new(away: Duration, kept: Duration) -> Moves {
        Moves { away, kept, reported: HashMap::new(), periods: VecDeque::new() }
    }

    /// Notes what the replicas report now.
    pub(super) fn note(&mut self, now: Instant, replicas: &[Replica]) {
        let has_more = |replica: &Replica| replica.rebalanced > self.reported.get(&replica.id).copied().unwrap_or(0);
        if replicas.iter().any(has_more) {
            self.extend(now);
        }
        self.reported = replicas.iter().map(|replica| (replica.id.clone(), replica.rebalanced)).collect();
        while self.periods.front().is_some_and(|(_, end)| *end + self.kept < now) {
            self.periods.pop_front();
        }
    }

    fn extend(&mut self, now: Instant) {
        // The clock may not reach further back than the start of the process.
        let begin = now.checked_sub(self.away).unwrap_or(now);
        match self.periods.back_mut().filter(|(_, end)| *end >= begin) {
            Some((_, end)) => *end = now + self.away,
            None => self.periods.push_back((begin, now + self.away)),
        }
    }

    /// True if a session that joined at that moment may be such a client's.
    pub(super) fn has_moved(&self, joined: Instant) -> bool {
        self.periods.iter().any(|(begin, end)| (*begin..=*end).contains(&joined))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWAY: Duration = Duration::from_secs(20);
    const KEPT: Duration = Duration::from_secs(3_600);

    fn closed(replica: &str, rebalanced: u64) -> Replica {
        Replica { id: replica.to_owned(), rebalanced, ..Replica::default() }
    }

    #[test]
    fn who_came_while_any_replica_closed_connections_has_moved_for_an_hour() {
        let (mut moves, begun) = (Moves::new(AWAY, KEPT), Instant::now() + KEPT);
        let after = |seconds| begun + Duration::from_secs(seconds);
        let moved = |moves: &Moves, from: u64, to: u64| (from..=to).all(|second| moves.has_moved(after(second)));
        for (second, of_a, of_b) in [(0, 0, 0), (100, 0, 0), (101, 1, 0), (130, 1, 7), (131, 1, 7), (400, 2, 7)] {
            moves.note(after(second), &[closed("a", of_a), closed("b", of_b)]);
        }
        assert!(moved(&moves, 81, 150) && moved(&moves, 380, 420));
        assert!([80, 151, 379, 421].iter().all(|second| !moves.has_moved(after(*second))));
        moves.note(after(3_751), &[closed("a", 2), closed("b", 7)]);
        assert!(!moves.has_moved(after(101)) && moves.has_moved(after(400)), "the first period was an hour ago");
    }

    #[test]
    fn a_replica_that_was_away_may_have_closed_some_meanwhile() {
        let (mut moves, begun) = (Moves::new(AWAY, KEPT), Instant::now() + KEPT);
        moves.note(begun, &[closed("a", 3)]);
        assert!(moves.has_moved(begun));
        moves.note(begun + AWAY * 3, &[]);
        assert!(!moves.has_moved(begun + AWAY * 3));
        moves.note(begun + AWAY * 6, &[closed("a", 3)]);
        assert!(moves.has_moved(begun + AWAY * 6));
    }
}
