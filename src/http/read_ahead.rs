//! The next page of a reader that asks for one after the other, read while it takes the one before.
//!
//! A device that catches up and the database wait for each other by turns. So of a reader that has come back to this replica for
//! the page after the last one, the page after that is read at once. It waits for its reader in memory that is reserved like that
//! of any other (G6), for a moment, and is what the reader gets if nothing has been stored in its log since it was read: then it is
//! what would be read now (G2). Else its reader is served as ever, and nothing more is read ahead of it.
//!
//! Who reads ahead waits for nobody: where there is no connection, no memory or no place at once, nothing is.

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

/// How long a page that was read ahead waits for its reader.
const HOLD: Duration = Duration::from_secs(1);
/// Pages that are read ahead or wait for their readers, at most.
const MAX_AHEAD: usize = 32;
/// Readers that are expected to come back, at most, and for how long.
const MAX_EXPECTED: u64 = 10_000;
const EXPECTED: Duration = Duration::from_secs(10);

/// What a reader is expected to ask for next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct NextPage {
    log: LogId,
    since: Cursor,
    reader: Option<String>,
    tables: Option<Vec<String>>,
}

impl NextPage {
    /// What somebody asks for, from this cursor; none if it is no page that its reader would ask for by itself.
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

/// A page, and the memory that it is held in.
type ReadPage = (Page, Reservation);

/// Where to ask for the page that is being read for somebody.
type Asking = oneshot::Sender<oneshot::Sender<ReadPage>>;

/// The readers that are expected to come back, and the pages that are read for them.
#[derive(Clone, Debug)]
pub struct ReadAhead {
    expected: Cache<NextPage, Arc<Mutex<Option<Asking>>>>,
    places: Arc<Semaphore>,
}

impl Default for ReadAhead {
    /// Nobody is expected yet.
    fn default() -> ReadAhead {
        let expected = Cache::builder().max_capacity(MAX_EXPECTED).time_to_live(EXPECTED).build();
        ReadAhead { expected, places: Arc::new(Semaphore::new(MAX_AHEAD)) }
    }
}

impl ReadAhead {
    /// `asking`: where to ask for that page, if it is being read.
    fn expect(&self, next: NextPage, asking: Option<Asking>) {
        self.expected.insert(next, Arc::new(Mutex::new(asking)));
    }
}

fn count(state: &AppState, outcome: &str) {
    state.metrics.pages_read_ahead.with_label_values(&[outcome]).inc();
}

/// Reads a page like [`read_page`], or takes the one that was read ahead; and reads the one after it ahead, if its reader comes
/// back for one after the other.
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

/// The page that is read ahead, if its log still stands where it stood then.
async fn if_current(state: &AppState, log: &Log, asking: Asking) -> Option<ReadPage> {
    let (here, there) = oneshot::channel();
    // Whoever reads it has given up.
    asking.send(here).ok()?;
    let pages = &state.store.of(log.user).pages;
    let head = async {
        let turn = state.sessions.reads.of(log.user).wait(pages.lane());
        let _turn = timeout(state.config.database_acquire_timeout_ms, turn).await.ok()?;
        // Whoever cannot know reads anew, and is told why that fails.
        pages.head(log.id).await.ok()
    };
    let (read, head) = tokio::join!(there, head);
    let read = read.ok()?;
    let is_current = head == Some(read.0.head);
    count(state, if is_current { "used" } else { "outdated" });
    is_current.then_some(read)
}

/// Begins to read a page ahead, if there is a place for it; where to ask for it.
fn begin(state: &AppState, log: &Log, next: &NextPage) -> Option<Asking> {
    let place = state.read_ahead.places.clone().try_acquire_owned().ok()?;
    let (asking, asked): (Asking, _) = oneshot::channel();
    let (state, log, next) = (state.clone(), log.clone(), next.clone());
    tokio::spawn(async move {
        let _place: OwnedSemaphorePermit = place;
        let Some(read) = read_at_once(&state, &log, &next.request()).await else { return };
        match timeout(HOLD, asked).await {
            // Whoever has gone meanwhile needs it no more.
            Ok(Ok(reader)) => drop(reader.send(read)),
            _ => count(&state, "unused"),
        }
    });
    Some(asking)
}

/// Reads a page if nobody has to be waited for.
async fn read_at_once(state: &AppState, log: &Log, request: &PageRequest<'_>) -> Option<ReadPage> {
    let (pages, budget) = (&state.store.of(log.user).pages, state.unread.of(log.user));
    let mut turn = state.sessions.reads.of(log.user).wait(pages.lane()).now_or_never()?;
    let reservation = budget.reserve(LEAST).now_or_never()??;
    let memory = PageMemory::new(budget.clone(), reservation, LEAST, needs_of);
    // Its reader will be told why it cannot be read.
    let page = pages.page(log, request, &memory, &mut turn).await.ok()?;
    let mut reservation = memory.into_reservation();
    budget.resize(&mut reservation, needs_of(page.size()) + page.extra_size()).then_some((page, reservation))
}
