//! Failpoints: deliberate faults, so that tests can show that they would be noticed.
//!
//! The command line of a debug build chooses one by `MANA_SYNC_FAILPOINT`; a release build has none of this. It is chosen for
//! the process, by a `static`: pure code fails as well, and handing a fault down would put it into the signatures of all that
//! a test wants to see fail.

use crate::clock::Clock;
use axum::http::HeaderMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static CHOSEN: OnceLock<Failpoint> = OnceLock::new();
static PUSHES_MAY_CRASH: AtomicBool = AtomicBool::new(false);

/// One way to get it wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// Cursors from `now()`, taken without the lock on the head row.
    NoHeadRow,
    /// Lost notifications are not looked for.
    NoReconciler,
    /// A push that is sent again is stored again.
    NoRetryDetection,
    /// A page that is not all claims to be.
    PageEndsAtHead,
    /// A stream reads first and joins the hub afterwards.
    StreamJoinsLate,
    /// Some wake-ups are never published, as by a task that is given up with its request.
    NotifyDropped,
    /// With nothing more to return, a cursor is the time.
    CursorFromClock,
    /// After a reconnect the listener catches up first and listens afterwards.
    ListenLate,
    /// Now and then trimming takes out a value that wins.
    TrimDropsWinner,
    /// Trimming keeps the first of values whose stamps are equal.
    TrimTakesFirstOfTies,
    /// A record's first row is trimmed away like any other.
    TrimDropsFirstRow,
    /// Rows that claim stamps of the future are trimmed like any other.
    TrimsClaims,
    /// What is left of a trimmed row is delivered at the position of the row before it.
    TrimMovesFields,
    /// A record is trimmed in two transactions, and the process ends between them.
    TrimsInTwo,
}

impl Failpoint {
    const ALL: [(&str, Failpoint); 14] = [
        ("no-head-row", Failpoint::NoHeadRow),
        ("no-reconciler", Failpoint::NoReconciler),
        ("no-retry-detection", Failpoint::NoRetryDetection),
        ("page-ends-at-head", Failpoint::PageEndsAtHead),
        ("stream-joins-late", Failpoint::StreamJoinsLate),
        ("notify-dropped", Failpoint::NotifyDropped),
        ("cursor-from-clock", Failpoint::CursorFromClock),
        ("listen-late", Failpoint::ListenLate),
        ("trim-drops-winner", Failpoint::TrimDropsWinner),
        ("trim-takes-first-of-ties", Failpoint::TrimTakesFirstOfTies),
        ("trim-drops-first-row", Failpoint::TrimDropsFirstRow),
        ("trims-claims", Failpoint::TrimsClaims),
        ("trim-moves-fields", Failpoint::TrimMovesFields),
        ("trims-in-two", Failpoint::TrimsInTwo),
    ];

    /// Whether this process is to fail so. Always false in a release build.
    pub fn is_on(self) -> bool {
        cfg!(debug_assertions) && CHOSEN.get() == Some(&self)
    }

    /// Whether it shows this time: every third time, at random, where the process has it.
    pub fn happens(self, clock: &Clock) -> bool {
        self.is_on() && clock.once_in(3)
    }
}

/// No failpoint has this name.
#[derive(Debug, thiserror::Error)]
#[error("there is no failpoint of the name that MANA_SYNC_FAILPOINT has")]
pub struct UnknownFailpoint;

/// Lets this process fail so from now on. The first choice stands.
///
/// # Errors
/// There is no such failpoint.
pub fn choose(name: &str) -> Result<(), UnknownFailpoint> {
    let (_, failpoint) = Failpoint::ALL.into_iter().find(|(known, _)| *known == name).ok_or(UnknownFailpoint)?;
    CHOSEN.get_or_init(|| failpoint);
    Ok(())
}

/// Lets pushes end this process, if their header asks for it: see [`crash_before_notify`].
pub fn let_pushes_crash() {
    PUSHES_MAY_CRASH.store(true, Ordering::Relaxed);
}

/// Whether the process is to end between the commit of a push and its notification.
#[derive(Clone, Copy, Debug)]
pub struct CrashBeforeNotify(bool);

/// Whether this push is to show what a crash does: by a header at which only a debug build looks that was told to
/// ([`let_pushes_crash`]).
pub fn crash_before_notify(headers: &HeaderMap) -> CrashBeforeNotify {
    let may_crash = cfg!(debug_assertions) && PUSHES_MAY_CRASH.load(Ordering::Relaxed);
    CrashBeforeNotify(may_crash && headers.get("X-Test-Crash").is_some_and(|when| when == "before-notify"))
}

impl CrashBeforeNotify {
    /// Whether this push is to.
    pub fn is_chosen(self) -> bool {
        self.0
    }

    /// Ends the process as a crash would, if this push is to.
    pub fn if_chosen(self) {
        if self.0 {
            std::process::abort();
        }
    }
}
