//! Pages of the log as answers, in memory that is reserved until their reader has taken them (G6).

use super::AppState;
use super::compression::WORKING_MEMORY;
use super::error::ApiError;
use crate::budget::Reservation;
use crate::limits::polls::Poll;
use crate::protocol::Log;
use crate::protocol::page::{Page, Remarks, encode_answer};
use crate::store::{BECOMES, PageMemory, PageRequest, StoreError};
use axum::body::{Body, HttpBody};
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::any::Any;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::time::timeout;

/// What is reserved before it is known what a page needs, in bytes.
pub(super) const LEAST: usize = 32 << 10;
/// How often a page is read again because it needs more than was reserved.
const ATTEMPTS: usize = 4;
/// An answer without a page of up to so many bytes is part of what its connection costs.
const FREE: usize = 4 << 10;
/// What is given to the transport at once, in bytes: it asks for more when that is on its way.
const CHUNK: usize = 64 << 10;

/// Reads a page into memory that is reserved for it, also along the way. Where there is no more it ends; if it has nothing then, it
/// is read again once there is.
pub(super) async fn read_page(
    state: &AppState,
    log: &Log,
    request: &PageRequest<'_>,
) -> Result<(Page, Reservation), ApiError> {
    let budget = state.unread.of(log.user);
    let mut needs = LEAST;
    for _ in 0..ATTEMPTS {
        // Memory comes second: those who wait for their turn among their user's reads hold none. And before the turn among all:
        // who waits for memory keeps nobody else from reading.
        let pages = &state.store.of(log.user).pages;
        let limit = state.config.database_acquire_timeout_ms;
        let turn = timeout(limit, state.sessions.reads.of(log.user).among_own()).await;
        let turn = turn.map_err(|_| refused(state, "reads"))?;
        let reserved = timeout(state.config.queue_timeout_ms, budget.reserve(needs)).await.ok().flatten();
        let reservation = reserved.ok_or_else(|| refused(state, "unread_bytes"))?;
        let mut turn = timeout(limit, turn.among_all(pages.lane())).await.map_err(|_| refused(state, "reads"))?;
        let memory = PageMemory::new(budget.clone(), reservation, needs, needs_of);
        needs = match pages.page(log, request, &memory, &mut turn).await {
            Ok(page) => {
                let needs = needs_of(page.size()) + page.extra_size();
                let mut reservation = memory.into_reservation();
                if budget.resize(&mut reservation, needs) {
                    return Ok((page, reservation));
                }
                needs
            }
            Err(StoreError::NeedsMemory(bytes)) => BECOMES * bytes + LEAST,
            Err(error) => return Err(error.into()),
        };
        // Nobody holds a page while waiting for memory.
    }
    Err(ApiError::Busy)
}

/// What an answer needs whose changes have so many bytes.
pub(super) fn needs_of(changes: usize) -> usize {
    BECOMES * changes + LEAST + compressor(changes)
}

fn refused(state: &AppState, reason: &str) -> ApiError {
    state.metrics.refused.with_label_values(&[reason]).inc();
    ApiError::Busy
}

/// What is set aside for compressing so many bytes. Nobody keeps a compressor for what is sent in one piece.
fn compressor(bytes: usize) -> usize {
    if bytes > CHUNK { WORKING_MEMORY } else { 0 }
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

/// An answer in JSON, in memory that is reserved until its reader has taken it: what was reserved for its page, or other.
pub(super) async fn json(
    state: &AppState,
    log: &Log,
    reserved: Option<Reservation>,
    text: String,
) -> Result<Response, ApiError> {
    let budget = state.unread.of(log.user);
    let bytes = text.len() + compressor(text.len());
    let holding = async {
        match reserved {
            // Mostly it becomes smaller: the page is gone.
            Some(mut reserved) => {
                if !budget.resize(&mut reserved, bytes) {
                    budget.grow(&mut reserved, bytes).await?;
                }
                Some(Some(reserved))
            }
            // Part of what its connection costs.
            None if bytes <= FREE => Some(None),
            None => budget.reserve(bytes).await.map(Some),
        }
    };
    let held = timeout(state.config.queue_timeout_ms, holding).await.ok().flatten();
    Ok(response(text, held.ok_or_else(|| refused(state, "unread_bytes"))?))
}

/// What there is to be given back once an answer has been taken: its memory, or its place. [`hold_until_taken`] gives it to the
/// body.
#[derive(Clone, Debug)]
struct HeldForBody {
    _held: Arc<dyn Any + Send + Sync>,
}

/// An answer in one piece, until whose end this is held.
pub(super) fn holding(held: impl Any + Send + Sync, mut response: Response) -> Response {
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response.extensions_mut().insert(HeldForBody { _held: Arc::new(held) });
    response
}

fn response(text: String, reservation: Option<Reservation>) -> Response {
    let length = HeaderValue::from(text.len());
    let body = if text.len() > CHUNK {
        let chunks = stream::unfold(Bytes::from(text), async |mut rest| {
            let chunk = rest.split_to(CHUNK.min(rest.len()));
            (!chunk.is_empty()).then(|| (Ok::<_, Infallible>(chunk), rest))
        });
        // A compressor asks once more after the end.
        Body::from_stream(chunks.fuse())
    } else {
        Body::from(text)
    };
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/json")), (CONTENT_LENGTH, length)];
    let response = (headers, body).into_response();
    match reservation {
        Some(reservation) => holding(reservation, response),
        None => response,
    }
}

/// Part of an answer that the transport has not written yet. It keeps what is held for the answer.
struct Piece {
    bytes: Bytes,
    _held: HeldForBody,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Keeps what is held for an answer until its last byte has been written, or its connection is gone. What the transport
/// has asked for is not written yet: a client that does not read has it wait there. So every piece that is given to the
/// transport holds it itself; this is done last of all, when the body is compressed if it is.
pub(super) fn hold_until_taken(mut response: Response) -> Response {
    let Some(held) = response.extensions_mut().remove::<HeldForBody>() else { return response };
    response.map(|body| {
        let pieces = body.into_data_stream().map(move |bytes| {
            let piece = |bytes| Bytes::from_owner(Piece { bytes, _held: held.clone() });
            bytes.map(piece)
        });
        Body::from_stream(pieces)
    })
}
