//! Announces the changes that have not been announced yet.

use super::changes::{self, Changed, Chunks, RANGES_PER_QUERY};
use super::dependencies::Dependencies;
use super::{Tables, Wakeup};
use crate::protocol::LogId;
use crate::store::{Head, LogRange, StoreError};
use std::sync::Arc;

/// Maximum number of parts of a log announced in one round. The rest waits for the next round, so that a log with very
/// many changes does not hold up all others.
const MAX_PARTS: usize = 8;

/// Returns the range of a log that has not been announced, up to its head.
pub(super) fn range(dependencies: &Dependencies, head: &Head) -> Option<LogRange> {
    let after = dependencies.sessions.announced_before(head.user, &head.app, head.at)?;
    Some(LogRange { log: LogId::of(head.user, &head.app), after, last: head.at })
}

/// Announces whatever is still missing of these logs, one part of each at a time. Returns the number of logs with
/// something missing.
///
/// # Errors
/// Cannot query the database. Logs that fail on their own are left to the next round.
pub(super) async fn announce_missing(dependencies: &Dependencies, heads: &[Head]) -> Result<usize, StoreError> {
    let mut missing: Vec<(&Head, LogRange)> =
        heads.iter().filter_map(|head| Some((head, range(dependencies, head)?))).collect();
    let count = missing.len();
    for _ in 0..MAX_PARTS {
        let mut left = Vec::new();
        let mut chunks = Chunks::new(&missing, RANGES_PER_QUERY, &dependencies.metrics);
        while let Some(chunk) = chunks.next() {
            let ranges: Vec<LogRange> = chunk.iter().map(|(_, range)| *range).collect();
            match changes::look_up(&dependencies.heads, &ranges).await {
                Ok(changed) => left.extend(announce(dependencies, chunk, changed)),
                Err(error) => chunks.failed(chunk, error)?,
            }
        }
        if left.is_empty() {
            break;
        }
        missing = left;
    }
    Ok(count)
}

/// Announces what changed in these ranges; returns what is left of them.
fn announce<'a>(
    dependencies: &Dependencies,
    missing: &[(&'a Head, LogRange)],
    changed: Vec<Changed>,
) -> Vec<(&'a Head, LogRange)> {
    let mut left = Vec::new();
    for ((head, range), Changed { by_client, until, .. }) in missing.iter().zip(changed) {
        let app: Arc<str> = head.app.as_str().into();
        let wakeup = |client, tables, ranges| Wakeup {
            user: head.user,
            app: app.clone(),
            client,
            tables: Some(tables),
            ranges,
            pushes: vec![],
        };
        for (client, tables) in by_client {
            dependencies.sessions.announce(&wakeup(Some(client), tables, vec![]));
        }
        // Even if nothing is left in the range: then nothing in it can be missed.
        dependencies.sessions.announce(&wakeup(None, Tables::from(vec![]), vec![(range.after, until)]));
        if until < range.last {
            left.push((*head, LogRange { after: until, ..*range }));
        }
    }
    left
}
