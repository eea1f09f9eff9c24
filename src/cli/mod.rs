//! What belongs to a process and not to a replica: signals, ports, the limit of open files, the environment.

pub(crate) mod failpoints;
mod removed;
mod rlimit;
pub(crate) mod serve;
mod signals;
