//! Reads the heads of the logs that sessions listen to.

use super::Listening;
use super::dependencies::Dependencies;
use crate::protocol::{LogId, UserKey};
use crate::store::{Head, MAX_LOGS, StoreError};
use std::collections::HashMap;

/// Reads the heads of logs that are listened to. For a user who listens to all of very many logs, only the newest are
/// read: whatever was stored and not announced is among them.
pub(super) async fn read(dependencies: &Dependencies, listening: &[Listening]) -> Result<Vec<Head>, StoreError> {
    let (mut users, mut logs): (Vec<UserKey>, Vec<LogId>) = (Vec::new(), Vec::new());
    for Listening { user, app } in listening {
        match app {
            Some(app) => logs.push(LogId::of(*user, app)),
            None => users.push(*user),
        }
    }
    let mut all = Vec::new();
    if !users.is_empty() {
        let heads = dependencies.heads.of_users(&users).await?;
        all = heads.heads;
        for user in heads.too_many {
            all.extend(newest_of(dependencies, user).await?);
        }
    }
    if !logs.is_empty() {
        all.extend(dependencies.heads.of_logs(&logs).await?);
    }
    Ok(newest(all))
}

/// Reads the newest heads of a user with very many logs; none if that alone fails, so that nobody else is affected.
async fn newest_of(dependencies: &Dependencies, user: UserKey) -> Result<Vec<Head>, StoreError> {
    dependencies.heads.newest(user).await.or_else(|error| {
        if !error.is_about_statement() {
            return Err(error);
        }
        dependencies.metrics.reconcile_failures.inc();
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "a user has too many logs to be checked; trying again");
        Ok(vec![])
    })
}

/// Returns an upper bound for the heads of a user's other logs, given the newest; the beginning, if there are no
/// others.
pub(super) fn others(newest: &[Head]) -> i64 {
    let has_others = newest.len() >= MAX_LOGS;
    newest.iter().map(|head| head.at).min().filter(|_| has_others).unwrap_or(0)
}

/// Returns the newest head of each log; a log that was erased and written to again has two.
pub(super) fn newest(heads: Vec<Head>) -> Vec<Head> {
    let mut newest: HashMap<(UserKey, String), i64> = HashMap::with_capacity(heads.len());
    for Head { user, app, at } in heads {
        newest.entry((user, app)).and_modify(|newest| *newest = at.max(*newest)).or_insert(at);
    }
    newest.into_iter().map(|((user, app), at)| Head { user, app, at }).collect()
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

    #[test]
    fn the_other_logs_of_a_user_with_very_many_stand_before_the_newest() {
        let heads = |count: usize| -> Vec<Head> {
            (0..count).map(|n| Head { user: UserKey::of("u"), app: n.to_string(), at: 5_000 + n as i64 }).collect()
        };
        assert_eq!((others(&[]), others(&heads(MAX_LOGS - 1)), others(&heads(MAX_LOGS))), (0, 0, 5_000));
    }
}
