//! Counts what a connection makes us hold (G6).

use crate::budget::{MemoryBudget, Reservation, UserBudget};
use crate::protocol::UserKey;
use std::io::{Error, Result};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// Bytes of a head or a message that are part of what every connection costs.
const FREE: usize = 4 << 10;
/// Bytes of a message before authentication, at most.
pub(super) const MAX_UNAUTHENTICATED_MESSAGE: usize = 16 << 10;
/// What frames and the message after it may add to what is counted for a message.
const MESSAGE_SLACK: usize = 4 << 10;

/// What the bytes that arrive belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A request's head.
    Head,
    /// A request that is being answered, or a connection that is being closed: whoever reads it keeps it within bounds.
    Unmetered,
    /// A message of a WebSocket that has not authenticated.
    UnauthenticatedMessage,
    /// A message of one that has.
    Message,
}

/// Why nothing more is read from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Overrun {
    #[error("the message before authentication is too large")]
    TooLarge,
    #[error("there is no memory for what the client sends")]
    NoMemory,
}

/// Counts what a connection makes us hold.
#[derive(Debug)]
pub(super) struct Meter(Mutex<State>);

#[derive(Debug)]
pub(super) struct State {
    pub(super) stage: Stage,
    /// Bytes since the last whole head or message.
    pub(super) unfinished: usize,
    pub(super) budget: Budget,
    pub(super) reservation: Option<Reservation>,
    pub(super) overrun: Option<Overrun>,
}

/// What memory is reserved from.
#[derive(Debug)]
pub(super) enum Budget {
    Unauthenticated(UserBudget),
    /// The share of this user, which takes memory itself: nobody keeps it who may never need it.
    User(MemoryBudget, UserKey),
}

impl Budget {
    pub(super) fn share(&self) -> UserBudget {
        match self {
            Budget::Unauthenticated(budget) => budget.clone(),
            Budget::User(budget, user) => budget.of(*user),
        }
    }
}

impl Meter {
    /// The meter of a connection that has sent nothing yet.
    pub(super) fn new(unauthenticated: UserBudget) -> Meter {
        let budget = Budget::Unauthenticated(unauthenticated);
        Meter(Mutex::new(State { stage: Stage::Head, unfinished: 0, budget, reservation: None, overrun: None }))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Each change is complete before the lock is given back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, stage: Stage) {
        let mut state = self.state();
        state.stage = stage;
        state.finish();
    }

    /// A head is whole: what follows is kept within bounds by whoever answers it. The head itself is held as long as it is
    /// being answered, and so is what was reserved for it.
    pub(super) fn begin_request(&self) {
        let mut state = self.state();
        state.stage = Stage::Unmetered;
        state.unfinished = 0;
    }

    /// It is known who has sent the head: what was reserved for it counts against this share from now on, as soon as that
    /// has so much.
    ///
    /// # Errors
    /// There is not so much in time.
    pub(super) async fn identified(
        &self,
        budget: impl FnOnce() -> UserBudget,
        limit: Duration,
    ) -> std::result::Result<(), Overrun> {
        let Some(bytes) = self.state().reservation.as_ref().map(Reservation::bytes) else { return Ok(()) };
        let reserved = timeout(limit, budget().reserve(bytes)).await.ok().flatten().ok_or(Overrun::NoMemory)?;
        self.state().reservation = Some(reserved);
        Ok(())
    }

    /// A request has been answered: what comes now is another head.
    pub(super) fn end_request(&self) {
        let mut state = self.state();
        // What became a WebSocket stays one.
        if state.stage == Stage::Unmetered && state.overrun.is_none() {
            state.stage = Stage::Head;
            state.finish();
        }
    }

    /// The connection has become a WebSocket.
    pub(super) fn begin_messages(&self) {
        self.enter(Stage::UnauthenticatedMessage);
    }

    /// The WebSocket has authenticated: what it sends counts against this user's share.
    pub(super) fn authenticated(&self, budget: &MemoryBudget, user: UserKey) {
        let mut state = self.state();
        if state.stage == Stage::UnauthenticatedMessage {
            state.stage = Stage::Message;
            state.budget = Budget::User(budget.clone(), user);
            state.finish();
        }
    }

    /// A message is whole.
    pub(super) fn end_message(&self) {
        self.state().finish();
    }

    /// So many bytes were none of a message.
    pub(super) fn pass(&self, bytes: usize) {
        let mut state = self.state();
        state.unfinished = state.unfinished.saturating_sub(bytes);
    }

    /// The connection is being closed: what still arrives is not kept.
    pub(super) fn close(&self) {
        self.enter(Stage::Unmetered);
    }

    /// Why nothing more was read.
    pub(super) fn overrun(&self) -> Option<Overrun> {
        self.state().overrun
    }
}

impl State {
    fn finish(&mut self) {
        self.unfinished = 0;
        self.reservation = None;
    }

    /// What has to be reserved before more is read, if anything.
    pub(super) fn lacks(&self, max_head: usize, max_message: usize) -> Result<Option<usize>> {
        let most = match self.stage {
            Stage::Unmetered => return Ok(None),
            Stage::Head => max_head,
            Stage::UnauthenticatedMessage if self.unfinished > MAX_UNAUTHENTICATED_MESSAGE + MESSAGE_SLACK => {
                return Err(Error::other(Overrun::TooLarge));
            }
            Stage::UnauthenticatedMessage => MAX_UNAUTHENTICATED_MESSAGE,
            Stage::Message => max_message,
        };
        Ok((self.unfinished > FREE && self.reservation.is_none()).then_some(most))
    }
}
