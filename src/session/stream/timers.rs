//! What a stream does at a certain time, whatever else it waits for.

use super::{HEARTBEAT, Next};
use crate::clock::Clock;
use crate::hub::SessionState;
use crate::protocol::close::CloseReason;
use crate::session::CloseTimer;
use tokio::time::{Instant, sleep_until};

#[derive(Debug)]
pub(super) struct Timers {
    /// When its token expires, by the replica's clock.
    pub(super) expires: Instant,
    /// When the next heartbeat is due.
    pub(super) heartbeat: Instant,
    pub(super) close_timer: CloseTimer,
}

impl Timers {
    /// Returns the next heartbeat, or the stream's end: its token expires, its replica closes it, or an operator does.
    /// Cancel safe.
    pub(super) async fn due(&mut self, clock: &Clock, session: &SessionState) -> Next {
        tokio::select! {
            () = sleep_until(self.heartbeat) => Next::Text(HEARTBEAT.to_owned()),
            () = clock.sleep_until(self.expires) => Next::End(CloseReason::TokenExpired),
            reason = self.close_timer.due_or_closed(session) => Next::End(reason),
        }
    }
}
