//! A client's connection, with a bound on the memory it makes us hold (G6).
//!
//! HTTP and WebSocket readers keep what has arrived until a head or message is complete. So the connection counts the
//! bytes since the last complete one: a few are covered by the cost of a connection, and beyond them memory is reserved
//! before more is read. It comes from the budget for unauthenticated clients, and from the user's share once the user
//! is known. A complete head is held for as long as its request, and counts against the unauthenticated budget until
//! its user is known, which may take as long as fetching the issuer's keys. A client for which there is no memory in
//! time is told so: 503, or a WebSocket close with 1013.
//!
//! A WebSocket's reader goes on for as long as there is something to read and no message is complete, and a frame may
//! be as short as six bytes. So the connection lets other tasks run after a few of them, wherever they come from: its
//! socket, or what was read from there along with the request before them.

use super::connection::Connection;
use super::meter::{Overrun, READ_AT_ONCE, Stage};
use crate::budget::Reservation;
use bytes::Bytes;
use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;

/// The answer to a client for whose head there is no memory.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
    cache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\ncontent-length: 76\r\n\r\n\
    {\"error\":\"busy\",\"message\":\"the server has no room at the moment; try again\"}";

/// Bytes of messages after which a connection with more to read lets other tasks run first: about 40 of the shortest
/// frames. Others wait for their turn for as much work of each connection that never pauses.
const MESSAGE_BYTES_PER_TURN: usize = 256;

/// Maximum sizes in bytes of a head and a message, and how long a client waits for memory for them.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadLimits {
    pub(super) head: usize,
    pub(super) message: usize,
    pub(super) queue_timeout: Duration,
}

type Reserving = Pin<Box<dyn Future<Output = Option<Reservation>> + Send>>;

/// A client's connection; writes that take too long fail, and reads wait for memory.
pub(super) struct Transport {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    connection: Connection,
    limits: ReadLimits,
    reserving: Option<Reserving>,
    /// What was read behind the request that made this a WebSocket, until it has been read as messages.
    ahead: Option<Box<Bytes>>,
    /// Bytes of messages that were read in this turn.
    read_in_turn: usize,
}

impl Transport {
    pub(super) fn new(stream: TcpStream, connection: Connection, write: Duration, limits: ReadLimits) -> Transport {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(write));
        Transport { stream: Box::pin(stream), connection, limits, reserving: None, ahead: None, read_in_turn: 0 }
    }

    /// Makes these bytes the next to be read.
    pub(super) fn read_again(&mut self, bytes: &[u8]) {
        self.ahead = (!bytes.is_empty()).then(|| Box::new(Bytes::copy_from_slice(bytes)));
    }

    /// Its place, and its meter.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Waits until there is memory to read more. `room`: bytes that the reader's buffer has room for.
    fn poll_room(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<Result<()>> {
        if self.reserving.is_none() {
            let mut state = self.connection.meter().state();
            state.note_room(room.min(self.limits.head));
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
            state.reservation = reserved;
            return Poll::Ready(Ok(()));
        }
        state.overrun = Some(Overrun::NoMemory);
        let is_head = state.stage == Stage::Head;
        drop(state);
        self.connection.count_no_room();
        if is_head {
            // Nothing else is written while a head is awaited. If this fails, the client just sees the connection end.
            let _ = self.stream.get_ref().try_write(BUSY);
        }
        Poll::Ready(Err(Error::new(ErrorKind::OutOfMemory, Overrun::NoMemory)))
    }

    /// Reads what is next, from memory or the socket.
    fn poll_next(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let Some(ahead) = &mut self.ahead else {
            return Pin::new(&mut (&mut self.stream).take(READ_AT_ONCE as u64)).poll_read(cx, buf);
        };
        buf.put_slice(&ahead.split_to(ahead.len().min(buf.remaining())));
        if ahead.is_empty() {
            self.ahead = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        if this.read_in_turn >= MESSAGE_BYTES_PER_TURN {
            this.read_in_turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(this.poll_room(cx, buf.remaining()))?;
        let before = buf.filled().len();
        let read = this.poll_next(cx, buf);
        let mut state = this.connection.meter().state();
        if read.is_pending() {
            this.read_in_turn = 0;
            state.has_paused = true;
        }
        ready!(read)?;
        let bytes = buf.filled().len() - before;
        state.unfinished += bytes;
        if state.stage.is_of_messages() {
            this.read_in_turn += bytes;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::MemoryBudget;
    use crate::http::connection::Place;
    use crate::http::meter::Meter;
    use crate::limits::addresses::Addresses;
    use crate::telemetry::Metrics;
    use futures_util::poll as once;
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    /// A connection and its client.
    async fn connected() -> (Transport, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let metrics = Arc::new(Metrics::new());
        let budget = MemoryBudget::of_unauthenticated(1 << 20, metrics.unauthenticated_bytes.clone());
        let place = Place {
            _permit: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
            address: Addresses::new(0, vec![]).enter(peer.ip()).unwrap(),
            meter: Meter::new(budget.of_address(Some(peer.ip()))),
            metrics,
        };
        let limits = ReadLimits { head: 1 << 16, message: 1 << 16, queue_timeout: Duration::from_secs(1) };
        (Transport::new(stream, Connection::new(place), Duration::from_secs(1), limits), client)
    }

    /// Reads until there is nothing more to read, or another task's turn. Returns the number of bytes.
    async fn read_in_a_turn(transport: &mut Transport) -> usize {
        let (mut read, mut buffer) = (0, [0; 64]);
        while let Poll::Ready(bytes) = once!(std::pin::pin!(transport.read(&mut buffer))) {
            read += bytes.unwrap();
        }
        read
    }

    #[tokio::test]
    async fn messages_without_a_pause_let_other_tasks_run() {
        let (mut transport, mut client) = connected().await;
        transport.connection().meter().begin_messages();
        client.write_all(&[b'x'; 3 * MESSAGE_BYTES_PER_TURN]).await.unwrap();
        transport.stream.get_ref().readable().await.unwrap();
        assert_eq!(read_in_a_turn(&mut transport).await, MESSAGE_BYTES_PER_TURN);
        // It is due again although nothing arrives meanwhile: this read is not woken by anything else.
        let mut rest = [0; 2 * MESSAGE_BYTES_PER_TURN];
        tokio::time::timeout(Duration::from_secs(10), transport.read_exact(&mut rest)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_came_with_the_request_is_read_in_turns_as_well() {
        let (mut transport, mut client) = connected().await;
        transport.connection().meter().begin_messages();
        transport.read_again(&[b'x'; 2 * MESSAGE_BYTES_PER_TURN]);
        client.write_all(b"yz").await.unwrap();
        transport.stream.get_ref().readable().await.unwrap();
        for _ in 0..2 {
            assert_eq!(read_in_a_turn(&mut transport).await, MESSAGE_BYTES_PER_TURN);
        }
        assert_eq!(read_in_a_turn(&mut transport).await, 2, "what is on the socket comes last");
    }

    #[tokio::test]
    async fn a_request_behind_another_is_told_from_one_after_a_pause() {
        let (mut transport, _client) = connected().await;
        let connection = transport.connection().clone();
        assert!(!connection.meter().begin_request());
        assert!(connection.meter().begin_request());
        assert_eq!(read_in_a_turn(&mut transport).await, 0);
        assert!(!connection.meter().begin_request());
    }

    #[tokio::test]
    async fn what_is_read_before_a_pause_is_not_counted_after_it() {
        let (mut transport, mut client) = connected().await;
        transport.connection().meter().begin_messages();
        for _ in 0..4 {
            client.write_all(&[b'x'; MESSAGE_BYTES_PER_TURN - 64]).await.unwrap();
            transport.stream.get_ref().readable().await.unwrap();
            assert_eq!(read_in_a_turn(&mut transport).await, MESSAGE_BYTES_PER_TURN - 64);
        }
    }

    #[tokio::test]
    async fn requests_are_read_for_as_long_as_they_arrive() {
        let (mut transport, mut client) = connected().await;
        transport.connection().meter().begin_request();
        client.write_all(&[b'x'; 3 * MESSAGE_BYTES_PER_TURN]).await.unwrap();
        transport.stream.get_ref().readable().await.unwrap();
        assert_eq!(read_in_a_turn(&mut transport).await, 3 * MESSAGE_BYTES_PER_TURN);
    }
}
