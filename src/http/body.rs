//! The body of a push, read into memory that was reserved for it (G6).
//!
//! Memory is reserved as the bytes arrive, so a client that announces much and sends little holds little. If memory
//! doesn't become available soon, the push is refused early, with 503 and `Retry-After`, rather than served late: by
//! then its client may have given up, and its retry would come on top.

use super::error::ApiError;
use crate::budget::{MemoryBudget, Reservation, UserBudget};
use crate::config::Config;
use crate::protocol::UserKey;
use crate::protocol::push::MAX_BODY;
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

/// A body that is too large is read on, up to this many bytes, so that its client gets to read the answer
const MAX_DISCARDED: usize = 64 << 20;
/// and for this long.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum memory that a push costs, in bytes.
const LEAST: usize = 8 << 10;
/// Bytes that the connection reads ahead of us, once a body is larger than the minimum.
const READ_AHEAD: usize = 64 << 10;
/// A body of up to this many bytes does not wait behind large ones while it arrives,
const SMALL_BODY: usize = 64 << 10;
/// nor does a decoded body of up to this many: about two hundred changes of the usual size.
const SMALL_WORK: usize = 1 << 20;
/// Memory for decoding and storing a body, as a multiple of its size and in addition to it: parsed members, the changes
/// as stored, and the statement's arrays.
const BECOMES: usize = 3;
/// Additional bytes for each JSON object: every change and every field is one, however short.
const OBJECT: usize = 512;
/// For this long every known client waits for `100 Continue` before it sends its body anyway; the shortest is 350 ms.
const CONTINUE_TIMEOUT: Duration = Duration::from_millis(250);
/// Maximum number of bodies drained at the same time so that their clients see the answer. Others are cut off.
const MAX_DISCARDS: usize = 256;

/// Memory held by pushes.
#[derive(Clone, Debug)]
pub struct PushBudget {
    /// For bodies as they arrive.
    bodies: MemoryBudget,
    /// For their decoded form. It is separate, so that a push that waits for it holds none of it.
    work: MemoryBudget,
    discards: Arc<Semaphore>,
    queue_timeout: Duration,
    body_timeout: Duration,
}

/// Memory reserved by a push until it is stored.
pub(super) type PushReservation = Arc<(Reservation, Reservation)>;

impl PushBudget {
    /// Creates a budget with all of the configured memory free.
    pub fn new(config: &Config, metrics: &Metrics) -> PushBudget {
        let bytes = config.max_push_bytes_in_flight as usize;
        let budget = |small| MemoryBudget::with_small(bytes, small, metrics.push_bytes.clone());
        // The buffer grows to half as much again as has arrived.
        let (bodies, work) = (budget(SMALL_BODY * 3 / 2 + READ_AHEAD), budget(SMALL_WORK));
        let (queue_timeout, body_timeout) = (config.queue_timeout_ms, config.http.body_timeout_ms);
        let discards = Arc::new(Semaphore::new(MAX_DISCARDS));
        PushBudget { bodies, work, discards, queue_timeout, body_timeout }
    }

    /// Reads a body and reserves the memory it needs, including for its decoded form.
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
        // The body is complete: nothing more is read ahead or added.
        read.shrink_to_fit();
        budget.resize(&mut reservation, read.len().max(LEAST));
        Ok((read, reservation))
    }

    /// Reads the rest of a body, within bounds, because a client that is still sending would not see the answer. A client
    /// that waits for `100 Continue` (RFC 9110, section 10.1.1) does see it and need not send, unless it has waited so long
    /// that it may have started. `arrived`: when its request did.
    pub(super) async fn discard_unless_awaited(&self, headers: &HeaderMap, arrived: Instant, body: Body) {
        let waits = |expected: &HeaderValue| expected.as_bytes().eq_ignore_ascii_case(b"100-continue");
        if !headers.get(EXPECT).is_some_and(waits) || arrived.elapsed() > CONTINUE_TIMEOUT {
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
        // Whether all of it was read makes no difference to the answer.
        let _ = timeout(DISCARD_TIMEOUT, reading).await;
    }
}

/// Refuses a body that is known to be too large before it is read.
pub(super) fn check_length(body: &Body) -> Result<(), ApiError> {
    let is_too_large = usize::try_from(body.size_hint().lower()).map_or(true, |length| length > MAX_BODY);
    if is_too_large { Err(ApiError::TooLarge(MAX_BODY)) } else { Ok(()) }
}

/// Upper bound of the memory that decoding a body takes, in bytes: braces within strings count as objects too.
fn becomes(body: &[u8]) -> usize {
    let objects = body.iter().filter(|byte| **byte == b'{').count();
    BECOMES * body.len() + OBJECT * objects + LEAST
}
