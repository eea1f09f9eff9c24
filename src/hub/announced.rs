//! Up to where a user's logs have been announced.

use std::collections::HashMap;
use std::sync::Arc;

/// Stretches kept beyond a gap. More are forgotten: the reconciler then announces them again.
const MAX_AHEAD: usize = 64;

/// What of one user's logs has been announced to the user's sessions.
#[derive(Debug, Default)]
pub(super) struct Announced {
    begun: bool,
    logs: HashMap<Arc<str>, LogMarks>,
}

#[derive(Debug, Default)]
struct LogMarks {
    /// Everything up to here has been announced.
    upto: i64,
    /// What has been announced beyond a gap: notifications of several replicas overtake each other.
    ahead: Vec<(i64, i64)>,
}

impl Announced {
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Where the logs stand: what is before was stored before any session came. Counts once.
    pub(super) fn begin<'a>(&mut self, heads: impl Iterator<Item = (&'a str, i64)>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        for (app, head) in heads {
            let marks = self.marks(app);
            marks.upto = marks.upto.max(head);
            marks.close_up();
        }
    }

    /// Takes note of stretches that were announced.
    pub(super) fn note(&mut self, app: &str, stretches: &[(i64, i64)]) {
        let marks = self.marks(app);
        for &(from, to) in stretches {
            if to <= marks.upto {
                continue;
            }
            if marks.ahead.len() < MAX_AHEAD {
                marks.ahead.push((from, to));
            } else if from <= marks.upto {
                marks.upto = to;
            }
        }
        marks.close_up();
    }

    /// Up to where a log has been announced, if that is before `head`; none before the beginning is known.
    pub(super) fn before(&self, app: &str, head: i64) -> Option<i64> {
        let upto = self.logs.get(app).map_or(0, |marks| marks.upto);
        (self.begun && upto < head).then_some(upto)
    }

    fn marks(&mut self, app: &str) -> &mut LogMarks {
        if !self.logs.contains_key(app) {
            self.logs.insert(app.into(), LogMarks::default());
        }
        self.logs.get_mut(app).expect("it was inserted if it was not there")
    }
}

impl LogMarks {
    /// Moves up over every stretch that leaves no gap.
    fn close_up(&mut self) {
        while let Some(at) = self.ahead.iter().position(|(from, _)| *from <= self.upto) {
            let (_, to) = self.ahead.swap_remove(at);
            self.upto = self.upto.max(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stretch_that_never_came_leaves_a_gap_though_later_ones_did() {
        let mut announced = Announced::default();
        assert_eq!(announced.before("todo", 10), None, "nothing is known yet");
        announced.begin([("todo", 10)].into_iter());
        assert_eq!(announced.before("todo", 10), None);
        announced.note("todo", &[(14, 20)]);
        assert_eq!(announced.before("todo", 20), Some(10));
        announced.note("todo", &[(10, 14)]);
        assert_eq!(announced.before("todo", 20), None);
        assert_eq!(announced.before("notes", 2), Some(0), "a log that was not there at the beginning");
    }

    #[test]
    fn what_was_announced_before_the_beginning_was_known_counts() {
        let mut announced = Announced::default();
        announced.note("todo", &[(10, 12), (12, 14)]);
        announced.begin([("todo", 10)].into_iter());
        assert_eq!(announced.before("todo", 14), None);
        announced.begin([("todo", 90)].into_iter());
        assert_eq!(announced.before("todo", 90), Some(14), "the beginning counts once");
    }

    proptest! {
        #[test]
        fn stretches_in_any_order_close_all_gaps_and_a_missing_one_never_does(
            count in 1usize..MAX_AHEAD,
            order in any::<prop::sample::Index>(),
            missing in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut stretches: Vec<(i64, i64)> = (0..count as i64).map(|n| (n * 2, n * 2 + 2)).collect();
            let head = count as i64 * 2;
            let lost = missing.map(|index| stretches.remove(index.index(count)));
            if !stretches.is_empty() {
                let by = order.index(stretches.len());
                stretches.rotate_left(by);
            }
            let mut announced = Announced::default();
            announced.begin(std::iter::empty());
            stretches.iter().for_each(|stretch| announced.note("a", &[*stretch]));
            prop_assert_eq!(announced.before("a", head), lost.map(|(from, _)| from));
        }
    }
}
