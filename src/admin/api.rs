//! `/api/v1/…`: JSON, as described in docs/admin-openapi.yaml.

use super::Admin;
use super::act::{MAX_USER, refused_until};
use super::error::AdminError;
use super::message::Action;
use super::replica::MAX_SESSIONS;
use super::request::{json, optional, required};
use crate::protocol::push::{MAX_APP, MAX_RECORD, MAX_TABLE, check_name};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// The description of this API.
const DESCRIPTION: &str = include_str!("../../docs/admin-openapi.yaml");
/// Default number of sessions listed per replica.
pub(super) const SESSIONS: usize = 100;

pub(super) async fn description() -> Response {
    ([(CONTENT_TYPE, "application/yaml")], DESCRIPTION).into_response()
}

pub(super) async fn cluster(State(admin): State<Admin>) -> Result<Response, AdminError> {
    answer(&admin.cluster().await)
}

pub(super) async fn load(State(admin): State<Admin>) -> Result<Response, AdminError> {
    answer(&admin.load().await)
}

pub(super) async fn user(State(admin): State<Admin>, uri: Uri) -> Result<Response, AdminError> {
    let id = name("id", &required(&uri, "id")?, MAX_USER)?;
    let sessions = match optional(&uri, "sessions").map(|sessions| sessions.parse::<usize>()) {
        None => SESSIONS,
        Some(Ok(sessions)) if sessions <= MAX_SESSIONS => sessions,
        Some(_) => return Err(AdminError::Invalid("sessions must be a number of at most 2000")),
    };
    answer(&admin.user(&id, sessions).await)
}

pub(super) async fn record(State(admin): State<Admin>, uri: Uri) -> Result<Response, AdminError> {
    let user = name("user", &required(&uri, "user")?, MAX_USER)?;
    let app = name("app", &required(&uri, "app")?, MAX_APP)?;
    let table = name("table", &required(&uri, "table")?, MAX_TABLE)?;
    let id = name("id", &required(&uri, "id")?, MAX_RECORD)?;
    let record = admin.record(&user, &app, &table, &id).await?;
    if record.history.is_empty() {
        return Err(AdminError::NoRecord);
    }
    admin.heavy.run(record.bytes(), || answer(&record)).await
}

/// Checks a name from a request.
pub(super) fn name(name: &'static str, text: &str, max: usize) -> Result<String, AdminError> {
    check_name(text, max).map(str::to_owned).map_err(|problem| AdminError::Name { name, problem })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Disconnect {
    user_id: String,
    device: Option<String>,
    replica: Option<String>,
}

pub(super) async fn disconnect(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, AdminError> {
    let Disconnect { user_id, device, replica } = json(&headers, body).await?;
    answer(&admin.act(API, replica.as_deref(), Action::Disconnect { user_id, device }).await?)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RefuseToken {
    token_id: String,
    until: Option<String>,
}

pub(super) async fn refuse_token(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, AdminError> {
    let RefuseToken { token_id, until } = json(&headers, body).await?;
    let until = refused_until(&admin.clock, until.as_deref())?;
    answer(&admin.act(API, None, Action::RefuseToken { token_id, until, stored: false }).await?)
}

pub(super) async fn accept_token(State(admin): State<Admin>, uri: Uri) -> Result<Response, AdminError> {
    let token_id = required(&uri, "tokenId")?;
    answer(&admin.act(API, None, Action::AcceptToken { token_id }).await?)
}

pub(super) async fn refused_tokens(State(admin): State<Admin>) -> Result<Response, AdminError> {
    answer(&admin.refused_tokens().await)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Drain {
    replica: String,
    drained: bool,
}

pub(super) async fn drain(State(admin): State<Admin>, headers: HeaderMap, body: Body) -> Result<Response, AdminError> {
    let Drain { replica, drained } = json(&headers, body).await?;
    answer(&admin.act(API, Some(&replica), Action::Drain { drained }).await?)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Compact {
    replica: Option<String>,
}

pub(super) async fn compact(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, AdminError> {
    let Compact { replica } = json(&headers, body).await?;
    answer(&admin.act(API, replica.as_deref(), Action::Compact).await?)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    log: Option<String>,
    max_user_pushes_per_second: Option<u32>,
    max_user_pulls_per_second: Option<u32>,
    replica: Option<String>,
}

pub(super) async fn settings(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, AdminError> {
    let settings: Settings = json(&headers, body).await?;
    let (pushes, pulls) = (settings.max_user_pushes_per_second, settings.max_user_pulls_per_second);
    let action = match settings.log {
        None => Action::Rates { pushes, pulls },
        Some(filter) if pushes.is_none() && pulls.is_none() => Action::Log { filter },
        // One might succeed and the other fail.
        Some(_) => return Err(AdminError::Invalid("change the log and the rates in separate requests")),
    };
    answer(&admin.act(API, settings.replica.as_deref(), action).await?)
}

/// The `via` of actions through the API.
const API: &str = "api";

fn answer(body: &impl Serialize) -> Result<Response, AdminError> {
    Ok(([(CONTENT_TYPE, "application/json")], serde_json::to_string(body)?).into_response())
}
