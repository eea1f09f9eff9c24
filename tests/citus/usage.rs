//! Processor time that servers and replicas use, from /proc.

use crate::cluster::Citus;
use crate::support::*;
use mana_dev::citus::WORKERS;
use std::fs;
use std::time::Duration;

/// Processor time of a server, or of a replica, with that of its processes that have ended.
pub fn of_process(pid: u32) -> Duration {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().map(|child| of_process(child.parse().unwrap())).sum::<Duration>() + own(pid)
}

fn own(pid: u32) -> Duration {
    // A process may have ended meanwhile; then its parent has its time.
    let Ok(line) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return Duration::ZERO };
    // Its name, in brackets, may contain anything. utime, stime, cutime and cstime are the fields 14 to 17.
    let fields = line.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(4);
    let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
    // A tick is 10 ms, on all Linux systems that we know.
    Duration::from_millis(ticks * 10)
}

/// Processor time by process: of the coordinator, of each worker, and of all replicas.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub coordinator: Duration,
    pub workers: [Duration; WORKERS],
    pub replicas: Duration,
}

impl Usage {
    /// What has been used so far.
    pub fn now(citus: &Citus, cluster: &Cluster) -> Usage {
        Usage {
            coordinator: of_process(citus.servers.coordinator.server().pid()),
            workers: std::array::from_fn(|n| of_process(citus.servers.workers[n].server().pid())),
            replicas: cluster.nodes.iter().map(|node| of_process(node.process.pid())).sum(),
        }
    }

    fn combine(&self, other: &Usage, with: impl Fn(Duration, Duration) -> Duration) -> Usage {
        Usage {
            coordinator: with(self.coordinator, other.coordinator),
            workers: std::array::from_fn(|n| with(self.workers[n], other.workers[n])),
            replicas: with(self.replicas, other.replicas),
        }
    }

    /// What has been used since.
    pub fn since(&self, earlier: &Usage) -> Usage {
        self.combine(earlier, |now, then| now.saturating_sub(then))
    }

    /// What is used in a second, if this was used in that time.
    pub fn per(&self, time: Duration) -> Usage {
        self.combine(self, |used, _| used.div_f64(time.as_secs_f64()))
    }

    /// The rest without what is used in each second of a time anyway.
    pub fn without(&self, per_second: &Usage, time: Duration) -> Usage {
        self.combine(per_second, |used, anyway| used.saturating_sub(anyway.mul_f64(time.as_secs_f64())))
    }

    /// All of it.
    pub fn all(&self) -> Duration {
        self.coordinator + self.workers.iter().sum::<Duration>() + self.replicas
    }
}
