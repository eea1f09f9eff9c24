//! `GET /sync/{appId}/pull`: one table's delta.

use super::AppState;
use super::error::ApiError;
use super::extract::{Caller, client_id, query};
use crate::protocol::Cursor;
use crate::protocol::page::{Remarks, encode_answer};
use crate::protocol::push::{MAX_TABLE, check_name};
use crate::store::{OwnChanges, PageRequest};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};

pub(super) async fn pull(
    State(state): State<AppState>,
    caller: Caller,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let table = query(&uri, "collection").ok_or(ApiError::MissingParameter("collection"))?;
    let since = query(&uri, "since").ok_or(ApiError::MissingParameter("since"))?;
    check_name(&table, MAX_TABLE).map_err(|problem| ApiError::Name { name: "collection", problem })?;
    let since = Cursor::parse(&since)?;
    let tables = [table.into_owned()];
    let client = client_id(&headers)?;
    let request = PageRequest { since, reader: client.as_deref(), own: OwnChanges::at(since), tables: Some(&tables) };
    let timer = state.metrics.pull_seconds.start_timer();
    let page = state.store.page(&caller.log, &request).await?;
    timer.observe_duration();
    let json = encode_answer(page, &Remarks::default())?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response())
}
