//! How many files this process may open: every connection is one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a replica opens beside its clients' connections: the database's, the collector's, its logs. Rather too many.
const OTHERS: u64 = 256;

/// Raises the limit to the most that is allowed, and says so where that is less than the connections need. Many hosts
/// begin with 1,024.
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
            tracing::info!(limit, needed, "too few files may be open for MAX_CONNECTIONS: raise the limit (nofile)");
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the limit of open files cannot be raised");
        }
    }
}
