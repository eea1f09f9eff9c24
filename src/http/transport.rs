//! A client's connection, with a bound on what it makes us hold (G6).
//!
//! Whoever reads heads and messages keeps what has arrived until it is whole. So the connection counts the bytes since
//! the last whole one: a few are part of what a connection costs, and beyond them memory is reserved before more is
//! read. It comes from the budget of those who have not authenticated, and from the user's share once the user is known:
//! a head that is whole is held for as long as its request, and counts until it is known whose it is, which may take as
//! long as the issuer's keys do.
//! Who finds none in time is told so: 503, or a WebSocket's close with 1013.

use super::server::Connection;
use crate::budget::{MemoryBudget, Reservation, UserBudget};
use crate::protocol::UserKey;
use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;

/// Bytes of a head or a message that are part of what every connection costs.
const FREE: usize = 4 << 10;
/// Bytes of a message before authentication, at most.
pub(super) const MAX_UNAUTHENTICATED_MESSAGE: usize = 16 << 10;
/// What frames and the message after it may add to what is counted for a message.
const MESSAGE_SLACK: usize = 4 << 10;
/// Said to a client whose head finds no memory.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
    cache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\ncontent-length: 76\r\n\r\n\
    {\"error\":\"busy\",\"message\":\"the server has no room at the moment; try again\"}";

/// What the bytes that arrive belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
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
struct State {
    stage: Stage,
    /// Bytes since the last whole head or message.
    unfinished: usize,
    budget: Budget,
    reservation: Option<Reservation>,
    overrun: Option<Overrun>,
}

/// What memory is reserved from.
#[derive(Debug)]
enum Budget {
    Unauthenticated(UserBudget),
    /// The share of this user, which takes memory itself: nobody keeps it who may never need it.
    User(MemoryBudget, UserKey),
}

impl Budget {
    fn share(&self) -> UserBudget {
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

    fn state(&self) -> MutexGuard<'_, State> {
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
    fn lacks(&self, max_head: usize, max_message: usize) -> Result<Option<usize>> {
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

/// Most bytes of what is read whole, and how long a client waits for room for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadLimits {
    pub(super) head: usize,
    pub(super) message: usize,
    pub(super) queue_timeout: Duration,
}

type Reserving = Pin<Box<dyn Future<Output = Option<Reservation>> + Send>>;

/// A client's connection, on which a write that waits too long fails, and a read waits for room.
pub(super) struct Transport {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    connection: Connection,
    limits: ReadLimits,
    reserving: Option<Reserving>,
}

impl Transport {
    pub(super) fn new(stream: TcpStream, connection: Connection, write: Duration, limits: ReadLimits) -> Transport {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(write));
        Transport { stream: Box::pin(stream), connection, limits, reserving: None }
    }

    /// Its place, and what it is counted by.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Waits until there is room for more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.reserving.is_none() {
            let mut state = self.connection.meter().state();
            let lacks = match state.lacks(self.limits.head, self.limits.message) {
                Ok(lacks) => lacks,
                Err(error) => {
                    state.overrun = Some(Overrun::TooLarge);
                    return Poll::Ready(Err(error));
                }
            };
            let Some(bytes) = lacks else { return Poll::Ready(Ok(())) };
            let (budget, queue_timeout) = (state.budget.share(), self.limits.queue_timeout);
            drop(state);
            self.reserving =
                Some(Box::pin(async move { timeout(queue_timeout, budget.reserve(bytes)).await.ok().flatten() }));
        }
        let Some(reserving) = &mut self.reserving else { return Poll::Ready(Ok(())) };
        let reserved = ready!(reserving.as_mut().poll(cx));
        self.reserving = None;
        let mut state = self.connection.meter().state();
        if reserved.is_some() {
            // Whoever finished meanwhile gives it back with the next message.
            state.reservation = reserved;
            return Poll::Ready(Ok(()));
        }
        state.overrun = Some(Overrun::NoMemory);
        let is_head = state.stage == Stage::Head;
        drop(state);
        self.connection.count_no_room();
        if is_head {
            // Nothing else is being written while a head is awaited; who cannot be told sees the connection end.
            let _ = self.stream.get_ref().try_write(BUSY);
        }
        Poll::Ready(Err(Error::new(ErrorKind::OutOfMemory, Overrun::NoMemory)))
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_room(cx))?;
        let before = buf.filled().len();
        ready!(this.stream.as_mut().poll_read(cx, buf))?;
        this.connection.meter().state().unfinished += buf.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        self.get_mut().stream.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.get_mut().stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.get_mut().stream.as_mut().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.get_mut().stream.as_mut().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
