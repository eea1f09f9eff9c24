//! A database that went back to an earlier state, restored or failed over with a loss, as the reconciler sees it: a log ends
//! before what has been announced of it. What is stored from then on would be taken for announced.

use super::reconciler::Dependencies;
use crate::protocol::UserKey;
use crate::store::{Head, StoreError};
use std::collections::{BTreeSet, HashMap};

/// The newest head of each log; one that was erased and written to again has two.
pub(super) fn newest(heads: Vec<Head>) -> Vec<Head> {
    let mut newest: HashMap<(UserKey, String), i64> = HashMap::with_capacity(heads.len());
    for Head { user, app, at } in heads {
        newest.entry((user, app)).and_modify(|newest| *newest = at.max(*newest)).or_insert(at);
    }
    newest.into_iter().map(|((user, app), at)| Head { user, app, at }).collect()
}

/// Whether more has been announced of a log than it has: perhaps only because the head was read first.
pub(super) fn is_suspect(dependencies: &Dependencies, head: &Head) -> bool {
    dependencies.sessions.watermark(head.user, &head.app).is_some_and(|watermark| watermark > head.at)
}

/// Looks again at logs of which more has been announced than they had. Those that the database took back are to be
/// announced anew, as a whole: where it went back to, nobody knows. Answers their heads.
pub(super) async fn begin_anew(dependencies: &Dependencies, suspects: &[Head]) -> Result<Vec<Head>, StoreError> {
    // Taken before the heads are read: what has been announced by now was stored before.
    let watermark = |head: &Head| dependencies.sessions.watermark(head.user, &head.app);
    let watermarks: HashMap<(UserKey, &str), i64> =
        suspects.iter().filter_map(|head| Some(((head.user, head.app.as_str()), watermark(head)?))).collect();
    let users: Vec<UserKey> = suspects.iter().map(|head| head.user).collect::<BTreeSet<_>>().into_iter().collect();
    let mut heads = newest(dependencies.store.heads(&users).await?);
    heads.retain(|head| watermarks.get(&(head.user, head.app.as_str())).is_some_and(|watermark| *watermark > head.at));
    for head in &heads {
        dependencies.sessions.forget(head.user, &head.app);
    }
    Ok(heads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_that_was_erased_and_written_to_again_the_newest_head_counts() {
        let user = UserKey::of("u");
        let head = |app: &str, at| Head { user, app: app.to_owned(), at };
        let mut heads = newest(vec![head("a", 5), head("b", 1), head("a", 3)]);
        heads.sort_by(|a, b| a.app.cmp(&b.app));
        assert_eq!(heads, [head("a", 5), head("b", 1)]);
    }
}
