//! Tokens that operators have refused, by id (`jti`), until they expire.

use crate::clock::Clock;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Maximum number of tokens refused at the same time.
pub const MAX_REFUSED: usize = 10_000;

/// The ids of tokens that are no longer accepted. Clones share them.
///
/// Stored in the database and cached in memory: a replica with an admin port is not ready until it has read them
/// ([`crate::admin`]).
#[derive(Clone, Debug)]
pub struct RefusedTokens(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Read with every token; replaced as a whole when it changes.
    all: ArcSwap<HashMap<Arc<str>, Refusal>>,
    writing: Mutex<()>,
    /// The number of times that this replica was told to refuse a token or to accept it again.
    told: AtomicU64,
    /// Why the stored tokens have not been read yet, in a sentence. `None`: they have, or nobody can refuse any here.
    unread: Mutex<Option<String>>,
    clock: Clock,
}

#[derive(Clone, Copy, Debug)]
struct Refusal {
    until: SystemTime,
    /// True if it is known to be in the database: then it ends once it is not there any more.
    is_stored: bool,
}

/// The maximum number of tokens is refused already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the maximum of {MAX_REFUSED} tokens are already refused")]
pub struct TooManyRefused;

impl RefusedTokens {
    /// Creates an empty set.
    pub fn new(clock: Clock) -> RefusedTokens {
        let (all, writing, unread) = (ArcSwap::default(), Mutex::default(), Mutex::default());
        RefusedTokens(Arc::new(Inner { all, writing, told: AtomicU64::new(0), unread, clock }))
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
    /// refusals are dropped. `is_stored`: whether the refusal is known to be in the database.
    ///
    /// # Errors
    /// Too many others are refused, and this one is not.
    pub fn refuse(&self, id: &str, until: SystemTime, is_stored: bool) -> Result<SystemTime, TooManyRefused> {
        let _writing = self.writing();
        self.0.told.fetch_add(1, Ordering::Relaxed);
        let mut all = self.unexpired();
        let outcome = add(&mut all, Arc::from(id), Refusal { until, is_stored });
        let until = all.get(id).map_or(until, |refusal| refusal.until);
        self.0.all.store(Arc::new(all));
        outcome.map(|()| until)
    }

    /// Returns a mark to be taken before stored tokens are read.
    pub fn mark(&self) -> u64 {
        self.0.told.load(Ordering::Relaxed)
    }

    /// Refuses exactly the stored tokens, which were read since this mark, as many as there is room for: those that are
    /// no longer stored were accepted again while this replica could not be told. What was never stored stays refused.
    /// False, and nothing is changed, if this replica was told anything since: what was read may be older than that.
    ///
    /// # Errors
    /// There are too many.
    pub fn refuse_stored(&self, read: Vec<(Arc<str>, SystemTime)>, mark: u64) -> Result<bool, TooManyRefused> {
        let _writing = self.writing();
        if self.mark() != mark {
            return Ok(false);
        }
        let mut all = self.unexpired();
        // A list of the maximum length may lack some.
        if read.len() < MAX_REFUSED {
            all.retain(|_, refusal| !refusal.is_stored);
        }
        let now = self.0.clock.now();
        let read = read.into_iter().filter(|(_, until)| *until > now);
        let added = read.map(|(id, until)| add(&mut all, id, Refusal { until, is_stored: true }));
        let outcome = added.fold(Ok(()), Result::and);
        self.0.all.store(Arc::new(all));
        outcome.map(|()| true)
    }

    /// Accepts a token again; false if it was not refused.
    pub fn accept(&self, id: &str) -> bool {
        let _writing = self.writing();
        self.0.told.fetch_add(1, Ordering::Relaxed);
        let mut all = self.unexpired();
        let was_refused = all.remove(id).is_some();
        self.0.all.store(Arc::new(all));
        was_refused
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.0.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a copy of those that have not expired.
    fn unexpired(&self) -> HashMap<Arc<str>, Refusal> {
        let (now, all) = (self.0.clock.now(), self.0.all.load());
        all.iter().filter(|(_, refusal)| refusal.until > now).map(|(id, refusal)| (id.clone(), *refusal)).collect()
    }

    /// Returns true if the token with this id is refused.
    pub fn contains(&self, id: &str) -> bool {
        self.0.all.load().get(id).is_some_and(|refusal| refusal.until > self.0.clock.now())
    }

    /// Lists all refused tokens and until when, ordered by that time.
    pub fn list(&self) -> Vec<(Arc<str>, SystemTime)> {
        let mut list: Vec<_> = self.unexpired().into_iter().map(|(id, refusal)| (id, refusal.until)).collect();
        list.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        list
    }
}

/// Adds a refusal, or extends it.
fn add(all: &mut HashMap<Arc<str>, Refusal>, id: Arc<str>, added: Refusal) -> Result<(), TooManyRefused> {
    let is_full = all.len() >= MAX_REFUSED;
    match all.get_mut(&id) {
        Some(known) => {
            // The later of the two may be the one that was not stored.
            known.is_stored &= added.is_stored;
            known.until = known.until.max(added.until);
        }
        None if is_full => return Err(TooManyRefused),
        None => drop(all.insert(id, added)),
    }
    Ok(())
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
        assert_eq!(tokens.refuse("a", now + hour * 2, true), Ok(now + hour * 2));
        assert_eq!(tokens.refuse("a", now + hour, true), Ok(now + hour * 2));
        tokens.refuse("over", now - hour, true).unwrap();
        tokens.refuse("b", now + hour, true).unwrap();
        assert!(tokens.contains("a") && tokens.contains("b") && !tokens.contains("over"));
        assert_eq!(tokens.list(), [("b".into(), now + hour), ("a".into(), now + hour * 2)]);
    }

    #[test]
    fn what_is_accepted_again_stays_accepted_whatever_was_read_meanwhile() {
        let clock = Clock::system();
        let (tokens, until) = (RefusedTokens::new(clock.clone()), clock.now() + Duration::from_secs(3600));
        tokens.refuse("a", until, true).unwrap();
        let (mark, read) = (tokens.mark(), vec![("a".into(), until), ("b".into(), until)]);
        assert!(tokens.accept("a") && !tokens.contains("a"));
        assert!(!tokens.accept("a"), "it is accepted already");
        assert_eq!(tokens.refuse_stored(read.clone(), mark), Ok(false), "read before it was accepted");
        assert!(!tokens.contains("a") && !tokens.contains("b"));
        assert_eq!(tokens.refuse_stored(read, tokens.mark()), Ok(true));
        assert!(tokens.contains("a") && tokens.contains("b"));
    }

    #[test]
    fn what_is_no_longer_stored_is_accepted_unless_it_never_was_or_the_list_may_be_cut_off() {
        let clock = Clock::system();
        let (tokens, until) = (RefusedTokens::new(clock.clone()), clock.now() + Duration::from_secs(3600));
        let ids = || tokens.list().into_iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>();
        tokens.refuse("told", until, true).unwrap();
        tokens.refuse("unstored", until, false).unwrap();
        tokens.refuse("extended", until, true).unwrap();
        tokens.refuse("extended", until + Duration::from_secs(1), false).unwrap();
        assert_eq!(tokens.refuse_stored(vec![("read".into(), until)], tokens.mark()), Ok(true));
        assert_eq!(ids(), ["read", "unstored", "extended"]);
        let mark = tokens.mark();
        tokens.refuse("later", until, true).unwrap();
        assert_eq!(tokens.refuse_stored(vec![], mark), Ok(false), "it was stored after the others were read");
        assert!(tokens.contains("later") && tokens.contains("read"));
        assert_eq!(tokens.refuse_stored(vec![], tokens.mark()), Ok(true));
        assert_eq!(ids(), ["unstored", "extended"]);
        let many = (0..MAX_REFUSED).map(|n| (Arc::from(n.to_string()), until));
        tokens.refuse("one of the others", until, true).unwrap();
        assert_eq!(tokens.refuse_stored(many.collect(), tokens.mark()), Err(TooManyRefused));
        assert!(tokens.contains("one of the others"));
    }

    #[test]
    fn there_is_a_limit_and_what_was_refused_stays_so() {
        let clock = Clock::system();
        let (tokens, until) = (RefusedTokens::new(clock.clone()), clock.now() + Duration::from_secs(3600));
        let many = (0..MAX_REFUSED).map(|n| (Arc::from(n.to_string()), until));
        assert_eq!(tokens.refuse_stored(many.collect(), tokens.mark()), Ok(true));
        assert_eq!(tokens.refuse("one more", until, true), Err(TooManyRefused));
        assert_eq!(tokens.refuse("7", until, true), Ok(until));
        assert!(tokens.contains("0") && !tokens.contains("one more"));
        assert_eq!(tokens.list().len(), MAX_REFUSED);
    }
}
