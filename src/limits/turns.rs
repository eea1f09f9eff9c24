//! Work that anybody may request at no cost to them, and as often as they like (G6).
//!
//! The runtime's tasks have their turns one after another, and a push needs several turns. What hundreds of connections
//! request at the same moment would be done before everybody else's next turn. So such work is done one piece at a time,
//! each in a turn after those of all tasks that are ready by then.

use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::yield_now;

/// The turns of one kind of work. Clones share them.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Semaphore>);

impl Turns {
    /// Creates turns in which this many pieces of work are done between two turns of everybody else.
    pub fn new(at_once: usize) -> Turns {
        Turns(Arc::new(Semaphore::new(at_once)))
    }

    /// Waits for a turn. What the caller does next, until it waits for something else, is done in it.
    pub async fn next(&self) {
        // The semaphore is never closed. Waiting in line costs others nothing.
        let _first_in_line = self.0.acquire().await;
        yield_now().await;
    }
}

#[cfg(test)]
impl Turns {
    /// Lets nobody have a turn for as long as this is held.
    pub(crate) async fn hold(&self) -> impl Sized + use<> {
        self.0.clone().acquire_owned().await
    }
}

impl Default for Turns {
    fn default() -> Turns {
        Turns::new(1)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use futures_util::future::join_all;
    use std::future::poll_fn;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;

    /// Runs a task that is always ready, and counts its turns.
    pub(crate) fn count_turns() -> Arc<AtomicUsize> {
        let turns = Arc::<AtomicUsize>::default();
        let counted = turns.clone();
        tokio::spawn(poll_fn::<(), _>(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        turns
    }

    /// Does fifty pieces of work; returns how many turns a task that is always ready had had before each.
    async fn turns_before(turns: Turns) -> Vec<usize> {
        let (others, done) = (count_turns(), Mutex::new(Vec::new()));
        let work = async || {
            for _ in 0..5 {
                turns.next().await;
                done.lock().unwrap().push(others.load(Ordering::Relaxed));
            }
        };
        join_all((0..10).map(|_| work())).await;
        let done = done.into_inner().unwrap();
        assert_eq!(done.len(), 50);
        done
    }

    #[tokio::test]
    async fn others_have_their_turns_between_any_two_pieces() {
        let done = turns_before(Turns::default()).await;
        assert!(done.is_sorted_by(|one, next| one < next), "{done:?}");
    }

    #[tokio::test]
    async fn so_many_pieces_at_most_are_done_between_two_turns_of_others() {
        let done = turns_before(Turns::new(3)).await;
        assert!(done.windows(4).all(|pieces| pieces[0] < pieces[3]), "{done:?}");
    }
}
