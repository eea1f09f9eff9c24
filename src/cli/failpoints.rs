//! Deliberate faults, as the environment of a debug build chooses them.

use mana_sync::failpoints::{self, UnknownFailpoint};

/// Chooses what `MANA_SYNC_FAILPOINT` names, and with `MANA_SYNC_TEST_HOOKS=1` lets pushes end the process that ask for it. A
/// release build looks at neither.
#[expect(clippy::disallowed_methods, reason = "the environment belongs to the command line")]
pub(crate) fn choose() -> Result<(), UnknownFailpoint> {
    if !cfg!(debug_assertions) {
        return Ok(());
    }
    if std::env::var("MANA_SYNC_TEST_HOOKS").is_ok_and(|on| on == "1") {
        failpoints::let_pushes_crash();
    }
    match std::env::var("MANA_SYNC_FAILPOINT") {
        Ok(name) if !name.is_empty() => failpoints::choose(&name),
        _ => Ok(()),
    }
}
