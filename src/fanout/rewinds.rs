//! A database that went back to an earlier state, restored or failed over with a loss, as the reconciler sees it: a log ends
//! before what has been announced of it. What is stored from then on would be taken for announced.

use super::dependencies::Dependencies;
use super::heads;
use crate::protocol::{LogId, UserKey};
use crate::store::{Head, StoreError};
use std::collections::HashMap;

/// Whether more has been announced of a log than it has: perhaps only because the head was read first.
pub(super) fn is_suspect(dependencies: &Dependencies, head: &Head) -> bool {
    dependencies.sessions.watermark(head.user, &head.app).is_some_and(|watermark| watermark > head.at)
}

/// Looks again at logs of which more has been announced than they had. Those that the database took back are to be
/// announced anew, as a whole: where it went back to, nobody knows. Answers their heads.
pub(super) async fn begin_anew(dependencies: &Dependencies, suspects: &[Head]) -> Result<Vec<Head>, StoreError> {
    // Taken before the heads are read: what has been announced by now was stored before.
    let watermark = |head: &Head| dependencies.sessions.watermark(head.user, &head.app);
    let watermarks: HashMap<(UserKey, &str), i64> =
        suspects.iter().filter_map(|head| Some(((head.user, head.app.as_str()), watermark(head)?))).collect();
    let logs: Vec<LogId> = suspects.iter().map(|head| LogId::of(head.user, &head.app)).collect();
    let mut heads = heads::newest(dependencies.heads.of_logs(&logs).await?);
    heads.retain(|head| watermarks.get(&(head.user, head.app.as_str())).is_some_and(|watermark| *watermark > head.at));
    for head in &heads {
        dependencies.sessions.forget(head.user, &head.app);
    }
    Ok(heads)
}
