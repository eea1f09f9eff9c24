//! Keys derived from ADMIN_TOKEN: they authenticate operators, sign logins, and encrypt the messages between replicas,
//! so that nobody else on the database can read or forge them.

use crate::config::Secret;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// The keys of the admin port.
#[derive(Debug)]
pub struct AdminKeys {
    token: [u8; 32],
    sealing: RandomizedNonceKey,
    login: hmac::Key,
}

/// A key could not be derived.
#[derive(Debug, thiserror::Error)]
#[error("cannot create the admin port's keys")]
pub struct KeyError(#[from] Unspecified);

impl AdminKeys {
    /// Derives the keys from a token. Replicas with the same token understand each other.
    pub fn new(token: &Secret) -> Result<AdminKeys, KeyError> {
        let derive = |purpose: &str| {
            let token = hmac::Key::new(HMAC_SHA256, token.expose().as_bytes());
            hmac::sign(&token, purpose.as_bytes())
        };
        Ok(AdminKeys {
            token: Sha256::digest(token.expose()).into(),
            sealing: RandomizedNonceKey::new(&AES_256_GCM, derive("mana-sync admin messages, form 1").as_ref())?,
            login: hmac::Key::new(HMAC_SHA256, derive("mana-sync admin logins, form 1").as_ref()),
        })
    }

    /// True if this is the token. Takes the same time whatever is wrong with it.
    pub fn accepts(&self, token: &str) -> bool {
        let given: [u8; 32] = Sha256::digest(token).into();
        verify_slices_are_equal(&given, &self.token).is_ok()
    }

    /// Encrypts a message so that only replicas with the same token can read it.
    ///
    /// # Errors
    /// No randomness is available.
    pub fn seal(&self, message: &[u8]) -> Result<String, KeyError> {
        let mut sealed = message.to_vec();
        let nonce = self.sealing.seal_in_place_append_tag(Aad::empty(), &mut sealed)?;
        sealed.splice(0..0, nonce.as_ref().iter().copied());
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Decrypts the output of [`seal`](Self::seal); none for anything else.
    pub fn open(&self, payload: &str) -> Option<Vec<u8>> {
        let mut sealed = URL_SAFE_NO_PAD.decode(payload).ok()?;
        let (nonce, message) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = self.sealing.open_in_place(nonce, Aad::empty(), message).ok()?.len();
        sealed.drain(..NONCE_LEN);
        sealed.truncate(length);
        Some(sealed)
    }

    /// Returns how many bytes of a message fit in a payload of this size.
    pub const fn room(payload: usize) -> usize {
        payload / 4 * 3 - NONCE_LEN - 16
    }

    /// Signs a value that the browser keeps.
    pub fn sign(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.login, text.as_bytes()))
    }

    /// True if [`sign`](Self::sign) made this signature of this text.
    pub fn has_signed(&self, text: &str, signature: &str) -> bool {
        let signature = URL_SAFE_NO_PAD.decode(signature);
        signature.is_ok_and(|signature| hmac::verify(&self.login, text.as_bytes(), &signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(token: &str) -> AdminKeys {
        AdminKeys::new(&Secret::from(token)).unwrap()
    }

    #[test]
    fn only_the_token_itself_is_accepted() {
        let keys = keys("0123456789abcdef");
        assert!(keys.accepts("0123456789abcdef"));
        for wrong in ["", "0123456789abcde", "0123456789abcdef ", "0123456789abcdeF", "0123456789abcdefg"] {
            assert!(!keys.accepts(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_sealed_is_read_with_the_same_token_alone_and_unchanged() {
        let (ours, others) = (keys("0123456789abcdef"), keys("fedcba9876543210"));
        let sealed = ours.seal(b"a question").unwrap();
        assert_eq!(keys("0123456789abcdef").open(&sealed).as_deref(), Some(&b"a question"[..]));
        assert_eq!(others.open(&sealed), None);
        assert_ne!(ours.seal(b"a question").unwrap(), sealed, "nobody sees that the same is asked twice");
        for n in 0..sealed.len() {
            let mut forged = sealed.clone().into_bytes();
            forged[n] = if forged[n] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(ours.open(&forged), None, "{n}");
        }
        for nonsense in ["", "A", "AAAA", "not base64!", &sealed[..20]] {
            assert_eq!(ours.open(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn the_largest_message_fits() {
        let message = vec![7; AdminKeys::room(7_999)];
        let keys = keys("0123456789abcdef");
        let sealed = keys.seal(&message).unwrap();
        assert!((7_990..=7_999).contains(&sealed.len()), "{}", sealed.len());
        assert_eq!(keys.open(&sealed), Some(message));
    }

    #[test]
    fn signatures_are_of_one_text() {
        let keys = keys("0123456789abcdef");
        let signature = keys.sign("a");
        assert!(keys.has_signed("a", &signature));
        assert!(!keys.has_signed("b", &signature) && !keys.has_signed("a", "") && !keys.has_signed("a", "!"));
    }
}
