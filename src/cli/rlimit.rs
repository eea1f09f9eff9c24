//! The limit on open files: every connection is one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that a replica opens besides the connections of its clients and its pool: other database connections, the
/// collector's, its logs. A generous estimate.
const OTHERS: u64 = 256;

/// Raises the soft limit to the hard limit, and logs it if that is less than the connections need. Many hosts start
/// with 1,024.
pub(super) fn raise(connections: u32, pool: u32) {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    let needed = u64::from(connections) + u64::from(pool) + OTHERS;
    match raised {
        Ok(limit) if limit < needed => {
            tracing::warn!(limit, needed, "the limit of open files (nofile) is too low for MAX_CONNECTIONS: raise it");
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot raise the limit of open files");
        }
    }
}
