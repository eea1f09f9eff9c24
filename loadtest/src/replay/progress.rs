//! A line on stderr that shows the progress of the replay; rewritten on a terminal, repeated elsewhere.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Counts the lines of all histories.
pub struct Progress {
    total: usize,
    done: AtomicUsize,
    begun: Instant,
}

impl Progress {
    pub fn new(total: usize) -> Self {
        Self { total, done: AtomicUsize::new(0), begun: Instant::now() }
    }

    /// Adds stored lines.
    pub fn lines(&self, more: usize) {
        self.done.fetch_add(more, Relaxed);
    }

    /// Shows the progress until dropped. If stderr can't be written, the replay continues without it.
    pub async fn show(&self) {
        let terminal = stderr().is_terminal();
        let period = if terminal { Duration::from_millis(200) } else { Duration::from_secs(2) };
        let mut ticks = tokio::time::interval(period);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let (start, end) = if terminal { ("\r", "\u{1b}[K") } else { ("", "\n") };
            let _ = write!(stderr(), "{start}{}{end}", self.line());
        }
    }

    /// Ends a rewritten line.
    pub fn end(&self) {
        let (start, end) = if stderr().is_terminal() { ("\r", "\u{1b}[K\n") } else { ("", "\n") };
        let _ = write!(stderr(), "{start}{}{end}", self.line());
    }

    fn line(&self) -> String {
        let (done, seconds) = (self.done.load(Relaxed), self.begun.elapsed().as_secs_f64());
        if done >= self.total {
            return format!("all {done} lines stored, comparing the devices ({seconds:.1} s)");
        }
        let rate = done as f64 / seconds.max(0.001);
        format!("replaying: {done} of {} lines, {seconds:.1} s, {rate:.0} lines/s", self.total)
    }
}
