//! Tokens that operators have refused, by id (`jti`), until they expire.

use crate::clock::Clock;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Maximum number of tokens refused at the same time.
const MAX_REFUSED: usize = 10_000;

/// The ids of tokens that are no longer accepted. Clones share them.
///
/// Stored in the database and cached in memory: a replica with an admin port is not ready until it has read them
/// ([`crate::admin`]).
#[derive(Clone, Debug)]
pub struct RefusedTokens(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Read with every token; replaced as a whole when one is added.
    until: ArcSwap<HashMap<Arc<str>, SystemTime>>,
    writing: Mutex<()>,
    /// Why the stored tokens have not been read yet, in a sentence. `None`: they have, or nobody can refuse any here.
    unread: Mutex<Option<String>>,
    clock: Clock,
}

/// The maximum number of tokens is refused already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the maximum of {MAX_REFUSED} tokens are already refused")]
pub struct TooManyRefused;

impl RefusedTokens {
    /// Creates an empty set.
    pub fn new(clock: Clock) -> RefusedTokens {
        let (until, writing, unread) = (ArcSwap::default(), Mutex::default(), Mutex::default());
        RefusedTokens(Arc::new(Inner { until, writing, unread, clock }))
    }

    /// Records that the stored tokens have not been read yet, and why.
    pub fn set_unread(&self, why: impl Into<String>) {
        *self.unread_slot() = Some(why.into());
    }

    /// Records that the stored tokens have been read.
    pub fn set_read(&self) {
        *self.unread_slot() = None;
    }

    /// Returns why the stored tokens have not been read yet; `None` if they have.
    pub fn unread(&self) -> Option<String> {
        self.unread_slot().clone()
    }

    fn unread_slot(&self) -> MutexGuard<'_, Option<String>> {
        self.0.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a token until then, or longer if it was already refused for longer. Returns when the refusal ends. Expired
    /// refusals are dropped.
    ///
    /// # Errors
    /// Too many others are refused, and this one is not.
    pub fn refuse(&self, id: &str, until: SystemTime) -> Result<SystemTime, TooManyRefused> {
        self.refuse_all([(Arc::from(id), until)])?;
        Ok(self.0.until.load().get(id).copied().unwrap_or(until))
    }

    /// Refuses several tokens, as many as there is room for.
    pub fn refuse_all(&self, added: impl IntoIterator<Item = (Arc<str>, SystemTime)>) -> Result<(), TooManyRefused> {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.0.clock.now();
        let mut all = HashMap::clone(&self.0.until.load());
        all.retain(|_, until| *until > now);
        let mut outcome = Ok(());
        for (id, until) in added.into_iter().filter(|(_, until)| *until > now) {
            let is_full = all.len() >= MAX_REFUSED;
            match all.get_mut(&id) {
                Some(known) => *known = until.max(*known),
                None if is_full => outcome = Err(TooManyRefused),
                None => drop(all.insert(id, until)),
            }
        }
        self.0.until.store(Arc::new(all));
        outcome
    }

    /// Returns true if the token with this id is refused.
    pub fn contains(&self, id: &str) -> bool {
        self.0.until.load().get(id).is_some_and(|until| *until > self.0.clock.now())
    }

    /// Lists all refused tokens and until when, ordered by that time.
    pub fn list(&self) -> Vec<(Arc<str>, SystemTime)> {
        let now = self.0.clock.now();
        let all = self.0.until.load();
        let mut list: Vec<_> = all.iter().map(|(id, until)| (id.clone(), *until)).collect();
        list.retain(|(_, until)| *until > now);
        list.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_token_is_refused_until_the_latest_time_that_was_said() {
        let clock = Clock::system();
        let (tokens, now) = (RefusedTokens::new(clock.clone()), clock.now());
        let hour = Duration::from_secs(3600);
        assert!(!tokens.contains("a"));
        assert_eq!(tokens.refuse("a", now + hour * 2), Ok(now + hour * 2));
        assert_eq!(tokens.refuse("a", now + hour), Ok(now + hour * 2));
        tokens.refuse("over", now - hour).unwrap();
        tokens.refuse("b", now + hour).unwrap();
        assert!(tokens.contains("a") && tokens.contains("b") && !tokens.contains("over"));
        assert_eq!(tokens.list(), [("b".into(), now + hour), ("a".into(), now + hour * 2)]);
    }

    #[test]
    fn there_is_a_limit_and_what_was_refused_stays_so() {
        let clock = Clock::system();
        let (tokens, until) = (RefusedTokens::new(clock.clone()), clock.now() + Duration::from_secs(3600));
        let many = (0..MAX_REFUSED).map(|n| (Arc::from(n.to_string()), until));
        tokens.refuse_all(many).unwrap();
        assert_eq!(tokens.refuse("one more", until), Err(TooManyRefused));
        assert_eq!(tokens.refuse("7", until), Ok(until));
        assert!(tokens.contains("0") && !tokens.contains("one more"));
        assert_eq!(tokens.list().len(), MAX_REFUSED);
    }
}
