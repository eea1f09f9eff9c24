//! Deliberate defects, so that tests can show that they would be noticed.
//!
//! A debug build reads one from `MANA_SYNC_DEFECT`; a release build has none of this.

use std::sync::LazyLock;

/// One way to get it wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
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
}

impl Defect {
    const ALL: [(&str, Defect); 5] = [
        ("no-head-row", Defect::NoHeadRow),
        ("no-reconciler", Defect::NoReconciler),
        ("no-retry-detection", Defect::NoRetryDetection),
        ("page-ends-at-head", Defect::PageEndsAtHead),
        ("stream-joins-late", Defect::StreamJoinsLate),
    ];

    /// Whether this process is to have this defect. Always false in a release build.
    pub fn is_on(self) -> bool {
        static CHOSEN: LazyLock<Option<Defect>> = LazyLock::new(|| {
            let name = std::env::var("MANA_SYNC_DEFECT").ok()?;
            Defect::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, defect)| defect)
        });
        cfg!(debug_assertions) && *CHOSEN == Some(self)
    }
}
