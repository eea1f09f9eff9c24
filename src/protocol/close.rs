//! The reasons why a WebSocket or a stream ends, and what its client is told.

/// The reason why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client left, or its connection broke.
    ClientLeft,
    /// No token arrived in time.
    AuthTimeout,
    /// The token is not valid.
    InvalidToken,
    /// The token has expired.
    TokenExpired,
    /// A token of another user arrived on an authenticated session.
    OtherUser,
    /// A message is larger than allowed.
    TooLarge,
    /// The data is not a valid WebSocket message.
    ProtocolError,
    /// The client was silent for too long, or did not read.
    Unresponsive,
    /// More wake-ups piled up than are kept.
    TooFarBehind,
    /// The user has as many sessions as are allowed.
    TooManySessions,
    /// Cannot query the database, so the session could not begin.
    Unavailable,
    /// The replica is going away.
    GoingAway,
    /// The session has reached its maximum age.
    TooOld,
    /// Other replicas hold fewer connections.
    Rebalanced,
    /// An operator closed it.
    Disconnected,
}

use CloseReason::*;

impl CloseReason {
    /// All labels, as used in metrics.
    pub const LABELS: &'static [&'static str] = &[
        "client_left",
        "auth_timeout",
        "invalid_token",
        "token_expired",
        "other_user",
        "too_large",
        "protocol_error",
        "unresponsive",
        "too_far_behind",
        "too_many_sessions",
        "unavailable",
        "going_away",
        "too_old",
        "rebalanced",
        "disconnected",
    ];

    /// Returns the reason as a label.
    pub fn label(self) -> &'static str {
        CloseReason::LABELS[self as usize]
    }

    /// Returns the close code (RFC 6455, section 7.4, and the IANA registry for 1012 and 1013).
    pub fn code(self) -> u16 {
        match self {
            ClientLeft => 1000,
            AuthTimeout | InvalidToken | TokenExpired | OtherUser => 1008,
            TooLarge => 1009,
            ProtocolError => 1002,
            Unresponsive => 1001,
            GoingAway | TooOld | Rebalanced | Disconnected => 1012,
            TooFarBehind | TooManySessions | Unavailable => 1013,
        }
    }

    /// True if the client did nothing wrong and may reconnect at once.
    pub fn invites_back(self) -> bool {
        matches!(self, GoingAway | TooOld | Rebalanced | Disconnected)
    }

    /// Returns the text for the close frame.
    pub fn text(self) -> &'static str {
        match self {
            ClientLeft => "",
            AuthTimeout => "no auth message in time",
            InvalidToken => "the token is not valid",
            TokenExpired => "the token has expired",
            OtherUser => "the token belongs to another user",
            TooLarge => "message too large",
            ProtocolError => "protocol error",
            Unresponsive => "no answer to pings",
            TooFarBehind => "too far behind; reconnect and pull",
            TooManySessions => "too many connections of this user; close some",
            Unavailable => "try again later",
            GoingAway => "this replica is going away; reconnect",
            TooOld => "maximum connection age reached; reconnect",
            Rebalanced => "connections are rebalanced; reconnect",
            Disconnected => "disconnected by an operator; reconnect",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_in_the_order_of_the_reasons() {
        assert_eq!(ClientLeft.label(), "client_left");
        assert_eq!(OtherUser.label(), "other_user");
        assert_eq!(GoingAway.label(), "going_away");
        assert_eq!(TooOld.label(), "too_old");
        assert_eq!(Rebalanced.label(), "rebalanced");
        assert_eq!(Disconnected.label(), "disconnected");
        assert_eq!(Disconnected as usize + 1, CloseReason::LABELS.len());
    }
}
