//! Who is let in and who is refused, by what was asked for and why.
//!
//! A replica that refuses everybody looks well from inside: it answers quickly and nothing fails. It shows only where
//! refusals are counted beside what is accepted.

use super::throttle::Throttle;
use prometheus::{IntCounter, IntCounterVec};
use std::time::Duration;

/// The least time between two lines that give the same reason.
const PAUSE: Duration = Duration::from_secs(10);

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /sync/{app}`.
    Push,
    /// `GET /sync/{app}/pull`.
    Pull,
    /// Streams.
    Stream,
    /// What browsers ask before they send any of the others: whether the page that they show may.
    Preflight,
    /// WebSockets.
    WebSocket,
}

pub(super) const ENDPOINTS: &[&str] = &["push", "pull", "stream", "preflight", "websocket"];

/// Why a request was not answered 2xx, or a WebSocket did not get as far as `auth-ok`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 401: no token was sent, in the header or in time.
    TokenMissing,
    /// It is no JWT.
    TokenMalformed,
    /// It is signed with another algorithm.
    TokenAlgorithm,
    /// It names no key.
    TokenKeyMissing,
    /// The issuer publishes no such key.
    TokenKeyUnknown,
    /// Its signature is wrong.
    TokenSignature,
    /// It has expired.
    TokenExpired,
    /// It is not valid yet.
    TokenNotYetValid,
    /// It is from another issuer.
    TokenIssuer,
    /// It is for another audience.
    TokenAudience,
    /// It names no user, or one that cannot be.
    TokenSubject,
    /// A header marked as critical that is not known here.
    TokenCritical,
    /// Another claim is missing or cannot be read.
    TokenClaims,
    /// An operator has refused it.
    TokenRefused,
    /// A second token on a WebSocket, of another user than the first.
    TokenOtherUser,
    /// A preflight from a page that CORS_ORIGINS does not name: its browser sends nothing more.
    Origin,
    /// 503: there are no keys to check a token with.
    KeysUnavailable,
    /// 402.
    SyncInactive,
    /// 400, 408, 413, 415 and 422, among others: the request is at fault.
    BadRequest,
    /// 429: a limit of one user.
    UserLimit,
    /// 503: a limit of the replica.
    Busy,
    /// 503: the database cannot be used.
    DatabaseUnavailable,
    /// 503: the replica does not serve yet, or no longer.
    NotReady,
    /// 500.
    Internal,
}

pub(super) const REASONS: &[&str] = &[
    "token_missing",
    "token_malformed",
    "token_algorithm",
    "token_key_missing",
    "token_key_unknown",
    "token_signature",
    "token_expired",
    "token_not_yet_valid",
    "token_issuer",
    "token_audience",
    "token_subject",
    "token_critical",
    "token_claims",
    "token_refused",
    "token_other_user",
    "origin",
    "keys_unavailable",
    "sync_inactive",
    "bad_request",
    "user_limit",
    "busy",
    "database_unavailable",
    "not_ready",
    "internal",
];

impl Refusal {
    /// The reason as a label.
    pub fn label(self) -> &'static str {
        REASONS[self as usize]
    }

    /// Whether the line about it is written where requests are counted. The others are written where more is known:
    /// the key of a token, the error of a database. What is wrong with a request is its client's business alone.
    pub fn is_logged_with_the_answer(self) -> bool {
        matches!(self, Refusal::TokenMissing | Refusal::SyncInactive | Refusal::UserLimit)
    }
}

/// The counts of one replica.
#[derive(Debug)]
pub struct Refusals {
    /// By endpoint.
    accepted: Vec<IntCounter>,
    /// By endpoint, then by reason.
    refused: Vec<Vec<IntCounter>>,
    /// By reason.
    lines: Vec<Throttle>,
}

impl Refusals {
    pub(super) fn new(accepted: &IntCounterVec, refused: &IntCounterVec) -> Refusals {
        let reasons = |endpoint: &str| {
            REASONS.iter().map(|reason| refused.with_label_values(&[endpoint, reason])).collect::<Vec<_>>()
        };
        Refusals {
            accepted: ENDPOINTS.iter().map(|endpoint| accepted.with_label_values(&[endpoint])).collect(),
            refused: ENDPOINTS.iter().map(|endpoint| reasons(endpoint)).collect(),
            lines: REASONS.iter().map(|_| Throttle::every(PAUSE)).collect(),
        }
    }

    /// Counts a request that was answered 2xx, or a WebSocket that authenticated.
    pub fn accept(&self, endpoint: Endpoint) {
        self.accepted[endpoint as usize].inc();
    }

    /// Counts a refusal.
    pub fn refuse(&self, endpoint: Endpoint, reason: Refusal) {
        self.refused[endpoint as usize][reason as usize].inc();
    }

    /// How many have been accepted since the start, of all endpoints. Preflights only precede what is asked for.
    pub fn accepted(&self) -> u64 {
        let counts = self.accepted.iter().enumerate();
        counts.filter(|(n, _)| *n != Endpoint::Preflight as usize).map(|(_, count)| count.get()).sum()
    }

    /// What has been counted for each endpoint and reason since the start, zeros left out.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let of = |(endpoint, reasons): (&&'static str, &Vec<IntCounter>)| {
            let counts: Vec<u64> = reasons.iter().map(IntCounter::get).collect();
            let endpoint = *endpoint;
            REASONS.iter().zip(counts).map(move |(reason, count)| (endpoint, *reason, count))
        };
        ENDPOINTS.iter().zip(&self.refused).flat_map(of).filter(|(_, _, count)| *count > 0)
    }

    /// Whether a line about such a refusal is to be written now; then, how many were not since the last one.
    pub fn line_due(&self, reason: Refusal) -> Option<u64> {
        self.lines[reason as usize].is_due()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_in_the_order_of_what_they_name() {
        assert_eq!(Refusal::TokenMissing.label(), "token_missing");
        assert_eq!(Refusal::TokenAudience.label(), "token_audience");
        assert_eq!(Refusal::SyncInactive.label(), "sync_inactive");
        assert_eq!(Refusal::Internal.label(), "internal");
        assert_eq!(Refusal::Internal as usize + 1, REASONS.len());
        assert_eq!(Endpoint::WebSocket as usize + 1, ENDPOINTS.len());
    }

    #[test]
    fn each_reason_has_a_line_of_its_own() {
        let metrics = crate::telemetry::Metrics::new();
        let due = |reason| metrics.refusals.line_due(reason).is_some();
        assert!(due(Refusal::TokenAudience) && !due(Refusal::TokenAudience) && due(Refusal::TokenIssuer));
    }
}
