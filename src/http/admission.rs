//! How much the bodies of pushes may hold in memory at once (G6).
//!
//! A push that cannot begin soon is refused early, with 503 and `Retry-After`, rather than served late: its client
//! may have given up by then, and would come back on top.

use super::error::ApiError;
use crate::config::Config;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit that memory is counted in, in bytes.
const UNIT: usize = 1 << 10;
/// What a push costs however small it is.
const LEAST: usize = 8 << 10;

/// The memory for the bodies of pushes.
#[derive(Debug)]
pub struct Admission {
    units: Arc<Semaphore>,
    total: u32,
    patience: Duration,
}

impl Admission {
    /// With all of the configured memory free.
    pub fn new(config: &Config) -> Admission {
        let total = config.max_push_bytes_in_flight / UNIT as u32;
        Admission { units: Arc::new(Semaphore::new(total as usize)), total, patience: config.queue_timeout_ms }
    }

    /// Waits for room for a body of the length that the request announces, else of the greatest length. The room is
    /// given back when the permit is dropped.
    pub(super) async fn admit(&self, headers: &HeaderMap, greatest: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = announced.unwrap_or(greatest).clamp(LEAST, greatest);
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.total);
        match tokio::time::timeout(self.patience, self.units.clone().acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(ApiError::Busy),
        }
    }
}
