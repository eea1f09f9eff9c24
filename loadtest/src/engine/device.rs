//! A device with minimal cost for the generator: bodies are prepared, and answers are only parsed as far as the next
//! request depends on them.

use hyper::http::HeaderValue;
use rand::rngs::StdRng;
use serde::Deserialize;

use super::client::{Call, Client, Failure};
use super::push_body::{PushBody, Shape};
use crate::protocol::BEGINNING;

/// The part of an answer that the next request needs. The changes are skipped.
#[derive(Deserialize)]
pub struct Position<'a> {
    #[serde(rename = "syncedUntil")]
    pub synced_until: &'a str,
    #[serde(rename = "hasMore")]
    pub has_more: bool,
}

/// The identity of a device.
#[derive(Clone, Debug)]
pub struct Identity {
    pub user: String,
    pub app: String,
    pub client: String,
    pub token: String,
}

/// A device with one `clientId`.
pub struct LeanDevice {
    authorization: HeaderValue,
    client_header: HeaderValue,
    push_path: String,
    pull_path: String,
    body: PushBody,
    empty: PushBody,
    cursor: String,
    number: u64,
}

/// One page of a sync.
#[derive(Clone, Copy, Debug)]
pub struct PageRead {
    pub bytes: usize,
    pub has_more: bool,
}

impl LeanDevice {
    /// Creates a device at the beginning of its log, whose pushes have `changes` changes of one table.
    pub fn new(identity: &Identity, table: &str, changes: usize, shape: Shape) -> Result<Self, Failure> {
        let header = |text: &str| HeaderValue::from_str(text).map_err(|_| Failure::Answer("not valid in a header"));
        let Identity { app, client, token, .. } = identity;
        Ok(Self {
            authorization: header(&format!("Bearer {token}"))?,
            client_header: header(client)?,
            push_path: format!("/sync/{app}"),
            pull_path: format!("/sync/{app}/pull?collection={table}&since="),
            body: PushBody::new(client, table, changes, shape),
            empty: PushBody::new(client, table, 0, shape),
            cursor: BEGINNING.to_owned(),
            number: 0,
        })
    }

    /// Goes back to the beginning, like a device that lost its database.
    pub fn forget(&mut self) {
        BEGINNING.clone_into(&mut self.cursor);
    }

    /// Continues from a cursor known from elsewhere.
    pub fn set_cursor(&mut self, cursor: &str) {
        cursor.clone_into(&mut self.cursor);
    }

    /// The cursor of its next request.
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    /// Its Authorization header.
    pub fn authorization(&self) -> &HeaderValue {
        &self.authorization
    }

    /// The number of the next push.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Gives this device's later pushes other record ids than an earlier run's.
    pub fn start_at(&mut self, number: u64) {
        self.number = number;
    }

    /// Pushes its changes under the next number. After a failure the next push has the same number: it is the same
    /// push, sent again.
    pub async fn push(&mut self, client: &mut Client, rng: &mut StdRng) -> Result<PageRead, Failure> {
        let body = self.body.fill(&self.cursor, self.number);
        let page = self.send(client, rng, body).await?;
        self.number += 1;
        Ok(page)
    }

    /// Requests what is new in all tables, with an empty push.
    pub async fn delta(&mut self, client: &mut Client, rng: &mut StdRng) -> Result<PageRead, Failure> {
        let body = self.empty.fill(&self.cursor, 0);
        self.send(client, rng, body).await
    }

    async fn send(&mut self, client: &mut Client, rng: &mut StdRng, body: bytes::Bytes) -> Result<PageRead, Failure> {
        let call =
            Call { path: &self.push_path, authorization: &self.authorization, client_id: None, body: Some(body) };
        let answer = client.call(&call, rng).await?;
        self.take(&answer.body)
    }

    /// Pulls one page of its table.
    pub async fn pull(&mut self, client: &mut Client, rng: &mut StdRng) -> Result<PageRead, Failure> {
        let path = format!("{}{}", self.pull_path, self.cursor);
        let client_id = Some(&self.client_header);
        let call = Call { path: &path, authorization: &self.authorization, client_id, body: None };
        let answer = client.call(&call, rng).await?;
        self.take(&answer.body)
    }

    fn take(&mut self, body: &[u8]) -> Result<PageRead, Failure> {
        let position = position(body).ok_or(Failure::Answer("syncedUntil or hasMore is missing"))?;
        position.synced_until.clone_into(&mut self.cursor);
        Ok(PageRead { bytes: body.len(), has_more: position.has_more })
    }
}

/// Reads the position at the end of an answer; parsing a page of a thousand changes for it would make the generator the
/// bottleneck. If the end has another form, the whole answer is parsed.
pub fn position(body: &[u8]) -> Option<Position<'_>> {
    const NAME: &[u8] = br#""syncedUntil":"#;
    let tail = body.len().saturating_sub(100);
    let at = body[tail..].windows(NAME.len()).rposition(|window| window == NAME).map(|at| tail + at);
    let short = at.and_then(|at| {
        let rest = std::str::from_utf8(&body[at + NAME.len()..]).ok()?;
        let (cursor, rest) = rest.strip_prefix('"')?.split_once('"')?;
        let has_more = rest.strip_prefix(r#","hasMore":"#)?.strip_suffix('}')?.parse().ok()?;
        Some(Position { synced_until: cursor, has_more })
    });
    short.or_else(|| serde_json::from_slice(body).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_is_found_at_the_end_or_anywhere() {
        let read = |text: &str| position(text.as_bytes()).map(|at| (at.synced_until.to_owned(), at.has_more));
        let expected = Some(("2026-01-01T10:06:15.123456Z".to_owned(), true));
        let usual = concat!(
            r#"{"serverChanges":[{"data":{"syncedUntil":"x"}}],"conflicts":[],"#,
            r#""syncedUntil":"2026-01-01T10:06:15.123456Z","hasMore":true}"#
        );
        assert_eq!(read(usual), expected);
        let adjusted = r#"{"syncedUntil":"2026-01-01T10:06:15.123456Z","hasMore":true,"adjusted":[{"index":1}]}"#;
        assert_eq!(read(adjusted), expected);
        assert_eq!(read(r#"{"error":"busy"}"#), None);
    }
}
