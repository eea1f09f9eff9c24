//! Accepted and refused requests, by endpoint and reason.
//!
//! A replica that refuses everybody looks healthy from the inside: it responds quickly and nothing fails. Only counting
//! refusals next to accepted requests reveals it.

use super::throttle::Throttle;
use prometheus::{IntCounter, IntCounterVec};
use std::time::Duration;

/// Minimum time between two log lines with the same reason.
const PAUSE: Duration = Duration::from_secs(10);

/// The kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /sync/{app}`.
    Push,
    /// `GET /sync/{app}/pull`.
    Pull,
    /// Streams.
    Stream,
    /// A browser's preflight: it asks whether its page may send any of the others.
    Preflight,
    /// WebSockets.
    WebSocket,
}

pub(super) const ENDPOINTS: &[&str] = &["push", "pull", "stream", "preflight", "websocket"];

/// The reason that a request was not answered 2xx, or that a WebSocket did not get as far as `auth-ok`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 401: no token was sent, in the header or in time.
    TokenMissing,
    /// The token is not a JWT.
    TokenMalformed,
    /// The token is signed with another algorithm.
    TokenAlgorithm,
    /// The token names no key.
    TokenKeyMissing,
    /// The issuer publishes no such key.
    TokenKeyUnknown,
    /// The signature is wrong.
    TokenSignature,
    /// The token has expired.
    TokenExpired,
    /// The token is not valid yet.
    TokenNotYetValid,
    /// The token is from another issuer.
    TokenIssuer,
    /// The token is for another audience.
    TokenAudience,
    /// The token names no user, or an invalid one.
    TokenSubject,
    /// The token has a critical header that is not supported here.
    TokenCritical,
    /// Another claim is missing or invalid.
    TokenClaims,
    /// An operator has refused the token.
    TokenRefused,
    /// A second token on a WebSocket was for a different user than the first.
    TokenOtherUser,
    /// A preflight came from a page that CORS_ORIGINS does not name; the browser sends nothing more.
    Origin,
    /// 503: there are no keys to check a token with.
    KeysUnavailable,
    /// 402.
    SyncInactive,
    /// 400, 408, 413, 415 and 422, among others: the request is at fault.
    BadRequest,
    /// 429: a per-user limit.
    UserLimit,
    /// 503: a limit of the replica.
    Busy,
    /// 503: the database cannot be used.
    DatabaseUnavailable,
    /// 503: the replica is not serving yet, or no longer.
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

impl Endpoint {
    /// Returns the endpoint as a label.
    pub fn label(self) -> &'static str {
        ENDPOINTS[self as usize]
    }
}

impl Refusal {
    /// Returns the reason as a label.
    pub fn label(self) -> &'static str {
        REASONS[self as usize]
    }

    /// Returns true if the refusal is logged where requests are counted. The others are logged where more is known,
    /// such as the key of a token or the error of a database; what is wrong with a request concerns only its client.
    pub fn is_logged_with_the_answer(self) -> bool {
        matches!(self, Refusal::TokenMissing | Refusal::SyncInactive | Refusal::UserLimit)
    }
}

/// One replica's counters.
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

    /// Counts a request answered 2xx, or a WebSocket that authenticated.
    pub fn accept(&self, endpoint: Endpoint) {
        self.accepted[endpoint as usize].inc();
    }

    /// Counts a refusal.
    pub fn refuse(&self, endpoint: Endpoint, reason: Refusal) {
        self.refused[endpoint as usize][reason as usize].inc();
    }

    /// Returns the number of accepted requests since the start, over all endpoints, without preflights.
    pub fn accepted(&self) -> u64 {
        let counts = self.accepted.iter().enumerate();
        counts.filter(|(n, _)| *n != Endpoint::Preflight as usize).map(|(_, count)| count.get()).sum()
    }

    /// Returns the nonzero counts of refusals since the start, by endpoint and reason.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let of = |(endpoint, reasons): (&&'static str, &Vec<IntCounter>)| {
            let counts: Vec<u64> = reasons.iter().map(IntCounter::get).collect();
            let endpoint = *endpoint;
            REASONS.iter().zip(counts).map(move |(reason, count)| (endpoint, *reason, count))
        };
        ENDPOINTS.iter().zip(&self.refused).flat_map(of).filter(|(_, _, count)| *count > 0)
    }

    /// If a line about such a refusal is due now, returns the number suppressed since the last one.
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
        assert_eq!(Endpoint::Push.label(), "push");
        assert_eq!(Endpoint::WebSocket.label(), "websocket");
    }

    #[test]
    fn each_reason_has_a_line_of_its_own() {
        let metrics = crate::telemetry::Metrics::new();
        let due = |reason| metrics.refusals.line_due(reason).is_some();
        assert!(due(Refusal::TokenAudience) && !due(Refusal::TokenAudience) && due(Refusal::TokenIssuer));
    }
}
