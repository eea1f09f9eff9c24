//! The encoding of notifications that pushes send with their own commits.
//!
//! ```text
//! m3 | signature, 24 | nonce, 32 | head before, 16 | head, 16 | user, 22 | what was stored
//! ```
//! Numbers are hexadecimal digits; what was stored is JSON as in [`super::codec`], without ranges: there is only one,
//! and only the statement that stores knows it. So the database signs, with a key for this notification alone, which
//! replicas derive from the nonce: anyone who sees that key, for example in a log of parameters, can sign nothing else
//! with it.
//!
//! The signature is the first 12 bytes of the SHA-256 of key and text. The rest of the hash stays unknown, so nobody
//! can extend a signed text.

use super::channel_key::{ChannelKeys, MAC_BYTES, Signature};
use super::codec::{self, CHANNEL, PayloadError};
use super::wakeup::Wakeup;
use crate::protocol::UserKey;
use crate::store::CommitNotice;
use std::time::Duration;

/// The prefix of these payloads.
const FORM: &str = "m3";
const SIGNATURE_WIDTH: usize = MAC_BYTES * 2;
const NONCE_WIDTH: usize = 32;
const POSITION_WIDTH: usize = 16;

/// Composes the notification for this wake-up; its range is not known yet.
pub fn compose(keys: &ChannelKeys, nonce: u128, wakeup: &Wakeup) -> CommitNotice {
    let nonce = format!("{nonce:032x}");
    let key = keys.one_time(&nonce).to_vec();
    CommitNotice { channel: CHANNEL, key, before: nonce, after: codec::encode_without_range(wakeup) }
}

/// A received payload, parsed.
#[derive(Clone, Copy, Debug)]
pub struct CommitPayload<'a> {
    signature: &'a str,
    signed: &'a str,
    nonce: &'a str,
    range: (i64, i64),
    /// The user whose devices are woken.
    pub user: UserKey,
    body: &'a str,
}

impl<'a> CommitPayload<'a> {
    /// Parses a payload; none if it does not have this form at all.
    pub fn parse(text: &'a str) -> Option<Result<CommitPayload<'a>, PayloadError>> {
        let rest = text.strip_prefix(FORM)?;
        let parse = || {
            let (signature, signed) = rest.split_at_checked(SIGNATURE_WIDTH)?;
            let (nonce, rest) = signed.split_at_checked(NONCE_WIDTH)?;
            let (previous, rest) = rest.split_at_checked(POSITION_WIDTH)?;
            let (last, rest) = rest.split_at_checked(POSITION_WIDTH)?;
            let (user, body) = codec::split_user(rest)?;
            let position = |text| i64::from_str_radix(text, 16).ok();
            Some(CommitPayload { signature, signed, nonce, range: (position(previous)?, position(last)?), user, body })
        };
        Some(parse().ok_or(PayloadError::Malformed))
    }

    /// True if it was signed with a key derived by a replica.
    pub fn is_signed(&self, keys: &ChannelKeys) -> bool {
        self.verified(keys).is_some()
    }

    /// Returns its signature if a replica derived its key.
    pub(super) fn verified(&self, keys: &ChannelKeys) -> Option<Signature> {
        let mut signature = [0; MAC_BYTES];
        let digits = self.signature.as_bytes().as_chunks::<2>().0;
        let read = signature.iter_mut().zip(digits).all(|(byte, digits)| {
            let read = std::str::from_utf8(digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
            *byte = read.unwrap_or_default();
            read.is_some()
        });
        (read && keys.verify_one_time(self.nonce, self.signed, &signature)).then_some(signature)
    }

    /// Returns when about the last of what it announces was stored, since 1970.
    pub(super) fn date(&self) -> Option<Duration> {
        codec::date_of(self.range.1)
    }

    /// Decodes the wake-up.
    pub fn read(&self) -> Result<Wakeup, PayloadError> {
        let wakeup = codec::read_body(self.user, self.body)?;
        Ok(Wakeup { ranges: vec![self.range], ..wakeup })
    }
}

#[cfg(test)]
mod tests {
    use super::super::channel_key::tests::keys;
    use super::super::wakeup::tests::{push_span, wakeup};
    use super::*;

    #[test]
    fn what_was_stored_arrives_as_it_was_told() {
        let keys = keys(&["key"]);
        let told = Wakeup {
            ranges: vec![(1_700_000_000_000_000, 1_700_000_000_000_040)],
            pushes: vec![push_span(7)],
            ..wakeup("ü", "todo", Some("phone \"1\""), &["tasks", "lists"])
        };
        let (previous, last) = told.ranges[0];
        let text = compose(&keys, 42, &told).payload(previous, last);
        let payload = CommitPayload::parse(&text).unwrap().unwrap();
        assert!(payload.is_signed(&keys));
        assert_eq!(payload.read().unwrap(), told);
    }

    #[test]
    fn nothing_in_it_can_be_changed_and_its_key_signs_nothing_else() {
        let keys = keys(&["key"]);
        let told = wakeup("u", "todo", Some("phone"), &["tasks"]);
        let notice = compose(&keys, 42, &told);
        let text = notice.payload(0, 40);
        for at in FORM.len()..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(changed).unwrap();
            let accepted = CommitPayload::parse(&changed).and_then(Result::ok).is_some_and(|it| it.is_signed(&keys));
            assert!(!accepted, "{at}: {changed}");
        }
        let other = CommitNotice { before: format!("{:032x}", 43), ..notice };
        let text = other.payload(0, 40);
        assert!(!CommitPayload::parse(&text).unwrap().unwrap().is_signed(&keys));
    }

    #[test]
    fn what_is_cut_short_or_of_another_form_is_refused() {
        let keys = keys(&["key"]);
        let text = compose(&keys, 42, &wakeup("u", "todo", None, &[])).payload(0, 40);
        for length in FORM.len()..FORM.len() + SIGNATURE_WIDTH + NONCE_WIDTH + 2 * POSITION_WIDTH + 22 {
            assert!(CommitPayload::parse(&text[..length]).unwrap().is_err(), "{length}");
        }
        assert!(CommitPayload::parse("m2").is_none());
    }
}
