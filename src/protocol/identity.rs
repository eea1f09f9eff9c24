//! Derives row ids from changes (G1).
//!
//! A change that is sent again must not be stored twice, whichever push it comes in, whichever replica it reaches and
//! however much later. So nothing is remembered except the rows: each row's id is derived from user, app, device and
//! the change itself, including its stamps, and the primary key rejects the second copy. Only for a change without any
//! stamp does its push's `since` count too: nothing in the change tells when it was made.

use super::cursor::Cursor;
use super::stamp::Stamp;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use uuid::Uuid;

/// Identifies a change, apart from user, app and device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeIdentity {
    digest: [u8; 32],
    /// The latest of its stamps as claimed, or else its push's `since`, in milliseconds since the epoch.
    millis: i64,
}

/// Collects what identifies a change.
#[derive(Debug, Default)]
pub(super) struct IdentityBuilder {
    digest: Sha256,
    latest: Option<Stamp>,
}

impl IdentityBuilder {
    /// Adds texts, each with its length, so that different lists never give the same bytes.
    pub(super) fn texts(&mut self, texts: &[&str]) {
        for text in texts {
            self.digest.update((text.len() as u64).to_le_bytes());
            self.digest.update(text.as_bytes());
        }
    }

    /// Adds JSON without insignificant whitespace.
    pub(super) fn json(&mut self, json: &str) {
        self.texts(&["json"]);
        for piece in significant(json) {
            self.digest.update(piece.as_bytes());
        }
        // JSON never contains this byte.
        self.digest.update([0]);
    }

    /// Adds a stamp as its client claimed it.
    pub(super) fn stamp(&mut self, stamp: Stamp) {
        self.digest.update(stamp.millis().to_le_bytes());
        self.latest = self.latest.max(Some(stamp));
    }

    /// True if a stamp was added.
    pub(super) fn is_stamped(&self) -> bool {
        self.latest.is_some()
    }

    /// Returns the identity. If no stamp was added, `since` counts, and so does the number of equal changes before it
    /// in the push.
    pub(super) fn finish(mut self, since: Cursor, repeated: &mut HashMap<[u8; 32], u64>) -> ChangeIdentity {
        if let Some(latest) = self.latest {
            return ChangeIdentity { digest: self.digest.finalize().into(), millis: latest.millis() };
        }
        self.texts(&["since", &since.micros().to_string()]);
        let count = repeated.entry(self.digest.clone().finalize().into()).or_insert(0);
        self.digest.update(count.to_le_bytes());
        *count += 1;
        ChangeIdentity { digest: self.digest.finalize().into(), millis: since.micros() / 1_000 }
    }
}

/// The device that made the changes: user, app and client.
#[derive(Clone, Debug)]
pub struct DeviceScope(Sha256);

impl DeviceScope {
    /// Creates the scope of a user's device in an app.
    pub fn new(user: &str, app: &str, client: &str) -> DeviceScope {
        let mut builder = IdentityBuilder::default();
        builder.texts(&[user, app, client]);
        DeviceScope(builder.digest)
    }

    /// Returns the id of the change's row.
    ///
    /// Ids are UUIDs of version 8 (RFC 9562): 48 bits of milliseconds, so that rows of changes made at about the same
    /// time are close together in the primary key; the rest is digest.
    pub fn row_id(&self, change: &ChangeIdentity) -> Uuid {
        self.derive(change, &[])
    }

    /// Returns the id for a change equal to one stored before that counts as another change, because the record was
    /// changed in between, at `position`.
    pub fn row_id_after(&self, change: &ChangeIdentity, position: i64) -> Uuid {
        self.derive(change, &position.to_le_bytes())
    }

    fn derive(&self, change: &ChangeIdentity, more: &[u8]) -> Uuid {
        let row = self.0.clone().chain_update(change.digest).chain_update(more).finalize();
        let mut id = [0; 16];
        id[..6].copy_from_slice(&change.millis.max(0).to_be_bytes()[2..]);
        id[6..].copy_from_slice(&row[..10]);
        uuid::Builder::from_custom_bytes(id).into_uuid()
    }
}

/// Iterates over the pieces of well-formed JSON between insignificant whitespace.
fn significant(json: &str) -> impl Iterator<Item = &str> {
    let bytes = json.as_bytes();
    let (mut at, mut in_string) = (0, false);
    std::iter::from_fn(move || {
        let start = at;
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'"' => in_string = !in_string,
                // An escaped character does not end the string.
                b'\\' if in_string => at += 1,
                b' ' | b'\t' | b'\n' | b'\r' if !in_string => break,
                _ => {}
            }
            at += 1;
        }
        let piece = json.get(start..at.min(bytes.len()))?;
        at += 1;
        (start < bytes.len()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(texts: &[&str], stamp: Option<i64>, since: i64) -> ChangeIdentity {
        let mut builder = IdentityBuilder::default();
        builder.texts(texts);
        stamp.into_iter().for_each(|millis| builder.stamp(Stamp::from_millis(millis)));
        builder.finish(Cursor::after(since), &mut HashMap::new())
    }

    fn row_id(change: &ChangeIdentity) -> Uuid {
        DeviceScope::new("u", "a", "c").row_id(change)
    }

    #[test]
    fn the_same_change_has_the_same_row_id_and_any_other_has_another() {
        let change = identity(&["x", "y"], Some(5), 20);
        let first = row_id(&change);
        assert_eq!(first, row_id(&identity(&["x", "y"], Some(5), 40)), "since does not count where there is a stamp");
        for other in [
            DeviceScope::new("v", "a", "c").row_id(&change),
            DeviceScope::new("u", "b", "c").row_id(&change),
            DeviceScope::new("u", "a", "d").row_id(&change),
            DeviceScope::new("u", "ac", "").row_id(&change),
            DeviceScope::new("u", "a", "c").row_id_after(&change, 20),
            row_id(&identity(&["xy"], Some(5), 20)),
            row_id(&identity(&["x", "y"], Some(6), 20)),
            row_id(&identity(&["x", "y"], None, 20)),
        ] {
            assert_ne!(first, other);
        }
        assert_ne!(row_id(&identity(&["x"], None, 20)), row_id(&identity(&["x"], None, 40)));
    }

    #[test]
    fn the_same_change_without_a_stamp_counts_as_often_as_it_is_in_a_push() {
        let mut repeated = HashMap::new();
        let mut next = || IdentityBuilder::default().finish(Cursor::after(20), &mut repeated);
        let (first, second) = (next(), next());
        assert_ne!(first, second);
        assert_eq!(first, IdentityBuilder::default().finish(Cursor::after(20), &mut HashMap::new()));
    }

    #[test]
    fn white_space_does_not_make_json_another() {
        let of = |json| {
            let mut builder = IdentityBuilder::default();
            builder.json(json);
            builder.finish(Cursor::BEGINNING, &mut HashMap::new())
        };
        assert_eq!(of(r#"{"a":[1,"x y\" z"]}"#), of("{ \"a\" :\n[1,\t\"x y\\\" z\"]}\r"));
        assert_ne!(of(r#""x y""#), of(r#""xy""#));
        assert_ne!(of(r#""\" a""#), of(r#""\"a""#));
    }

    #[test]
    fn row_ids_are_valid_uuids_that_sort_by_the_latest_stamp() {
        let early = row_id(&identity(&["x"], Some(1_700_000_000_000), 0));
        let late = row_id(&identity(&["x"], Some(1_700_000_001_000), 0));
        assert_eq!(early.get_version_num(), 8);
        assert_eq!(early.get_variant(), uuid::Variant::RFC4122);
        assert!(early < late);
        assert!(row_id(&identity(&["x"], Some(-5), 0)) < early, "a stamp before the epoch");
    }
}
