//! The state of a session that operators can see, and how they close it.

use crate::clock::Clock;
use crate::protocol::close::CloseReason;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::Notify;

/// A session as operators see it.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// `websocket` or `sse`.
    pub transport: &'static str,
    /// The app it is limited to; none if it gets all the user's apps.
    pub app: Option<Arc<str>>,
    /// The device, if it named one.
    pub device: Option<Arc<str>>,
    /// The id (`jti`) of its latest token.
    pub token_id: Option<Arc<str>>,
    /// When that token expires.
    pub expires: Option<SystemTime>,
    /// When it began.
    pub since: SystemTime,
    /// When it was last notified of a change, or found one.
    pub woken: Option<SystemTime>,
    /// When it last read, and up to which position if it reads one log; streams only.
    pub read: Option<(SystemTime, Option<i64>)>,
}

/// The state of one session.
#[derive(Debug)]
pub struct SessionState {
    /// `None`: not a session, but a request that waits.
    pub(super) transport: Option<&'static str>,
    pub(super) since: SystemTime,
    noted: Mutex<Noted>,
    closing: Notify,
    clock: Clock,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Noted {
    pub(super) token_id: Option<Arc<str>>,
    pub(super) expires: Option<SystemTime>,
    pub(super) woken: Option<SystemTime>,
    pub(super) read: Option<(SystemTime, Option<i64>)>,
    closed: Option<CloseReason>,
}

impl SessionState {
    pub(super) fn new(transport: Option<&'static str>, clock: Clock) -> SessionState {
        SessionState { transport, since: clock.now(), noted: Mutex::default(), closing: Notify::new(), clock }
    }

    /// Records the token that the session uses from now on.
    pub fn identify(&self, token_id: Option<Arc<str>>, expires: SystemTime) {
        let mut noted = self.lock();
        noted.token_id = token_id;
        noted.expires = Some(expires);
    }

    /// Records that the session has taken a wake-up.
    pub fn note_woken(&self) {
        self.lock().woken = Some(self.clock.now());
    }

    /// Records a read for the session's client: everything up to this position, if it reads one log.
    pub fn note_read(&self, position: Option<i64>) {
        self.lock().read = Some((self.clock.now(), position));
    }

    /// Tells the session to end. The first reason counts; false if there was one already.
    pub fn close(&self, reason: CloseReason) -> bool {
        let first = {
            let mut noted = self.lock();
            let first = noted.closed.is_none();
            noted.closed.get_or_insert(reason);
            first
        };
        self.closing.notify_one();
        first
    }

    /// Waits until the session is to end. Cancel safe.
    pub async fn closed(&self) -> CloseReason {
        loop {
            if let Some(reason) = self.lock().closed {
                return reason;
            }
            self.closing.notified().await;
        }
    }

    pub(super) fn noted(&self) -> Noted {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
