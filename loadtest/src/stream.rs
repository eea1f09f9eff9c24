//! Reads a stream of server-sent events by hand, like existing clients, and checks its order.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use reqwest::StatusCode;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use crate::invariants::{Checks, Violation, spelling};
use crate::protocol::TableDelta;
use crate::transport::{TransportError, url_of};

/// The reasons why a stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The stream has no usable address.
    #[error("the stream has no usable address")]
    Target(#[source] TransportError),
    /// The stream broke.
    #[error("the stream broke")]
    Connection(#[source] reqwest::Error),
    /// The stream was refused.
    #[error("the stream was refused with {status}: {body}")]
    Refused {
        /// The status of the answer.
        status: StatusCode,
        /// The body of the answer.
        body: String,
        /// The value of `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// The data of an event violates the protocol.
    #[error("the data of the event {event} violates the protocol: {data}")]
    Data {
        /// The type of the event.
        event: String,
        /// Its data.
        data: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// An answer or an event did not arrive in time.
    #[error("no answer or event within {within:?}")]
    Late {
        /// The time limit.
        within: Duration,
        /// The cause.
        #[source]
        source: Elapsed,
    },
    /// The stream broke the protocol.
    #[error("the stream broke the protocol")]
    Violation(#[source] Box<Violation>),
}

/// An event as sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawEvent {
    /// Its id, if it has one.
    pub id: Option<String>,
    /// Its type.
    pub event: String,
    /// Its data, as it was sent.
    pub data: String,
}

/// A parsed event.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEvent {
    /// Changes of a table.
    Changes {
        /// The cursor of its page, with the page's last event.
        id: Option<String>,
        /// The changes.
        delta: TableDelta,
    },
    /// The server is alive.
    Heartbeat,
    /// An unknown type.
    Other(RawEvent),
}

/// Splits bytes into events, however they are chunked.
#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    open: RawEvent,
    has_data: bool,
}

impl SseParser {
    /// Takes some bytes; returns the events that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<RawEvent> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            self.line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.line);
            events.extend(self.take_line(String::from_utf8_lossy(&line).trim_end_matches('\r')));
        }
        self.line.extend_from_slice(rest);
        events
    }

    fn take_line(&mut self, line: &str) -> Option<RawEvent> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.open);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        if let Some(event) = line.strip_prefix("event: ") {
            event.clone_into(&mut self.open.event);
        } else if let Some(id) = line.strip_prefix("id: ") {
            self.open.id = Some(id.to_owned());
        } else if let Some(data) = line.strip_prefix("data: ") {
            if std::mem::replace(&mut self.has_data, true) {
                self.open.data.push('\n');
            }
            self.open.data.push_str(data);
        }
        None
    }
}

/// The parameters of a stream.
#[derive(Clone, Debug, Default)]
pub struct StreamRequest {
    /// The base URL of the replica.
    pub base: String,
    /// The app.
    pub app: String,
    /// The token.
    pub token: String,
    /// The device, whose own changes are left out.
    pub client_id: Option<String>,
    /// Empty means every table of the app.
    pub collections: Vec<String>,
    /// `None` means from the beginning.
    pub since: Option<String>,
    /// Takes precedence over `since`.
    pub last_event_id: Option<String>,
}

/// An open stream.
pub struct StreamReader {
    response: reqwest::Response,
    parser: SseParser,
    ready: VecDeque<RawEvent>,
}

impl StreamReader {
    /// Opens a stream; anything but 200 within ten seconds is an error.
    pub async fn open(http: &reqwest::Client, asked: &StreamRequest) -> Result<Self, StreamError> {
        let mut url = url_of(&asked.base, &["sync", &asked.app, "stream"]).map_err(StreamError::Target)?;
        if !asked.collections.is_empty() {
            url.query_pairs_mut().append_pair("collections", &asked.collections.join(","));
        }
        if let Some(since) = &asked.since {
            url.query_pairs_mut().append_pair("since", since);
        }
        let mut request = http.get(url).bearer_auth(&asked.token).header("Accept", "text/event-stream");
        if let Some(client_id) = &asked.client_id {
            request = request.header("X-Client-Id", client_id);
        }
        if let Some(id) = &asked.last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        let within = Duration::from_secs(10);
        let late = |source| StreamError::Late { within, source };
        let response = timeout(within, request.send()).await.map_err(late)?.map_err(StreamError::Connection)?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            let retry_after = response.headers().get("Retry-After").and_then(|value| value.to_str().ok()?.parse().ok());
            let body = timeout(within, response.text()).await.map_err(late)?.unwrap_or_default();
            return Err(StreamError::Refused { status, body, retry_after });
        }
        Ok(Self { response, parser: SseParser::default(), ready: VecDeque::new() })
    }

    /// The answer's headers.
    pub fn headers(&self) -> &reqwest::header::HeaderMap {
        self.response.headers()
    }

    /// Returns the next event, which must arrive `within` that time; `None` if the server has ended the stream.
    pub async fn next_event(&mut self, within: Duration) -> Result<Option<StreamEvent>, StreamError> {
        let next = timeout(within, self.next_raw()).await;
        let raw = next.map_err(|source| StreamError::Late { within, source })??;
        raw.map(understand).transpose()
    }

    /// Returns the next `changes` event, skipping heartbeats and others, `within` that time altogether.
    pub async fn next_delta(&mut self, within: Duration) -> Result<Option<(Option<String>, TableDelta)>, StreamError> {
        let search = async {
            while let Some(raw) = self.next_raw().await? {
                if let StreamEvent::Changes { id, delta } = understand(raw)? {
                    return Ok(Some((id, delta)));
                }
            }
            Ok(None)
        };
        timeout(within, search).await.map_err(|source| StreamError::Late { within, source })?
    }

    /// Cancel safe: bytes are only taken over with the chunk that contains them.
    async fn next_raw(&mut self) -> Result<Option<RawEvent>, StreamError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            match self.response.chunk().await.map_err(StreamError::Connection)? {
                Some(bytes) => self.ready.extend(self.parser.feed(&bytes)),
                None => return Ok(None),
            }
        }
    }
}

fn understand(raw: RawEvent) -> Result<StreamEvent, StreamError> {
    match raw.event.as_str() {
        "changes" => {
            let delta = serde_json::from_str(&raw.data);
            let delta = delta.map_err(|source| StreamError::Data { event: raw.event, data: raw.data, source })?;
            Ok(StreamEvent::Changes { id: raw.id, delta })
        }
        "heartbeat" => Ok(StreamEvent::Heartbeat),
        _ => Ok(StreamEvent::Other(raw)),
    }
}

/// Checks the order of one stream, including reconnects with `Last-Event-ID`: ids never go back, and a table's cursor
/// moves with its rows. The events of an interrupted page come again, so a page only counts once it is complete.
#[derive(Debug, Default)]
pub struct StreamCheck {
    checks: Checks,
    last_id: Option<String>,
    /// The cursors of the tables at the last id.
    tables: BTreeMap<String, String>,
    /// Those of the page being received.
    page: BTreeMap<String, String>,
}

impl StreamCheck {
    /// Checks the next event.
    pub fn observe(&mut self, id: Option<&str>, delta: &TableDelta) -> Result<(), StreamError> {
        self.check(id, delta).map_err(|violation| StreamError::Violation(Box::new(violation)))
    }

    /// The id to resume from.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    fn check(&mut self, id: Option<&str>, delta: &TableDelta) -> Result<(), Violation> {
        let cursor = delta.synced_until.clone();
        self.checks.shape(&cursor)?;
        delta.changes.iter().try_for_each(spelling)?;
        if let Some(other) = delta.changes.iter().find(|change| change.table != delta.table) {
            return Err(Violation::OtherTable { asked: delta.table.clone(), found: other.table.clone() });
        }
        if let Some(since) = self.tables.get(&delta.table).cloned() {
            if cursor < since {
                return Err(Violation::CursorWentBack { since, cursor });
            }
            if cursor == since && !delta.changes.is_empty() {
                return Err(Violation::CursorStood { since, cursor, changes: delta.changes.len() });
            }
        }
        self.page.insert(delta.table.clone(), cursor);
        if let Some(id) = id {
            self.tables.append(&mut self.page);
            self.checks.shape(id)?;
            if let Some(since) = self.last_id.replace(id.to_owned())
                && *id < *since
            {
                return Err(Violation::CursorWentBack { since, cursor: id.to_owned() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "retry: 1000\n\nid: 7\nevent: changes\ndata: {\"ä\":1}\n\nevent: heartbeat\ndata: {}\n\n: note\ndata: a\ndata: b\n\n";

    fn expected() -> Vec<RawEvent> {
        let event = |id: Option<&str>, event: &str, data: &str| RawEvent {
            id: id.map(str::to_owned),
            event: event.to_owned(),
            data: data.to_owned(),
        };
        vec![event(Some("7"), "changes", "{\"ä\":1}"), event(None, "heartbeat", "{}"), event(None, "", "a\nb")]
    }

    #[test]
    fn events_come_out_whole_however_the_bytes_are_split() {
        assert_eq!(SseParser::default().feed(TEXT.as_bytes()), expected());
        for size in 1..TEXT.len() {
            let mut parser = SseParser::default();
            let events: Vec<RawEvent> = TEXT.as_bytes().chunks(size).flat_map(|chunk| parser.feed(chunk)).collect();
            assert_eq!(events, expected(), "chunks of {size}");
        }
    }

    #[test]
    fn order_is_checked_for_each_table_and_over_all() {
        let change =
            serde_json::json!({"table": "t", "id": "r", "op": "delete", "deletedAt": "2024-01-01T10:00:00.000Z"});
        let delta = |cursor: &str| TableDelta {
            table: "t".to_owned(),
            changes: vec![serde_json::from_value(change.clone()).unwrap()],
            synced_until: cursor.to_owned(),
            has_more: false,
        };
        let mut check = StreamCheck::default();
        let (first, second) = ("2024-01-01T10:00:00.000001Z", "2024-01-01T10:00:00.000002Z");
        check.observe(Some(first), &delta(first)).unwrap();
        assert!(check.observe(Some(first), &delta(first)).is_err());
        check.observe(Some(second), &delta(second)).unwrap();
        assert!(check.observe(Some(first), &delta("2024-01-01T10:00:00.000003Z")).is_err());
    }

    #[test]
    fn a_page_that_broke_off_may_come_again() {
        let delta = |table: &str, cursor: &str| {
            let change =
                serde_json::json!({"table": table, "id": "r", "op": "delete", "deletedAt": "2024-01-01T10:00:00.000Z"});
            TableDelta {
                table: table.to_owned(),
                changes: vec![serde_json::from_value(change).unwrap()],
                synced_until: cursor.to_owned(),
                has_more: false,
            }
        };
        let mut check = StreamCheck::default();
        let (first, second) = ("2024-01-01T10:00:00.000001Z", "2024-01-01T10:00:00.000002Z");
        check.observe(None, &delta("t", first)).unwrap();
        check.observe(None, &delta("t", first)).unwrap();
        check.observe(Some(second), &delta("u", second)).unwrap();
        assert!(check.observe(None, &delta("t", first)).is_err(), "the page was whole");
    }
}
