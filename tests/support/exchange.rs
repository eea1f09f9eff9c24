//! Sends requests and checks their answers.

use super::*;
use mana_load::snapshot::Snapshot;
use reqwest::Body;
use reqwest::header::HeaderMap;

/// An answer as received.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    pub async fn to(request: reqwest::RequestBuilder) -> Reply {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Reply { status, headers, text: response.text().await.unwrap() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    /// Returns the message of an error, which must have this status and code and the documented form.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> String {
        let json = self.json();
        assert_eq!((self.status.as_u16(), json["error"].as_str()), (status, Some(code)), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        let members: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(members, ["error", "message"], "{self:?}");
        let message = json["message"].as_str().unwrap().to_owned();
        assert!(!message.is_empty(), "{self:?}");
        message
    }
}

impl Cluster {
    /// Sends a request without a token to replica 0.
    pub async fn get(&self, path: &str) -> Reply {
        Reply::to(self.http.get(format!("{}{path}", self.url(0))).timeout(TIMEOUT)).await
    }

    /// Sends a request with this Authorization header.
    pub async fn get_as(&self, authorization: &str, path: &str) -> Reply {
        let request = self.http.get(format!("{}{path}", self.url(0))).header("Authorization", authorization);
        Reply::to(request.timeout(TIMEOUT)).await
    }

    /// Pushes any body, as JSON.
    pub async fn push_raw(&self, user: &User, app: &str, body: impl Into<Body>) -> Reply {
        let request = self.request(user, Method::POST, &format!("/sync/{app}"));
        Reply::to(request.header("Content-Type", "application/json").body(body)).await
    }

    /// Pushes, which must succeed.
    pub async fn pushed(&self, user: &User, app: &str, body: Value) -> Value {
        self.pushed_to(0, user, app, body).await
    }

    pub async fn pushed_to(&self, index: usize, user: &User, app: &str, body: Value) -> Value {
        let (status, answer) = self.push_to(index, user, app, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// Pulls, which must succeed.
    pub async fn pulled(&self, user: &User, app: &str, table: &str, since: &str, client: Option<&str>) -> Value {
        let (status, answer) = self.pull(user, app, table, since, client).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// Pulls all pages of a table.
    pub async fn pull_all(&self, user: &User, app: &str, table: &str, since: &str, client: Option<&str>) -> Vec<Value> {
        let mut pages = vec![self.pulled(user, app, table, since, client).await];
        while pages[pages.len() - 1]["hasMore"] == true {
            let since = until(&pages[pages.len() - 1]).to_owned();
            pages.push(self.pulled(user, app, table, &since, client).await);
        }
        pages
    }

    /// Reads all pages of an app with pushes without changes.
    pub async fn push_all(&self, user: &User, app: &str, since: &str, client: &str) -> Vec<Value> {
        let ask = |since: String| async move {
            self.pushed(user, app, serde_json::json!({ "clientId": client, "since": since, "changes": [] })).await
        };
        let mut pages = vec![ask(since.to_owned()).await];
        while pages[pages.len() - 1]["hasMore"] == true {
            let since = until(&pages[pages.len() - 1]).to_owned();
            pages.push(ask(since).await);
        }
        pages
    }
}

/// Returns an answer's cursor.
pub fn until(answer: &Value) -> &str {
    answer["syncedUntil"].as_str().unwrap()
}

/// Returns an answer's changes as they were pushed: without the row's id, and with each stamp under one name. Both
/// names must be present and equal.
pub fn changes(answer: &Value) -> Value {
    let mut changes = answer["serverChanges"].clone();
    for change in changes.as_array_mut().unwrap() {
        let id = change.as_object_mut().unwrap().remove("eventId").expect("each change has the id of its row");
        assert!(id.as_str().is_some_and(|id| Uuid::parse_str(id).is_ok()), "{id}");
        for (_, field) in change.get_mut("fields").and_then(Value::as_object_mut).into_iter().flatten() {
            let at = field.as_object_mut().unwrap().remove("at");
            assert_eq!(at.as_ref(), Some(&field["updatedAt"]), "under both names");
        }
    }
    changes
}

/// Returns the ids of all pages, in order.
pub fn ids_of(pages: &[Value]) -> Vec<&str> {
    pages.iter().flat_map(ids).collect()
}

/// Returns the time in milliseconds since the epoch.
pub fn now_millis() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// Formats a time like JavaScript's `toISOString`.
pub fn iso(millis: i64) -> String {
    mana_sync::protocol::Stamp::from_millis(millis).to_string()
}

/// Returns where a device differs from the fold. Stamps that are stored as values are as spelled by their writer until
/// it takes `adjusted`; only their presence counts.
pub fn differences(seed: u64, who: &str, expected: &Snapshot, held: &Snapshot) -> Vec<String> {
    let blur = |snapshot: &Snapshot| {
        let mut snapshot = snapshot.clone();
        for fields in snapshot.0.values_mut().flat_map(|records| records.values_mut()) {
            for (name, value) in fields.iter_mut() {
                let is_stamp = value.as_str().is_some_and(|text| chrono::DateTime::parse_from_rfc3339(text).is_ok());
                if matches!(name.as_str(), "updatedAt" | "deletedAt") && is_stamp {
                    *value = serde_json::json!("a stamp");
                }
            }
        }
        snapshot
    };
    let found = blur(expected).differences(&blur(held), 3);
    found.into_iter().map(|difference| format!("seed {seed}, {who}: {difference}")).collect()
}
