//! The resources used by the generator's process and its machine, from the kernel.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use super::model::Machine;

/// Processor time used by this process so far, in all threads, user and system.
pub fn own_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap_or_else(|_| unreachable!("a process may ask about itself"));
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// Processor ticks of the machine; the difference between two moments gives the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineTicks {
    busy: u64,
    all: u64,
}

impl MachineTicks {
    /// None if the kernel does not report it.
    pub fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// Parses the first line: user, nice, system, idle, iowait, irq, softirq, steal; the rest is included in user.
    fn parse(stat: &str) -> Option<Self> {
        let ticks: Vec<u64> = stat.lines().next()?.split_whitespace().skip(1).map_while(|n| n.parse().ok()).collect();
        let (idle, iowait) = (*ticks.get(3)?, *ticks.get(4)?);
        let all = ticks.iter().take(8).sum::<u64>();
        Some(Self { busy: all - idle - iowait, all })
    }

    /// The load, 0 to 1, since an earlier moment.
    pub fn busy_share_since(self, earlier: Self) -> Option<f64> {
        let all = self.all.checked_sub(earlier.all).filter(|&all| all > 0)?;
        Some(self.busy.checked_sub(earlier.busy)? as f64 / all as f64)
    }
}

impl Machine {
    /// Returns this machine. What the kernel does not report is left empty.
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get() as u64);
        let kilobytes = value_of(&read("/proc/meminfo"), "MemTotal", ':');
        let kilobytes: u64 = kilobytes.trim_end_matches(" kB").parse().unwrap_or(0);
        Self {
            cpu_model: value_of(&read("/proc/cpuinfo"), "model name", ':'),
            cpu_cores: cores,
            memory_bytes: kilobytes * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            os: value_of(&read("/etc/os-release"), "PRETTY_NAME", '='),
        }
    }
}

/// Returns the value of the first line with this name, without quotes; empty if there is none.
fn value_of(text: &str, name: &str, separator: char) -> String {
    let lines = text.lines().filter_map(|line| line.split_once(separator));
    let found = lines.into_iter().find(|(key, _)| key.trim() == name);
    found.map(|(_, value)| value.trim().trim_matches('"').to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_but_idle_and_waiting() {
        let earlier = MachineTicks::parse("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3").unwrap();
        let later = MachineTicks::parse("cpu  130 0 110 740 120 0 0 0 9 0").unwrap();
        assert_eq!(later.busy_share_since(earlier), Some(0.4));
        assert_eq!(later.busy_share_since(later), None);
    }

    #[test]
    fn this_machine_is_known() {
        let machine = Machine::here();
        assert!(machine.cpu_cores > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty(), "{machine:?}");
        let before = own_cpu();
        let busy: u64 = (0..5_000_000_u64).map(|n| n ^ 0x5a).fold(0, u64::wrapping_add);
        assert!(own_cpu() > before, "{busy}");
    }
}
