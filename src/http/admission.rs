//! How much the bodies of pushes may hold in memory at once (G6).
//!
//! Room is taken as the bytes arrive, so that a client which announces much and sends little holds little. A push
//! for which there is none soon is refused early, with 503 and `Retry-After`, rather than served late: its client
//! may have given up by then, and would come back on top.

use super::error::ApiError;
use crate::config::Config;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit that memory is counted in, in bytes.
const UNIT: usize = 1 << 10;
/// What a push costs however small it is, in units.
const LEAST: u32 = 8;

/// The memory for the bodies of pushes.
#[derive(Debug)]
pub struct Admission {
    units: Arc<Semaphore>,
    patience: Duration,
}

/// Room that is taken; given back when the last of those who hold it has gone.
pub(super) type Held = Arc<OwnedSemaphorePermit>;

/// The room that one body has; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Room<'a> {
    admission: &'a Admission,
    held: OwnedSemaphorePermit,
}

impl Admission {
    /// With all of the configured memory free.
    pub fn new(config: &Config) -> Admission {
        let units = Semaphore::new(config.max_push_bytes_in_flight as usize / UNIT);
        Admission { units: Arc::new(units), patience: config.queue_timeout_ms }
    }

    /// Waits for room for a small body.
    pub(super) async fn admit(&self) -> Result<Room<'_>, ApiError> {
        Ok(Room { admission: self, held: self.take(LEAST).await? })
    }

    async fn take(&self, units: u32) -> Result<OwnedSemaphorePermit, ApiError> {
        match tokio::time::timeout(self.patience, self.units.clone().acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(ApiError::Busy),
        }
    }
}

impl Room<'_> {
    /// Waits until there is room for so many bytes in all.
    pub(super) async fn grow_to(&mut self, bytes: usize) -> Result<(), ApiError> {
        let needed = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let missing = needed.saturating_sub(self.held.num_permits() as u32);
        if missing > 0 {
            self.held.merge(self.admission.take(missing).await?);
        }
        Ok(())
    }
    /// Keeps the room for whatever outlives the reading of the body.
    pub(super) fn keep(self) -> Held {
        Arc::new(self.held)
    }
}
