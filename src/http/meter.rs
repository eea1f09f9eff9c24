//! Counts the bytes that a connection makes us hold (G6).

use crate::budget::{MemoryBudget, Reservation, UserBudget};
use crate::protocol::UserKey;
use std::io::{Error, Result};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// Bytes of a head or message that are covered by the fixed cost of a connection.
const FREE: usize = 4 << 10;
/// Maximum size of a message before authentication, in bytes.
pub(super) const MAX_UNAUTHENTICATED_MESSAGE: usize = 16 << 10;
/// Size of a WebSocket's buffer, as a multiple of the message that it has grown for.
const BUFFERED: usize = 2;
/// Bytes up to which a head leaves only a small buffer behind. HTTP doubles its buffer until a head fits, and keeps it for
/// as long as 8 KiB of it are unused, whatever it is used for later.
const LEAVES_NO_BUFFER: usize = 16 << 10;
/// Initial size of HTTP's buffer in bytes.
const HTTP_BUFFER: usize = 8 << 10;
/// Maximum bytes read at once. HTTP doubles its buffer when a read fills it, and a connection that is idle keeps it; what it
/// holds beyond the request that is being answered is not counted. So no read fills it.
pub(super) const READ_AT_ONCE: usize = HTTP_BUFFER - 1;
/// Bytes that frame headers and the start of the next message may add to a message's count.
const MESSAGE_SLACK: usize = 4 << 10;

/// The part of the exchange that arriving bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A request's head.
    Head,
    /// A request that is being answered, or bytes that are not kept: whoever reads from it bounds it.
    Unmetered,
    /// A message of a WebSocket that has not authenticated.
    UnauthenticatedMessage,
    /// A message of a WebSocket that has authenticated.
    Message,
    /// A message of a WebSocket that is being closed: only its client's answer is awaited, and that is short.
    Closing,
}

impl Stage {
    /// Returns true for a WebSocket's.
    pub(super) fn is_of_messages(self) -> bool {
        matches!(self, Stage::UnauthenticatedMessage | Stage::Message | Stage::Closing)
    }
}

/// The reasons to stop reading from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Overrun {
    #[error("the message before authentication is too large")]
    TooLarge,
    #[error("there is no memory left for the client's message")]
    NoMemory,
}

/// Counts the bytes that a connection makes us hold.
#[derive(Debug)]
pub(super) struct Meter(Mutex<State>);

#[derive(Debug)]
pub(super) struct State {
    pub(super) stage: Stage,
    /// Bytes since the last complete head or message.
    pub(super) unfinished: usize,
    pub(super) budget: Budget,
    pub(super) reservation: Option<Reservation>,
    pub(super) overrun: Option<Overrun>,
    /// Bytes to which the connection's buffer has grown, if it has. It does not shrink, so they stay reserved.
    pub(super) grown: usize,
    /// Bytes read for the head of the request that is being answered, with what came along.
    head: usize,
    /// True if HTTP's buffer has grown.
    has_grown: bool,
    /// True once it is known who sent the request that is being answered.
    is_identified: bool,
    /// True if there was nothing to read since the last request began.
    pub(super) has_paused: bool,
}

/// The budget that memory is reserved from.
#[derive(Debug)]
pub(super) enum Budget {
    Unauthenticated(UserBudget),
    /// The user's share is created on demand: it takes memory itself, and may never be needed.
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
    /// Creates the meter of a connection that has sent nothing yet.
    pub(super) fn new(unauthenticated: UserBudget) -> Meter {
        let budget = Budget::Unauthenticated(unauthenticated);
        Meter(Mutex::new(State {
            stage: Stage::Head,
            unfinished: 0,
            budget,
            reservation: None,
            overrun: None,
            grown: 0,
            head: 0,
            has_grown: false,
            is_identified: false,
            has_paused: true,
        }))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before the lock is released.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, stage: Stage) {
        let mut state = self.state();
        state.stage = stage;
        state.finish();
    }

    /// Marks the head as complete: whoever answers the request bounds what follows. The head itself, and its
    /// reservation, are held for as long as it is being answered. Returns true if the request came right behind another
    /// one, before the connection had nothing to read.
    pub(super) fn begin_request(&self) -> bool {
        let mut state = self.state();
        state.stage = Stage::Unmetered;
        state.head = std::mem::take(&mut state.unfinished);
        !std::mem::take(&mut state.has_paused)
    }

    /// Moves the head's reservation to the share of the user who sent it, waiting until that share has room.
    ///
    /// # Errors
    /// There is no room in time.
    pub(super) async fn identified(
        &self,
        budget: impl FnOnce() -> UserBudget,
        limit: Duration,
    ) -> std::result::Result<(), Overrun> {
        let bytes = {
            let mut state = self.state();
            state.is_identified = true;
            state.reservation.as_ref().map(Reservation::bytes)
        };
        let Some(bytes) = bytes else { return Ok(()) };
        let reserved = timeout(limit, budget().reserve(bytes)).await.ok().flatten().ok_or(Overrun::NoMemory)?;
        self.state().reservation = Some(reserved);
        Ok(())
    }

    /// Marks the request as answered: the next bytes are another head. Returns true if the connection should end: because it
    /// keeps a large buffer, which stays reserved; or because its client sent so much, without a token or to be refused, that
    /// the connection keeps more than one that is idle, which is not counted.
    pub(super) fn end_request(&self, is_refused: bool) -> bool {
        let mut state = self.state();
        // A connection that became a WebSocket stays one.
        if state.stage != Stage::Unmetered || state.overrun.is_some() {
            return false;
        }
        state.stage = Stage::Head;
        let bytes = state.head + std::mem::take(&mut state.unfinished);
        if state.head > LEAVES_NO_BUFFER {
            state.grown = state.grown.max(state.reserved());
        }
        if state.grown == 0 {
            state.reservation = None;
        }
        let is_identified = std::mem::take(&mut state.is_identified);
        let is_free_of_cost = is_refused || !is_identified;
        state.grown > 0 || is_free_of_cost && (bytes > READ_AT_ONCE || state.has_grown)
    }

    /// Marks the connection as a WebSocket, which has another buffer.
    pub(super) fn begin_messages(&self) {
        self.enter(Stage::UnauthenticatedMessage);
        self.state().grown = 0;
    }

    /// Marks the WebSocket as authenticated: its messages count against this user's share.
    pub(super) fn authenticated(&self, budget: &MemoryBudget, user: UserKey) {
        let mut state = self.state();
        if state.stage == Stage::UnauthenticatedMessage {
            state.stage = Stage::Message;
            state.budget = Budget::User(budget.clone(), user);
            state.finish();
        }
    }

    /// Marks a message as complete. Memory for the buffer that it was read into stays reserved.
    pub(super) fn end_message(&self) {
        let mut state = self.state();
        let bytes = std::mem::take(&mut state.unfinished);
        let State { reservation: Some(reservation), budget, grown, .. } = &mut *state else { return };
        *grown = (*grown).max(BUFFERED * bytes).min(reservation.bytes());
        // It shrinks.
        budget.share().resize(reservation, *grown);
    }

    /// Uncounts bytes that were not part of a message.
    pub(super) fn pass(&self, bytes: usize) {
        let mut state = self.state();
        state.unfinished = state.unfinished.saturating_sub(bytes);
    }

    /// Marks the WebSocket as closing: no more is reserved. What is reserved stays, like the buffer that it is for.
    pub(super) fn begin_closing(&self) {
        self.state().stage = Stage::Closing;
    }

    /// Marks what still arrives as not kept.
    pub(super) fn discard(&self) {
        self.state().stage = Stage::Unmetered;
    }

    /// Returns why reading stopped.
    pub(super) fn overrun(&self) -> Option<Overrun> {
        self.state().overrun
    }
}

impl State {
    fn finish(&mut self) {
        self.unfinished = 0;
        self.reservation = None;
    }

    /// Notes how many bytes HTTP's buffer has room for. It grows with requests that come right behind one another, too, even
    /// if none of them is long.
    pub(super) fn note_room(&mut self, room: usize) {
        if !self.stage.is_of_messages() {
            self.has_grown |= room > HTTP_BUFFER;
            if room > LEAVES_NO_BUFFER {
                self.grown = self.grown.max(room.next_power_of_two());
            }
        }
    }

    fn reserved(&self) -> usize {
        self.reservation.as_ref().map_or(0, Reservation::bytes)
    }

    /// Returns the bytes to reserve before more is read, if any.
    pub(super) fn lacks(&self, max_head: usize, max_message: usize) -> Result<Option<usize>> {
        let most = match self.stage {
            Stage::Unmetered => return Ok(None),
            Stage::Head => max_head,
            Stage::UnauthenticatedMessage if self.unfinished > MAX_UNAUTHENTICATED_MESSAGE + MESSAGE_SLACK => {
                return Err(Error::other(Overrun::TooLarge));
            }
            Stage::UnauthenticatedMessage => MAX_UNAUTHENTICATED_MESSAGE,
            Stage::Message => max_message,
            Stage::Closing if self.unfinished > self.reserved().max(FREE) => {
                return Err(Error::other(Overrun::TooLarge));
            }
            Stage::Closing => return Ok(None),
        };
        let needed = if self.unfinished > FREE { most } else { self.grown };
        Ok((self.reserved() < needed).then_some(needed))
    }
}
