//! Request ids: the caller's, or a generated one. The id is returned with the response and appears in every log line
//! that the request causes.

use crate::clock::Clock;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// The header that carries the id in requests and responses.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Maximum length of a caller's id that is accepted.
const MAX_LENGTH: usize = 128;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// A request's id: letters, digits and a few other characters.
#[derive(Clone, Debug)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// Returns the caller's id if it is acceptable, else a new one.
    pub fn of(headers: &HeaderMap, clock: &Clock) -> RequestId {
        let given = headers.get(HEADER).filter(|value| is_plain(value.as_bytes()));
        RequestId(given.cloned().unwrap_or_else(|| random(clock)))
    }

    /// Returns the id as a header value.
    pub fn into_header(self) -> HeaderValue {
        self.0
    }

    /// Runs a future on behalf of this request.
    pub async fn scope<T>(self, doing: impl Future<Output = T>) -> T {
        CURRENT.scope(self, doing).await
    }
}

/// Returns the id of the current request.
pub(super) fn current() -> Option<String> {
    CURRENT.try_with(|id| id.0.to_str().ok().map(str::to_owned)).ok().flatten()
}

fn is_plain(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:=+/".contains(byte);
    (1..=MAX_LENGTH).contains(&id.len()) && id.iter().all(plain)
}

fn random(clock: &Clock) -> HeaderValue {
    let id = format!("{:032x}", clock.random_u128());
    // Hexadecimal digits are valid in a header.
    HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_id_is_taken_over_if_it_is_harmless() {
        let id = |given: &'static str| {
            let headers = HeaderMap::from_iter([(HEADER, HeaderValue::from_static(given))]);
            RequestId::of(&headers, &Clock::system()).into_header()
        };
        assert_eq!(id("7f3a-01.B"), "7f3a-01.B");
        for given in ["", "a b", "a\"b", "a,b"] {
            assert_eq!(id(given).len(), 32, "{given:?}");
        }
        assert_eq!(RequestId::of(&HeaderMap::new(), &Clock::system()).into_header().len(), 32);
    }
}
