//! The memory that a page is read into: reserved step by step, before it is used (G6).
//!
//! A page is read while holding a database connection, so nothing waits for memory here. If there is no more, the page
//! ends: a shorter one is just as good. If it has no changes by then, it is abandoned, and its reader waits for the
//! memory without a connection.

use crate::budget::{Reservation, UserBudget};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The memory for a page including its serialized form, as a multiple of the size of its changes.
pub const BECOMES: usize = 2;
/// Bytes reserved ahead at each step.
const STEP: usize = 64 << 10;

/// The memory for one page.
#[derive(Debug)]
pub struct PageMemory {
    budget: UserBudget,
    needs: fn(usize) -> usize,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    reservation: Reservation,
    /// Bytes that a page and what is read for it may take.
    covered: usize,
}

impl PageMemory {
    /// Starts with a reservation made when `asked` bytes were requested; it may be smaller, if it is the user's whole
    /// share. `needs` returns the total memory for a page with this many bytes of changes, including its reader's part.
    pub fn new(budget: UserBudget, reservation: Reservation, asked: usize, needs: fn(usize) -> usize) -> PageMemory {
        PageMemory { budget, needs, held: Mutex::new(Held { reservation, covered: asked }) }
    }

    /// Returns the current reservation.
    pub fn into_reservation(self) -> Reservation {
        self.held.into_inner().unwrap_or_else(PoisonError::into_inner).reservation
    }

    /// Returns the bytes that a page and what is read for it may take without reserving more.
    pub(super) fn covered(&self) -> usize {
        self.held().covered
    }

    /// Reserves enough for this many bytes of changes, including their serialized form, and for `beside` bytes read
    /// along with them. Returns the bytes covered then; `None` if there is not enough memory now.
    pub(super) fn cover(&self, changes: usize, beside: usize) -> Option<usize> {
        let mut held = self.held();
        let bytes = BECOMES * changes + beside;
        if bytes > held.covered {
            let needs = (self.needs)(changes) + beside;
            let mut reserve = |bytes| self.budget.resize(&mut held.reservation, bytes);
            if !reserve(needs + STEP) && !reserve(needs) {
                return None;
            }
            // A reservation is never more than the user's whole share.
            held.covered = bytes + held.reservation.bytes().checked_sub(needs)?;
        }
        Some(held.covered)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::MemoryBudget;
    use crate::protocol::UserKey;
    use prometheus::IntGauge;

    const KIB: usize = 1 << 10;

    fn needs(changes: usize) -> usize {
        BECOMES * changes + 100 * KIB
    }

    #[tokio::test]
    async fn a_page_has_what_was_asked_for_and_then_more_as_long_as_there_is_more() {
        let gauge = IntGauge::new("reserved", "for the test").unwrap();
        let budget = MemoryBudget::new(1024 * KIB, gauge.clone()).of(UserKey::of("alice"));
        let reserved = || gauge.get() as usize;
        let reservation = budget.reserve(32 * KIB).await.unwrap();
        let memory = PageMemory::new(budget.clone(), reservation, 32 * KIB, needs);
        assert_eq!(memory.cover(16 * KIB, 0), Some(32 * KIB), "what is small needs no more");
        assert_eq!(reserved(), 32 * KIB);
        let covered = memory.cover(16 * KIB, 1).unwrap();
        assert!(covered > 32 * KIB && reserved() >= covered + 100 * KIB, "{covered} of {}", reserved());
        let (before, mut changes) = (reserved(), 17 * KIB);
        while let Some(covered) = memory.cover(changes, 0) {
            assert!(BECOMES * changes <= covered && covered + 100 * KIB <= reserved());
            changes += KIB;
        }
        assert!(before < reserved() && reserved() <= 1024 * KIB);
        assert!(needs(changes) > 1024 * KIB, "all of it was used: {changes}");
        drop(memory.into_reservation());
        assert_eq!(reserved(), 0);
    }

    #[tokio::test]
    async fn what_is_larger_than_all_that_its_user_may_have_is_read_once_all_of_that_is_reserved() {
        let gauge = IntGauge::new("reserved", "for the test").unwrap();
        let budget = MemoryBudget::new(256 * KIB, gauge.clone()).of(UserKey::of("alice"));
        let reservation = budget.reserve(1024 * KIB).await.unwrap();
        let memory = PageMemory::new(budget, reservation, 1024 * KIB, needs);
        assert!(memory.cover(512 * KIB, 0).is_some());
        assert_eq!(memory.cover(512 * KIB, 1), None, "and nothing more");
        assert_eq!(gauge.get() as usize, 256 * KIB);
    }
}
