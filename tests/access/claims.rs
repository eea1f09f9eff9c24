//! Token claims, with one of them invalid.

use crate::support::now_millis;
use serde_json::{Value, json};

/// In seconds since 1970.
pub fn now() -> i64 {
    now_millis() / 1000
}

/// What every good token claims.
pub fn good() -> Value {
    json!({ "sub": "somebody", "iat": now(), "exp": now() + 600 })
}

/// The same claims with another value of one.
pub fn changed(mut claims: Value, name: &str, value: impl Into<Value>) -> Value {
    claims[name] = value.into();
    claims
}

/// The same claims without one.
pub fn lacking(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name);
    claims
}
