//! Waits for conditions in other processes, which have no way to tell us.

use std::time::Duration;

use tokio::time::{Instant, sleep};

const BETWEEN: Duration = Duration::from_millis(20);

/// Polls until there is a result. None once `limit` is over.
pub async fn until<T>(limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(BETWEEN).await;
    }
}

/// Returns the last lines of a log file, for an error message.
pub fn tail(path: &std::path::Path) -> String {
    const LINES: usize = 30;
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
