//! The rules of `/sync/{appId}/stream`, without HTTP.
//! What its events say of a page, and with which cursors, is in [`super::events`].

use super::events::{group_by_table, tell};
use super::{Farewell, JoinError, Sessions};
use crate::auth::Identity;
use crate::budget::{Reservation, UserBudget};
use crate::defects::Defect;
use crate::hub::{Interest, Mail, Membership};
use crate::protocol::close::CloseReason;
use crate::protocol::page::{Event, Page, encode_event};
use crate::protocol::{Cursor, Log};
use crate::store::{OwnChanges, PageRequest, Store, StoreError};
use crate::telemetry::metrics::SSE;
use crate::telemetry::traces;
use futures_util::future::BoxFuture;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep, sleep_until};

const HEARTBEAT: &str = "event: heartbeat\ndata: {}\n\n";
/// What a client is told on the way out: reconnect after this many milliseconds.
const RETRY: &str = "retry: 1000\n\n";
/// Pauses while the database is away: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The room taken before it is known what a page needs, in bytes.
const LEAST_ROOM: usize = 32 << 10;
/// A page and the text that it becomes, as multiples of the page's size.
const BECOMES: usize = 2;

/// See [`Defect::StreamJoinsLate`].
const LATE: Duration = Duration::from_millis(30);

/// What a stream is asked for.
#[derive(Debug)]
pub struct StreamRequest {
    pub log: Log,
    /// None means every table of the app.
    pub tables: Option<Vec<String>>,
    pub since: Cursor,
    /// The device that reads.
    pub reader: Option<Arc<str>>,
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One stream.
#[derive(Debug)]
pub struct StreamSession {
    sessions: Arc<Sessions>,
    store: Store,
    request: Arc<StreamRequest>,
    cursor: Cursor,
    phase: Phase,
    /// The page that is being read.
    reading: Option<Reading>,
    membership: Membership,
    budget: UserBudget,
    /// Room for what was last given out, until the next piece is asked for: then its client has taken it.
    held: Option<Reservation>,
    /// The position of the oldest change in what was last given out live, until then likewise.
    given: Option<i64>,
    /// The room to be taken before the next page is read, in bytes.
    needs: usize,
    expires: Instant,
    /// When the next heartbeat is due.
    heartbeat: Instant,
    farewell: Farewell,
    pause: Duration,
}

#[derive(Debug)]
enum Phase {
    /// Reading what is there already. These requested tables are to be told where they stand at the end of it: they
    /// have had no event, or one whose cursor is before their last change.
    Backlog {
        pending_tables: BTreeSet<String>,
    },
    /// Everything up to the cursor has been sent.
    Live,
    /// Woken: there may be something after the cursor.
    Woken,
    Over,
}

/// A page on its way. It is not given up for a heartbeat.
struct Reading(BoxFuture<'static, Result<Page, StoreError>>);

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reading")
    }
}

/// What comes next on a stream.
enum Next {
    Text(String),
    End(CloseReason),
    /// Look again.
    Nothing,
}

impl StreamSession {
    /// Opens a stream. The session joins the hub before it reads, so that what is stored in between wakes it.
    pub async fn open(
        sessions: Arc<Sessions>,
        store: Store,
        identity: &Identity,
        request: StreamRequest,
    ) -> Result<StreamSession, OpenError> {
        let tables: Option<BTreeSet<String>> = request.tables.as_ref().map(|tables| tables.iter().cloned().collect());
        let interest =
            Interest { app: Some(request.log.app.clone()), tables: tables.clone(), client: request.reader.clone() };
        let membership = sessions.join(identity, interest, SSE).await?;
        store.ping().await?;
        let now = Instant::now();
        Ok(StreamSession {
            cursor: request.since,
            phase: Phase::Backlog { pending_tables: tables.unwrap_or_default() },
            budget: sessions.budget.of(identity.user),
            reading: None,
            held: None,
            given: None,
            needs: LEAST_ROOM,
            expires: now + identity.remaining(),
            heartbeat: now + sessions.heartbeat,
            farewell: sessions.farewell(),
            pause: BACKOFF.0,
            sessions,
            store,
            request: Arc::new(request),
            membership,
        })
    }

    /// The next piece of the stream: one or more whole events. None when it is over.
    pub async fn next(&mut self) -> Option<String> {
        if self.reading.is_none() {
            self.held = None;
        }
        self.observe_written();
        loop {
            let next = match self.phase {
                Phase::Over => return None,
                // Boxed: a stream that waits has no room set aside for it.
                Phase::Backlog { .. } | Phase::Woken => Box::pin(self.read()).await,
                Phase::Live => self.wait().await,
            };
            match next {
                // Nobody keeps room while waiting for something to put into it.
                Next::Nothing => self.held = None,
                Next::Text(text) => {
                    self.heartbeat = Instant::now() + self.sessions.heartbeat;
                    return Some(text);
                }
                Next::End(reason) => {
                    self.phase = Phase::Over;
                    self.sessions.count_close(reason);
                    return reason.invites_back().then(|| RETRY.to_owned());
                }
            }
        }
    }

    /// The next piece is asked for, so the transport has taken the last one. How long that took from the commit is measured
    /// of the oldest change in it, if it was no backlog.
    fn observe_written(&mut self) {
        let Some(given) = self.given.take() else { return };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let took = now.saturating_sub(Duration::from_micros(given.max(0) as u64));
        self.sessions.metrics.stream_seconds.observe(took.as_secs_f64());
    }

    /// Waits, while there is nothing to read, for a reason to do something.
    async fn wait(&mut self) -> Next {
        tokio::select! {
            mail = self.membership.mailbox().take() => {
                if mail == Mail::Close {
                    return Next::End(CloseReason::Rebalanced);
                }
                self.phase = Phase::Woken;
                Next::Nothing
            }
            () = sleep_until(self.heartbeat) => Next::Text(HEARTBEAT.to_owned()),
            () = sleep_until(self.expires) => Next::End(CloseReason::TokenExpired),
            reason = self.farewell.due_or_closed(self.membership.session()) => Next::End(reason),
        }
    }

    /// Whether the device gets its own changes back: from the beginning until the backlog has drained. The cursor
    /// of an empty log is still the beginning then, but the walk is over. A database that went back begins one anew.
    fn is_walking(&self) -> bool {
        let is_under_way = matches!(self.phase, Phase::Backlog { .. }) || self.cursor.micros() > 0;
        self.cursor.is_walk() && is_under_way
    }

    /// Waits for room, then reads one page into it, whatever else is due in the meantime.
    async fn read(&mut self) -> Next {
        if self.held.is_none() {
            tokio::select! {
                held = self.budget.reserve(self.needs) => self.held = held,
                () = sleep_until(self.heartbeat) => return Next::Text(HEARTBEAT.to_owned()),
                () = sleep_until(self.expires) => return Next::End(CloseReason::TokenExpired),
                reason = self.farewell.due_or_closed(self.membership.session()) => return Next::End(reason),
            }
        }
        let mut reading = self.reading.take().unwrap_or_else(|| self.begin_page());
        let page = tokio::select! {
            page = &mut reading.0 => page,
            () = sleep_until(self.heartbeat) => {
                self.reading = Some(reading);
                return Next::Text(HEARTBEAT.to_owned());
            }
            () = sleep_until(self.expires) => return Next::End(CloseReason::TokenExpired),
            reason = self.farewell.due_or_closed(self.membership.session()) => return Next::End(reason),
        };
        match page {
            Ok(page) => {
                self.pause = BACKOFF.0;
                if !self.fits(&page) {
                    return Next::Nothing;
                }
                if Defect::StreamJoinsLate.is_on() && !page.has_more && matches!(self.phase, Phase::Backlog { .. }) {
                    // As if it joined only now: what woke it until here is not heard.
                    let _ = tokio::time::timeout(LATE, self.membership.mailbox().take()).await;
                }
                let heavy = self.sessions.heavy.clone();
                let next = heavy.run(page.size(), || self.send(page)).await;
                if let (Next::Text(text), Some(held)) = (&next, &mut self.held) {
                    // It becomes smaller: the page is gone.
                    self.budget.resize(held, text.len());
                }
                next
            }
            Err(StoreError::Unavailable(_)) => self.sit_out().await,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a stream cannot be continued");
                Next::End(CloseReason::Unavailable)
            }
        }
    }

    /// Begins to read the page after the cursor, when it is the user's turn to read.
    fn begin_page(&self) -> Reading {
        let (store, request, since) = (self.store.clone(), self.request.clone(), self.cursor);
        let own = if self.is_walking() { OwnChanges::All } else { OwnChanges::Without };
        let turn = self.sessions.reads.of(request.log.user);
        let span = traces::page(&self.membership.mailbox().delivery());
        Reading(Box::pin(async move {
            // Ends with the page.
            let _span = span;
            let _turn = turn.wait().await;
            let tables = request.tables.as_deref();
            let page = PageRequest { since, reader: request.reader.as_deref(), own, tables };
            store.page(&request.log, &page).await
        }))
    }

    /// Whether there is room for a page. If not, it is read again once there is.
    fn fits(&mut self, page: &Page) -> bool {
        let bytes = BECOMES * page.size();
        let fits = self.held.as_mut().is_some_and(|held| self.budget.resize(held, bytes));
        self.needs = if fits { LEAST_ROOM } else { bytes };
        if !fits {
            self.held = None;
        }
        fits
    }

    /// The database is away: the stream stays, and tries again after a while.
    async fn sit_out(&mut self) -> Next {
        let pause = self.pause.mul_f64(rand::random_range(0.5..1.5));
        tokio::select! {
            () = sleep(pause) => {
                self.pause = (self.pause * 2).min(BACKOFF.1);
                Next::Nothing
            }
            () = sleep_until(self.heartbeat) => Next::Text(HEARTBEAT.to_owned()),
            () = sleep_until(self.expires) => Next::End(CloseReason::TokenExpired),
            reason = self.farewell.due_or_closed(self.membership.session()) => Next::End(reason),
        }
    }

    fn send(&mut self, page: Page) -> Next {
        let size = page.size();
        let Page { mut changes, mut own, until, has_more } = page;
        let is_live = matches!(self.phase, Phase::Woken | Phase::Live);
        let walk = self.is_walking() || (until.is_walk() && has_more && !self.cursor.is_walk());
        let end = until.on_walk(walk && has_more);
        let mut out = String::with_capacity(size);
        let oldest = changes.first().map(|change| change.at);
        let complete = group_by_table(&mut changes);
        let last = complete.len().saturating_sub(1);
        for (index, (changes, complete)) in changes.chunk_by(|a, b| a.table == b.table).zip(complete).enumerate() {
            let ends_page = index == last;
            let until = if ends_page { end } else { Cursor::after(complete).on_walk(walk) };
            let event = Event { table: &changes[0].table, until, has_more: has_more || !ends_page, ends_page };
            if let Err(error) = encode_event(&mut out, event, changes, &mut own) {
                tracing::error!(error = &error as &dyn std::error::Error, "a stream cannot be continued");
                return Next::End(CloseReason::Unavailable);
            }
            self.note_told(event.table, changes.last().is_none_or(|last| last.at <= until.micros()));
        }
        self.cursor = end;
        self.membership.session().note_read(end.micros());
        if !has_more && let Phase::Backlog { pending_tables } = std::mem::replace(&mut self.phase, Phase::Live) {
            tell(&mut out, &pending_tables, end);
        }
        if out.is_empty() {
            return Next::Nothing;
        }
        self.given = oldest.filter(|_| is_live);
        Next::Text(out)
    }

    /// Takes note of whether a table's cursor is past all that was sent of it.
    fn note_told(&mut self, table: &str, is_current: bool) {
        let Phase::Backlog { pending_tables } = &mut self.phase else { return };
        if is_current {
            pending_tables.remove(table);
        } else if self.request.tables.is_some() {
            pending_tables.insert(table.to_owned());
        }
    }
}

impl Drop for StreamSession {
    fn drop(&mut self) {
        if !matches!(self.phase, Phase::Over) {
            self.sessions.count_close(CloseReason::ClientLeft);
        }
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
