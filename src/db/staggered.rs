//! Trying several places at once, but not all from the first moment: the first that can be used is taken.

use super::error::ConnectError;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::time::Duration;
use tokio::time::sleep;

/// How long one place is waited for alone before the next is asked as well, at most.
const STAGGER: Duration = Duration::from_millis(250);
/// By then all of them have been asked, however many there are: nobody waits much longer for a connection.
const ALL_ASKED: Duration = Duration::from_millis(750);

/// The first connection that one of these attempts makes. The next is begun when one has failed or takes long.
///
/// # Errors
/// None could be made; the error is the most telling of them.
pub(super) async fn first<T, A>(mut attempts: impl ExactSizeIterator<Item = A>) -> Result<T, ConnectError>
where
    A: Future<Output = Result<T, ConnectError>>,
{
    let others = u32::try_from(attempts.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let stagger = STAGGER.min(ALL_ASKED / others.max(1));
    let mut begun: FuturesUnordered<A> = attempts.next().into_iter().collect();
    let mut telling: Option<ConnectError> = None;
    loop {
        tokio::select! {
            answer = begun.next() => match answer {
                Some(Ok(connection)) => return Ok(connection),
                Some(Err(error)) => {
                    telling = Some(more_telling(telling, error));
                    begun.extend(attempts.next());
                }
                None => return Err(telling.unwrap_or(ConnectError::NoPrimary)),
            },
            () = sleep(stagger), if attempts.len() > 0 => begun.extend(attempts.next()),
        }
    }
}

/// Of two errors the one that an operator can do more with: what a server says, rather than that another is not there.
fn more_telling(before: Option<ConnectError>, now: ConnectError) -> ConnectError {
    let rank = |error: &ConnectError| match error {
        ConnectError::Url(_) | ConnectError::Tls(_) => 4,
        // A host that is there will be the primary, or know of one, sooner than one that says why it refuses us.
        ConnectError::NoPrimary => 3,
        ConnectError::Refused(_) => 2,
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
    use tokio::time::Instant;

    #[tokio::test]
    async fn however_many_are_silent_the_last_is_asked_within_a_second() {
        for silent in [1, 3, 8, 40] {
            let begun = Instant::now();
            let attempts = (0..silent + 1).map(async |at| match at == silent {
                true => Ok(at),
                false => std::future::pending().await,
            });
            assert_eq!(first(attempts).await.unwrap(), silent);
            // A busy machine wakes late, but forty pauses of a quarter of a second would be ten.
            assert!(begun.elapsed() < ALL_ASKED * 3, "{silent}: {:?}", begun.elapsed());
        }
    }

    #[tokio::test]
    async fn what_fails_is_not_waited_for_and_the_most_telling_error_is_told() {
        let begun = Instant::now();
        let attempts = [
            ConnectError::Timeout,
            ConnectError::NoPrimary,
            ConnectError::Resolve(std::io::ErrorKind::NotFound.into()),
        ];
        let none = first(attempts.into_iter().map(async |error| Err::<(), _>(error))).await;
        assert!(matches!(none, Err(ConnectError::NoPrimary)), "{none:?}");
        assert!(begun.elapsed() < STAGGER);
    }
}
