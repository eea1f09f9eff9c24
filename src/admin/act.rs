//! Operators' actions. Every action is logged by the replica that is asked and by each replica that executes it.

use super::Admin;
use super::cluster::KeepError;
use super::error::AdminError;
use super::lookup::problem;
use super::message::{Action, Answer, Question};
use super::report::Done;
use crate::auth::MAX_TOKEN_ID;
use crate::clock::Clock;
use crate::protocol::UserKey;
use crate::protocol::push::{MAX_CLIENT, check_name};
use crate::store::refused_tokens::RefusedTokensError;
use crate::telemetry::logs;
use std::error::Error;

/// Maximum time for which a token can be refused, in milliseconds; also the default if its expiry is not given.
pub const MAX_REFUSED_FOR: u64 = 366 * 24 * 3_600_000;
/// Maximum length of a user id, and of a log filter, in bytes.
pub const MAX_USER: usize = 255;
const MAX_FILTER: usize = 1_000;
/// The highest rate, as in the settings.
const MAX_RATE: u32 = 1_000_000;

impl Admin {
    /// Has all replicas execute an action, or the one with this name. `via`: how the operator connected.
    ///
    /// # Errors
    /// The action is invalid, there is no such replica, or no replica has executed it.
    pub async fn act(&self, via: &str, replica: Option<&str>, mut action: Action) -> Result<Done, AdminError> {
        check(&action)?;
        let (user_key, token_id) = match &action {
            Action::Disconnect { user_id, .. } => (Some(UserKey::of(user_id).0.to_string()), None),
            Action::RefuseToken { token_id, .. } | Action::AcceptToken { token_id } => (None, Some(token_id.as_str())),
            _ => (None, None),
        };
        let name = action.name();
        // One replica is enough: all logs are in one database.
        let one = (action == Action::Compact && replica.is_none()).then(|| self.replicas.own_name().to_owned());
        let replica = replica.or(one.as_deref());
        // The log never identifies a user: the user's key is shown on the user's page.
        tracing::warn!(action = name, via, replica, user_key, token_id, "operator action requested");
        // Stored before anybody is told: a replica that starts in the meantime finds it there, or is told.
        let unkept = match &mut action {
            Action::RefuseToken { token_id, until, stored } => {
                let kept = self.replicas.keep_refused(token_id, *until).await;
                if let Err(KeepError::Database(RefusedTokensError::Full(why))) = kept {
                    return Err(AdminError::NotDone(why.to_string()));
                }
                *stored = kept.is_ok();
                kept.err().map(|error| {
                    tracing::error!(error = &error as &dyn Error, "cannot store a refused token");
                    format!("not stored, so replicas that start later will not refuse it: {error}")
                })
            }
            Action::AcceptToken { token_id } => self.replicas.keep_accepted(token_id).await.err().map(|error| {
                tracing::error!(error = &error as &dyn Error, "cannot delete a refused token");
                format!("still stored, so replicas that start later may refuse it again: {error}")
            }),
            _ => None,
        };
        let asked = self.replicas.ask(replica, Question::Do { action }).await;
        let problems: Vec<String> = problem(&asked).into_iter().chain(unkept).collect();
        let problem = (!problems.is_empty()).then(|| problems.join("; "));
        let outcomes = asked.answers.into_iter().filter_map(|answered| match answered.answer {
            Answer::Done(outcome) => Some(outcome),
            _ => None,
        });
        concluded(Done { outcomes: outcomes.collect(), silent: asked.silent, problem }, replica)
    }
}

/// Refuses an action that was certainly not executed anywhere: nobody can say that of a replica that did not answer.
fn concluded(done: Done, replica: Option<&str>) -> Result<Done, AdminError> {
    if !done.silent.is_empty() || done.problem.is_some() || done.outcomes.iter().any(|outcome| outcome.done) {
        return Ok(done);
    }
    match done.outcomes.into_iter().next() {
        None => Err(AdminError::NoReplica(replica.unwrap_or_default().to_owned())),
        Some(outcome) => Err(AdminError::NotDone(outcome.message)),
    }
}

/// Returns until when a token is refused, in milliseconds since the epoch: as given, or for a year, because nobody
/// knows when it expires, and it must not be accepted again before that.
///
/// # Errors
/// It is not a valid time, or is past, or too far ahead.
pub fn refused_until(clock: &Clock, until: Option<&str>) -> Result<u64, AdminError> {
    let now = clock.millis();
    let Some(until) = until.map(str::trim).filter(|until| !until.is_empty()) else { return Ok(now + MAX_REFUSED_FOR) };
    let parsed = chrono::DateTime::parse_from_rfc3339(until);
    let millis =
        parsed.map_err(|_| AdminError::Invalid("until must be an RFC 3339 time, in the form 2030-01-01T00:00:00Z"));
    match u64::try_from(millis?.timestamp_millis()) {
        Ok(until) if until > now && until <= now + MAX_REFUSED_FOR => Ok(until),
        _ => Err(AdminError::Invalid("until must be in the future, and within a year")),
    }
}

fn check(action: &Action) -> Result<(), AdminError> {
    let name = |name: &'static str, text: &str, max| {
        check_name(text, max).map(|_| ()).map_err(|problem| AdminError::Name { name, problem })
    };
    match action {
        Action::Disconnect { user_id, device } => {
            name("userId", user_id, MAX_USER)?;
            device.as_deref().map_or(Ok(()), |device| name("device", device, MAX_CLIENT))
        }
        Action::RefuseToken { token_id, .. } | Action::AcceptToken { token_id } => {
            name("tokenId", token_id, MAX_TOKEN_ID)
        }
        Action::Log { filter } if filter.len() > MAX_FILTER => Err(AdminError::Invalid("the filter is too long")),
        Action::Log { filter } => logs::check(filter).map(|_| ()).map_err(|_| {
            AdminError::Invalid("filter must have the form of RUST_LOG, such as info or info,mana_sync::store=debug")
        }),
        Action::Rates { pushes: None, pulls: None } => Err(AdminError::Invalid("name a rate to change")),
        Action::Rates { pushes, pulls }
            if [pushes, pulls].iter().any(|rate| rate.is_some_and(|rate| rate > MAX_RATE)) =>
        {
            Err(AdminError::Invalid("a rate must be at most 1000000"))
        }
        Action::Rates { .. } | Action::Drain { .. } | Action::Compact => Ok(()),
        Action::Unknown => Err(AdminError::NotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Outcome, Silent};
    use super::*;

    #[test]
    fn it_is_called_not_done_only_if_every_replica_has_said_so() {
        let outcome = |done| Outcome { done, message: "there are too many".to_owned(), ..Outcome::default() };
        let told = |outcomes: &[bool], silent: usize, problem: Option<&str>| {
            let outcomes = outcomes.iter().copied().map(outcome).collect();
            concluded(
                Done { outcomes, silent: vec![Silent::default(); silent], problem: problem.map(str::to_owned) },
                None,
            )
        };
        assert!(matches!(told(&[], 0, None), Err(AdminError::NoReplica(_))));
        assert!(matches!(told(&[false, false], 0, None), Err(AdminError::NotDone(why)) if why == "there are too many"));
        for (outcomes, silent, problem) in
            [(&[true, false][..], 0, None), (&[false], 1, None), (&[false], 0, Some("not stored")), (&[], 1, None)]
        {
            let done = told(outcomes, silent, problem).unwrap();
            assert_eq!((done.outcomes.len(), done.silent.len()), (outcomes.len(), silent));
        }
    }
}
