//! `POST /sync/{appId}`: push, and get the delta.

use super::AppState;
use super::answer::{json, read_page, unless_empty, write};
use super::body::{PushReservation, check_length};
use super::error::ApiError;
use super::extract::{Caller, check_encoding, client_id};
use super::read_ahead::read_on;
use crate::budget::Reservation;
use crate::clock::Clock;
use crate::failpoints::{self, CrashBeforeNotify, Failpoint};
use crate::fanout::wakeup::table_names;
use crate::fanout::{Publisher, Wakeup};
use crate::limits::users::Admission;
use crate::protocol::conflicts::conflicts;
use crate::protocol::merge::OwnWrites;
use crate::protocol::page::{Page, Remarks, WrittenChanges};
use crate::protocol::push::{Adjusted, Push, StampPolicy, read_push};
use crate::protocol::{Cursor, Log, Stamp};
use crate::store::{Announcement, CommitNotice, OwnChanges, PageRequest, Pushed, Told};
use crate::telemetry::traces::PushSpan;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use std::sync::Arc;
use tokio::time::Instant;
use tracing::Span;

/// Bytes that an answer may spend on conflicts, however small its push is.
const MIN_CONFLICTS: usize = 4 << 10;

pub(super) async fn push(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let (mut parts, body) = request.into_parts();
    let caller = Caller::from_request_parts(&mut parts, &state).await;
    let check = |caller: Caller| {
        check_media_type(&parts.headers)?;
        state.limits.push(caller.log.user)?;
        check_length(&body)?;
        Ok(caller)
    };
    let caller = match caller.and_then(check) {
        Ok(caller) => caller,
        Err(error) => {
            state.push_budget.discard_unless_awaited(&parts.headers, arrived, body).await;
            return Err(error);
        }
    };
    let read = state.push_budget.read(body, caller.log.user).await;
    if matches!(read, Err(ApiError::Busy)) {
        state.metrics.refused.with_label_values(&["push_bytes"]).inc();
        // A lack of memory is no more the client's fault than a failure to store.
        count(&state, FAILED);
    }
    let (body, reservation) = read?;
    state.limits.push_bytes(caller.log.user, body.len())?;
    let started = Instant::now();
    let answered = answer(&state, &caller.log, &parts.headers, &body, &reservation).await;
    state.metrics.push_seconds.record(started.elapsed().as_secs_f64(), &state.clock);
    let answered = match answered {
        Ok(Answer { text, unread, outcome }) => {
            json(&state, &caller.log, unread, text).await.map(|response| (response, outcome))
        }
        Err(error) => Err(error),
    };
    count(
        &state,
        match &answered {
            Ok((_, outcome)) => outcome,
            Err(error) if error.is_ours() => FAILED,
            Err(_) => "refused",
        },
    );
    let (response, _) = answered?;
    state.metrics.apps.count_push(&caller.log.app);
    Ok(response)
}

/// The outcome of a push that failed through no fault of its client.
const FAILED: &str = "failed";

fn count(state: &AppState, outcome: &str) {
    state.metrics.pushes.with_label_values(&[outcome]).inc();
}

/// The answer to a push.
struct Answer {
    text: String,
    /// Reserved until the client has taken it; none if the answer has no page.
    unread: Option<Reservation>,
    /// The label under which it is counted.
    outcome: &'static str,
}

async fn answer(
    state: &AppState,
    log: &Log,
    headers: &HeaderMap,
    body: &[u8],
    reservation: &PushReservation,
) -> Result<Answer, ApiError> {
    let client = client_id(headers)?;
    let client = client.as_deref();
    let policy = StampPolicy {
        now: Stamp::from_millis(state.clock.millis() as i64),
        max_ahead: state.config.max_clock_skew_ms.as_millis() as i64,
    };
    let max_changes = state.config.max_push_changes as usize;
    let read = state.sessions.heavy.run(body.len(), || read_push(body, client, policy, max_changes)).await;
    let push = Arc::new(read?);
    state.devices.note(log, &push.client, push.since).await;
    if push.changes.is_empty() {
        let own = OwnChanges::at(push.since);
        let request =
            PageRequest { since: push.since, reader: Some(&push.client), own, tables: None, is_for_answer: true };
        let poll = state.polls.ask(log, None, Some(&push.client));
        let read = read_on(state, log, &request).await?;
        let (page, unread) = unless_empty(state, log, &request, poll, read).await?;
        let text = write(state, page, &Remarks::default()).await?;
        return Ok(Answer { text, unread: Some(unread), outcome: "empty" });
    }
    let stored = store(state, log, headers, &push, reservation).await;
    if stored.as_ref().is_err_and(ApiError::is_ours) {
        // The client will send it again.
        state.limits.give_back_bytes(log.user, body.len());
    }
    let pushed = stored?;
    let (page, unread) = delta(state, log, &push, &pushed).await?;
    let budget = body.len().saturating_sub(adjusted_bytes(&push)) + MIN_CONFLICTS;
    let find = || conflicts(&push, &pushed.positions, &page.changes, budget);
    let conflicts = state.sessions.heavy.run(body.len() + page.size(), find).await?;
    let adjusted = adjusted(&push, &pushed);
    let text = write(state, page, &Remarks { conflicts: &conflicts, adjusted: &adjusted }).await?;
    Ok(Answer { text, unread, outcome: if pushed.was_retried() { "retried" } else { "stored" } })
}

/// Stores a push, if its user's limits allow it.
async fn store(
    state: &AppState,
    log: &Log,
    headers: &HeaderMap,
    push: &Arc<Push>,
    reservation: &PushReservation,
) -> Result<Pushed, ApiError> {
    let store = state.store.of(log.user);
    let admission = state.limits.store(store, log, push).await?;
    let announce = announce(state, log, push.clone(), headers, reservation.clone(), admission);
    let pushed = store.pushes.push(log, push.clone(), announce).await?;
    if pushed.stored.is_some() {
        let stored = (push.changes.len() - pushed.known.len()) as u64;
        state.metrics.changes_stored.inc_by(stored);
        state.metrics.apps.count_changes(&log.app, stored);
    }
    Ok(pushed)
}

/// The changes that were adjusted, now or when they were first stored.
fn adjusted(push: &Push, pushed: &Pushed) -> Vec<Adjusted> {
    let now = push.adjusted.iter().filter(|adjusted| !pushed.known.contains_key(&adjusted.index)).cloned();
    let before = pushed.known.values().flatten().cloned();
    let mut adjusted: Vec<Adjusted> = now.chain(before).collect();
    adjusted.sort_unstable_by_key(|adjusted| adjusted.index);
    adjusted
}

/// Approximate size of an answer's `adjusted` entries in bytes.
fn adjusted_bytes(push: &Push) -> usize {
    let one = |adjusted: &Adjusted| {
        let fields: usize = adjusted.fields.iter().map(|field| field.len() + 3).sum();
        adjusted.table.len() + adjusted.id.len() + fields
    };
    push.adjusted.iter().map(one).sum()
}

/// Reads what other devices have changed since the push's cursor.
async fn delta(
    state: &AppState,
    log: &Log,
    push: &Push,
    pushed: &Pushed,
) -> Result<(Page, Option<Reservation>), ApiError> {
    let own = match (push.since.is_initial_sync(), pushed.stored) {
        (false, _) => OwnChanges::Without,
        // In the middle of an initial sync, the device may have received since its first attempt a change that ties
        // with one of this push and lost to it, so the changes stored back then are returned as well.
        (true, None) if push.since.micros() > 0 => OwnChanges::All,
        (true, Some(stored)) if push.since.micros() > 0 => {
            OwnChanges::BesidePush { before: stored.first, rows: &pushed.added }
        }
        (true, Some(stored)) => OwnChanges::BesidePush { before: stored.first, rows: &pushed.ids },
        // As if it were new: changes that the device stored after its first attempt count as before this one.
        (true, None) => {
            let before = state.store.of(log.user).known.own_changes_end(log.id, &push.client, pushed).await?;
            OwnChanges::BesidePush { before, rows: &pushed.ids }
        }
    };
    let mut request =
        PageRequest { since: push.since, reader: Some(&push.client), own, tables: None, is_for_answer: true };
    match pushed.stored {
        // The database went back to before this cursor was issued; the push that was just stored hides that.
        Some(stored) if push.since.is_past(stored.previous) => {
            state.store.of(log.user).pages.note_rewind(log, push.since).await?;
            request.since = Cursor::BEGINNING;
            request.own = OwnChanges::BesidePush { before: stored.first, rows: &pushed.ids };
        }
        // Nothing was stored between the cursor and this push, so the store need not be asked.
        Some(stored) if stored.previous <= push.since.micros() => {
            let until = Cursor::after(stored.last);
            return Ok((
                Page {
                    changes: vec![],
                    own: OwnWrites::default(),
                    head: stored.last,
                    until,
                    has_more: false,
                    written: WrittenChanges::default(),
                    excess: 0,
                },
                None,
            ));
        }
        _ => {}
    }
    let (page, unread) = read_page(state, log, &request).await?;
    Ok((page, Some(unread)))
}

/// Announces a push to others: in its own transaction, or through the publisher once it is stored. Until then it holds
/// the push's memory, which is needed even if the client has gone.
struct PushAnnouncement {
    publisher: Publisher,
    /// Whom to wake, and for what; the range is not known before the push is stored.
    wakeup: Wakeup,
    /// The span of the notification, while the statement that sends it runs.
    telling: Span,
    /// True if the statement that stored the push also announced it.
    is_told: bool,
    push: Arc<Push>,
    admission: Admission,
    crash: CrashBeforeNotify,
    clock: Clock,
    _reservation: PushReservation,
}

fn announce(
    state: &AppState,
    log: &Log,
    push: Arc<Push>,
    headers: &HeaderMap,
    reservation: PushReservation,
    admission: Admission,
) -> PushAnnouncement {
    let wakeup = Wakeup {
        user: log.user,
        app: log.app.clone(),
        client: Some(push.client.as_str().into()),
        tables: table_names(push.changes.iter().map(|change| change.table.as_str())),
        ranges: vec![],
        pushes: PushSpan::current().into_iter().collect(),
    };
    PushAnnouncement {
        publisher: state.publisher.clone(),
        wakeup,
        telling: Span::none(),
        is_told: false,
        push,
        admission,
        crash: failpoints::crash_before_notify(headers),
        clock: state.clock.clone(),
        _reservation: reservation,
    }
}

impl Announcement for PushAnnouncement {
    fn with_commit(&mut self) -> Option<CommitNotice> {
        if Failpoint::NotifyDropped.is_on() || self.crash.is_chosen() {
            return None;
        }
        let (notice, span) = self.publisher.with_commit(&self.wakeup)?;
        self.telling = span;
        Some(notice)
    }

    fn told(&mut self, told: Told) {
        self.telling = Span::none();
        self.is_told = matches!(told, Told::After(_));
        self.publisher.told(told);
    }

    fn stored(self: Box<Self>, pushed: &Pushed) {
        self.admission.stored(&self.push, pushed);
        self.crash.if_chosen();
        if !self.is_told && !Failpoint::NotifyDropped.happens(&self.clock) {
            // Changes that were already stored may never have been announced, so they are announced again, as a hint:
            // the reconciler knows the range.
            let ranges = pushed.stored.iter().map(|stored| (stored.previous, stored.last)).collect();
            self.publisher.publish(Wakeup { ranges, ..self.wakeup });
        }
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    check_encoding(headers)?;
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if json { Ok(()) } else { Err(ApiError::MediaType) }
}
