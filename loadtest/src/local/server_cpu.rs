//! The processor time of a PostgreSQL on this machine: of its main process, its running children, and its ended
//! children.

use std::time::Duration;
use std::{fs, io};

use nix::unistd::{SysconfVar, sysconf};

/// The processor time of a process, in ticks.
struct Used {
    parent: i32,
    own: u64,
    /// Of its children that have ended.
    ended: u64,
}

/// Returns the processor time of the server that this backend belongs to.
pub fn server_cpu(backend: i32) -> io::Result<Duration> {
    let first = used(backend)?.parent;
    let whole = used(first)?;
    let mut ticks = whole.own + whole.ended;
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has gone in the meantime is counted with the ended ones.
        ticks += used(pid).ok().filter(|used| used.parent == first).map_or(0, |used| used.own);
    }
    let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

fn used(pid: i32) -> io::Result<Used> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "/proc/…/stat has another form");
    // The name may contain anything; after its closing parenthesis come only numbers (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(") ").ok_or_else(unreadable)?.1.split(' ').collect();
    let field = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).ok_or_else(unreadable);
    let parent = i32::try_from(field(1)?).map_err(|_| unreadable())?;
    Ok(Used { parent, own: field(11)? + field(12)?, ended: field(13)? + field(14)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_uses_is_seen() {
        let own = || used(nix::unistd::getpid().as_raw()).unwrap().own;
        let (before, begun) = (own(), std::time::Instant::now());
        while own() == before {
            assert!(begun.elapsed() < Duration::from_secs(30));
        }
    }
}
