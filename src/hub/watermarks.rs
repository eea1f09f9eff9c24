//! The watermarks of a user's logs: the position up to which each has been announced without a gap.

use std::collections::HashMap;
use std::sync::Arc;

/// Maximum number of ranges kept beyond a gap. More are forgotten: the reconciler then announces them again.
const MAX_AHEAD: usize = 64;

/// Tracks what has been announced of one user's logs.
#[derive(Debug, Default)]
pub(super) struct Watermarks {
    begun: bool,
    /// Upper bound at the beginning for the heads of logs that are not listed: for users with very many logs.
    others: i64,
    logs: HashMap<Arc<str>, LogWatermark>,
}

#[derive(Debug, Default)]
struct LogWatermark {
    /// Everything up to here has been announced.
    watermark: i64,
    /// Ranges announced beyond a gap: notifications of different replicas can arrive out of order.
    ahead: Vec<(i64, i64)>,
}

impl Watermarks {
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Sets the initial watermarks, with all other logs at `others` or before: everything before them was stored before
    /// any session began. Only the first call counts.
    pub(super) fn begin<'a>(&mut self, heads: impl Iterator<Item = (&'a str, i64)>, others: i64) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        self.others = others;
        for log in self.logs.values_mut() {
            log.watermark = log.watermark.max(others);
            log.advance();
        }
        for (app, head) in heads {
            let log = self.log(app);
            log.watermark = log.watermark.max(head);
            log.advance();
        }
    }

    /// Notes the ranges that were announced.
    pub(super) fn note(&mut self, app: &str, ranges: &[(i64, i64)]) {
        let log = self.log(app);
        for &(from, to) in ranges {
            if to <= log.watermark {
                continue;
            }
            if log.ahead.len() < MAX_AHEAD {
                log.ahead.push((from, to));
            } else if from <= log.watermark {
                log.watermark = to;
            }
        }
        log.advance();
    }

    /// Returns the watermark of a log if it is before `head`; none before the initial watermarks are known.
    pub(super) fn before(&self, app: &str, head: i64) -> Option<i64> {
        let watermark = self.logs.get(app).map_or(self.others, |log| log.watermark);
        (self.begun && watermark < head).then_some(watermark)
    }

    /// Returns the watermark of a log; none before the initial watermarks are known.
    pub(super) fn of(&self, app: &str) -> Option<i64> {
        self.begun.then(|| self.logs.get(app).map_or(0, |log| log.watermark))
    }

    /// Forgets what has been announced of a log: the database went back to before it.
    pub(super) fn forget(&mut self, app: &str) {
        *self.log(app) = LogWatermark::default();
    }

    fn log(&mut self, app: &str) -> &mut LogWatermark {
        if !self.logs.contains_key(app) {
            self.logs.insert(app.into(), LogWatermark { watermark: self.others, ahead: Vec::new() });
        }
        self.logs.get_mut(app).expect("it was inserted if it was missing")
    }
}

impl LogWatermark {
    /// Moves the watermark up over every range that leaves no gap.
    fn advance(&mut self) {
        while let Some(at) = self.ahead.iter().position(|(from, _)| *from <= self.watermark) {
            let (_, to) = self.ahead.swap_remove(at);
            self.watermark = self.watermark.max(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_that_never_came_leaves_a_gap_though_later_ones_did() {
        let mut watermarks = Watermarks::default();
        assert_eq!(watermarks.before("todo", 10), None, "nothing is known yet");
        watermarks.begin([("todo", 10)].into_iter(), 0);
        assert_eq!(watermarks.before("todo", 10), None);
        watermarks.note("todo", &[(14, 20)]);
        assert_eq!(watermarks.before("todo", 20), Some(10));
        watermarks.note("todo", &[(10, 14)]);
        assert_eq!(watermarks.before("todo", 20), None);
        assert_eq!(watermarks.before("notes", 2), Some(0), "a log that was not there at the beginning");
    }

    #[test]
    fn what_was_announced_before_the_beginning_was_known_counts() {
        let mut watermarks = Watermarks::default();
        watermarks.note("todo", &[(10, 12), (12, 14)]);
        watermarks.begin([("todo", 10)].into_iter(), 0);
        assert_eq!(watermarks.before("todo", 14), None);
        watermarks.begin([("todo", 90)].into_iter(), 0);
        assert_eq!(watermarks.before("todo", 90), Some(14), "the beginning counts once");
    }

    #[test]
    fn what_the_database_took_back_is_announced_anew() {
        let mut watermarks = Watermarks::default();
        assert_eq!(watermarks.of("todo"), None);
        watermarks.begin([("todo", 10)].into_iter(), 0);
        watermarks.note("todo", &[(10, 90), (95, 99)]);
        assert_eq!((watermarks.of("todo"), watermarks.of("notes")), (Some(90), Some(0)));
        watermarks.forget("todo");
        assert_eq!(watermarks.before("todo", 12), Some(0));
        watermarks.note("todo", &[(0, 12)]);
        assert_eq!(watermarks.of("todo"), Some(12), "what had been announced beyond a gap is forgotten too");
    }

    #[test]
    fn the_other_logs_of_a_user_with_very_many_count_as_announced_up_to_where_they_stood_at_most() {
        let mut watermarks = Watermarks::default();
        watermarks.note("early", &[(12, 14)]);
        watermarks.begin([("todo", 90)].into_iter(), 50);
        assert_eq!((watermarks.before("other", 50), watermarks.before("other", 52)), (None, Some(50)));
        assert_eq!((watermarks.before("early", 50), watermarks.before("early", 60)), (None, Some(50)));
        assert_eq!((watermarks.of("todo"), watermarks.of("other")), (Some(90), Some(0)), "it may stand before");
        watermarks.note("other", &[(40, 60)]);
        assert_eq!(watermarks.before("other", 60), None);
        watermarks.forget("other");
        assert_eq!(watermarks.before("other", 12), Some(0));
    }

    proptest! {
        #[test]
        fn ranges_in_any_order_close_all_gaps_and_a_missing_one_never_does(
            count in 1usize..MAX_AHEAD,
            order in any::<prop::sample::Index>(),
            missing in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut ranges: Vec<(i64, i64)> = (0..count as i64).map(|n| (n * 2, n * 2 + 2)).collect();
            let head = count as i64 * 2;
            let lost = missing.map(|index| ranges.remove(index.index(count)));
            if !ranges.is_empty() {
                let by = order.index(ranges.len());
                ranges.rotate_left(by);
            }
            let mut watermarks = Watermarks::default();
            watermarks.begin(std::iter::empty(), 0);
            ranges.iter().for_each(|range| watermarks.note("a", &[*range]));
            prop_assert_eq!(watermarks.before("a", head), lost.map(|(from, _)| from));
        }
    }
}
