//! The logic of WebSockets and streams, independent of their transport.
//!
//! * [`websocket`]: authentication, wake-ups and token renewal: the rules of `/ws` without a socket.
//! * [`stream`]: reading the log from a cursor, and again after each wake-up: the rules of `/stream` without HTTP.
//! * [`rebalance`]: closing some connections when other replicas hold fewer.
//!
//! A session joins the hub before it reads from the database, so nothing falls in between (G2, G4). It holds a cursor
//! and a set of names, but no queue of events (G6). It leaves at its own random moment when the replica goes away (G7),
//! or when it is so old that its client may as well be somewhere else.

mod events;
mod fresh_token;
mod log_reader;
pub mod rebalance;
pub mod stream;
pub mod websocket;

#[cfg(test)]
mod testing;

use crate::auth::{Authenticator, Identity};
use crate::budget::MemoryBudget;
use crate::clock::Clock;
use crate::config::Config;
use crate::fanout::Reconciler;
use crate::fanout::recent::RecentRequest;
use crate::fanout::reconciler::CannotBegin;
use crate::hub::{Hub, Interest, Membership, SessionState};
use crate::limits::heavy::HeavyWork;
use crate::limits::reads::ReadShares;
use crate::mail_budget::MailCharge;
use crate::places::{Place, Places};
use crate::protocol::UserKey;
use crate::protocol::close::CloseReason;
use crate::shutdown::Drained;
use crate::telemetry::Metrics;
use crate::telemetry::refusals::{Endpoint, Refusal};
use crate::telemetry::throttle::Throttle;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Maximum time that a session waits for the database before its client is told to come back later.
const JOIN_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between two attempts to join.
const JOIN_PAUSE: Duration = Duration::from_millis(300);

/// Bytes of names that are covered by the fixed cost of a stream. More are charged to its user.
const FREE_NAMES: usize = 4 << 10;

/// The reasons why a session could not join the hub.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It cannot begin now.
    #[error(transparent)]
    Begin(#[from] CannotBegin),
    /// There is no memory for the names it requests.
    #[error("there is no room for more table names in this user's streams; name fewer, or none to get all tables")]
    NoRoomForNames,
    /// The user has as many sessions as are allowed.
    #[error("this user has the maximum number of connections here; close some")]
    TooManySessions,
}

/// The services that sessions depend on.
#[derive(Debug)]
pub struct SessionDependencies {
    /// Delivers wake-ups.
    pub hub: Arc<Hub>,
    /// Knows the positions of the logs when sessions begin.
    pub reconciler: Reconciler,
    /// Checks tokens.
    pub auth: Arc<Authenticator>,
    /// Memory for what clients have not read yet.
    pub budget: MemoryBudget,
    /// Bounds how many reads of the database each user may run at once.
    pub reads: ReadShares,
    /// Runs large work in turns.
    pub heavy: HeavyWork,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Tells when tokens expire.
    pub clock: Clock,
}

/// Creates sessions, and holds what they share.
#[derive(Debug)]
pub struct Sessions {
    hub: Arc<Hub>,
    reconciler: Reconciler,
    auth: Arc<Authenticator>,
    metrics: Arc<Metrics>,
    clock: Clock,
    closing: CancellationToken,
    drained: Drained,
    drain_window: Duration,
    /// `None` means that connections may live forever.
    max_age: Option<Duration>,
    auth_timeout: Duration,
    heartbeat: Duration,
    /// Interval between pings of a WebSocket.
    ping: Duration,
    max_per_user: usize,
    /// True if new sessions are told what was stored shortly before.
    announces_recent: bool,
    /// Places for WebSockets that have not authenticated.
    unauthenticated: Places,
    /// Memory for what clients have not read yet.
    budget: MemoryBudget,
    /// Bounds how many reads of the database each user may run at once.
    pub reads: ReadShares,
    /// Runs large work in turns.
    pub heavy: HeavyWork,
    /// Throttles the log line about streams that had to be ended.
    failed_streams: Throttle,
}

impl Sessions {
    /// Creates sessions that leave within the drain window once `closing` is cancelled.
    pub fn new(config: &Config, dependencies: SessionDependencies, closing: CancellationToken) -> Sessions {
        let SessionDependencies { hub, reconciler, auth, budget, reads, heavy, metrics, clock } = dependencies;
        Sessions {
            hub,
            reconciler,
            auth,
            metrics,
            clock,
            closing,
            drained: Drained::default(),
            drain_window: config.drain.drain_window_ms,
            max_age: Some(config.sessions.max_connection_age_ms).filter(|age| !age.is_zero()),
            auth_timeout: config.sessions.ws_auth_timeout_ms,
            heartbeat: config.sessions.sse_heartbeat_ms,
            ping: config.ws_ping_ms,
            max_per_user: config.sessions.max_sessions_per_user as usize,
            announces_recent: !config.announce_recent_ms.is_zero(),
            unauthenticated: Places::new(config.max_unauthenticated as usize),
            budget,
            reads,
            heavy,
            failed_streams: Throttle::new(),
        }
    }

    /// Makes sessions also leave within the drain window when an operator drains the replica.
    pub fn leaving_with(self, drained: Drained) -> Sessions {
        Sessions { drained, ..self }
    }

    /// Returns a place for a WebSocket from this address until it has authenticated; none if there is none left.
    pub fn admit_unauthenticated(&self, from: Option<IpAddr>) -> Option<Place> {
        let place = self.unauthenticated.enter(from);
        if place.is_none() {
            self.metrics.refused.with_label_values(&["unauthenticated"]).inc();
        }
        place
    }

    /// Joins the hub. Whatever is stored after this returns wakes the session.
    async fn join(
        &self,
        identity: &Identity,
        interest: Interest,
        transport: &'static str,
    ) -> Result<Membership, JoinError> {
        let membership = self.hub.join(identity.user, interest, transport);
        self.identify(&membership, identity);
        if membership.sessions_of_user() > self.max_per_user {
            self.metrics.refused.with_label_values(&["sessions_per_user"]).inc();
            return Err(JoinError::TooManySessions);
        }
        let deadline = Instant::now() + JOIN_TIMEOUT;
        while !membership.has_begun() {
            match self.reconciler.begin(identity.user).await {
                Ok(()) => break,
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Err(_) => sleep(self.clock.jitter(JOIN_PAUSE, 0.5..1.5)).await,
            }
        }
        Ok(membership)
    }

    /// Records the token that a session uses from now on. It may have been revoked since it was checked, when the
    /// session could not be found by it yet.
    fn identify(&self, membership: &Membership, identity: &Identity) {
        membership.session().identify(identity.token_id.clone(), identity.expires);
        if self.auth.refuses(identity) {
            membership.session().close(CloseReason::InvalidToken);
        }
    }

    /// Charges a session's user for the names it keeps, if they are many.
    fn charge_names(&self, membership: &Membership, bytes: usize) -> Result<Option<MailCharge>, JoinError> {
        if bytes <= FREE_NAMES {
            return Ok(None);
        }
        let charge = membership.charge_names(bytes);
        if charge.is_none() {
            self.metrics.refused.with_label_values(&["stream_names"]).inc();
        }
        charge.map(Some).ok_or(JoinError::NoRoomForNames)
    }

    /// Requests what was stored shortly before this session began, if sessions are told.
    fn recent(&self, user: UserKey, app: Option<Arc<str>>) -> Option<RecentRequest> {
        self.announces_recent.then(|| self.reconciler.recent(user, app))
    }

    fn close_timer(self: &Arc<Sessions>) -> CloseTimer {
        let age = self.max_age.map(|age| self.clock.jitter(age, 0.5..1.0));
        let max_age_at = age.map(|age| self.clock.instant() + age);
        CloseTimer { sessions: self.clone(), drain_at: None, max_age_at }
    }

    fn is_draining(&self) -> bool {
        self.closing.is_cancelled() || self.drained.is_on()
    }

    /// Waits until the replica drains.
    async fn draining(&self) {
        tokio::select! {
            () = self.closing.cancelled() => {}
            () = self.drained.begun() => {}
        }
    }

    /// Counts a WebSocket that was refused.
    fn refuse(&self, reason: Refusal) {
        self.metrics.refusals.refuse(Endpoint::WebSocket, reason);
    }

    /// Counts the end of a session.
    pub fn count_close(&self, reason: CloseReason) {
        if reason == CloseReason::AuthTimeout {
            self.refuse(Refusal::TokenMissing);
        }
        self.metrics.closes.with_label_values(&[reason.label()]).inc();
    }
}

/// Closes a session although its client does nothing wrong: its replica is draining, or it has reached its maximum age.
#[derive(Debug)]
struct CloseTimer {
    sessions: Arc<Sessions>,
    /// The session's moment in the drain window, once that has begun.
    drain_at: Option<Instant>,
    /// When it reaches its maximum age; `None` means never.
    max_age_at: Option<Instant>,
}

impl CloseTimer {
    /// Returns, with the reason, at a random moment of the drain window or when the session is old. Cancel safe.
    async fn elapsed(&mut self) -> CloseReason {
        let (sessions, max_age_at) = (self.sessions.clone(), self.max_age_at);
        let old = async {
            match max_age_at {
                Some(moment) => sessions.clock.sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.drain() => CloseReason::GoingAway,
            () = old => CloseReason::TooOld,
        }
    }

    /// Returns at the session's moment in the drain window.
    async fn drain(&mut self) {
        loop {
            if !self.sessions.is_draining() {
                self.drain_at = None;
                self.sessions.draining().await;
            }
            // Boxed, so that a session whose replica is not draining reserves no room for it.
            if Box::pin(self.moment()).await {
                return;
            }
        }
    }

    /// Waits for the session's moment in the drain window; false if the drain is cancelled first.
    async fn moment(&mut self) -> bool {
        let Sessions { clock, closing, drained, drain_window, .. } = &*self.sessions;
        let random = || Instant::now() + clock.jitter(*drain_window, 0.0..1.0);
        let moment = *self.drain_at.get_or_insert_with(random);
        tokio::select! {
            () = sleep_until(moment) => true,
            // The drain was cancelled: sessions that have not left stay.
            () = drained.ended(), if !closing.is_cancelled() => false,
        }
    }

    /// Like [`elapsed`](Self::elapsed), but also returns when an operator closes the session.
    async fn due_or_closed(&mut self, session: &SessionState) -> CloseReason {
        tokio::select! {
            reason = self.elapsed() => reason,
            reason = session.closed() => reason,
        }
    }
}
