//! Signs and verifies notifications between replicas.
//!
//! Every role that may connect to the database may LISTEN and NOTIFY. So replicas sign what they send, with keys that
//! they share. An unsigned notification is only a reason to ask the database; its contents are not used. So SQL
//! programs, replicas of the previous version and replicas that already have another key still wake devices, with an
//! extra look-up, and nobody can make up names or ranges.

use crate::config::{FanoutConfig, Secret};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use axum::http::HeaderValue;

/// Length of a signature in bytes: a truncated HMAC-SHA-256.
pub(super) const MAC_BYTES: usize = 12;
/// A signature.
pub(super) type Signature = [u8; MAC_BYTES];
/// Length of a one-time key in bytes.
pub(super) const KEY_BYTES: usize = 32;
/// Prefix of the text that one-time keys are derived from, before the nonce. No notification begins like this, so no
/// signature of one is a key.
const ONE_TIME: &[u8] = b"one notification ";
/// Domain separator for the keys; another form of notification has its own.
const PURPOSE: &[u8] = b"mana-sync notifications, form 2";

/// The accepted keys; the first one signs.
#[derive(Clone, Debug)]
pub struct ChannelKeys {
    signing: Key,
    others: Vec<Key>,
}

impl ChannelKeys {
    /// Creates the keys from the settings, or derives one from the service key, which all replicas share too.
    pub fn new(config: &FanoutConfig, service_key: &HeaderValue) -> ChannelKeys {
        let mut given = config.channel_key.iter().map(Secret::expose).map(str::as_bytes);
        let signing = derive(given.next().unwrap_or(service_key.as_bytes()));
        ChannelKeys { signing, others: given.map(derive).collect() }
    }

    pub(super) fn sign(&self, text: &str) -> Signature {
        mac(&self.signing, text)
    }

    /// Derives a key that signs the one notification with this nonce: for the database, which is not trusted with any
    /// other key.
    pub(super) fn one_time(&self, nonce: &str) -> [u8; KEY_BYTES] {
        one_time(&self.signing, nonce)
    }

    /// True if a text is signed with the one-time key that one of our keys derives from this nonce.
    pub(super) fn verify_one_time(&self, nonce: &str, text: &str, signature: &[u8]) -> bool {
        let mut keys = std::iter::once(&self.signing).chain(&self.others);
        keys.any(|key| {
            let mut hash = digest::Context::new(&SHA256);
            hash.update(&one_time(key, nonce));
            hash.update(text.as_bytes());
            verify_slices_are_equal(&hash.finish().as_ref()[..MAC_BYTES], signature).is_ok()
        })
    }

    /// True if this is signed with one of the keys.
    pub(super) fn verify(&self, text: &str, signature: &[u8]) -> bool {
        let mut keys = std::iter::once(&self.signing).chain(&self.others);
        keys.any(|key| verify_slices_are_equal(&mac(key, text), signature).is_ok())
    }
}

fn derive(secret: &[u8]) -> Key {
    Key::new(HMAC_SHA256, hmac::sign(&Key::new(HMAC_SHA256, secret), PURPOSE).as_ref())
}

fn one_time(key: &Key, nonce: &str) -> [u8; KEY_BYTES] {
    let mut signing = hmac::Context::with_key(key);
    signing.update(ONE_TIME);
    signing.update(nonce.as_bytes());
    let mut made = [0; KEY_BYTES];
    made.copy_from_slice(signing.sign().as_ref());
    made
}

fn mac(key: &Key, text: &str) -> Signature {
    let tag = hmac::sign(key, text.as_bytes());
    let mut mac = [0; MAC_BYTES];
    mac.copy_from_slice(&tag.as_ref()[..MAC_BYTES]);
    mac
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Creates keys as from these settings; the first signs.
    pub(in super::super) fn keys(secrets: &[&str]) -> ChannelKeys {
        let [first, others @ ..] = secrets else { panic!("signing needs a key") };
        let derive = |secret: &&str| derive(secret.as_bytes());
        ChannelKeys { signing: derive(first), others: others.iter().map(derive).collect() }
    }

    #[test]
    fn a_key_is_changed_without_a_gap() {
        let (old, both, new) = (keys(&["old"]), keys(&["old", "new"]), keys(&["new", "old"]));
        for (signing, accepting) in [(&old, &both), (&both, &old), (&both, &new), (&new, &both)] {
            assert!(accepting.verify("text", &signing.sign("text")));
        }
        assert!(!old.verify("text", &new.sign("text")));
    }

    #[test]
    fn a_signature_is_of_one_text_and_whole() {
        let keys = keys(&["key"]);
        let signature = keys.sign("text");
        assert!(!keys.verify("texT", &signature));
        assert!(!keys.verify("text", &signature[1..]));
        assert!(!keys.verify("text", &[]));
        let mut wrong = signature;
        wrong[MAC_BYTES - 1] ^= 1;
        assert!(!keys.verify("text", &wrong));
    }
}
