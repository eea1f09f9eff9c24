//! Row ids that are a function of the push (G1).
//!
//! A push that is sent again must store nothing twice, on whichever replica it arrives and however long after.
//! So nothing is remembered apart from the rows: the id of each is derived from everything that makes the push
//! the same push, and the primary key refuses the second copy.

use super::cursor::Cursor;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Digest of what makes a push the same push: device, `since` and changes. User and app join it in
/// [`row_ids`](Fingerprint::row_ids).
#[derive(Clone, Debug, Default)]
pub struct Fingerprint {
    digest: Sha256,
    since: i64,
}

impl Fingerprint {
    /// The digest of a push without changes.
    pub fn start(client: &str, since: Cursor) -> Fingerprint {
        let mut fingerprint = Fingerprint { digest: Sha256::new(), since: since.micros() };
        fingerprint.add(&[client, &since.to_string()]);
        fingerprint
    }

    /// Adds texts, each with its length, so that no two lists give the same bytes.
    pub fn add(&mut self, texts: &[&str]) {
        for text in texts {
            self.digest.update((text.len() as u64).to_le_bytes());
            self.digest.update(text.as_bytes());
        }
    }

    /// The ids of the push's rows, in the order of its changes.
    ///
    /// UUIDs of version 8 (RFC 9562): 48 bits of the milliseconds of `since`, which every retry shares, so that
    /// rows stored about the same time lie close together in the primary key; the rest is digest.
    pub fn row_ids(&self, user: &str, app: &str, count: usize) -> Vec<Uuid> {
        let mut whole = self.clone();
        whole.add(&[user, app]);
        let push = whole.digest.finalize();
        let millis = (self.since / 1000).to_be_bytes();
        (0..count as u64)
            .map(|index| {
                let row = Sha256::new().chain_update(push).chain_update(index.to_le_bytes()).finalize();
                let mut id = [0; 16];
                id[..6].copy_from_slice(&millis[2..]);
                id[6..].copy_from_slice(&row[..10]);
                uuid::Builder::from_custom_bytes(id).into_uuid()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(client: &str, since: i64, texts: &[&str]) -> Fingerprint {
        let mut fingerprint = Fingerprint::start(client, Cursor::after(since));
        fingerprint.add(texts);
        fingerprint
    }

    #[test]
    fn the_same_push_has_the_same_row_ids_and_any_other_has_others() {
        let ids = |f: Fingerprint, user, app| f.row_ids(user, app, 2);
        let first = ids(fingerprint("c", 4, &["x", "y"]), "u", "a");
        assert_eq!(first, ids(fingerprint("c", 4, &["x", "y"]), "u", "a"));
        assert_ne!(first[0], first[1]);
        for other in [
            ids(fingerprint("d", 4, &["x", "y"]), "u", "a"),
            ids(fingerprint("c", 6, &["x", "y"]), "u", "a"),
            ids(fingerprint("c", 4, &["xy"]), "u", "a"),
            ids(fingerprint("c", 4, &["x", "y"]), "v", "a"),
            ids(fingerprint("c", 4, &["x", "y"]), "u", "b"),
        ] {
            assert!(first.iter().all(|id| !other.contains(id)));
        }
    }

    #[test]
    fn row_ids_are_valid_uuids_that_sort_by_since() {
        let early = fingerprint("c", 1_700_000_000_000_000, &["x"]).row_ids("u", "a", 1)[0];
        let late = fingerprint("c", 1_700_000_001_000_000, &["x"]).row_ids("u", "a", 1)[0];
        assert_eq!(early.get_version_num(), 8);
        assert_eq!(early.get_variant(), uuid::Variant::RFC4122);
        assert!(early < late);
    }
}
