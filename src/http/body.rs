//! The body of a push, read into memory that was reserved for it (G6).
//!
//! Memory is reserved as the bytes arrive, so that a client which announces much and sends little holds little. A push for
//! which there is none soon is refused early, with 503 and `Retry-After`, rather than served late: its client may have
//! given up by then, and would come back on top.

use super::error::ApiError;
use crate::budget::{MemoryBudget, Reservation, UserBudget};
use crate::config::Config;
use crate::protocol::UserKey;
use crate::telemetry::Metrics;
use axum::body::{Body, HttpBody};
use axum::http::header::EXPECT;
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// Most bytes of a body.
const MAX_BODY: usize = 10 << 20;
/// A body that is too large is read on up to here, so that its client gets to read the answer.
const MAX_DISCARDED: usize = 64 << 20;
/// ... and for so long.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
/// What a push costs however small it is, in bytes.
const LEAST: usize = 8 << 10;
/// What the connection reads ahead of us, in bytes, once a body is larger than the least.
const READ_AHEAD: usize = 64 << 10;
/// Up to so many bytes, a body does not wait for what is large, while it arrives
const SMALL_BODY: usize = 64 << 10;
/// and as what it becomes: some two hundred changes, as clients push them.
const SMALL_WORK: usize = 1 << 20;
/// How many times its size a body becomes, beside itself, while it is checked and stored: read members, changes as they are
/// stored, and the statement's arrays.
const BECOMES: usize = 3;
/// ... and what each of its objects takes in addition, in bytes: every change and every field is one, however short.
const OBJECT: usize = 512;
/// So long all clients wait to be asked for a body: the least that is known of one is 350 ms.
const PATIENCE: Duration = Duration::from_millis(250);
/// Bodies that are read only so that their clients see the answer, at the same time. Others are cut off.
const MAX_DISCARDS: usize = 256;

/// The memory of pushes.
#[derive(Clone, Debug)]
pub struct PushBudget {
    /// For bodies as they arrive.
    bodies: MemoryBudget,
    /// For what they become. Apart from them, so that nobody who waits for it holds any of it.
    work: MemoryBudget,
    discards: Arc<Semaphore>,
    queue_timeout: Duration,
    body_timeout: Duration,
}

/// What a push holds until it is stored.
pub(super) type PushReservation = Arc<(Reservation, Reservation)>;

impl PushBudget {
    /// With all of the configured memory free.
    pub fn new(config: &Config, metrics: &Metrics) -> PushBudget {
        let bytes = config.max_push_bytes_in_flight as usize;
        let budget = |small| MemoryBudget::with_small(bytes, small, metrics.push_bytes.clone());
        // Room is made for half as much again as has arrived.
        let (bodies, work) = (budget(SMALL_BODY * 3 / 2 + READ_AHEAD), budget(SMALL_WORK));
        let (queue_timeout, body_timeout) = (config.queue_timeout_ms, config.http.body_timeout_ms);
        let discards = Arc::new(Semaphore::new(MAX_DISCARDS));
        PushBudget { bodies, work, discards, queue_timeout, body_timeout }
    }

    /// Reads a body, and reserves what it needs, also for what becomes of it.
    pub(super) async fn read(&self, mut body: Body, user: UserKey) -> Result<(Vec<u8>, PushReservation), ApiError> {
        let reading = self.read_all(&mut body, self.bodies.of(user));
        let read = timeout(self.body_timeout, reading).await.unwrap_or(Err(ApiError::BodyTimeout));
        if matches!(read, Err(ApiError::TooLarge(_))) {
            self.discard(body).await;
        }
        let (read, reservation) = read?;
        let work = timeout(self.queue_timeout, self.work.of(user).reserve(becomes(&read))).await;
        let work = work.ok().flatten().ok_or(ApiError::Busy)?;
        Ok((read, Arc::new((reservation, work))))
    }

    async fn read_all(&self, body: &mut Body, budget: UserBudget) -> Result<(Vec<u8>, Reservation), ApiError> {
        let mut reservation =
            timeout(self.queue_timeout, budget.reserve(LEAST)).await.ok().flatten().ok_or(ApiError::Busy)?;
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ApiError::BodyBroken)?;
            let Some(bytes) = frame.data_ref() else { continue };
            if read.len() + bytes.len() > MAX_BODY {
                return Err(ApiError::TooLarge(MAX_BODY));
            }
            let needed = read.len() + bytes.len();
            if needed > read.capacity() {
                let capacity = needed.max(read.len() + read.len() / 2).min(MAX_BODY);
                let room = if capacity > LEAST { capacity + READ_AHEAD } else { LEAST };
                timeout(self.queue_timeout, budget.grow(&mut reservation, room))
                    .await
                    .ok()
                    .flatten()
                    .ok_or(ApiError::Busy)?;
                read.reserve_exact(capacity - read.len());
            }
            read.extend_from_slice(bytes);
        }
        // All of it is here: nothing is read ahead any more, and nothing is to be added.
        read.shrink_to_fit();
        budget.resize(&mut reservation, read.len().max(LEAST));
        Ok((read, reservation))
    }

    /// Reads what is left of a body, within bounds: a client that is still sending would not see the answer. One that waits
    /// until it is asked for its body sees it, and is spared the sending: unless it has waited for so long that it may have
    /// begun. `came`: when the request did.
    pub(super) async fn discard_unless_awaited(&self, headers: &HeaderMap, came: Instant, body: Body) {
        let waits = |expected: &HeaderValue| expected.as_bytes().eq_ignore_ascii_case(b"100-continue");
        if !headers.get(EXPECT).is_some_and(waits) || came.elapsed() > PATIENCE {
            self.discard(body).await;
        }
    }

    async fn discard(&self, mut body: Body) {
        let Ok(_place) = self.discards.try_acquire() else { return };
        let reading = async {
            let mut read = 0;
            while let Some(Ok(frame)) = body.frame().await {
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > MAX_DISCARDED {
                    break;
                }
            }
        };
        // Whether it was all of it makes no difference to the answer.
        let _ = timeout(DISCARD_TIMEOUT, reading).await;
    }
}

/// Refuses a body of which it is known beforehand that it is too large.
pub(super) fn check_length(body: &Body) -> Result<(), ApiError> {
    let is_too_large = usize::try_from(body.size_hint().lower()).map_or(true, |length| length > MAX_BODY);
    if is_too_large { Err(ApiError::TooLarge(MAX_BODY)) } else { Ok(()) }
}

/// What a body becomes until it is stored, in bytes, at most: it counts the braces of texts as well.
fn becomes(body: &[u8]) -> usize {
    let objects = body.iter().filter(|byte| **byte == b'{').count();
    BECOMES * body.len() + OBJECT * objects + LEAST
}
