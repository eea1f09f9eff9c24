//! Settings that conflict with each other.

/// Settings that conflict with each other.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// REPLICA_PORT must not be the same as PORT.
    #[error("REPLICA_PORT must not be the same as PORT")]
    SamePort,
    /// SSE_HEARTBEAT_MS is too long; the protocol promises a heartbeat at least every 30 s.
    #[error("SSE_HEARTBEAT_MS is too long; the protocol promises a heartbeat at least every 30 s")]
    Heartbeat,
    /// JWKS_COOLDOWN_MS must be shorter than JWKS_REFRESH_MS, and that shorter than JWKS_MAX_STALE_MS.
    #[error("JWKS_COOLDOWN_MS must be shorter than JWKS_REFRESH_MS, and that shorter than JWKS_MAX_STALE_MS")]
    JwksTimes,
    /// ADMIN_PORT needs ADMIN_TOKEN: without a token, anyone who reaches the port could use it.
    #[error("ADMIN_PORT needs ADMIN_TOKEN: without a token, anyone who reaches the port could use it")]
    AdminToken,
    /// ADMIN_PORT must not be the same as PORT or REPLICA_PORT.
    #[error("ADMIN_PORT must not be the same as PORT or REPLICA_PORT")]
    AdminPort,
}
