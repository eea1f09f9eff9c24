//! Errors and their causes, without what they quote.
//!
//! Some errors quote their input or their target: a user's value, or a URL with a user's id in it. Such parts are left
//! out, because logs reach more people than data does.

use std::error::Error;

/// Formats an error and its causes, without repetitions.
pub(super) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let (said, cause) = match reserved(error) {
            Some(said) => (said, None),
            None => (error.to_string(), error.source()),
        };
        if text.is_empty() {
            text = said;
        } else if !text.ends_with(&said) {
            text = text + ": " + &said;
        }
        next = match error.downcast_ref::<reqwest::Error>() {
            Some(request) => request.source(),
            None => cause,
        };
    }
    text
}

/// Returns the part of a quoting error that may be logged, or `None` if the error does not quote.
fn reserved(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<serde_json::Error>() {
        return Some(format!("JSON: {:?} error at line {} column {}", error.classify(), error.line(), error.column()));
    }
    if let Some(error) = error.downcast_ref::<reqwest::Error>() {
        return Some(request_failure(error));
    }
    let database = error.downcast_ref::<tokio_postgres::Error>()?.as_db_error()?;
    Some(database_failure(database.code().code(), database.message()))
}

/// Returns PostgreSQL's message, unless it may be about a value: data exceptions and constraints, classes 22 and 23.
fn database_failure(code: &str, message: &str) -> String {
    match code.get(..2) {
        Some("22" | "23") => format!("SQLSTATE {code}"),
        _ => format!("SQLSTATE {code}, {message}"),
    }
}

/// Describes a failed request. The error's own text contains the URL.
fn request_failure(error: &reqwest::Error) -> String {
    if let Some(status) = error.status() {
        return format!("the answer was {status}");
    }
    let what = match error {
        error if error.is_timeout() => "a request was not answered in time",
        error if error.is_connect() => "cannot connect",
        error if error.is_body() || error.is_decode() => "an answer cannot be read",
        _ => "a request failed",
    };
    what.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the payload is not one of ours")]
    struct Unreadable(#[source] serde_json::Error);

    #[test]
    fn causes_are_told_and_what_they_quote_is_not() {
        let error = serde_json::from_str::<u32>(r#""a secret""#).unwrap_err();
        assert!(error.to_string().contains("a secret"), "or there is nothing to hide: {error}");
        let told = describe(&Unreadable(error));
        assert_eq!(told, "the payload is not one of ours: JSON: Data error at line 1 column 10");
    }

    #[tokio::test]
    async fn a_failed_request_does_not_tell_where_to() {
        let error = reqwest::get("http://127.0.0.1:1/status/alice").await.unwrap_err();
        let told = describe(&error);
        assert!(!told.contains("alice") && told.starts_with("cannot connect"), "{told}");
    }

    #[test]
    fn a_value_that_the_database_quotes_is_not_told() {
        assert_eq!(database_failure("22P02", r#"invalid input "secret""#), "SQLSTATE 22P02");
        assert_eq!(database_failure("57P01", "terminating"), "SQLSTATE 57P01, terminating");
    }
}
