//! Failpoints: deliberate faults, to show that tests would notice them.
//!
//! The command line of a debug build selects one with `MANA_SYNC_FAILPOINT`; a release build ignores it. It is set for
//! the whole process with a `static`: pure code fails too, and passing a failpoint down would put it into the signature
//! of everything that a test wants to see fail.

use crate::clock::Clock;
use axum::http::HeaderMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static CHOSEN: OnceLock<Failpoint> = OnceLock::new();
static PUSHES_MAY_CRASH: AtomicBool = AtomicBool::new(false);

/// One deliberate fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// Cursors are taken from `now()`, without the lock on the head row.
    NoHeadRow,
    /// The reconciler does not look for lost notifications.
    NoReconciler,
    /// A push that is sent again is stored again.
    NoRetryDetection,
    /// A page claims to be complete when it is not.
    PageEndsAtHead,
    /// A stream reads first and joins the hub afterwards.
    StreamJoinsLate,
    /// Some wake-ups are never published, as if their task were canceled with the request.
    NotifyDropped,
    /// If there is nothing more to return, the cursor is the current time.
    CursorFromClock,
    /// After a reconnect, the listener catches up first and listens afterwards.
    ListenLate,
    /// Compaction occasionally removes a winning value.
    TrimDropsWinner,
    /// Among values with equal stamps, compaction keeps the first.
    TrimTakesFirstOfTies,
    /// Compaction removes a record's first row like any other.
    TrimDropsFirstRow,
    /// Compaction trims rows that claim stamps in the future like any other.
    TrimsClaims,
    /// The rest of a trimmed row is delivered at the position of the row before it.
    TrimMovesFields,
    /// A record is trimmed in two transactions, and the process exits between them.
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

    /// Returns true if this failpoint is selected. Always false in a release build.
    pub fn is_on(self) -> bool {
        cfg!(debug_assertions) && CHOSEN.get() == Some(&self)
    }

    /// Returns true if a selected failpoint strikes now: at random, one time in three.
    pub fn happens(self, clock: &Clock) -> bool {
        self.is_on() && clock.once_in(3)
    }
}

/// No failpoint has this name.
#[derive(Debug, thiserror::Error)]
#[error("MANA_SYNC_FAILPOINT names an unknown failpoint")]
pub struct UnknownFailpoint;

/// Selects the failpoint of this process. The first selection stands.
///
/// # Errors
/// Fails if there is no such failpoint.
pub fn choose(name: &str) -> Result<(), UnknownFailpoint> {
    let (_, failpoint) = Failpoint::ALL.into_iter().find(|(known, _)| *known == name).ok_or(UnknownFailpoint)?;
    CHOSEN.get_or_init(|| failpoint);
    Ok(())
}

/// Allows pushes with a certain header to crash this process: see [`crash_before_notify`].
pub fn let_pushes_crash() {
    PUSHES_MAY_CRASH.store(true, Ordering::Relaxed);
}

/// Whether to crash between the commit of a push and its notification.
#[derive(Clone, Copy, Debug)]
pub struct CrashBeforeNotify(bool);

/// Reads the header with which a push requests a crash. Ignored unless a debug build allows it ([`let_pushes_crash`]).
pub fn crash_before_notify(headers: &HeaderMap) -> CrashBeforeNotify {
    let may_crash = cfg!(debug_assertions) && PUSHES_MAY_CRASH.load(Ordering::Relaxed);
    CrashBeforeNotify(may_crash && headers.get("X-Test-Crash").is_some_and(|when| when == "before-notify"))
}

impl CrashBeforeNotify {
    /// Returns true if this push requests a crash.
    pub fn is_chosen(self) -> bool {
        self.0
    }

    /// Aborts the process if this push requests it.
    pub fn if_chosen(self) {
        if self.0 {
            std::process::abort();
        }
    }
}
