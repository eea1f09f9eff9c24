//! Field stamps: RFC 3339 on the wire, compared as instants of whole milliseconds.

use chrono::{DateTime, SecondsFormat, Utc};

/// Returns the instant of a stamp in milliseconds since 1970, truncated as the server does when storing.
pub fn millis(stamp: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(stamp).ok().map(|at| at.timestamp_millis())
}

/// Returns the stamp as JavaScript's `toISOString` writes it, or `None` if it doesn't parse.
pub fn canonical(stamp: &str) -> Option<String> {
    millis(stamp).and_then(from_millis)
}

/// Returns `toISOString` of milliseconds since 1970.
pub fn from_millis(millis: i64) -> Option<String> {
    DateTime::<Utc>::from_timestamp_millis(millis).map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// True if a stamp is spelled exactly as by `toISOString`.
pub fn is_canonical(stamp: &str) -> bool {
    canonical(stamp).is_some_and(|spelled| spelled == stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_instant_are_one() {
        let expected = Some("2024-01-01T10:00:00.000Z".to_owned());
        for spelled in ["2024-01-01T10:00:00Z", "2024-01-01T11:00:00.000+01:00", "2024-01-01T10:00:00.000999Z"] {
            assert_eq!(canonical(spelled), expected, "{spelled}");
        }
        assert!(is_canonical("2024-01-01T10:00:00.000Z"));
        assert!(!is_canonical("2024-01-01T10:00:00Z"));
        assert_eq!(canonical("yesterday"), None);
    }
}
