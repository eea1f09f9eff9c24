//! The rules of `/sync/{appId}/stream`, and of `/sync/stream` for several apps at once, without HTTP.
//!
//! [`super::events`] defines the events of a page and their cursors; [`super::log_reader`] tracks the position in each
//! log. Pages are read one at a time, in turn from each log that has something to read.

mod timers;

use super::log_reader::LogReader;
pub use super::log_reader::LogRequest;
use super::{JoinError, Sessions};
use crate::auth::Identity;
use crate::budget::{Reservation, UserBudget};
use crate::failpoints::Failpoint;
use crate::hub::{Interest, Mail, Membership, PendingTables};
use crate::mail_budget::MailCharge;
use crate::protocol::close::CloseReason;
use crate::protocol::page::Page;
use crate::protocol::stream_id::write_position;
use crate::store::{BECOMES, OwnChanges, PageMemory, PageRequest, Pages, StoreError};
use crate::telemetry::metrics::SSE;
use crate::telemetry::traces;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use timers::Timers;
use tokio::time::{Instant, sleep};

const HEARTBEAT: &str = "event: heartbeat\ndata: {}\n\n";
/// Sent to a client as its stream ends: reconnect after this many milliseconds.
const RETRY: &str = "retry: 1000\n\n";
/// Pauses while the database is away: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Bytes reserved before it is known how much a page needs.
const MIN_RESERVATION: usize = 32 << 10;

/// See [`Failpoint::StreamJoinsLate`].
const LATE: Duration = Duration::from_millis(30);

/// The parameters of a stream.
#[derive(Debug)]
pub struct StreamRequest {
    /// One for each app; at least one.
    pub logs: Vec<LogRequest>,
    /// True if events name their app, and their ids have a cursor for each app.
    pub names_apps: bool,
    /// The device that reads.
    pub reader: Option<Arc<str>>,
}

/// The reasons why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The session cannot begin.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The log cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A stream.
#[derive(Debug)]
pub struct StreamSession {
    sessions: Arc<Sessions>,
    store: Pages,
    reader: Option<Arc<str>>,
    names_apps: bool,
    logs: Vec<LogReader>,
    /// The log that is read next, if it has something to read.
    turn: usize,
    /// The page that is being read, and the index of its log.
    reading: Option<(usize, Reading)>,
    is_over: bool,
    membership: Membership,
    /// Charged for the names of its apps and tables, if they are many.
    _names: Option<MailCharge>,
    budget: UserBudget,
    /// Memory reserved for the page that was read.
    reservation: Option<Reservation>,
    /// The position of the oldest change in the last live piece, until the next piece is requested.
    given: Option<i64>,
    /// Bytes to reserve before the next page is read.
    needs: usize,
    timers: Timers,
    pause: Duration,
}

/// A page being read, with the memory reserved for it. A heartbeat does not cancel it.
struct Reading(BoxFuture<'static, Result<(Page, Reservation), StoreError>>);

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reading")
    }
}

/// The next piece of a stream: one or more whole events. Its memory stays reserved until the transport has written or
/// dropped it, however early it asks for the next.
#[derive(Debug)]
pub struct Piece {
    text: String,
    _reservation: Option<Reservation>,
}

impl Deref for Piece {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// The next step of a stream.
enum Next {
    Text(String),
    End(CloseReason),
    /// Check again what to do.
    Nothing,
}

impl StreamSession {
    /// Opens a stream. The session joins the hub before it reads, so that anything stored in between wakes it.
    pub async fn open(
        sessions: Arc<Sessions>,
        store: Pages,
        identity: &Identity,
        request: StreamRequest,
    ) -> Result<StreamSession, OpenError> {
        let StreamRequest { logs, names_apps, reader } = request;
        let (app, tables) = match logs.as_slice() {
            [LogRequest { log, tables, .. }] => (Some(log.app.clone()), tables.clone().map(BTreeSet::from_iter)),
            // Changes in other apps of the user wake the session too, and are skipped.
            _ => (None, None),
        };
        let bytes = logs.iter().map(LogRequest::name_bytes).sum();
        let membership = sessions.join(identity, Interest { app, tables, client: reader.clone() }, SSE).await?;
        let names = sessions.charge_names(&membership, bytes)?;
        store.ping().await?;
        Ok(StreamSession {
            logs: logs.into_iter().map(LogReader::new).collect(),
            turn: 0,
            names_apps,
            reader,
            is_over: false,
            budget: sessions.budget.of(identity.user),
            reading: None,
            reservation: None,
            given: None,
            needs: MIN_RESERVATION,
            timers: Timers {
                expires: sessions.clock.instant() + identity.remaining(&sessions.clock),
                heartbeat: Instant::now() + sessions.heartbeat,
                close_timer: sessions.close_timer(),
            },
            pause: BACKOFF.0,
            sessions,
            store,
            membership,
            _names: names,
        })
    }

    /// Returns the next piece of the stream: one or more whole events. None when it is over.
    pub async fn next(&mut self) -> Option<Piece> {
        self.observe_written();
        loop {
            if self.is_over {
                return None;
            }
            let next = match self.next_log() {
                // Boxed, so that a waiting stream reserves no room for it.
                Some(index) => Box::pin(self.read(index)).await,
                None => self.wait().await,
            };
            match next {
                // No reservation is held while there is nothing to put into it.
                Next::Nothing => self.reservation = None,
                Next::Text(text) => {
                    self.timers.heartbeat = Instant::now() + self.sessions.heartbeat;
                    // Not for a heartbeat: the reservation belongs to the page being read.
                    let reservation = if self.reading.is_none() { self.reservation.take() } else { None };
                    return Some(Piece { text, _reservation: reservation });
                }
                Next::End(reason) => {
                    self.is_over = true;
                    self.sessions.count_close(reason);
                    return reason.invites_back().then(|| Piece { text: RETRY.to_owned(), _reservation: None });
                }
            }
        }
    }

    /// Called when the next piece is requested, so the transport has taken the last one. Measures the time since the
    /// commit of the oldest change in it, unless it was backlog.
    fn observe_written(&mut self) {
        let Some(given) = self.given.take() else { return };
        let took = self.sessions.clock.since_epoch().saturating_sub(Duration::from_micros(given.max(0) as u64));
        self.sessions.metrics.stream_seconds.observe(took.as_secs_f64());
    }

    /// Waits, while there is nothing to read, for something to do.
    async fn wait(&mut self) -> Next {
        tokio::select! {
            mail = self.membership.mailbox().take() => {
                self.open_mail(mail)
            }
            due = self.timers.due(&self.sessions.clock, self.membership.session()) => due,
        }
    }

    /// Marks the logs that have something new.
    fn open_mail(&mut self, mail: Mail) -> Next {
        match mail {
            Mail::Close => return Next::End(CloseReason::Rebalanced),
            Mail::Overflow => self.logs.iter_mut().for_each(LogReader::wake),
            Mail::Changed(apps) => {
                for log in &mut self.logs {
                    let tables = apps.get(log.app()).into_iter().flat_map(PendingTables::iter);
                    if apps.contains_key(log.app()) && log.reads(tables.map(|table| &**table)) {
                        log.wake();
                    }
                }
            }
        }
        Next::Nothing
    }

    /// Returns the log to read next, if any: the one whose page is being read, else each in turn.
    fn next_log(&self) -> Option<usize> {
        let begun = self.reading.as_ref().map(|(index, _)| *index);
        let in_turn = || (self.turn..self.logs.len()).chain(0..self.turn).find(|index| self.logs[*index].has_to_read());
        begun.or_else(in_turn)
    }

    /// Reads one page of a log into memory that it waits for. Heartbeats and the end of the session come first.
    async fn read(&mut self, index: usize) -> Next {
        if self.logs.len() > 1
            && self.reading.is_none()
            && let Some(mail) = self.membership.mailbox().take().now_or_never()
            && let end @ Next::End(_) = self.open_mail(mail)
        {
            // While one log is being read for long, the others get their turns as well.
            return end;
        }
        let mut reading = match self.reading.take() {
            Some((_, reading)) => reading,
            None => {
                let reservation = tokio::select! {
                    reservation = self.budget.reserve(self.needs) => reservation,
                    due = self.timers.due(&self.sessions.clock, self.membership.session()) => return due,
                };
                // The budget is only closed when the replica is gone.
                let Some(reservation) = reservation else { return Next::End(CloseReason::Unavailable) };
                self.begin_page(index, reservation)
            }
        };
        let page = tokio::select! {
            page = &mut reading.0 => page,
            due = self.timers.due(&self.sessions.clock, self.membership.session()) => {
                if let Next::Text(_) = due {
                    self.reading = Some((index, reading));
                }
                return due;
            }
        };
        match page {
            Ok((page, reservation)) => self.give(index, page, reservation).await,
            Err(StoreError::NeedsMemory(bytes)) => {
                self.needs = BECOMES * bytes;
                Next::Nothing
            }
            Err(StoreError::Unavailable(_) | StoreError::ReadTimeout(_)) => self.back_off().await,
            Err(error) => self.fail(&error),
        }
    }

    /// Ends the stream because of something that its client cannot help. It will come back, perhaps at once.
    fn fail(&self, error: &(dyn std::error::Error + 'static)) -> Next {
        if let Some(unwritten) = self.sessions.failed_streams.is_due() {
            tracing::error!(error, unwritten, "a stream cannot be continued");
        }
        Next::End(CloseReason::Unavailable)
    }

    /// Turns a page of a log into the next piece, if there is memory for that.
    async fn give(&mut self, index: usize, page: Page, reservation: Reservation) -> Next {
        self.pause = BACKOFF.0;
        self.reservation = Some(reservation);
        if !self.resize(&page) {
            return Next::Nothing;
        }
        if Failpoint::StreamJoinsLate.is_on() && !page.has_more && self.logs[index].is_in_backlog() {
            // As if it joined only now: it misses the wake-ups until here.
            let _ = tokio::time::timeout(LATE, self.membership.mailbox().take()).await;
        }
        let heavy = self.sessions.heavy.clone();
        let next = heavy.run(page.size(), || self.send(index, page)).await;
        if let (Next::Text(text), Some(reservation)) = (&next, &mut self.reservation) {
            // It shrinks: the page is gone.
            self.budget.resize(reservation, text.len());
        }
        next
    }

    /// Begins to read the page after the cursor, once it is the user's turn to read.
    fn begin_page(&mut self, index: usize, reservation: Reservation) -> Reading {
        let log = &mut self.logs[index];
        // Whatever woke it until here will be in the page read from now on.
        log.again = false;
        let (store, request, reader, since) =
            (self.store.clone(), log.request.clone(), self.reader.clone(), log.cursor);
        let own = if log.is_initial_sync() { OwnChanges::All } else { OwnChanges::Without };
        let turn = self.sessions.reads.of(request.log.user);
        let memory = PageMemory::new(self.budget.clone(), reservation, self.needs, |changes| BECOMES * changes);
        let span = traces::page(&self.membership.mailbox().delivery());
        Reading(Box::pin(async move {
            // Ends with the page.
            let _span = span;
            let mut turn = turn.wait(store.lane()).await;
            let tables = request.tables.as_deref();
            let page = PageRequest { since, reader: reader.as_deref(), own, tables, is_for_answer: false };
            let page = store.page(&request.log, &page, &memory, &mut turn).await?;
            Ok((page, memory.into_reservation()))
        }))
    }

    /// Adjusts the reservation to the size of a page. If there is not enough memory, the page is read again once there
    /// is.
    fn resize(&mut self, page: &Page) -> bool {
        let bytes = BECOMES * page.size() + page.own.size();
        let fits = self.reservation.as_mut().is_some_and(|reservation| self.budget.resize(reservation, bytes));
        self.needs = if fits { MIN_RESERVATION } else { bytes };
        if !fits {
            self.reservation = None;
        }
        fits
    }

    /// Waits before the next attempt while the database is away; the stream stays open.
    async fn back_off(&mut self) -> Next {
        let pause = self.sessions.clock.jitter(self.pause, 0.5..1.5);
        tokio::select! {
            () = sleep(pause) => {
                self.pause = (self.pause * 2).min(BACKOFF.1);
                Next::Nothing
            }
            due = self.timers.due(&self.sessions.clock, self.membership.session()) => due,
        }
    }

    /// Writes a page of a log and moves its reader past it.
    fn send(&mut self, index: usize, page: Page) -> Next {
        self.turn = (index + 1) % self.logs.len();
        let end = self.logs[index].end_of(&page);
        let id = if self.names_apps {
            let of = |at, log: &LogReader| if at == index { end.cursor } else { log.cursor };
            write_position(self.logs.iter().enumerate().map(|(at, log)| (log.app(), of(at, log))))
        } else {
            end.cursor.to_string()
        };
        let log = &mut self.logs[index];
        let app = self.names_apps.then(|| log.request.log.app.clone());
        let oldest = page.changes.first().map(|change| change.at).filter(|_| !log.is_in_backlog());
        self.membership.session().note_read((!self.names_apps).then(|| end.cursor.micros()));
        match log.write(page, end, &id, app.as_deref()) {
            Ok(text) if text.is_empty() => Next::Nothing,
            Ok(text) => {
                self.given = oldest;
                Next::Text(text)
            }
            Err(error) => self.fail(&error),
        }
    }
}

impl Drop for StreamSession {
    fn drop(&mut self) {
        if !self.is_over {
            self.sessions.count_close(CloseReason::ClientLeft);
        }
    }
}

#[cfg(test)]
mod tests;
