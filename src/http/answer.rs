//! Pages of the log as answers, in memory that is reserved until their reader has taken them (G6).

use super::AppState;
use super::compression::WORKING_MEMORY;
use super::error::ApiError;
use crate::budget::Reservation;
use crate::limits::polls::Poll;
use crate::protocol::Log;
use crate::protocol::page::{Page, Remarks, encode_answer};
use crate::store::PageRequest;
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::convert::Infallible;
use tokio::time::timeout;

/// What is reserved before it is known what a page needs, in bytes.
const LEAST: usize = 32 << 10;
/// A page and the JSON that it becomes, as multiples of its changes' sizes.
const BECOMES: usize = 2;
/// How often a page is read again because it needs more than was reserved.
const ATTEMPTS: usize = 4;
/// What is given to the transport at once, in bytes: it asks for more when that is on its way.
const CHUNK: usize = 64 << 10;

/// Reads a page into memory that is reserved for it. One that needs more than is free is read again once there is.
pub(super) async fn read_page(
    state: &AppState,
    log: &Log,
    request: &PageRequest<'_>,
) -> Result<(Page, Reservation), ApiError> {
    let budget = state.unread.of(log.user);
    let reserve = async |bytes| {
        let reserved = timeout(state.config.queue_timeout_ms, budget.reserve(bytes)).await;
        reserved.ok().flatten().ok_or_else(|| {
            state.metrics.refused.with_label_values(&["unread_bytes"]).inc();
            ApiError::Busy
        })
    };
    let mut needs = LEAST;
    for _ in 0..ATTEMPTS {
        // The turn comes first: whoever waits for one holds nothing.
        let turn = timeout(state.config.database_acquire_timeout_ms, state.sessions.reads.of(log.user).wait()).await;
        let turn = turn.map_err(|_| {
            state.metrics.refused.with_label_values(&["reads"]).inc();
            ApiError::Busy
        })?;
        let mut reservation = reserve(needs).await?;
        let page = state.store.of(log.user).page(log, request).await?;
        drop(turn);
        // Nobody keeps a compressor for what is sent in one piece.
        let compressor = if page.size() > CHUNK { WORKING_MEMORY } else { 0 };
        needs = BECOMES * page.size() + LEAST + compressor;
        if budget.resize(&mut reservation, needs) {
            return Ok((page, reservation));
        }
        // Nobody holds a page while waiting for memory.
    }
    Err(ApiError::Busy)
}

/// The page that a reader gets: the one that was read, unless that is empty and its reader asks too often. Then that
/// answer waits a moment, and becomes whatever is stored meanwhile.
pub(super) async fn unless_empty(
    state: &AppState,
    log: &Log,
    request: &PageRequest<'_>,
    poll: Poll,
    (page, mut unread): (Page, Reservation),
) -> Result<(Page, Reservation), ApiError> {
    if !page.changes.is_empty() || page.has_more {
        return Ok((page, unread));
    }
    // Nothing is large in it: it need not hold more than its bare answer.
    state.unread.of(log.user).resize(&mut unread, page.size());
    if poll.nothing_new().await { read_page(state, log, request).await } else { Ok((page, unread)) }
}

/// Writes an answer, off the thread if it is a large one.
pub(super) async fn write(state: &AppState, page: Page, remarks: &Remarks<'_>) -> Result<String, ApiError> {
    let size = page.size() + remarks.size();
    Ok(state.sessions.heavy.run(size, || encode_answer(page, remarks)).await?)
}

/// Memory for an answer until its reader has taken it, where what was reserved for its page is not enough.
pub(super) async fn hold(
    state: &AppState,
    log: &Log,
    reserved: Option<Reservation>,
    bytes: usize,
) -> Result<Option<Reservation>, ApiError> {
    let budget = state.unread.of(log.user);
    let holding = async {
        match reserved {
            Some(mut reserved) => budget.grow(&mut reserved, bytes).await.map(|()| Some(reserved)),
            None if bytes <= CHUNK => Some(None),
            None => budget.reserve(bytes).await.map(Some),
        }
    };
    timeout(state.config.queue_timeout_ms, holding).await.ok().flatten().ok_or_else(|| {
        state.metrics.refused.with_label_values(&["unread_bytes"]).inc();
        ApiError::Busy
    })
}

/// An answer in JSON. What was reserved is kept until the transport has asked for the last of it.
pub(super) fn json(json: String, reservation: Option<Reservation>) -> Response {
    let length = HeaderValue::from(json.len());
    let body = match reservation.filter(|_| json.len() > CHUNK) {
        None => Body::from(json),
        Some(reservation) => {
            let chunks = stream::unfold((Bytes::from(json), reservation), async |(mut rest, reservation)| {
                let chunk = rest.split_to(CHUNK.min(rest.len()));
                (!chunk.is_empty()).then(|| (Ok::<_, Infallible>(chunk), (rest, reservation)))
            });
            // A compressor asks once more after the end.
            Body::from_stream(chunks.fuse())
        }
    };
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/json")), (CONTENT_LENGTH, length)];
    (headers, body).into_response()
}
