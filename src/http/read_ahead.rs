//! Reads the next page while a reader takes the one before.
//!
//! A device that is catching up and the database take turns waiting for each other. So when a reader comes back to this
//! replica for the page after its last one, the page after that is read at once. It waits briefly for its reader, in
//! memory that is reserved like any other page's (G6), and is used if nothing has been stored in its log since it was
//! read: then it is what a read would return now (G2). Otherwise the page is read as usual, and nothing more is read
//! ahead for this reader.
//!
//! Reading ahead never waits: if a connection, memory or a slot isn't available at once, nothing is read ahead.

use super::AppState;
use super::answer::{LEAST, needs_of, read_page};
use super::error::ApiError;
use crate::budget::Reservation;
use crate::protocol::page::Page;
use crate::protocol::{Cursor, Log, LogId};
use crate::store::{OwnChanges, PageMemory, PageRequest};
use futures_util::FutureExt;
use moka::sync::Cache;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

/// The time that a page that was read ahead waits for its reader.
const HOLD: Duration = Duration::from_secs(1);
/// Maximum number of pages that are being read ahead or wait for their readers.
const MAX_AHEAD: usize = 32;
/// Maximum number of readers expected to return, and how long they are remembered.
const MAX_EXPECTED: u64 = 10_000;
const EXPECTED: Duration = Duration::from_secs(10);

/// The next request that is expected of a reader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct NextPage {
    log: LogId,
    since: Cursor,
    reader: Option<String>,
    tables: Option<Vec<String>>,
}

impl NextPage {
    /// The reader's request at this cursor; none if it is not a page that a reader would ask for by itself.
    fn of(log: &Log, request: &PageRequest<'_>, since: Cursor) -> Option<NextPage> {
        (request.own == OwnChanges::at(request.since) && request.is_for_answer).then(|| NextPage {
            log: log.id,
            since,
            reader: request.reader.map(str::to_owned),
            tables: request.tables.map(<[String]>::to_vec),
        })
    }

    fn request(&self) -> PageRequest<'_> {
        PageRequest {
            since: self.since,
            reader: self.reader.as_deref(),
            own: OwnChanges::at(self.since),
            tables: self.tables.as_deref(),
            is_for_answer: true,
        }
    }
}

/// A page, and the memory it is held in.
type ReadPage = (Page, Reservation);

/// Asks the task that reads a page ahead to hand it over.
type Asking = oneshot::Sender<oneshot::Sender<ReadPage>>;

/// The readers that are expected to come back, and the pages that are read for them.
#[derive(Clone, Debug)]
pub struct ReadAhead {
    expected: Cache<NextPage, Arc<Mutex<Option<Asking>>>>,
    places: Arc<Semaphore>,
}

impl Default for ReadAhead {
    /// No readers are expected yet.
    fn default() -> ReadAhead {
        let expected = Cache::builder().max_capacity(MAX_EXPECTED).time_to_live(EXPECTED).build();
        ReadAhead { expected, places: Arc::new(Semaphore::new(MAX_AHEAD)) }
    }
}

impl ReadAhead {
    /// `asking`: how to ask for that page, if it is being read.
    fn expect(&self, next: NextPage, asking: Option<Asking>) {
        self.expected.insert(next, Arc::new(Mutex::new(asking)));
    }
}

fn count(state: &AppState, outcome: &str) {
    state.metrics.pages_read_ahead.with_label_values(&[outcome]).inc();
}

/// Reads a page like [`read_page`], or takes the one that was read ahead. If its reader is catching up, begins to read
/// the page after it.
pub(super) async fn read_on(state: &AppState, log: &Log, request: &PageRequest<'_>) -> Result<ReadPage, ApiError> {
    let asked = NextPage::of(log, request, request.since);
    let expected = asked.and_then(|asked| state.read_ahead.expected.remove(&asked));
    let mut comes_back = expected.is_some();
    let asking = expected.and_then(|asking| asking.lock().unwrap_or_else(PoisonError::into_inner).take());
    let mut ahead = None;
    if let Some(asking) = asking {
        ahead = if_current(state, log, asking).await;
        comes_back = ahead.is_some();
    }
    let (page, reservation) = match ahead {
        Some(read) => read,
        None => read_page(state, log, request).await?,
    };
    if page.has_more
        && let Some(next) = NextPage::of(log, request, page.until)
    {
        let asking = if comes_back { begin(state, log, &next) } else { None };
        state.read_ahead.expect(next, asking);
    }
    Ok((page, reservation))
}

/// Returns the page that was read ahead, if its log's head has not moved since.
async fn if_current(state: &AppState, log: &Log, asking: Asking) -> Option<ReadPage> {
    let (here, there) = oneshot::channel();
    // The task that reads it may have given up.
    asking.send(here).ok()?;
    let pages = &state.store.of(log.user).pages;
    let head = async {
        let turn = state.sessions.reads.of(log.user).wait(pages.lane());
        let _turn = timeout(state.config.database_acquire_timeout_ms, turn).await.ok()?;
        // If the head cannot be read, the page is read anew, and that read reports the error.
        pages.head(log.id).await.ok()
    };
    let (read, head) = tokio::join!(there, head);
    let read = read.ok()?;
    let is_current = head == Some(read.0.head);
    count(state, if is_current { "used" } else { "outdated" });
    is_current.then_some(read)
}

/// Begins to read a page ahead if there is a slot for it. Returns how to ask for it.
fn begin(state: &AppState, log: &Log, next: &NextPage) -> Option<Asking> {
    let place = state.read_ahead.places.clone().try_acquire_owned().ok()?;
    let (asking, asked): (Asking, _) = oneshot::channel();
    let (state, log, next) = (state.clone(), log.clone(), next.clone());
    tokio::spawn(async move {
        let _place: OwnedSemaphorePermit = place;
        let Some(read) = read_at_once(&state, &log, &next.request()).await else { return };
        match timeout(HOLD, asked).await {
            // A reader that has gone in the meantime no longer needs it.
            Ok(Ok(reader)) => drop(reader.send(read)),
            _ => count(&state, "unused"),
        }
    });
    Some(asking)
}

/// Reads a page if that is possible without waiting for anybody.
async fn read_at_once(state: &AppState, log: &Log, request: &PageRequest<'_>) -> Option<ReadPage> {
    let (pages, budget) = (&state.store.of(log.user).pages, state.unread.of(log.user));
    let mut turn = state.sessions.reads.of(log.user).wait(pages.lane()).now_or_never()?;
    let reservation = budget.reserve(LEAST).now_or_never()??;
    let memory = PageMemory::new(budget.clone(), reservation, LEAST, needs_of);
    // The reader's own request will report the error.
    let page = pages.page(log, request, &memory, &mut turn).await.ok()?;
    let mut reservation = memory.into_reservation();
    budget.resize(&mut reservation, needs_of(page.size()) + page.extra_size()).then_some((page, reservation))
}
