//! Token claims, valid ones and ones with a flaw.

use crate::support::now_millis;
use serde_json::{Value, json};

/// The current time in seconds since 1970.
pub fn now() -> i64 {
    now_millis() / 1000
}

/// The claims of a valid token.
pub fn good() -> Value {
    json!({ "sub": "somebody", "iat": now(), "exp": now() + 600 })
}

/// Returns the claims with one of them changed.
pub fn changed(mut claims: Value, name: &str, value: impl Into<Value>) -> Value {
    claims[name] = value.into();
    claims
}

/// Returns the claims without one of them.
pub fn lacking(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name);
    claims
}
