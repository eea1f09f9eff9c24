//! The rules of `/ws` and `/ws/{appId}`, without a socket.
//!
//! A session continues while its fresh token is being checked: if the issuer has to be asked for the key, wake-ups and
//! answers do not wait for that ([`fresh_token`]).

use super::fresh_token::{Checked, FreshToken};
use super::{CloseTimer, JoinError, Sessions};
use crate::auth::{AuthError, Identity, TokenProblem};
use crate::budget::{MemoryBudget, Reservation, UserBudget};
use crate::fanout::recent::RecentRequest;
use crate::hub::{Interest, Mail, Mailbox, Membership};
use crate::places::Place;
use crate::protocol::UserKey;
use crate::protocol::close::CloseReason;
use crate::protocol::push::{MAX_CLIENT, check_name};
use crate::protocol::websocket::{ClientMessage, ErrorCode, ServerMessage, Text};
use crate::telemetry::metrics::WEBSOCKET;
use crate::telemetry::refusals::{Endpoint, Refusal};
use futures_util::FutureExt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Maximum time that wake-ups wait for what was stored before the session began.
const GREETING_TIMEOUT: Duration = Duration::from_millis(250);
/// Bytes of wake-ups that are covered by the fixed cost of a session; memory for larger ones is reserved until they are
/// sent.
const FREE_WAKEUP: usize = 4 << 10;
/// Memory of a wake-up while it is sent, as a multiple of its size: the message, and its frame.
const BECOMES: usize = 2;

/// A WebSocket session.
#[derive(Debug)]
pub struct WebSocketSession {
    sessions: Arc<Sessions>,
    app: Option<Arc<str>>,
    /// The client's address, if it is known.
    from: Option<IpAddr>,
    state: State,
    /// The fresh token, while it is being checked.
    fresh: Option<Box<FreshToken>>,
    /// Held for the wake-ups last returned, until the next action is requested: by then they have been sent.
    sending: Option<Box<Reservation>>,
    close_timer: CloseTimer,
    /// When its client is pinged next.
    ping_at: Instant,
}

#[derive(Debug)]
enum State {
    /// Not authenticated; closed at this time by the replica's clock.
    Unauthenticated {
        deadline: Instant,
        _place: Option<Place>,
    },
    Authenticated {
        identity: Identity,
        expires: Instant,
        membership: Membership,
        greeting: Option<Box<Greeting>>,
    },
}

/// The changes stored shortly before a session began, which it has yet to be told.
#[derive(Debug)]
struct Greeting {
    request: RecentRequest,
    /// Until then other wake-ups wait for it, so that one message covers both.
    deadline: Instant,
}

/// An action for the socket.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these messages.
    Send(Vec<Text>),
    /// Send a ping to find out whether the client is there.
    Ping,
    /// End the session, after the final message if there is one.
    Close {
        /// The reason.
        reason: CloseReason,
        /// A message to send first.
        final_message: Option<Text>,
    },
}

impl Action {
    fn say(message: &ServerMessage<'_>) -> Action {
        Action::Send(vec![message.encode().into()])
    }

    /// Closes without a final message.
    pub fn close(reason: CloseReason) -> Action {
        Action::Close { reason, final_message: None }
    }

    fn close_with(reason: CloseReason, code: ErrorCode, message: &str) -> Action {
        Action::Close { reason, final_message: Some(ServerMessage::Error { code, message }.encode().into()) }
    }
}

impl WebSocketSession {
    /// Creates a session for the wake-ups of one app, or of all the user's apps.
    pub fn new(sessions: Arc<Sessions>, app: Option<Arc<str>>) -> WebSocketSession {
        let deadline = sessions.clock.instant() + sessions.auth_timeout;
        let (close_timer, ping_at) = (sessions.close_timer(), sessions.clock.instant() + sessions.ping);
        WebSocketSession {
            sessions,
            app,
            from: None,
            state: State::Unauthenticated { deadline, _place: None },
            fresh: None,
            sending: None,
            close_timer,
            ping_at,
        }
    }

    /// Sets its address, and the place it holds among unauthenticated sessions until it has authenticated.
    #[must_use]
    pub fn coming_from(mut self, address: Option<IpAddr>, place: Place) -> WebSocketSession {
        self.from = address;
        if let State::Unauthenticated { _place, .. } = &mut self.state {
            *_place = Some(place);
        }
        self
    }

    /// True if the session has authenticated.
    pub fn is_authenticated(&self) -> bool {
        matches!(self.state, State::Authenticated { .. })
    }

    /// The budget and the user of this session; none before it has authenticated.
    pub fn memory(&self) -> Option<(&MemoryBudget, UserKey)> {
        match &self.state {
            State::Authenticated { identity, .. } => Some((&self.sessions.budget, identity.user)),
            State::Unauthenticated { .. } => None,
        }
    }

    /// Answers a message.
    pub async fn receive(&mut self, text: &str) -> Action {
        match ClientMessage::read(text) {
            None => Action::Send(vec![]),
            Some(ClientMessage::Ping) => Action::say(&ServerMessage::Pong),
            Some(ClientMessage::Auth { token, client_id }) => {
                let client = client_id.filter(|client| !client.is_empty());
                if client.as_ref().is_some_and(|client| check_name(client, MAX_CLIENT).is_err()) {
                    // Malformed: the same name is refused everywhere else too. The session would keep it.
                    return Action::Send(vec![]);
                }
                let client = client.map(|client| Arc::from(&*client));
                let Some(budget) = self.memory().map(|(budget, user)| budget.of(user)) else {
                    return match self.sessions.auth.check(&token, self.from).await {
                        Ok(identity) => self.authenticated(identity, client).await,
                        Err(error) => self.refused(&error),
                    };
                };
                // One at a time: the last one counts.
                self.fresh = FreshToken::new(self.sessions.clone(), &token, self.from, client, &budget).map(Box::new);
                // Most keys are in memory.
                let checked = self.fresh.as_mut().and_then(|fresh| fresh.checked().now_or_never());
                checked.map_or(Action::Send(vec![]), |checked| self.go_on(checked))
            }
        }
    }

    /// Continues the session with a fresh token, or ends it.
    fn go_on(&mut self, (checked, client): Checked) -> Action {
        self.fresh = None;
        match checked {
            Ok(identity) => self.extend(identity, client),
            Err(error) => self.refused(&error),
        }
    }

    fn refused(&self, error: &AuthError) -> Action {
        self.sessions.refuse(error.refusal());
        match error {
            AuthError::Unavailable(_) => Action::close(CloseReason::Unavailable),
            error => Action::close_with(CloseReason::InvalidToken, ErrorCode::InvalidToken, &error.to_string()),
        }
    }

    async fn authenticated(&mut self, identity: Identity, client: Option<Arc<str>>) -> Action {
        if self.is_authenticated() {
            return self.extend(identity, client);
        }
        let clock = &self.sessions.clock;
        let expires = clock.instant() + identity.remaining(clock);
        let interest = Interest { app: self.app.clone(), tables: None, client };
        match self.sessions.join(&identity, interest, WEBSOCKET).await {
            Ok(membership) => {
                let greeting = self.sessions.recent(identity.user, self.app.clone()).map(Greeting::new);
                self.state = State::Authenticated { identity, expires, membership, greeting };
            }
            Err(error) => return self.not_joined(&error),
        }
        self.sessions.metrics.refusals.accept(Endpoint::WebSocket);
        Action::say(&ServerMessage::AuthOk)
    }

    /// Extends the session to the expiry of this token.
    fn extend(&mut self, identity: Identity, client: Option<Arc<str>>) -> Action {
        let clock = &self.sessions.clock;
        if let State::Authenticated { identity: known, expires, membership, .. } = &mut self.state {
            if known.user != identity.user {
                self.sessions.refuse(Refusal::TokenOtherUser);
                return Action::close(CloseReason::OtherUser);
            }
            *expires = clock.instant() + identity.remaining(clock);
            self.sessions.identify(membership, &identity);
            if client.is_some() {
                membership.mailbox().set_client(client);
            }
        }
        Action::say(&ServerMessage::AuthOk)
    }

    fn not_joined(&self, error: &JoinError) -> Action {
        let (refusal, reason) = match error {
            JoinError::TooManySessions => (Refusal::UserLimit, CloseReason::TooManySessions),
            JoinError::Begin(_) => (Refusal::DatabaseUnavailable, CloseReason::Unavailable),
            JoinError::NoRoomForNames => (Refusal::Busy, CloseReason::Unavailable),
        };
        self.sessions.refuse(refusal);
        Action::close(reason)
    }

    /// Waits for the next action that no message asked for. Cancel safe.
    pub async fn next(&mut self) -> Action {
        self.sending = None;
        let deadline = self.deadline();
        let Self { sessions, state, fresh, sending, close_timer, .. } = self;
        let news = async {
            match state {
                State::Unauthenticated { .. } => std::future::pending().await,
                State::Authenticated { identity, membership, greeting, .. } => tokio::select! {
                    reason = membership.session().closed() => end(reason),
                    mail = mail(membership.mailbox(), greeting, sending, sessions, identity.user) => wake(mail),
                },
            }
        };
        let checked = async {
            match fresh {
                // Boxed: few sessions have one.
                Some(fresh) => Box::pin(fresh.checked()).await,
                None => std::future::pending().await,
            }
        };
        let checked = tokio::select! {
            () = sessions.clock.sleep_until(deadline) => None,
            () = close_timer.drain() => return Action::close(CloseReason::GoingAway),
            action = news => return action,
            checked = checked => Some(checked),
        };
        match checked {
            Some(checked) => self.go_on(checked),
            None => self.late(),
        }
    }

    /// Returns when something is due even if nothing happens.
    fn deadline(&self) -> Instant {
        // One timer for all of them: each would take half of a session's memory.
        let deadline = self.state.deadline().min(self.ping_at);
        self.close_timer.max_age_at.map_or(deadline, |moment| moment.min(deadline))
    }

    /// Returns what to do at that time.
    fn late(&mut self) -> Action {
        let now = self.sessions.clock.instant();
        if self.state.deadline() <= now {
            return self.state.late();
        }
        if self.close_timer.max_age_at.is_some_and(|moment| moment <= now) {
            return Action::close(CloseReason::TooOld);
        }
        self.ping_at = now + self.sessions.ping;
        Action::Ping
    }
}

impl State {
    /// When the session ends.
    fn deadline(&self) -> Instant {
        match self {
            State::Unauthenticated { deadline, .. } => *deadline,
            State::Authenticated { expires, .. } => *expires,
        }
    }

    /// The way it ends then.
    fn late(&self) -> Action {
        match self {
            State::Unauthenticated { .. } => Action::close(CloseReason::AuthTimeout),
            State::Authenticated { .. } => {
                let message = "the token has expired; send a fresh one in time, or reconnect with it";
                Action::close_with(CloseReason::TokenExpired, ErrorCode::TokenExpired, message)
            }
        }
    }
}

impl Greeting {
    fn new(request: RecentRequest) -> Box<Greeting> {
        Box::new(Greeting { request, deadline: Instant::now() + GREETING_TIMEOUT })
    }
}

/// Waits for mail, including what was stored before the session began, and for memory to send it.
async fn mail(
    mailbox: &Mailbox,
    greeting: &mut Option<Box<Greeting>>,
    sending: &mut Option<Box<Reservation>>,
    sessions: &Sessions,
    user: UserKey,
) -> Mail {
    while greeting.is_some() {
        // Boxed, so that a socket that has been greeted reserves no room for it.
        Box::pin(greet(mailbox, greeting)).await;
        if mailbox.is_filled() {
            break;
        }
    }
    loop {
        mailbox.filled().await;
        if mailbox.bytes() > FREE_WAKEUP {
            // Boxed like everything rare.
            *sending = Box::pin(reserve(mailbox, &sessions.budget.of(user))).await;
        }
        if let Some(mail) = mailbox.take_now() {
            return mail;
        }
    }
}

/// Waits for what was stored before the session began and puts it into the mailbox; or for mail, if that takes long.
async fn greet(mailbox: &Mailbox, greeting: &mut Option<Box<Greeting>>) {
    let Some(Greeting { request, deadline }) = greeting.as_deref_mut() else { return };
    let late_mail = async {
        sleep_until(*deadline).await;
        mailbox.filled().await;
    };
    tokio::select! {
        biased;
        recent = request.answer() => {
            mailbox.greet(&recent.wakeups);
            // The rest is requested while this is sent, or afterwards: no more than this is held at once.
            if !request.go_on(&recent) {
                *greeting = None;
            }
        }
        () = late_mail => {}
    }
}

/// Waits for memory for the mailbox's contents, including what is merged into it in the meantime.
async fn reserve(mailbox: &Mailbox, budget: &UserBudget) -> Option<Box<Reservation>> {
    let mut reservation = budget.reserve(BECOMES * mailbox.bytes()).await?;
    loop {
        let bytes = BECOMES * mailbox.bytes();
        if budget.covers(&reservation, bytes) {
            return Some(Box::new(reservation));
        }
        // No memory is held while waiting for more.
        drop(reservation);
        reservation = budget.reserve(bytes).await?;
    }
}

fn wake(mail: Mail) -> Action {
    let apps = match mail {
        Mail::Changed(apps) => apps,
        Mail::Overflow => return Action::close(CloseReason::TooFarBehind),
        Mail::Close => return Action::close(CloseReason::Rebalanced),
    };
    Action::Send(apps.iter().map(|(app, tables)| tables.message(app)).collect())
}

/// Ends a session that an operator closed.
fn end(reason: CloseReason) -> Action {
    match reason {
        CloseReason::InvalidToken => {
            let message = AuthError::Invalid(TokenProblem::Refused).to_string();
            Action::close_with(reason, ErrorCode::InvalidToken, &message)
        }
        reason => Action::close(reason),
    }
}

#[cfg(test)]
mod tests;
