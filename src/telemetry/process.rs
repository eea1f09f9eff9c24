//! Process metrics under the names that Prometheus clients share: memory, CPU time, file descriptors, threads.

use nix::time::{ClockId, clock_gettime};
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, MetricFamily};
use std::time::Duration;

const PROCESSOR_TIME: &str = "process_cpu_seconds_total";

/// The library's collector, except for CPU time, which it reports in whole seconds: under a light load, a minute would
/// show nothing, or twice the real value.
pub(super) struct Process(ProcessCollector);

impl Process {
    pub(super) fn own() -> Process {
        Process(ProcessCollector::for_self())
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        let metrics = families.iter_mut().filter(|family| family.name() == PROCESSOR_TIME);
        for metric in metrics.flat_map(MetricFamily::mut_metric) {
            // Reading a process's own CPU clock does not fail; if it did, whole seconds are better than none.
            if let Ok(used) = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID) {
                let mut counter = Counter::default();
                counter.set_value(Duration::from(used).as_secs_f64());
                metric.set_counter(counter);
            }
        }
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor_time(of: &Process) -> f64 {
        let families = of.collect();
        let family = families.iter().find(|family| family.name() == PROCESSOR_TIME).expect("the family");
        family.get_metric()[0].get_counter().get_value()
    }

    #[test]
    fn processor_time_is_told_to_less_than_a_second() {
        let process = Process::own();
        let used = || Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap());
        let (told, begun) = (processor_time(&process), used());
        while used() < begun + Duration::from_millis(5) {}
        assert!(processor_time(&process) - told >= 0.005);
        assert!(process.collect().len() > 3, "and what else there is");
    }
}
