//! Handles a database that went back to an earlier state, by a restore or a failover with a loss, as seen by the
//! reconciler: a log ends before what has been announced of it. What is stored from then on would be taken for
//! announced.

use super::dependencies::Dependencies;
use super::heads;
use crate::protocol::{LogId, UserKey};
use crate::store::{Head, StoreError};
use std::collections::HashMap;

/// True if more has been announced of a log than it has; possibly only because the head was read first.
pub(super) fn is_suspect(dependencies: &Dependencies, head: &Head) -> bool {
    dependencies.sessions.watermark(head.user, &head.app).is_some_and(|watermark| watermark > head.at)
}

/// Checks logs again that have less than was announced. Those that the database took back are announced anew, as a
/// whole: nobody knows where it went back to. Returns their heads.
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
