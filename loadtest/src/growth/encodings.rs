//! The cost of a fresh device's pages, uncompressed and compressed: bytes on the wire, and the replica's processor
//! time.

use std::time::Duration;

use reqwest::header::ACCEPT_ENCODING;
use reqwest::{Client, Url};
use serde_json::Value;

use super::edits::Whose;
use crate::baseline::BaselineError;
use crate::local::{Replica, Surroundings};

/// In the form of a client's Accept-Encoding.
pub const ENCODINGS: [&str; 4] = ["identity", "gzip", "zstd", "br"];
/// The number of times all pages are read: processor time is counted in coarse units.
const TIMES: u32 = 10;
const BEGINNING: &str = "1970-01-01T00:00:00.000Z";

/// One read of a log from its beginning to its end.
#[derive(Clone, Copy, Debug)]
pub struct Encoded {
    /// Of all pages.
    pub bytes: f64,
    /// Processor time of the replica, in seconds.
    pub cpu: f64,
}

/// A reader of one log.
struct Reader<'a> {
    client: Client,
    token: String,
    base: &'a str,
    whose: Whose<'a>,
}

/// Reads a log with each of the encodings, in order.
pub async fn measure(at: &Surroundings, replica: &Replica, whose: Whose<'_>) -> Result<Vec<Encoded>, BaselineError> {
    let token = at.mint.token(whose.user, Duration::from_secs(3600))?;
    // This client decodes nothing by itself.
    let reader = Reader { client: Client::new(), token, base: replica.base(), whose };
    let pages = reader.pages().await?;
    let cpu = || replica.cpu().ok_or_else(|| BaselineError::Nothing { what: "the replica is gone".to_owned() });
    let mut measured = Vec::with_capacity(ENCODINGS.len());
    for encoding in ENCODINGS {
        // Once before anything is counted.
        let bytes = reader.read(&pages, encoding).await?;
        let begun = cpu()?;
        for _ in 0..TIMES {
            reader.read(&pages, encoding).await?;
        }
        measured.push(Encoded { bytes: bytes as f64, cpu: ((cpu()? - begun) / TIMES).as_secs_f64() });
    }
    Ok(measured)
}

impl Reader<'_> {
    /// Returns the URLs of all pages.
    async fn pages(&self) -> Result<Vec<Url>, BaselineError> {
        let (mut since, mut pages) = (BEGINNING.to_owned(), Vec::new());
        loop {
            let url = self.address(&since)?;
            let page: Value = self.get(&url, "identity").await?.json().await.map_err(BaselineError::Http)?;
            pages.push(url);
            let until = page["syncedUntil"].as_str().unwrap_or_default();
            if page["hasMore"] != true {
                return Ok(pages);
            }
            until.clone_into(&mut since);
        }
    }

    fn address(&self, since: &str) -> Result<Url, BaselineError> {
        let Whose { app, table, .. } = self.whose;
        let address = format!("{}/sync/{app}/pull", self.base);
        let parameters = [("collection", table), ("since", since)];
        let wrong = |_| BaselineError::Nothing { what: format!("{address} is not an address") };
        Url::parse_with_params(&address, parameters).map_err(wrong)
    }

    async fn get(&self, url: &Url, encoding: &str) -> Result<reqwest::Response, BaselineError> {
        let request = self.client.get(url.clone()).bearer_auth(&self.token).header(ACCEPT_ENCODING, encoding);
        let answer = request.header("X-Client-Id", "fresh").send().await;
        answer.and_then(reqwest::Response::error_for_status).map_err(BaselineError::Http)
    }

    /// Reads all pages; returns their bytes.
    async fn read(&self, pages: &[Url], encoding: &str) -> Result<usize, BaselineError> {
        let mut bytes = 0;
        for url in pages {
            bytes += self.get(url, encoding).await?.bytes().await.map_err(BaselineError::Http)?.len();
        }
        Ok(bytes)
    }
}
