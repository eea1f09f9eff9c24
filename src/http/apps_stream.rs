//! `GET /sync/stream?apps=…`: server-sent events of several apps on one connection.
//!
//! Browsers open at most six connections to an origin over HTTP/1.1. Each app on the stream gets the guarantees of a
//! stream of its own; events name their app, and their `id` has a cursor for each app.

use super::AppState;
use super::connection::ClientPlace;
use super::error::ApiError;
use super::extract::{Authenticated, client_id, query};
use super::stream::{MAX_COLLECTIONS, answer, last_event_id};
use crate::protocol::push::{MAX_APP, MAX_TABLE, check_name};
use crate::protocol::stream_id::StreamPosition;
use crate::protocol::{Cursor, Log};
use crate::session::stream::{LogRequest, StreamRequest, StreamSession};
use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// Maximum number of apps on one stream.
const MAX_APPS: usize = 64;
/// Maximum number of tables that one stream names, over all apps.
const MAX_NAMES: usize = 1024;

/// The tables requested of each app; `None` means all.
type Apps = BTreeMap<String, Option<BTreeSet<String>>>;

pub(super) async fn stream(
    State(state): State<AppState>,
    Authenticated(identity): Authenticated,
    client: Option<Extension<ClientPlace>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    state.limits.pull(identity.user)?;
    let apps = read_apps(&query(&uri, "apps")?.ok_or(ApiError::MissingParameter("apps"))?)?;
    let position = |text: &str| StreamPosition::parse(text);
    let last_event = last_event_id(&headers)?.map(position).transpose()?;
    let since = query(&uri, "since")?.as_deref().map(position).transpose()?;
    // The id that a client resumes from does not contain apps that are new to its list.
    let only = apps.len() == 1;
    let of = |position: &StreamPosition, app: &str| match position {
        // With a single app, the cursor that stands for all apps is its own.
        StreamPosition::Everywhere(cursor) if only => Some(*cursor),
        position => position.of(app),
    };
    let begin = |app: &str| {
        last_event.as_ref().and_then(|id| of(id, app)).or_else(|| since.as_ref().and_then(|since| of(since, app)))
    };
    let logs = apps.into_iter().map(|(app, tables)| LogRequest {
        since: begin(&app).unwrap_or(Cursor::BEGINNING),
        tables: tables.map(|tables| tables.into_iter().collect()),
        log: Log::new(identity.user_id.clone(), &app),
    });
    let reader = client_id(&headers)?.as_deref().map(Into::into);
    let request = StreamRequest { logs: logs.collect(), reader, names_apps: true };
    let store = state.store.of(identity.user).pages.clone();
    let session = StreamSession::open(state.sessions.clone(), store, &identity, request).await?;
    Ok(answer(session, client))
}

/// Reads `app,app:table;table`. Names that contain one of `,:;%` are percent-encoded.
fn read_apps(list: &str) -> Result<Apps, ApiError> {
    let mut apps = Apps::new();
    for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (app, tables) = entry.split_once(':').map_or((entry, None), |(app, tables)| (app, Some(tables)));
        let app = decode(app.trim());
        check_name(&app, MAX_APP)
            .map_err(|problem| ApiError::Name { name: "an app of the parameter apps", problem })?;
        let tables = tables.map(read_tables).transpose()?.flatten();
        match apps.entry(app.into_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(tables);
            }
            Entry::Occupied(mut entry) => match (entry.get_mut(), tables) {
                (Some(known), Some(more)) => known.extend(more),
                (all, _) => *all = None,
            },
        }
    }
    let names: usize = apps.values().flatten().map(BTreeSet::len).sum();
    let too_long = apps.values().flatten().any(|tables| tables.len() > MAX_COLLECTIONS);
    if apps.len() > MAX_APPS || names > MAX_NAMES || too_long {
        return Err(ApiError::TooManyApps { apps: MAX_APPS, of_an_app: MAX_COLLECTIONS, tables: MAX_NAMES });
    }
    if apps.is_empty() { Err(ApiError::MissingParameter("apps")) } else { Ok(apps) }
}

/// Reads `table;table`; an empty list means all tables.
fn read_tables(list: &str) -> Result<Option<BTreeSet<String>>, ApiError> {
    let mut tables = BTreeSet::new();
    for table in list.split(';').map(str::trim).filter(|table| !table.is_empty()) {
        let table = decode(table);
        check_name(&table, MAX_TABLE)
            .map_err(|problem| ApiError::Name { name: "a table of the parameter apps", problem })?;
        tables.insert(table.into_owned());
    }
    Ok((!tables.is_empty()).then_some(tables))
}

/// Decodes a name; if the result is not UTF-8, the name was not encoded.
fn decode(name: &str) -> Cow<'_, str> {
    percent_decode_str(name).decode_utf8().unwrap_or(Cow::Borrowed(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The apps of a list in short form, or the error.
    fn read(list: &str) -> String {
        let tables = |tables: Option<BTreeSet<String>>| match tables {
            Some(tables) => format!("({})", tables.into_iter().collect::<Vec<_>>().join(" ")),
            None => String::new(),
        };
        match read_apps(list) {
            Ok(apps) => apps.into_iter().map(|(app, of)| app + &tables(of)).collect::<Vec<_>>().join(" "),
            Err(error) => format!("! {error}"),
        }
    }

    #[test]
    fn a_list_names_apps_and_their_tables() {
        for (list, expected) in [
            ("todo", "todo"),
            ("todo,calendar:events;tasks", "calendar(events tasks) todo"),
            (" todo , calendar : events ; tasks,,", "calendar(events tasks) todo"),
            ("todo:", "todo"),
            ("todo:;;", "todo"),
            ("todo:a,todo:b;a", "todo(a b)"),
            ("todo:a,todo", "todo"),
            ("todo,todo:a", "todo"),
            ("a:b:c", "a(b:c)"),
            ("a%2Cb:c%3Bd;e%3Af%25", "a,b(c;d e:f%)"),
            ("100%,日本語:表", "100% 日本語(表)"),
            ("a%FF", "a%FF"),
        ] {
            assert_eq!(read(list), expected, "{list}");
        }
    }

    #[test]
    fn what_names_none_or_too_many_is_refused() {
        for list in ["", ",", " ", ":tasks"] {
            assert!(read(list).starts_with('!'), "{list}: {}", read(list));
        }
        let many = |count: usize| (0..count).map(|n| format!("n{n}")).collect::<Vec<_>>();
        assert!(!read(&many(64).join(",")).starts_with('!'));
        assert!(read(&many(65).join(",")).starts_with('!'));
        assert!(!read(&format!("a:{}", many(256).join(";"))).starts_with('!'));
        assert!(read(&format!("a:{}", many(257).join(";"))).starts_with('!'));
        let tables = many(250).join(";");
        let apps: Vec<String> = (0..5).map(|n| format!("a{n}:{tables}")).collect();
        assert!(!read(&apps[..4].join(",")).starts_with('!'));
        assert!(read(&apps.join(",")).starts_with('!'));
        assert!(read(&"a".repeat(256)).starts_with('!'));
        assert!(read(&format!("a:{}", "t".repeat(256))).starts_with('!'));
    }
}
