//! Finds what no notification brought (G4).
//!
//! A replica can die between its commit and its notification, and a connection can be dead while it looks alive. So
//! every few seconds, and whenever its listener has reconnected, every replica compares the heads of its connected
//! users' logs with what has been announced without a gap, and announces what is missing.
//!
//! Each bucket has a reconciler of its own: a bucket that does not answer holds up nobody else's users.

use super::changes::{Chunks, RANGES_PER_QUERY};
use super::dependencies::{Dependencies, QUEUE, USERS_PER_QUERY};
use super::joins::{self, Join};
use super::missing::{announce_missing, range};
use super::recent::{self, RecentRequest};
use super::{Listening, Wakeup, heads, rewinds};
use crate::failpoints::Failpoint;
use crate::protocol::UserKey;
use crate::store::{Head, Layout, StoreError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

/// Maximum number of logs checked together for a rewind.
const SUSPECTS_PER_QUERY: usize = 500;
/// A head just seen may be on its way as a notification; what is still missing after this is lost.
const GRACE: Duration = Duration::from_millis(250);
/// Pause between two checks for what unsigned notifications announced.
const CHECK_PAUSE: Duration = Duration::from_millis(20);

/// A handle to the reconcilers of all buckets.
#[derive(Clone, Debug)]
pub struct Reconciler {
    layout: Layout,
    buckets: Arc<[Requests]>,
}

/// The queues of one reconciler.
#[derive(Debug)]
struct Requests {
    now: Arc<Notify>,
    joins: mpsc::Sender<Join>,
    lookups: mpsc::Sender<Wakeup>,
    checks: mpsc::Sender<UserKey>,
    recent: recent::Requests,
}

/// The positions of a user's logs could not be read.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("cannot query the positions of the user's logs")]
pub struct CannotBegin;

/// A bucket's reconciler.
#[derive(Debug)]
pub struct ReconcilerTask {
    layout: Layout,
    bucket: usize,
    now: Arc<Notify>,
    joins: mpsc::Receiver<Join>,
    lookups: mpsc::Receiver<Wakeup>,
    checks: mpsc::Receiver<UserKey>,
    recent: mpsc::Receiver<recent::Request>,
}

impl Reconciler {
    /// Creates the reconcilers of a layout's buckets, and the tasks to run for them, in the order of the buckets.
    pub fn new(layout: Layout) -> (Reconciler, Vec<ReconcilerTask>) {
        let (buckets, tasks): (Vec<Requests>, _) = (0..layout.count()).map(|bucket| of_bucket(layout, bucket)).unzip();
        (Reconciler { layout, buckets: buckets.into() }, tasks)
    }

    fn of(&self, user: UserKey) -> Option<&Requests> {
        self.buckets.get(self.layout.bucket_of(user))
    }

    /// Starts a round now instead of at the next tick.
    pub fn reconcile_now(&self) {
        self.buckets.iter().for_each(|bucket| bucket.now.notify_one());
    }

    /// Looks up what was too long for a wake-up.
    pub(super) fn look_up(&self, wakeup: Wakeup) {
        // If the queue is full, the next round finds it.
        if let Some(bucket) = self.of(wakeup.user) {
            let _ = bucket.lookups.try_send(wakeup);
        }
    }

    /// Checks whether there is something to announce to this user, because of a notification that may not be from a
    /// replica.
    pub(super) fn check(&self, user: UserKey) {
        // If the queue is full, the next round finds it.
        if let Some(bucket) = self.of(user) {
            let _ = bucket.checks.try_send(user);
        }
    }

    /// Reads the positions of a newly connected user's logs; everything stored after this returns is announced.
    pub async fn begin(&self, user: UserKey) -> Result<(), CannotBegin> {
        let (begun, done) = oneshot::channel();
        let bucket = self.of(user).ok_or(CannotBegin)?;
        bucket.joins.send(Join { user, begun }).await.map_err(|_| CannotBegin)?;
        done.await.map_err(|_| CannotBegin)
    }

    /// Requests what was stored shortly before now in the user's apps, or in one of them.
    pub fn recent(&self, user: UserKey, app: Option<Arc<str>>) -> RecentRequest {
        // The bucket of a user always exists.
        let requests = self.of(user).map_or_else(|| recent::queue().0, |bucket| bucket.recent.clone());
        RecentRequest::new(requests, user, app)
    }
}

fn of_bucket(layout: Layout, bucket: usize) -> (Requests, ReconcilerTask) {
    let now = Arc::new(Notify::new());
    let (joins, joins_task) = mpsc::channel(QUEUE);
    let (lookups, lookups_task) = mpsc::channel(QUEUE);
    let (checks, checks_task) = mpsc::channel(QUEUE);
    let (recent, recent_task) = recent::queue();
    let task = ReconcilerTask {
        layout,
        bucket,
        now: now.clone(),
        joins: joins_task,
        lookups: lookups_task,
        checks: checks_task,
        recent: recent_task,
    };
    (Requests { now, joins, lookups, checks, recent }, task)
}

impl ReconcilerTask {
    /// Works until told to stop, with the store of its bucket.
    pub async fn run(self, dependencies: Dependencies, stop: CancellationToken) {
        let work = async {
            tokio::join!(
                run_rounds(&dependencies, (self.layout, self.bucket), &self.now),
                joins::run(&dependencies, self.joins),
                run_lookups(&dependencies, self.lookups),
                run_checks(&dependencies, self.checks),
                recent::run(&dependencies, self.recent),
            )
        };
        stop.run_until_cancelled(Box::pin(work)).await;
    }
}

async fn run_rounds(dependencies: &Dependencies, bucket: (Layout, usize), now: &Notify) {
    let mut ticks = interval(dependencies.period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = now.notified() => {}
        }
        if let Err(error) = round(dependencies, bucket).await {
            dependencies.metrics.reconcile_failures.inc();
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot reconcile; trying again");
        }
    }
}

/// Compares the heads of a bucket's connected users once with what was announced.
async fn round(dependencies: &Dependencies, (layout, bucket): (Layout, usize)) -> Result<(), StoreError> {
    if Failpoint::NoReconciler.is_on() {
        return Ok(());
    }
    let mut listening = dependencies.sessions.listening();
    if layout != Layout::ONE {
        listening.retain(|listening| layout.bucket_of(listening.user) == bucket);
    }
    let (mut behind, mut suspects) = (Vec::new(), Vec::new());
    let mut chunks = Chunks::new(&listening, USERS_PER_QUERY, &dependencies.metrics);
    while let Some(chunk) = chunks.next() {
        let heads = match heads::read(dependencies, chunk).await {
            Ok(heads) => heads,
            Err(error) => {
                chunks.failed(chunk, error)?;
                continue;
            }
        };
        for head in heads {
            if range(dependencies, &head).is_some() {
                behind.push(head);
            } else if rewinds::is_suspect(dependencies, &head) {
                suspects.push(head);
            }
        }
    }
    let mut chunks = Chunks::new(&suspects, SUSPECTS_PER_QUERY, &dependencies.metrics);
    while let Some(chunk) = chunks.next() {
        let taken_back = match rewinds::begin_anew(dependencies, chunk).await {
            Ok(taken_back) => taken_back,
            Err(error) => {
                chunks.failed(chunk, error)?;
                continue;
            }
        };
        let lost = announce_missing(dependencies, &taken_back).await?;
        dependencies.metrics.wakeups_reconciled.inc_by(lost as u64);
    }
    if behind.is_empty() {
        return Ok(());
    }
    sleep(GRACE).await;
    let lost = announce_missing(dependencies, &behind).await?;
    dependencies.metrics.wakeups_reconciled.inc_by(lost as u64);
    Ok(())
}

/// Checks the heads of users named by unsigned notifications. Anybody on the database can send those, as often as they
/// like: so there is one check at a time, for all users named by then, and then a pause.
async fn run_checks(dependencies: &Dependencies, mut checks: mpsc::Receiver<UserKey>) {
    let mut named = Vec::new();
    while checks.recv_many(&mut named, USERS_PER_QUERY).await > 0 {
        let users = named.drain(..).collect::<BTreeSet<_>>().into_iter();
        let listening: Vec<Listening> = users.flat_map(|user| dependencies.sessions.listening_of(user)).collect();
        let checked = async {
            let heads = heads::read(dependencies, &listening).await?;
            announce_missing(dependencies, &heads).await
        };
        if let Err(error) = checked.await {
            dependencies.metrics.reconcile_failures.inc();
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot look up what was stored; the next round will");
        }
        sleep(CHECK_PAUSE).await;
    }
}

async fn run_lookups(dependencies: &Dependencies, mut lookups: mpsc::Receiver<Wakeup>) {
    let mut batch = Vec::new();
    while lookups.recv_many(&mut batch, RANGES_PER_QUERY).await > 0 {
        let heads = batch
            .drain(..)
            .map(|wakeup| Head { user: wakeup.user, app: wakeup.app.to_string(), at: wakeup.last() })
            .collect();
        // Each log once, up to its furthest head: otherwise a log written to often would be looked up as often.
        let heads = heads::newest(heads);
        if let Err(error) = announce_missing(dependencies, &heads).await {
            dependencies.metrics.reconcile_failures.inc();
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot look up what changed; the next round will"
            );
        }
    }
}

#[cfg(test)]
impl ReconcilerTask {
    /// True if a round is to begin at once.
    pub(super) fn is_wanted(&self) -> bool {
        use futures_util::FutureExt;
        self.now.notified().now_or_never().is_some()
    }

    /// Takes the next user who is to be checked.
    pub(super) fn next_check(&mut self) -> Option<UserKey> {
        self.checks.try_recv().ok()
    }
}
