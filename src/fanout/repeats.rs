//! Recognizes notifications that somebody sends again.
//!
//! Every role that may connect to the database hears what replicas tell each other, and can send it again, signatures
//! included, as often as it likes. A signature counts once; one that is remembered no longer is too old to be believed.

use super::channel_key::Signature;
use super::dates::MAX_AGE;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Maximum number of signatures remembered in each of two sets. With more notifications than that within [`MAX_AGE`], an
/// earlier one can be repeated once in as many.
const MAX_SEEN: usize = 1 << 16;

/// The signatures received lately.
#[derive(Debug, Default)]
pub struct Repeats(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    latest: HashSet<u64>,
    earlier: HashSet<u64>,
}

impl Repeats {
    /// Notes a valid signature; returns true if it was received before.
    pub(super) fn note(&self, signature: Signature) -> bool {
        // Half of it is as good as random.
        let [a, b, c, d, e, f, g, h, ..] = signature;
        let signature = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.earlier.contains(&signature) || !seen.latest.insert(signature) {
            return true;
        }
        if seen.latest.len() >= MAX_SEEN {
            seen.earlier = std::mem::take(&mut seen.latest);
        }
        false
    }
}

/// True if something announced with this date is too old to be believed, at this time. Both are since 1970.
pub(super) fn is_outdated(date: Duration, present: Duration) -> bool {
    date + MAX_AGE < present
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fanout::channel_key::MAC_BYTES;

    fn signature(n: usize) -> Signature {
        let mut bytes = [0; MAC_BYTES];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        bytes
    }

    #[test]
    fn a_signature_is_new_once_and_few_are_remembered() {
        let repeats = Repeats::default();
        let count = 3 * MAX_SEEN;
        assert!((0..count).all(|n| !repeats.note(signature(n))));
        assert!((count - MAX_SEEN..count).all(|n| repeats.note(signature(n))), "the latest are known");
        let seen = repeats.0.lock().unwrap();
        assert!(seen.latest.len() + seen.earlier.len() <= 2 * MAX_SEEN);
    }

    #[test]
    fn what_is_minutes_old_is_outdated_and_what_is_ahead_is_not() {
        let present = Duration::from_secs(1_700_000_000);
        let second = Duration::from_secs(1);
        assert!(!is_outdated(present - MAX_AGE, present) && !is_outdated(present + MAX_AGE, present));
        assert!(is_outdated(present - MAX_AGE - second, present));
    }
}
