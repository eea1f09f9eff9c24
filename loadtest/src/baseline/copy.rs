//! `COPY … TO STDOUT` of the rows that a fresh device pulls: the fastest way to get data out of PostgreSQL.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio_postgres::Client;

use super::BaselineError;

/// The columns of a pull's answer, in log order.
const ROWS: &str = "select created_at, table_name, record_id, op, data, field_timestamps from sync_changes \
                    where log_id = '{log}' order by created_at";

/// Copies all rows of a user; returns the number of bytes, and how long it took.
pub async fn copy(client: &Client, user: &str) -> Result<(usize, Duration), BaselineError> {
    let failed = |source| BaselineError::Database { action: "copy the rows out", source };
    let log = client.query_one("select log_id::text from sync_heads where user_id = $1", &[&user]).await;
    let log: String = log.and_then(|row| row.try_get(0)).map_err(failed)?;
    let rows = ROWS.replace("{log}", &log);
    let begun = Instant::now();
    let mut stream = pin!(client.copy_out(&format!("copy ({rows}) to stdout")).await.map_err(failed)?);
    let mut bytes = 0;
    while let Some(chunk) = stream.next().await {
        bytes += chunk.map_err(failed)?.len();
    }
    Ok((bytes, begun.elapsed()))
}
