//! The generator's own cost, and whether it was the bottleneck.

use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};

/// Above this fraction of its threads' time the generator counts as the bottleneck.
pub const BUSY: f64 = 0.85;

/// Processor time of the calling thread.
pub fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Measures how busy a thread is, from creation to [`Self::share`].
#[derive(Debug)]
pub struct ThreadMeter {
    begun: Instant,
    cpu: Duration,
}

impl Default for ThreadMeter {
    fn default() -> Self {
        Self { begun: Instant::now(), cpu: thread_cpu() }
    }
}

impl ThreadMeter {
    /// The fraction of the time that this thread, which must be the one that created the meter, was on a processor.
    pub fn share(&self) -> f64 {
        (thread_cpu() - self.cpu).as_secs_f64() / self.begun.elapsed().as_secs_f64().max(1e-9)
    }
}

/// Raises the limit of open files as far as the system allows; returns the new limit.
pub fn raise_file_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}
