//! Everything that belongs to the process rather than to a replica: signals, ports, the file limit, the environment.

pub(crate) mod failpoints;
mod removed;
mod rlimit;
pub(crate) mod serve;
mod signals;
