//! Problems with tokens: messages for clients, and reasons for operators' counters.

use crate::telemetry::refusals::Refusal;
use jsonwebtoken::errors::{Error, ErrorKind};

/// What is wrong with a token. The messages are for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenProblem {
    /// The token is not a JWT.
    #[error("it is not a JWT")]
    Malformed,
    /// It requires an unknown extension (crit).
    #[error("it requires an unknown extension (crit)")]
    Critical,
    /// It must be signed with EdDSA.
    #[error("it must be signed with EdDSA")]
    Algorithm,
    /// It names no key (kid).
    #[error("it names no key (kid)")]
    NoKey,
    /// Its key (kid) is unknown.
    #[error("its key (kid) is unknown")]
    UnknownKey,
    /// Its signature is wrong.
    #[error("its signature is invalid")]
    Signature,
    /// It is not valid yet (nbf).
    #[error("it is not valid yet (nbf)")]
    NotYetValid,
    /// It is from another issuer (iss).
    #[error("it is from another issuer (iss)")]
    Issuer,
    /// It names no issuer (iss).
    #[error("it names no issuer (iss)")]
    NoIssuer,
    /// It is for another audience (aud).
    #[error("it is for another audience (aud)")]
    Audience,
    /// It names no audience (aud).
    #[error("it names no audience (aud)")]
    NoAudience,
    /// It names no user (sub).
    #[error("it names no user (sub)")]
    NoUser,
    /// Its user (sub) is longer than 255 bytes.
    #[error("its user (sub) is longer than 255 bytes")]
    LongUser,
    /// It does not say when it expires (exp).
    #[error("it does not say when it expires (exp)")]
    NoExpiry,
    /// It lacks a required claim.
    #[error("it lacks a required claim")]
    NoClaim,
    /// It cannot be read.
    #[error("it cannot be read")]
    Unreadable,
    /// It has been refused by an operator; sign in again.
    #[error("it has been refused by an operator; sign in again")]
    Refused,
}

impl TokenProblem {
    /// Converts the error of the signature and claims check; `None` if the token has expired.
    pub(super) fn of(error: &Error) -> Option<TokenProblem> {
        Some(match error.kind() {
            ErrorKind::ExpiredSignature => return None,
            ErrorKind::InvalidSignature => TokenProblem::Signature,
            ErrorKind::InvalidIssuer => TokenProblem::Issuer,
            ErrorKind::InvalidAudience => TokenProblem::Audience,
            ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
                "exp" => TokenProblem::NoExpiry,
                "sub" => TokenProblem::NoUser,
                "iss" => TokenProblem::NoIssuer,
                "aud" => TokenProblem::NoAudience,
                _ => TokenProblem::NoClaim,
            },
            _ => TokenProblem::Unreadable,
        })
    }

    /// Returns the reason under which it is counted.
    pub fn refusal(self) -> Refusal {
        match self {
            TokenProblem::Malformed => Refusal::TokenMalformed,
            TokenProblem::Critical => Refusal::TokenCritical,
            TokenProblem::Algorithm => Refusal::TokenAlgorithm,
            TokenProblem::NoKey => Refusal::TokenKeyMissing,
            TokenProblem::UnknownKey => Refusal::TokenKeyUnknown,
            TokenProblem::Signature => Refusal::TokenSignature,
            TokenProblem::NotYetValid => Refusal::TokenNotYetValid,
            TokenProblem::Issuer | TokenProblem::NoIssuer => Refusal::TokenIssuer,
            TokenProblem::Audience | TokenProblem::NoAudience => Refusal::TokenAudience,
            TokenProblem::NoUser | TokenProblem::LongUser => Refusal::TokenSubject,
            TokenProblem::Refused => Refusal::TokenRefused,
            TokenProblem::NoExpiry | TokenProblem::NoClaim | TokenProblem::Unreadable => Refusal::TokenClaims,
        }
    }
}
