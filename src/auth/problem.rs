//! What can be wrong with a token: what its client is told, and what operators count.

use crate::telemetry::refusals::Refusal;
use jsonwebtoken::errors::{Error, ErrorKind};

/// What is wrong with a token. The messages are for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenProblem {
    #[error("it is no JWT")]
    Malformed,
    #[error("it needs an extension that is not known here (crit)")]
    Critical,
    #[error("it must be signed with EdDSA")]
    Algorithm,
    #[error("it names no key (kid)")]
    NoKey,
    #[error("its key (kid) is unknown")]
    UnknownKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("it is not valid yet (nbf)")]
    NotYetValid,
    #[error("it is from another issuer (iss)")]
    Issuer,
    #[error("it names no issuer (iss)")]
    NoIssuer,
    #[error("it is for another audience (aud)")]
    Audience,
    #[error("it names no audience (aud)")]
    NoAudience,
    #[error("it names no user (sub)")]
    NoUser,
    #[error("its user (sub) is longer than 255 bytes")]
    LongUser,
    #[error("it does not say when it expires (exp)")]
    NoExpiry,
    #[error("it lacks a claim that is required")]
    NoClaim,
    #[error("it cannot be read")]
    Unreadable,
    #[error("it has been refused by an operator; sign in again")]
    Refused,
}

impl TokenProblem {
    /// What the check of signature and claims found; none if it is that the token has expired.
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

    /// What it is counted as.
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
