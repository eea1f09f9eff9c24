//! `GET /sync/{appId}/pull`: one table's delta.

use super::AppState;
use super::answer::{json, unless_empty, write};
use super::error::ApiError;
use super::extract::{Caller, client_id, query};
use super::read_ahead::read_on;
use crate::protocol::Cursor;
use crate::protocol::page::Remarks;
use crate::protocol::push::{MAX_TABLE, check_name};
use crate::store::{OwnChanges, PageRequest};
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;

pub(super) async fn pull(
    State(state): State<AppState>,
    caller: Caller,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    state.limits.pull(caller.log.user)?;
    let table = query(&uri, "collection")?.ok_or(ApiError::MissingParameter("collection"))?;
    let since = query(&uri, "since")?.ok_or(ApiError::MissingParameter("since"))?;
    check_name(&table, MAX_TABLE).map_err(|problem| ApiError::Name { name: "collection", problem })?;
    let since = Cursor::parse(&since)?;
    let tables = [table.into_owned()];
    let client = client_id(&headers)?;
    if let Some(client) = &client {
        state.devices.note(&caller.log, client, since).await;
    }
    let request = PageRequest {
        since,
        reader: client.as_deref(),
        own: OwnChanges::at(since),
        tables: Some(&tables),
        is_for_answer: true,
    };
    let poll = state.polls.ask(&caller.log, Some(&tables[0]), client.as_deref());
    let started = tokio::time::Instant::now();
    let read = read_on(&state, &caller.log, &request).await;
    state.metrics.pull_seconds.record(started.elapsed().as_secs_f64(), &state.clock);
    let (page, unread) = read?;
    let (page, unread) = unless_empty(&state, &caller.log, &request, poll, (page, unread)).await?;
    let text = write(&state, page, &Remarks::default()).await?;
    json(&state, &caller.log, Some(unread), text).await
}
