//! Sessions without a network: a hub to join, and a database that is unreachable.

use super::*;
use crate::config::without_environment;
use crate::fanout::reconciler::ReconcilerTask;
use crate::fanout::{SessionRegistry, Wakeup};
use crate::protocol::UserKey;
use crate::store::{Layout, Pages, Store};

/// The dependencies of sessions, with nothing behind them.
pub(super) struct Rig {
    pub(super) sessions: Arc<Sessions>,
    pub(super) hub: Arc<Hub>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) closing: CancellationToken,
    drained: Drained,
    /// Nothing listens at its database's address.
    pub(super) store: Pages,
    _known: Membership,
    /// While kept, the sessions' questions to the reconciler stay unanswered; once dropped, they fail at once.
    _reconciling: Vec<ReconcilerTask>,
}

/// A user whose log positions are known.
pub(super) const KNOWN: &str = "alice";

impl Rig {
    /// `settings` as on the command line.
    pub(super) fn new(settings: &[&str]) -> Rig {
        Rig { _reconciling: Vec::new(), ..Rig::without_answers(settings) }
    }

    /// The same, with a database that never answers.
    pub(super) fn without_answers(settings: &[&str]) -> Rig {
        let database = ["--database-url", "postgres://nobody@127.0.0.1:1/none"];
        let config: Config = without_environment(&[&database, settings].concat()).unwrap();
        let (metrics, clock) = (Arc::new(Metrics::new()), Clock::system());
        let hub = Arc::new(Hub::new(metrics.clone(), clock.clone()));
        let user = UserKey::of(KNOWN);
        let known = hub.join(user, Interest::default(), "websocket");
        hub.begin(user, &[], 0);
        let auth = Arc::new(Authenticator::new(&config, reqwest::Client::new(), metrics.clone(), clock.clone()));
        let closing = CancellationToken::new();
        let budget = MemoryBudget::new(config.max_stream_bytes_in_flight as usize, metrics.stream_bytes.clone());
        let (reconciler, reconciling) = Reconciler::new(Layout::ONE);
        let drained = Drained::default();
        let dependencies = SessionDependencies {
            hub: hub.clone(),
            reconciler,
            auth,
            budget,
            reads: ReadShares::new(config.database_pool_size as usize),
            heavy: HeavyWork::default(),
            metrics: metrics.clone(),
            clock: clock.clone(),
        };
        let sessions = Sessions::new(&config, dependencies, closing.clone()).leaving_with(drained.clone());
        let store = Store::new(&config, metrics.clone(), clock).expect("no connection is made yet").pages;
        Rig {
            sessions: Arc::new(sessions),
            hub,
            metrics,
            closing,
            drained,
            store,
            _known: known,
            _reconciling: reconciling,
        }
    }

    /// Tells the known user's sessions that a device changed tables of an app.
    pub(super) fn wake(&self, app: &str, client: &str, tables: &[String]) {
        self.hub.announce(&Wakeup {
            user: UserKey::of(KNOWN),
            app: app.into(),
            client: Some(client.into()),
            tables: Some(tables.iter().map(|table| table.as_str().into()).collect()),
            ranges: vec![],
            pushes: vec![],
        });
    }

    /// The number of sessions that ended for this reason.
    pub(super) fn closes(&self, reason: CloseReason) -> u64 {
        self.metrics.closes.with_label_values(&[reason.label()]).get()
    }
}

/// An identity whose token is valid for `life`.
pub(super) fn identity(user: &str, life: Duration) -> Identity {
    Identity { user_id: user.into(), user: UserKey::of(user), expires: Clock::system().now() + life, token_id: None }
}

/// The result if it is ready at once; the wait for more is given up.
pub(super) async fn at_once<T>(waiting: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = waiting => Some(done),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn sessions_leave_at_moments_of_their_own_all_over_the_window() {
    const WINDOW: Duration = Duration::from_secs(3600);
    let rig = Rig::new(&["--drain-window-ms", "3600000"]);
    let mut waiting = rig.sessions.close_timer();
    assert_eq!((at_once(waiting.elapsed()).await, waiting.drain_at), (None, None), "no moment before the stop");
    rig.closing.cancel();
    let begun = Instant::now();
    let mut moments = Vec::new();
    for _ in 0..200 {
        let mut close_timer = rig.sessions.close_timer();
        assert_eq!(at_once(close_timer.elapsed()).await, None);
        let at = close_timer.drain_at;
        assert_eq!(at_once(close_timer.elapsed()).await, None);
        assert_eq!(close_timer.drain_at, at, "a wait that is given up does not put it off");
        moments.push(at.expect("the stop has begun") - begun);
    }
    for tenth in 0..10 {
        let part = WINDOW / 10 * tenth..WINDOW / 10 * (tenth + 1) + Duration::from_secs(60);
        assert!(moments.iter().any(|moment| part.contains(moment)), "{part:?} of {moments:?}");
    }
}

#[tokio::test]
async fn without_a_window_sessions_leave_at_once() {
    let rig = Rig::new(&["--drain-window-ms", "0"]);
    rig.closing.cancel();
    assert_eq!(rig.sessions.close_timer().elapsed().await, CloseReason::GoingAway);
}

#[tokio::test]
async fn sessions_retire_at_moments_of_their_own_in_the_second_half_of_their_age() {
    let rig = Rig::new(&["--max-connection-age-ms", "60000"]);
    let begun = Instant::now();
    let mut ages = Vec::new();
    for _ in 0..200 {
        let mut close_timer = rig.sessions.close_timer();
        let at = close_timer.max_age_at.expect("an age is set");
        assert_eq!(at_once(close_timer.elapsed()).await, None);
        ages.push(at - begun);
    }
    let (least, most) = (*ages.iter().min().unwrap(), *ages.iter().max().unwrap());
    // A session's age counts from its own beginning, which was later.
    assert!((30..35).contains(&least.as_secs()) && (55..=60).contains(&most.as_secs()), "{least:?} to {most:?}");
    let short = Rig::new(&["--max-connection-age-ms", "20"]);
    assert_eq!(short.sessions.close_timer().elapsed().await, CloseReason::TooOld);
    let young = Rig::new(&[]);
    assert_eq!(young.sessions.close_timer().max_age_at, None, "by default they live as long as they like");
}

#[tokio::test]
async fn sessions_of_a_drained_replica_leave_and_those_that_are_left_when_it_is_taken_back_stay() {
    let rig = Rig::new(&["--drain-window-ms", "3600000"]);
    let mut close_timer = rig.sessions.close_timer();
    assert_eq!((at_once(close_timer.elapsed()).await, close_timer.drain_at), (None, None), "it is not drained");
    rig.drained.set(true);
    assert_eq!(at_once(close_timer.elapsed()).await, None);
    let moment = close_timer.drain_at.expect("it is drained");
    assert_eq!(
        (at_once(close_timer.elapsed()).await, close_timer.drain_at),
        (None, Some(moment)),
        "no wait puts it off"
    );
    rig.drained.set(false);
    assert_eq!((at_once(close_timer.elapsed()).await, close_timer.drain_at), (None, None), "it is taken back");
    rig.drained.set(true);
    rig.closing.cancel();
    assert_eq!(at_once(close_timer.elapsed()).await, None);
    let moment = close_timer.drain_at;
    rig.drained.set(false);
    assert_eq!(
        (at_once(close_timer.elapsed()).await, close_timer.drain_at),
        (None, moment),
        "who stops is not taken back"
    );

    let at_last = Rig::new(&["--drain-window-ms", "0"]);
    let mut close_timer = at_last.sessions.close_timer();
    at_last.drained.set(true);
    assert_eq!(close_timer.elapsed().await, CloseReason::GoingAway);
}

#[tokio::test]
async fn a_session_that_an_operator_ends_says_why() {
    let rig = Rig::new(&[]);
    let membership = rig.hub.join(UserKey::of(KNOWN), Interest::default(), "sse");
    let mut close_timer = rig.sessions.close_timer();
    assert_eq!(at_once(close_timer.due_or_closed(membership.session())).await, None);
    assert_eq!(rig.hub.close_user(UserKey::of(KNOWN), Some("phone")), 0, "it is no session of that device");
    assert_eq!(rig.hub.close_user(UserKey::of("somebody else"), None), 0);
    assert_eq!(rig.hub.close_user(UserKey::of(KNOWN), None), 2, "this one and the rig's");
    assert_eq!(rig.hub.close_user(UserKey::of(KNOWN), None), 0, "they are told once");
    assert_eq!(close_timer.due_or_closed(membership.session()).await, CloseReason::Disconnected);
}
