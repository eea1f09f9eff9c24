//! `GET /sync/{appId}/stream`: server-sent events.

use super::AppState;
use super::connection::ClientPlace;
use super::error::ApiError;
use super::extract::{Caller, client_id, query};
use crate::protocol::Cursor;
use crate::protocol::push::{MAX_TABLE, check_name};
use crate::session::stream::{LogRequest, StreamRequest, StreamSession};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::convert::Infallible;

/// Maximum number of tables that a stream may name; each has an event of its own and is compared with every change's
/// name.
pub(super) const MAX_COLLECTIONS: usize = 256;

pub(super) async fn stream(
    State(state): State<AppState>,
    caller: Caller,
    client: Option<Extension<ClientPlace>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    state.limits.pull(caller.log.user)?;
    let since = match (last_event_id(&headers)?, query(&uri, "since")?) {
        (Some(id), _) => Cursor::parse(id)?,
        (None, Some(since)) => Cursor::parse(&since)?,
        (None, None) => Cursor::BEGINNING,
    };
    let log = LogRequest { log: caller.log, tables: tables(&uri)?, since };
    let reader = client_id(&headers)?.as_deref().map(Into::into);
    let request = StreamRequest { logs: vec![log], reader, names_apps: false };
    let store = state.store.of(caller.identity.user).pages.clone();
    let session = StreamSession::open(state.sessions.clone(), store, &caller.identity, request).await?;
    Ok(answer(session, client))
}

/// Returns the position at which a client resumes.
pub(super) fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let id = headers.get("Last-Event-ID").map(|id| id.to_str().map_err(|_| ApiError::Header("Last-Event-ID")));
    Ok(id.transpose()?.filter(|id| !id.is_empty()))
}

/// Turns a stream into an answer.
pub(super) fn answer(session: StreamSession, client: Option<Extension<ClientPlace>>) -> Response {
    // Its place among the connections of its address is held with it.
    let events = futures_util::stream::unfold((session, client), async |(mut session, client)| {
        let piece = session.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from_owner(piece)), (session, client)))
    });
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache, no-store, no-transform"),
        (axum::http::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

/// Returns the requested tables; `None` means all.
fn tables(uri: &Uri) -> Result<Option<Vec<String>>, ApiError> {
    let Some(list) = query(uri, "collections")? else { return Ok(None) };
    let names: BTreeSet<&str> = list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.len() > MAX_COLLECTIONS {
        return Err(ApiError::TooManyCollections(MAX_COLLECTIONS));
    }
    for name in &names {
        check_name(name, MAX_TABLE).map_err(|problem| ApiError::Name { name: "a collection", problem })?;
    }
    Ok((!names.is_empty()).then(|| names.into_iter().map(str::to_owned).collect()))
}
