//! Failpoints, as chosen by the environment of a debug build.

use mana_sync::failpoints::{self, UnknownFailpoint};

/// Activates the failpoint named by `MANA_SYNC_FAILPOINT`; with `MANA_SYNC_TEST_HOOKS=1`, also lets a push crash the
/// process on request. A release build ignores both.
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
