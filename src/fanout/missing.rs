//! Announces what of logs has not been announced.

use super::changes::{self, Changed, Chunks, RANGES_PER_QUERY};
use super::dependencies::Dependencies;
use super::{Tables, Wakeup};
use crate::protocol::LogId;
use crate::store::{Head, LogRange, StoreError};
use std::sync::Arc;

/// Parts of a log that are announced one after the other. What is left then waits for the next round, so that a log with
/// very much to be announced does not keep all others waiting.
const MAX_PARTS: usize = 8;

/// What of a log has not been announced, up to a head.
pub(super) fn range(dependencies: &Dependencies, head: &Head) -> Option<LogRange> {
    let after = dependencies.sessions.announced_before(head.user, &head.app, head.at)?;
    Some(LogRange { log: LogId::of(head.user, &head.app), after, last: head.at })
}

/// Announces whatever of these logs is still missing, a part of each at a time. In how many of them something was.
///
/// # Errors
/// The database cannot be asked. What fails by itself is left to the next round.
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

/// Announces what changed in these ranges; answers what is left of them.
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
        // Even if nothing is left in the range: then there is nothing in it to be missed.
        dependencies.sessions.announce(&wakeup(None, Tables::from(vec![]), vec![(range.after, until)]));
        if until < range.last {
            left.push((*head, LogRange { after: until, ..*range }));
        }
    }
    left
}
