//! Concurrent attempts with staggered starts: the first that succeeds wins.

use super::error::ConnectError;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::time::Duration;
use tokio::time::sleep;

/// Maximum time to wait for one place before the next is tried as well.
const STAGGER: Duration = Duration::from_millis(250);
/// By this time all have been tried, however many there are, which bounds the wait for a connection.
const ALL_ASKED: Duration = Duration::from_millis(750);

/// Pause before a standby is tried again while other places do not answer: it may be the primary by then.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// The reason that no connection could be made.
#[derive(Debug)]
pub(super) struct Failed {
    /// The most informative of the errors.
    pub(super) error: ConnectError,
    /// True if an error of at least one place may pass.
    may_pass: bool,
}

impl Failed {
    /// Returns the error for several hosts: one that refuses for good may be misconfigured, while another that is
    /// unavailable may be the primary in a moment.
    pub(super) fn of_hosts(self) -> ConnectError {
        let is_for_good = !self.error.is_passing();
        match self.error {
            ConnectError::Refused(error) if is_for_good && self.may_pass => ConnectError::OneRefused(error),
            error => error,
        }
    }
}

/// Returns the first connection made to one of this many places. The next is tried if one has failed or is slow.
///
/// # Errors
/// None could be made.
pub(super) async fn first<T, A>(places: usize, ask: impl Fn(usize) -> A) -> Result<T, Failed>
where
    A: Future<Output = Result<T, ConnectError>>,
{
    let others = u32::try_from(places.saturating_sub(1)).unwrap_or(u32::MAX);
    let stagger = STAGGER.min(ALL_ASKED / others.max(1));
    let ask = &ask;
    let attempt = |place: usize, is_again: bool| async move {
        if is_again {
            sleep(ASK_AGAIN).await;
        }
        (place, is_again, ask(place).await)
    };
    let (mut unasked, mut unanswered) = (0..places, 0);
    let mut begun = FuturesUnordered::new();
    let (mut telling, mut may_pass) = (None::<ConnectError>, false);
    let mut is_next_due = true;
    loop {
        if let Some(place) = if is_next_due { unasked.next() } else { None } {
            begun.push(attempt(place, false));
            unanswered += 1;
        }
        if unanswered == 0 {
            return Err(Failed { error: telling.unwrap_or(ConnectError::NoPrimary), may_pass });
        }
        is_next_due = tokio::select! {
            Some((place, is_again, answer)) = begun.next() => match answer {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    if matches!(error, ConnectError::NoPrimary) {
                        begun.push(attempt(place, true));
                    }
                    may_pass |= error.is_passing();
                    telling = Some(more_telling(telling, error));
                    unanswered -= usize::from(!is_again);
                    !is_again
                }
            },
            () = sleep(stagger), if !unasked.is_empty() => true,
        };
    }
}

/// Returns the more useful of two errors for an operator: what a server says, rather than that another is unreachable.
fn more_telling(before: Option<ConnectError>, now: ConnectError) -> ConnectError {
    let rank = |error: &ConnectError| match error {
        ConnectError::Url(_) | ConnectError::Tls(_) => 4,
        // A reachable standby is more likely to be, or know, the next primary than a host that rejects us.
        ConnectError::NoPrimary | ConnectError::OtherServer => 3,
        ConnectError::Refused(_) | ConnectError::OneRefused(_) => 2,
        ConnectError::Timeout | ConnectError::Reach(_) => 1,
        ConnectError::Resolve(_) => 0,
    };
    match before {
        Some(before) if rank(&before) > rank(&now) => before,
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::Instant;

    #[tokio::test]
    async fn however_many_are_silent_the_last_is_asked_within_a_second() {
        for silent in [1, 3, 8, 40] {
            let begun = Instant::now();
            let ask = async |at| match at == silent {
                true => Ok(at),
                false => std::future::pending().await,
            };
            assert_eq!(first(silent + 1, ask).await.unwrap(), silent);
            // A busy machine wakes late, but forty pauses of a quarter of a second would be ten seconds.
            assert!(begun.elapsed() < Duration::from_secs(5), "{silent}: {:?}", begun.elapsed());
        }
    }

    #[tokio::test]
    async fn what_fails_is_not_waited_for_and_the_most_telling_error_is_told() {
        let ask = async |at| {
            Err::<(), _>(match at {
                0 => ConnectError::Timeout,
                1 => ConnectError::NoPrimary,
                _ => ConnectError::Resolve(std::io::ErrorKind::NotFound.into()),
            })
        };
        let mut quickest = Duration::MAX;
        // A busy machine may delay some of them.
        for _ in 0..10 {
            let begun = Instant::now();
            let none = first(3, ask).await;
            quickest = quickest.min(begun.elapsed());
            assert!(matches!(none, Err(Failed { error: ConnectError::NoPrimary, .. })), "{none:?}");
        }
        assert!(quickest < STAGGER, "{quickest:?}");
    }

    #[tokio::test]
    async fn a_standby_that_becomes_the_primary_is_found_while_another_place_says_nothing() {
        let asked = AtomicUsize::new(0);
        let asked = &asked;
        let ask = |place| async move {
            match place {
                0 => std::future::pending().await,
                _ if asked.fetch_add(1, Ordering::Relaxed) < 2 => Err(ConnectError::NoPrimary),
                _ => Ok(place),
            }
        };
        assert_eq!(first(2, ask).await.unwrap(), 1);
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }
}
