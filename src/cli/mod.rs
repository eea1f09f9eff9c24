//! What belongs to a process and not to a replica: signals, ports, the limit of open files, the environment.

mod removed;
mod rlimit;
pub(crate) mod serve;
mod signals;
