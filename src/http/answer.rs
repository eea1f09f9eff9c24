//! Answers with pages of the log, in memory that stays reserved until the reader has taken them (G6).

use super::AppState;
use super::compression::WORKING_MEMORY;
use super::error::ApiError;
use crate::budget::Reservation;
use crate::limits::polls::Poll;
use crate::limits::turns::Turns;
use crate::protocol::Log;
use crate::protocol::page::{Page, Remarks, encode_answer};
use crate::store::{BECOMES, PageMemory, PageRequest, StoreError};
use axum::body::{Body, HttpBody};
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use std::any::Any;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::task::yield_now;
use tokio::time::timeout;

/// Bytes reserved before it is known how much a page needs.
pub(super) const LEAST: usize = 32 << 10;
/// Maximum number of attempts to read a page that turns out to need more memory than was reserved.
const ATTEMPTS: usize = 4;
/// An answer without a page of up to this many bytes is covered by the fixed cost of its connection.
const FREE: usize = 4 << 10;
/// Bytes handed to the transport, or to the compressor, at once: it asks for more when they are on their way.
const CHUNK: usize = 64 << 10;
/// Parts of a body that need no turns of their own: most pages have no more, and do not pay for turns.
const AT_ONCE: usize = 4;

/// Reads a page into memory that is reserved for it, including while reading. The page ends where memory runs out; if
/// it is empty then, it is read again once there is memory.
pub(super) async fn read_page(
    state: &AppState,
    log: &Log,
    request: &PageRequest<'_>,
) -> Result<(Page, Reservation), ApiError> {
    let budget = state.unread.of(log.user);
    let mut needs = LEAST;
    for _ in 0..ATTEMPTS {
        // Memory is reserved after the turn among the user's own reads, so that readers waiting for that turn hold
        // none, and before the turn among all, so that a reader waiting for memory blocks nobody else.
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
            Err(StoreError::ReadTimeout(_)) => return Err(refused(state, "reads")),
            Err(error) => return Err(error.into()),
        };
        // The page has been dropped by now: nobody holds a page while waiting for memory.
    }
    Err(ApiError::Busy)
}

/// Bytes that an answer needs if its changes take `changes` bytes.
pub(super) fn needs_of(changes: usize) -> usize {
    BECOMES * changes + LEAST + compressor(changes)
}

fn refused(state: &AppState, reason: &str) -> ApiError {
    state.metrics.refused.with_label_values(&[reason]).inc();
    ApiError::Busy
}

/// Bytes set aside for compressing an answer. An answer that is sent in one piece keeps no compressor.
fn compressor(bytes: usize) -> usize {
    if bytes > CHUNK { WORKING_MEMORY } else { 0 }
}

/// Returns the page that was read, unless it is empty and its reader polls too often: then the answer waits a moment,
/// and the page is read again.
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
    // An empty page needs no more than its bare answer.
    state.unread.of(log.user).resize(&mut unread, page.size());
    if poll.nothing_new().await { read_page(state, log, request).await } else { Ok((page, unread)) }
}

/// Encodes an answer, off this thread if it is large.
pub(super) async fn write(state: &AppState, page: Page, remarks: &Remarks<'_>) -> Result<String, ApiError> {
    let size = page.size() + remarks.size();
    Ok(state.sessions.heavy.run(size, || encode_answer(page, remarks)).await?)
}

/// Makes a JSON answer, in memory that stays reserved until its reader has taken it: its page's reservation, or a new
/// one.
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
            // Usually it shrinks: the page is gone.
            Some(mut reserved) => {
                if !budget.resize(&mut reserved, bytes) {
                    budget.grow(&mut reserved, bytes).await?;
                }
                Some(Some(reserved))
            }
            // Covered by the cost of its connection.
            None if bytes <= FREE => Some(None),
            None => budget.reserve(bytes).await.map(Some),
        }
    };
    let held = timeout(state.config.queue_timeout_ms, holding).await.ok().flatten();
    let held = held.ok_or_else(|| refused(state, "unread_bytes"))?;
    Ok(response(text, held, &state.large))
}

/// Held until an answer has been taken: its memory, or its place. [`hold_until_taken`] moves it into the body.
#[derive(Clone, Debug)]
struct HeldForBody {
    _held: Arc<dyn Any + Send + Sync>,
}

/// Makes a response that holds `held` until its body has been written.
pub(super) fn holding(held: impl Any + Send + Sync, mut response: Response) -> Response {
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response.extensions_mut().insert(HeldForBody { _held: Arc::new(held) });
    response
}

fn response(text: String, reservation: Option<Reservation>, turns: &Turns) -> Response {
    let length = HeaderValue::from(text.len());
    let body = if text.len() > CHUNK {
        let chunks = stream::unfold(Bytes::from(text), async |mut rest| {
            let chunk = rest.split_to(CHUNK.min(rest.len()));
            (!chunk.is_empty()).then(|| (Ok::<_, Infallible>(chunk), rest))
        });
        // A compressor polls once more after the end.
        let turns = turns.clone();
        let chunks = in_turns(chunks, move || {
            let turns = turns.clone();
            async move { turns.next().await }
        });
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

/// Lets other tasks run between the parts of a large body, by waiting for `turn` before each. A compressor takes all that
/// it is given before it hands over anything, and a client may read as fast as it is written.
///
/// So a page has turns where its parts are made and once more where they are taken: a compressor that has to wait for a
/// part hands over what it has instead of giving its turn away. Where they are made, all large answers share the turns:
/// others do not wait for a part of each.
fn in_turns<T, F: Future<Output = ()>>(
    parts: impl Stream<Item = T>,
    mut turn: impl FnMut() -> F,
) -> impl Stream<Item = T> {
    parts.enumerate().then(move |(index, part)| {
        let turn = (index >= AT_ONCE).then(&mut turn);
        async move {
            if let Some(turn) = turn {
                turn.await;
            }
            part
        }
    })
}

/// A part of an answer that the transport has not written yet. It keeps what is held for the answer.
struct Piece {
    bytes: Bytes,
    _held: HeldForBody,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Keeps what is held for an answer until its last byte has been written, or its connection is gone. Bytes that the
/// transport has taken are not written yet: they wait there if the client does not read. So every piece given to the
/// transport holds it, and this runs last, after compression if there is any.
pub(super) fn hold_until_taken(mut response: Response) -> Response {
    let Some(held) = response.extensions_mut().remove::<HeldForBody>() else { return response };
    response.map(|body| {
        let pieces = body.into_data_stream().map(move |bytes| {
            let piece = |bytes| Bytes::from_owner(Piece { bytes, _held: held.clone() });
            bytes.map(piece)
        });
        Body::from_stream(in_turns(pieces, yield_now))
    })
}

#[cfg(test)]
mod tests {
    use super::super::compression;
    use super::*;
    use axum::extract::Request;
    use axum::http::header::ACCEPT_ENCODING;
    use axum::routing::{MethodRouter, get};
    use futures_util::poll as once;
    use http_body_util::BodyExt;
    use std::pin::pin;
    use std::task::Poll;
    use tower::ServiceExt;

    #[tokio::test]
    async fn other_tasks_run_while_an_answer_is_compressed_and_written() {
        const CHUNKS: usize = 40;
        let route: MethodRouter =
            compression::pages(get(async || holding((), response("x".repeat(CHUNKS * CHUNK), None, &Turns::new(2)))));
        for encoding in ["identity", "gzip", "br", "zstd"] {
            let request = Request::get("/").header(ACCEPT_ENCODING, encoding).body(Body::empty()).unwrap();
            let mut body = hold_until_taken(route.clone().oneshot(request).await.unwrap()).into_body();
            let (mut turns, mut bytes) = (0, 0);
            loop {
                match once!(pin!(body.frame())) {
                    Poll::Pending => {
                        turns += 1;
                        yield_now().await;
                    }
                    Poll::Ready(Some(frame)) => bytes += frame.unwrap().into_data().unwrap().len(),
                    Poll::Ready(None) => break,
                }
            }
            assert_eq!(bytes == CHUNKS * CHUNK, encoding == "identity", "{encoding}: {bytes} bytes");
            // A compressor fills some of its turns with what it has so far.
            assert!(turns >= CHUNKS / 2, "{encoding}: {turns} turns");
        }
    }
}
